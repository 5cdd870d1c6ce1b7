"""Fine-tuning as a LightningModule: the step of `training.module`, the loss of a task, and the metrics on the dev set."""

from collections.abc import Callable, Iterable

import lightning as L
import torch
from torchmetrics import Metric

from bert.data.rng import Stream
from bert.errors import InputError
from bert.finetuning.batches import TaskBatch
from bert.finetuning.metrics import goodness, read
from bert.finetuning.tasks.task import Task, TaskModel
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from bert.training.module import STEP_COLUMNS, TrainingModule
from bert.training.step import LossTerms, StepBatch


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
    ) -> None:
        """`metrics`: those of `task.metrics`, the headline first."""
        super().__init__(model, optimizer, schedule, StopConfig(steps=steps), seed)
        self.task = task
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

    The headline decides, the next metric breaks ties; if all are equal, the earlier model is kept.
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

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait on all ranks until the model is saved."""
        trainer.strategy.barrier()
