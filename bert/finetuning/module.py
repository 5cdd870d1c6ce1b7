"""Fine-tuning as a LightningModule: the step of `training.module`, the loss of a task, and the metrics on the dev set; and what every
training of a recipe does: a model with a new head, its module, and the fit."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric

from bert.data.rng import Stream
from bert.errors import InputError
from bert.finetuning.batches import Batches, BatchLoader, Item, TaskBatch
from bert.finetuning.config import FinetuneRecipe
from bert.finetuning.initialization import class_weights_of
from bert.finetuning.inputs import TrainingData
from bert.finetuning.metrics import LOSS, goodness, in_words, numbered, read
from bert.finetuning.tasks.task import Task, TaskModel
from bert.finetuning.windows import Settings
from bert.hf.folder import open_folder
from bert.model.encoder import count_parameters
from bert.training.callbacks import NotFinite
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from bert.training.folder import Launch
from bert.training.module import STEP_COLUMNS, TrainingModule
from bert.training.step import LossTerms, StepBatch
from bert.training.trainer import fitting

logger = logging.getLogger(__name__)

_MOST_VALIDATIONS = 20  # of a run, unless the recipe says how often


def log_columns(task: Task, metrics: Iterable[str]) -> list[str]:
    """Columns of metrics.csv: the loss terms where there are several, and the metrics on the dev set with the prefix `dev_`."""
    terms = task.weights if len(task.weights) > 1 else ()
    return [STEP_COLUMNS[0], "epoch", *STEP_COLUMNS[1:], *terms, *(f"dev_{name}" for name in [*metrics, LOSS])]


class TaskTraining(TrainingModule):
    """Trains a model on `task` for `steps` steps."""

    dropout_stream = Stream.FINETUNING_DROPOUT

    def __init__(
        self,
        task: Task,
        metrics: dict[str, Metric],
        model: TaskModel,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        steps: int,
        seed: int = 0,
        steps_in_epoch: int | None = None,
        fingerprint: Mapping[str, str] | None = None,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        select: str | None = None,
    ) -> None:
        """`metrics`: those of `task.metrics`. `fingerprint`: see `TrainingModule`. `class_weights` (C,) and `label_smoothing`: see
        `Task.loss`. `select`: the metric by which the best model is chosen, or `loss`; None: the first one."""
        super().__init__(model, optimizer, schedule, StopConfig(steps=steps), seed)
        self.task, self.weights, self.fingerprint = task, task.weights, fingerprint or {}
        self.steps_in_epoch = steps_in_epoch or steps
        self.metrics = torch.nn.ModuleDict(metrics)
        self.class_weights, self.label_smoothing, self.select = class_weights, label_smoothing, select
        # of a validation: scores that are NaN or infinite; the loss, and the number of units
        self.not_finite, self.dev_loss = torch.zeros(()), torch.zeros(2)

    def loss_terms(self, micro_batch: TaskBatch) -> LossTerms:
        """The loss terms of the task; a dummy example, which has no labels, adds 0 to each."""
        scores, labels = self.task.scores(self.model, micro_batch), micro_batch["labels"]  # (N, C), (N,)
        weights = None if self.class_weights is None else self.class_weights.to(scores.device)
        return self.task.loss(scores if len(labels) else scores[:0], labels, weights, self.label_smoothing)

    def rate_share(self, name: str) -> float:
        """Layer-wise decay: the head has the whole learning rate, the last layer that times `optimizer.layer_decay`, and so on."""
        layers = self.model.config.num_layers
        return getattr(self.optimizer_config, "layer_decay", 1.0) ** (layers + 1 - depth_of(name, layers))

    def read_log(self) -> dict[str, float]:
        """The log row of a step, with the number of epochs done."""
        return {"epoch": round(self.epoch(), 3)} | super().read_log()

    def epoch(self) -> float:
        """The number of epochs done."""
        return self.progress.step / self.steps_in_epoch

    def validation_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Update the metrics."""
        for micro_batch in batch.micro_batches:
            if len(micro_batch["labels"]):
                scores = self.task.scores(self.model, micro_batch).float()
                self.not_finite = self.not_finite.to(scores.device) + (~scores.isfinite()).sum()
                terms = self.task.loss(scores, micro_batch["labels"])
                loss = torch.stack([terms.weights[name] * total for name, total in terms.sums.items()]).sum()
                count = loss.new_tensor(micro_batch["labels"].numel())
                self.dev_loss = self.dev_loss.to(scores.device) + torch.stack([loss, count])
                self.task.measure(dict(self.metrics.items()), self.model, micro_batch, scores)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the dev set, over all ranks. Raises InputError for scores that are not finite."""
        if self.summed(self.not_finite):
            where = f"the scores of the dev set are not finite at step {self.progress.step:g}"
            raise NotFinite(f"{where}: start again with a lower optimizer.lr")
        loss, count = self.summed(self.dev_loss).tolist()
        values = {**read(dict(self.metrics.items())), LOSS: loss / count}
        first = {self.select: values[self.select]} if self.select else {}  # the one that decides
        self.validation, self.dev_loss = first | values, torch.zeros(2)
        named = {f"dev_{name}": value for name, value in self.validation.items()}
        self.log_validation(named, epoch=round(self.epoch(), 3))


class KeepBest(L.Callback):
    """Keeps the model that is best on the dev set: `save` writes it (rank 0).

    The first metric decides, the next one breaks ties, in the end the loss; if all are equal, the earlier model is kept. Its attributes are
    part of each checkpoint: a model that was saved after the checkpoint of a killed run is saved again.
    """

    def __init__(self, save: Callable[[TaskTraining], None], patience: int | None = None, average: int = 1) -> None:
        """`patience` and `average`: see `ValidationConfig`."""
        self.save, self.patience, self.average = save, patience, average
        self.best: dict[str, float] = {}
        """metrics of the best model, the first of which decides; empty before the first validation"""
        self.best_step = 0
        self.waited = 0
        """validations since the best model"""
        self.top: list[tuple[list[float], dict[str, Tensor]]] = []
        """the `average` best models: goodness and weights, on the CPU"""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the model if it is the best so far."""
        assert isinstance(pl_module, TaskTraining)
        measured = pl_module.validation
        if trainer.state.fn != "fit" or not measured:
            return
        scales, self.waited = pl_module.task.scales, self.waited + 1
        if not self.best or goodness(measured, scales) > goodness(self.best, scales):
            self.best, self.best_step, self.waited = dict(measured), int(pl_module.progress.step), 0
            if trainer.is_global_zero:
                self.save(pl_module)
        if self.average > 1:
            weights = {name: one.detach().to("cpu", copy=True) for name, one in pl_module.model.named_parameters()}
            ranked = sorted([*self.top, (goodness(measured, scales), weights)], key=lambda one: one[0], reverse=True)
            self.top = ranked[: self.average]
        self._end_if_waited(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End a training that is resumed after its patience was used up."""
        self._end_if_waited(trainer)

    def _end_if_waited(self, trainer: L.Trainer) -> None:
        if self.patience and self.waited >= self.patience and not trainer.should_stop:
            logger.info(f"no better model in {numbered(self.patience, 'validation')}: the training ends")
            trainer.should_stop = True

    def try_average(self, module: TaskTraining, measure: Callable[[], None]) -> None:
        """Save the model with the average weights of the best ones, unless it is worse than the best (Izmailov et al. 2018; Wortsman et
        al. 2022). `measure` validates the module."""
        if len(self.top) < 2:
            return
        several = [weights for _, weights in self.top]
        with torch.no_grad():
            for name, parameter in module.model.named_parameters():
                parameter.copy_(torch.stack([weights[name] for weights in several]).mean(0))
        measure()
        said, scales = f"average of the {len(several)} best models", module.task.scales
        if is_better := goodness(module.validation, scales) >= goodness(self.best, scales):
            self.best = dict(module.validation)
            if module.trainer.is_global_zero:
                self.save(module)
        logger.info(f"{said}: {in_words(module.validation, scales)}: {'' if is_better else 'not '}kept")

    def state_dict(self) -> dict[str, Any]:
        """What is known of the best models, for a checkpoint."""
        return {"best": self.best, "step": self.best_step, "waited": self.waited, "top": self.top}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.best, self.best_step = dict(state_dict["best"]), int(state_dict["step"])
        # absent in earlier versions
        self.waited, self.top = int(state_dict.get("waited", 0)), list(state_dict.get("top", ()))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait on all ranks until the model is saved."""
        trainer.strategy.barrier()


def start_model(data: TrainingData, recipe: FinetuneRecipe, items: Sequence[Item]) -> TaskModel:
    """The model of the recipe before its training on `items`, by the seed (`Task.start`)."""
    assert recipe.model is not None
    torch.manual_seed(recipe.seed)
    model: TaskModel = data.task.start(open_folder(recipe.model), data.labels, recipe, items)
    model.settings = Settings(recipe.windows, data.columns, data.task.settings()).written()
    if recipe.freeze is not None:
        freeze(model, 0 if recipe.freeze == "embeddings" else recipe.freeze)
    return model


def depth_of(name: str, layers: int) -> int:
    """The place of a parameter: 0 in the embeddings, n in the nth of `layers` layers, and `layers` + 1 after them."""
    if found := re.match(r"encoder\.layers\.(\d+)\.", name):
        return int(found[1]) + 1
    return 0 if name.startswith("encoder.embeddings.") else layers + 1


def freeze(model: TaskModel, depth: int) -> None:
    """Exclude the embeddings and the lowest `depth` layers from training. Raises InputError if there are fewer."""
    layers = model.config.num_layers
    if depth > layers:
        raise InputError(f"freeze is {depth}; must be at most {layers}, the layers of the model")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(depth_of(name, layers) > depth)
    frozen = sum(one.numel() for one in model.parameters() if not one.requires_grad)
    what = f"embeddings and {numbered(depth, 'layer')}" if depth else "embeddings"
    logger.info(f"not trained: {what}, {frozen / count_parameters(model):.0%} of the parameters")


def steps_of(recipe: FinetuneRecipe, in_epoch: int) -> int:
    """The optimizer steps of a run whose recipe is resolved; an epoch has `in_epoch`."""
    assert recipe.epochs is not None
    return max(1, round(recipe.epochs * in_epoch))


def validation_interval(recipe: FinetuneRecipe, in_epoch: int) -> int:
    """The steps between validations: those of the recipe, or an epoch, or as many epochs as make `_MOST_VALIDATIONS` in the run."""
    return recipe.validation.every_steps or in_epoch * ceil((recipe.epochs or 1) / _MOST_VALIDATIONS)


def training_of(data: TrainingData, recipe: FinetuneRecipe, items: Sequence[Item]) -> tuple[TaskTraining, Batches]:
    """The training of a new model for the epochs of the recipe, and the endless batches of `items`."""
    model = start_model(data, recipe, items)
    how = data.task.counts, data.task.collate
    batches = Batches(items, recipe.data.batch_size, model.config.pad_id, recipe.seed, True, *how)
    steps = steps_of(recipe, batches.in_epoch)
    run = recipe.optimizer, recipe.schedule, steps, recipe.seed, batches.in_epoch, data.fingerprint
    loss = (
        class_weights_of(data.task, data.labels, recipe, items),
        recipe.loss.label_smoothing,
        recipe.validation.select,
    )
    return TaskTraining(data.task, data.metrics, model.train(), *run, *loss), batches


def fit_batches(
    launch: Launch, trainer: L.Trainer, module: TaskTraining, batches: Batches, dev: Batches | None = None,
    checkpoint: Path | None = None,
) -> None:  # fmt: skip
    """Train on `batches` from a checkpoint on, and validate on `dev`; a signal ends it at a step boundary (`StopOnSignal`)."""
    ranks, begin = (trainer.global_rank, trainer.world_size), partial(launch.begin, module.progress)
    training = BatchLoader(batches, *ranks, first_step=lambda: int(module.progress.step), on_first_request=begin)
    with fitting(launch, module, checkpoint):
        dev_batches = dev and _validation(trainer, dev)
        trainer.fit(module, training, dev_batches, ckpt_path=checkpoint and str(checkpoint), weights_only=True)


def validate(launch: Launch, trainer: L.Trainer, module: TaskTraining, dev: Batches) -> None:
    """Measure the module on `dev`: its attribute `validation`."""
    with fitting(launch, module, None):
        trainer.validate(module, _validation(trainer, dev), verbose=False)


def _validation(trainer: L.Trainer, dev: Batches) -> BatchLoader:
    return BatchLoader(dev, trainer.global_rank, trainer.world_size, steps=dev.in_epoch)
