"""Fine-tuning as a LightningModule: the step of `training.module`, the loss of a task, the metrics on the dev set."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch

from bert.data.rng import Stream
from bert.finetuning import figures
from bert.finetuning.batches import TaskBatch, in_order
from bert.finetuning.metrics import Scheme
from bert.model.heads import IGNORED, SequenceClassifier, TokenClassifier
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from bert.training.module import STEP_COLUMNS, TrainingModule
from bert.training.step import LossTerms, StepBatch

LOG_COLUMNS = [STEP_COLUMNS[0], "epoch", *STEP_COLUMNS[1:]]
"""of metrics.csv, beside the metrics on the dev set, which stand with `dev_` before their names"""

TaskModel = SequenceClassifier | TokenClassifier


class TaskTraining(TrainingModule):
    """Trains a classifier or a tagger for `steps` steps."""

    dropout_stream = Stream.FINETUNING_DROPOUT

    def __init__(
        self,
        model: TaskModel,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        steps: int,
        seed: int = 0,
        steps_in_epoch: int | None = None,
        scheme: Scheme | None = None,
    ) -> None:
        """`scheme` is how the tags of a tagger mark spans; none where they do not."""
        super().__init__(model, optimizer, schedule, StopConfig(steps=steps), seed)
        self.steps_in_epoch = steps_in_epoch or steps
        self.figures = torch.nn.ModuleDict(
            figures.make_figures(model.labels, isinstance(model, TokenClassifier), scheme)
        )

    def forward(self, batch: TaskBatch) -> Any:
        """The output of the model for a batch, with its loss."""
        inputs = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        if batch["word_ids"] is not None:
            return self.model(*inputs, labels=batch["labels"])
        return self.model(*inputs, labels=batch["labels"], example_ids=batch["example_ids"])

    def loss_terms(self, micro_batch: TaskBatch) -> LossTerms:
        """Cross-entropy, summed over the labels."""
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
            self._measure(micro_batch)

    def _measure(self, batch: TaskBatch) -> None:
        chosen, labels = self(batch).logits.argmax(-1), self.model.labels
        if batch["word_ids"] is None:
            asked = batch["labels"] != IGNORED
            guessed, right = ([[i] for i in side[asked].tolist()] for side in (chosen, batch["labels"]))
        else:
            guessed, right = in_order(batch, chosen), in_order(batch, batch["labels"])
        named = ([[labels[i] for i in example] for example in side] for side in (guessed, right))
        figures.update(dict(self.figures.items()), labels, *named)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the dev set, over all ranks."""
        self.validation = figures.read(dict(self.figures.items()))
        named = {f"dev_{name}": value for name, value in self.validation.items()}
        self.log_validation(named, epoch=round(self.epoch(), 3))


class KeepBest(L.Callback):
    """Keeps the model that measured best on the dev set: `save` writes it (rank 0), `restore` puts it back at the end.

    The headline decides, of equal ones the next figure; where all are equal the earlier model stays.
    """

    def __init__(self, save: Callable[[TaskTraining], None], restore: Callable[[TaskTraining], None]) -> None:
        self.save, self.restore = save, restore
        self.best: dict[str, float] = {}
        """figures of the best model, the headline first; empty before the first validation"""
        self.best_step = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After a validation inside the run."""
        assert isinstance(pl_module, TaskTraining)
        measured = pl_module.validation
        if trainer.state.fn != "fit" or not measured:
            return
        if not self.best or [*measured.values()] > [*self.best.values()]:
            self.best, self.best_step = dict(measured), int(pl_module.progress.step)
            if trainer.is_global_zero:
                self.save(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The best weights are those of the model from here on, on every rank."""
        assert isinstance(pl_module, TaskTraining)
        trainer.strategy.barrier()
        if self.best and self.best_step != pl_module.progress.step:
            self.restore(pl_module)
