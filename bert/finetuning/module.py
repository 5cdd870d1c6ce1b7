"""Fine-tuning as a LightningModule: the loss of a step, the optimiser, the learning rate, the metrics on the dev set.

It works in any Trainer with automatic optimisation; its batches are those of `batches`. The loss of a step is the sum over
labels divided by the number of labels in the global batch. DDP divides by the number of ranks, so `training_step`
multiplies by it first.
"""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torchmetrics import Metric

from bert.data.rng import draw
from bert.finetuning.batches import TaskBatch
from bert.finetuning.metrics import goodness, read
from bert.finetuning.tasks.task import Task, TaskModel
from bert.model.heads import HeadOutput
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from bert.training.optimizers import clip_gradients, make_optimizer, set_learning_rate
from bert.training.schedules import Progress, learning_rate_share

_DROPOUT = 44  # what a draw is for
LOG_COLUMNS = ["step", "epoch", "tokens", "loss", "learning_rate", "gradient_norm"]
"""of metrics.csv, beside the metrics on the dev set, which stand with `dev_` before their names"""


class TaskTraining(L.LightningModule):
    """Trains a model with a head for `task` for `steps` steps."""

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
        super().__init__()
        self.task, self.model = task, model
        self.optimizer_config, self.schedule, self.seed = optimizer, schedule, seed
        self.steps_in_epoch = steps_in_epoch or steps
        self.progress = Progress(StopConfig(steps=steps))
        # Sums since the last row of the log, as in pretraining: no buffers, and read only when a row is written.
        self.loss_sum, self.targets = torch.zeros(()), 0
        self.gradient_norm = torch.zeros(())
        self.learning_rate = 0.0
        self.metrics = torch.nn.ModuleDict(metrics)
        self.validation: dict[str, float] = {}
        """metrics of the last validation, the headline first"""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW or Muon by the recipe. The learning rate is set in `on_before_optimizer_step`."""
        return make_optimizer(self.model, self.optimizer_config)

    def forward(self, batch: TaskBatch) -> HeadOutput:
        """The scores of a batch, (N, C) with a row a unit that is labelled, and the sum of the terms of its loss."""
        scores = self.task.scores(self.model, batch)
        if not len(batch["labels"]):  # of an example that is another rank's
            scores = scores[:0]
        terms = self.task.loss(scores, batch["labels"])
        return HeadOutput(scores, loss_sum=torch.stack([total for total, _ in terms.values()]).sum())

    def training_step(self, batch: TaskBatch, batch_idx: int) -> torch.Tensor:
        """This rank's share in the loss of the step, scaled for DDP's mean."""
        key = draw(self.seed, _DROPOUT, int(self.progress.step), self.global_rank)
        torch.manual_seed(int(key[0] >> 1))  # dropout is a function of (seed, step, rank)
        self._batch = batch
        output = self(batch)
        self.loss_sum = self.loss_sum.to(self.device) + output.loss_sum.detach()
        return output.loss_sum * (self.trainer.world_size / max(1, batch["global_targets"]))

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Instead of Lightning's own clipping, which refuses fused optimisers under bf16-mixed (its issue 21435)."""
        self.gradient_norm = clip_gradients(self.model, self.optimizer_config.clip_norm)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate of this step, a function of the progress at its middle, so that no step has a rate of 0."""
        middle = Progress(self.progress.stop, self.progress.step + 0.5)
        share = learning_rate_share(middle.share(), self.schedule)
        set_learning_rate(optimizer, share)
        self.learning_rate = share * self.optimizer_config.lr

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step, and what it used of the budget."""
        super().optimizer_step(*args, **kwargs)
        self.targets += self._batch["global_targets"]
        self.progress.advance(self._batch["global_tokens"], self.progress.elapsed())
        if self.progress.finished():
            self.trainer.should_stop = True

    def read_log(self) -> dict[str, float]:
        """Mean loss since the last call, over all ranks; learning rate and gradient norm of the last step."""
        loss_sum = self.loss_sum
        if self.trainer.world_size > 1:
            loss_sum = self.trainer.strategy.reduce(loss_sum.to(self.device, copy=True), reduce_op="sum")
        row = {
            "epoch": round(self.epoch(), 3),
            "loss": float(loss_sum) / max(1, self.targets),
            "learning_rate": self.learning_rate,
            "gradient_norm": float(self.gradient_norm),
        }
        self.loss_sum, self.targets = torch.zeros_like(self.loss_sum), 0
        return row

    def epoch(self) -> float:
        """Epochs done."""
        return self.progress.step / self.steps_in_epoch

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> None:
        """Counts what is right."""
        if len(batch["labels"]):
            scores = self.task.scores(self.model, batch).float()
            self.task.update(dict(self.metrics.items()), scores, batch["labels"], batch["sizes"])

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the dev set, over all ranks."""
        self.validation = read(dict(self.metrics.items()))
        named = {f"dev_{name}": value for name, value in self.validation.items()}
        self.log_dict(named, logger=False)  # for callbacks that monitor a metric
        row = named | {"epoch": round(self.epoch(), 3), "tokens": self.progress.tokens}
        for logger in self.trainer.loggers:
            logger.log_metrics(row | {"seconds": round(self.progress.elapsed(), 3)}, step=int(self.progress.step))


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
