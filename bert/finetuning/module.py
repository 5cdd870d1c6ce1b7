"""Fine-tuning as a LightningModule: the step of `training.module`, the loss of a task, and the metrics on the dev set; and what every
training of a recipe does: a model with a new head, its module, and the fit."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torchmetrics import Metric

from bert.data.rng import Stream
from bert.errors import InputError
from bert.finetuning.batches import Batches, BatchLoader, Item, TaskBatch
from bert.finetuning.config import FinetuneRecipe
from bert.finetuning.inputs import TrainingData
from bert.finetuning.metrics import goodness, read
from bert.finetuning.tasks.task import Task, TaskModel
from bert.finetuning.windows import Settings
from bert.hf.folder import Source, head_of, open_folder, start
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from bert.training.folder import Launch
from bert.training.module import STEP_COLUMNS, TrainingModule
from bert.training.step import LossTerms, StepBatch
from bert.training.trainer import fitting

logger = logging.getLogger(__name__)


def log_columns(task: Task, metrics: Iterable[str]) -> list[str]:
    """Columns of metrics.csv: the loss terms where there are several, and the metrics on the dev set with the prefix `dev_`."""
    terms = task.weights if len(task.weights) > 1 else ()
    return [STEP_COLUMNS[0], "epoch", *STEP_COLUMNS[1:], *terms, *(f"dev_{name}" for name in metrics)]


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
    ) -> None:
        """`metrics`: those of `task.metrics`, the headline first. `fingerprint`: see `TrainingModule`."""
        super().__init__(model, optimizer, schedule, StopConfig(steps=steps), seed)
        self.task, self.weights, self.fingerprint = task, task.weights, fingerprint or {}
        self.steps_in_epoch = steps_in_epoch or steps
        self.metrics = torch.nn.ModuleDict(metrics)
        self.not_finite = torch.zeros(())  # scores of the validation that are NaN or infinite

    def loss_terms(self, micro_batch: TaskBatch) -> LossTerms:
        """The loss terms of the task; a dummy example, which has no labels, adds 0 to each."""
        scores = self.task.scores(self.model, micro_batch)  # (N, C)
        return self.task.loss(scores if len(micro_batch["labels"]) else scores[:0], micro_batch["labels"])

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
                self.task.update(dict(self.metrics.items()), scores, micro_batch["labels"], micro_batch["sizes"])

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the dev set, over all ranks. Raises InputError for scores that are not finite."""
        if self.summed(self.not_finite):
            where = f"the scores of the dev set are not finite at step {self.progress.step:g}"
            raise InputError(f"{where}: start again with a lower optimizer.lr")
        self.validation = read(dict(self.metrics.items()))
        named = {f"dev_{name}": value for name, value in self.validation.items()}
        self.log_validation(named, epoch=round(self.epoch(), 3))


class KeepBest(L.Callback):
    """Keeps the model that is best on the dev set: `save` writes it (rank 0).

    The headline decides, the next metric breaks ties; if all are equal, the earlier model is kept. Metrics and step are part of each
    checkpoint: a model that was saved after the checkpoint of a killed run is saved again.
    """

    def __init__(self, save: Callable[[TaskTraining], None]) -> None:
        self.save = save
        self.best: dict[str, float] = {}
        """metrics of the best model, the headline first; empty before the first validation"""
        self.best_step = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the model if it is the best so far."""
        assert isinstance(pl_module, TaskTraining)
        measured = pl_module.validation
        if trainer.state.fn != "fit" or not measured:
            return
        scales = pl_module.task.scales
        if not self.best or goodness(measured, scales) > goodness(self.best, scales):
            self.best, self.best_step = dict(measured), int(pl_module.progress.step)
            if trainer.is_global_zero:
                self.save(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Metrics and step of the best model, for a checkpoint."""
        return {"best": self.best, "step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self.best, self.best_step = dict(state_dict["best"]), int(state_dict["step"])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait on all ranks until the model is saved."""
        trainer.strategy.barrier()


def start_model(data: TrainingData, recipe: FinetuneRecipe, items: Sequence[Item]) -> TaskModel:
    """The encoder of the recipe with a new head, initialized by the seed and adjusted to the training examples `items`."""
    assert recipe.model is not None
    source, task, head = open_folder(recipe.model), data.task, recipe.head
    torch.manual_seed(recipe.seed)
    model: TaskModel = start(task.model, source, data.labels, head.dropout, head.pooling, task.problem_type)
    if not keep_output(model, source, task):
        task.initialize(model, items)
    model.settings = Settings(recipe.windows, data.columns, task.settings()).written()
    return model


def keep_output(model: TaskModel, source: Source, task: Task) -> bool:
    """Copy the output layer of a folder that has the same task and labels, in the order of the labels of `model`."""
    kind, head = head_of(source.folder)
    if kind != task.model.__name__:
        return False
    labels: list[str] = list(getattr(head, "labels", ()))
    is_same = getattr(head, "problem_type", "") == task.problem_type
    kept = is_same and sorted(labels) == sorted(model.labels)
    found = "the same labels" if kept else "other labels" if is_same else "another task"
    logger.info(f"{source.folder} has {found}: its output layer is {'' if kept else 'not '}kept")
    shapes = {f"head.output.{name}": tensor.shape for name, tensor in model.head.output.named_parameters()}
    for name, tensor in source.parameters(kind, shapes)[0].items() if kept else ():
        model.get_parameter(name).data.copy_(tensor[[labels.index(label) for label in model.labels]])
    return kept


def training_of(data: TrainingData, recipe: FinetuneRecipe, items: Sequence[Item]) -> tuple[TaskTraining, Batches]:
    """The training of a new model for the epochs of the recipe, and the endless batches of `items`."""
    model = start_model(data, recipe, items)
    batches = Batches(items, recipe.data.batch_size, model.config.pad_id, recipe.seed, counts=data.task.counts)
    steps = max(1, round(recipe.epochs * batches.in_epoch))
    how = recipe.optimizer, recipe.schedule, steps, recipe.seed, batches.in_epoch, data.fingerprint
    return TaskTraining(data.task, data.metrics, model.train(), *how), batches


def fit_batches(
    launch: Launch, trainer: L.Trainer, module: TaskTraining, batches: Batches, dev: Batches | None = None,
    checkpoint: Path | None = None,
) -> None:  # fmt: skip
    """Train on `batches` from a checkpoint on, and validate on `dev`; a signal ends it at a step boundary (`StopOnSignal`)."""
    ranks, begin = (trainer.global_rank, trainer.world_size), partial(launch.begin, module.progress)
    training = BatchLoader(batches, *ranks, first_step=lambda: int(module.progress.step), on_first_request=begin)
    validation = None if dev is None else BatchLoader(dev, *ranks, steps=dev.in_epoch)
    with fitting(launch, module, checkpoint):
        trainer.fit(module, training, validation, ckpt_path=checkpoint and str(checkpoint), weights_only=True)
