"""Fine-tuning as a LightningModule: the step of `training.module`, the loss of a task, the metrics on the dev set."""

from collections.abc import Callable

import lightning as L
import torch
from torchmetrics import Metric

from bert.data.rng import Stream
from bert.finetuning.batches import TaskBatch
from bert.finetuning.metrics import goodness, read
from bert.finetuning.tasks.task import Task, TaskModel
from bert.model.heads import HeadOutput
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from bert.training.module import STEP_COLUMNS, TrainingModule
from bert.training.step import LossTerms, StepBatch

LOG_COLUMNS = [STEP_COLUMNS[0], "epoch", *STEP_COLUMNS[1:]]
"""of metrics.csv, beside the metrics on the dev set, which stand with `dev_` before their names"""


class TaskTraining(TrainingModule):
    """Trains a model with a head for `task` for `steps` steps."""

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
        """`metrics` are those of `task.metrics`, the headline first."""
        super().__init__(model, optimizer, schedule, StopConfig(steps=steps), seed)
        self.task = task
        self.steps_in_epoch = steps_in_epoch or steps
        self.metrics = torch.nn.ModuleDict(metrics)

    def forward(self, batch: TaskBatch) -> HeadOutput:
        """The scores of a batch, (N, C) with a row a unit that is labelled, and the sum of the terms of its loss."""
        scores = self.task.scores(self.model, batch)
        if not len(batch["labels"]):  # of an example that is another rank's
            scores = scores[:0]
        terms = self.task.loss(scores, batch["labels"])
        return HeadOutput(scores, loss_sum=torch.stack([total for total, _ in terms.values()]).sum())

    def loss_terms(self, micro_batch: TaskBatch) -> LossTerms:
        """What the task learns by, summed over the labels."""
        return LossTerms({"loss": self(micro_batch).loss_sum}, {"loss": 1.0})

    def read_log(self) -> dict[str, float]:
        """The same with the epochs done."""
        return {"epoch": round(self.epoch(), 3)} | super().read_log()

    def epoch(self) -> float:
        """Epochs done."""
        return self.progress.step / self.steps_in_epoch

    def validation_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Counts what is right."""
        for micro_batch in batch.micro_batches:
            if len(micro_batch["labels"]):
                scores = self.task.scores(self.model, micro_batch).float()
                self.task.update(dict(self.metrics.items()), scores, micro_batch["labels"], micro_batch["sizes"])

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the dev set, over all ranks."""
        self.validation = read(dict(self.metrics.items()))
        named = {f"dev_{name}": value for name, value in self.validation.items()}
        self.log_validation(named, epoch=round(self.epoch(), 3))


class KeepBest(L.Callback):
    """Keeps the model that measured best on the dev set: `save` writes it (rank 0).

    The headline decides, of equal ones the next metric; where all are equal the earlier model stays.
    """

    def __init__(self, save: Callable[[TaskTraining], None]) -> None:
        self.save = save
        self.best: dict[str, float] = {}
        """metrics of the best model, the headline first; empty before the first validation"""
        self.best_step = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After a validation inside the run."""
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
        """The model is saved before any rank goes on."""
        trainer.strategy.barrier()
