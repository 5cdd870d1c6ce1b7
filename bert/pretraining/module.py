"""Masked-LM training as a LightningModule: the loss of a step, the optimiser, the learning rate, validation.

It works in any Trainer with automatic optimisation; its batches are those of `stream`. The loss of a step is the sum over targets divided
by the number of targets in the global batch. Lightning divides by the accumulation and DDP by the number of ranks, so `training_step`
multiplies by both first.
"""

from typing import Any

import lightning as L
import torch

from bert.errors import InputError
from bert.model.heads import MaskedLM
from bert.pretraining.stream import MicroBatch, Split
from bert.text.counter import draw
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from bert.training.optimizers import clip_gradients, make_optimizer, set_learning_rate
from bert.training.ranks import Agreement
from bert.training.schedules import Progress, learning_rate_share

_DROPOUT = 21  # what a draw is for
LOG_COLUMNS = ["step", "tokens", "loss", "learning_rate", "gradient_norm", "val_loss", "val_accuracy", "val_perplexity"]


class MaskedLMTraining(L.LightningModule):
    """Trains a MaskedLM. `split` says how a global batch is dealt out, which decides the scale of the loss."""

    def __init__(
        self,
        model: MaskedLM,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        stop: StopConfig,
        split: Split,
        seed: int = 0,
        identity: dict[str, str] | None = None,
        compiled: bool = False,
    ) -> None:
        """`identity` names what the run reads; a checkpoint carries it and is refused where it is another. `compiled`: one
        graph for the step and one for validation."""
        super().__init__()
        # A function and no module: a second name for the model would be in the state dict.
        self._compiled = torch.compile(model.forward, fullgraph=True, dynamic=False) if compiled else None
        self.identity = identity or {}
        self.model = model
        self.optimizer_config, self.schedule, self.split, self.seed = optimizer, schedule, split, seed
        self.progress = Progress(stop)
        self.learning_rates: list[float] = []
        """the share of the highest learning rate of every step done: with a budget in minutes it is not a function of the step"""
        # Sums since the last row of the log. They stay on the device: reading them earlier would make the host wait for it. They are
        # no buffers: DDP would overwrite those of other ranks with those of rank 0.
        self.loss_sum = torch.zeros(())
        self.targets = 0
        self.gradient_norm = torch.zeros(())
        self.validation_sums = torch.zeros(3)
        self.validation: dict[str, float] = {}
        """figures of the last validation"""
        self._agreement: Agreement | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW or Muon by the recipe. The learning rate is set in `on_before_optimizer_step`."""
        return make_optimizer(self.model, self.optimizer_config)

    def on_fit_start(self) -> None:
        """Ranks agree on the clock, where the schedule follows it."""
        if self.progress.stop.minutes is not None:
            self._agreement = Agreement(self.trainer.world_size)

    def on_train_start(self) -> None:
        """A run that has used its budget takes no further step when it is resumed."""
        if self.progress.finished():
            self.trainer.should_stop = True

    def training_step(self, batch: MicroBatch, batch_idx: int) -> torch.Tensor:
        """The share of this micro-batch in the loss of the step, scaled for Lightning's and DDP's means."""
        micro = batch_idx % self.split.accumulation
        key = (self.seed, _DROPOUT, int(self.progress.step), self.global_rank, micro)
        torch.manual_seed(int(draw(*key)[0] >> 1))  # dropout is a function of (seed, step, rank, micro-batch)
        self._batch = batch
        output = self._run(batch)
        self.loss_sum = self.loss_sum.to(self.device) + output.loss_sum.detach()
        scale = self.split.ranks * self.split.accumulation / max(1, batch["global_targets"])
        return output.loss_sum * scale

    def _run(self, batch: MicroBatch) -> Any:
        """The model on a micro-batch: every row has as many slots as another, so that they are a table (B, K)."""
        rows, length = batch["input_ids"].shape
        targets = batch["targets"].view(rows, -1) % length
        if batch["input_ids"].is_cuda:
            self.model.encoder.make_room(batch["documents"])
        compute = self._compiled or self.model
        return compute(batch["input_ids"], document_ids=batch["document_ids"], targets=targets, labels=batch["labels"])

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Instead of Lightning's own clipping, which refuses fused optimisers under bf16-mixed (its issue 21435)."""
        self.gradient_norm = clip_gradients(self.model, self.optimizer_config.clip_norm)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate of this step, a function of the progress at its middle, so that no step has a rate of 0."""
        stop, progress = self.progress.stop, self.progress
        middle = Progress(
            stop, progress.step + 0.5, progress.tokens + 0.5 * self._batch["global_tokens"], progress.seconds
        )
        share = learning_rate_share(middle.share(), self.schedule)
        set_learning_rate(optimizer, share)
        self.learning_rates.append(share)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step, and what it used of the budget."""
        super().optimizer_step(*args, **kwargs)
        self.targets += self._batch["global_targets"]
        self.progress.advance(self._batch["global_tokens"], self._agreed_seconds())
        if self.progress.finished():
            self.trainer.should_stop = True

    def _agreed_seconds(self) -> float:
        seconds = self.progress.elapsed()
        return self._agreement.largest(seconds) if self._agreement else seconds

    def read_log(self) -> dict[str, float]:
        """Mean loss since the last call, over all ranks; learning rate and gradient norm of the last step."""
        loss_sum = float(self._summed(self.loss_sum))
        row = {
            "loss": loss_sum / max(1, self.targets),
            "learning_rate": self.learning_rates[-1] * self.optimizer_config.lr,
            "gradient_norm": float(self.gradient_norm),
        }
        self.loss_sum = torch.zeros_like(self.loss_sum)
        self.targets = 0
        return row

    def validation_step(self, batch: MicroBatch, batch_idx: int) -> None:
        """Adds up cross-entropy, right guesses and targets."""
        output = self._run(batch)
        right = (output.logits.argmax(-1).flatten() == batch["labels"]).sum()
        self.validation_sums = self.validation_sums + torch.stack([output.loss_sum, right, output.num_targets])

    def on_validation_epoch_start(self) -> None:
        """A new sum."""
        self.validation_sums = torch.zeros(3, device=self.device)  # counts are exact in fp32 up to 16 M targets

    def on_validation_epoch_end(self) -> None:
        """Log loss, accuracy and perplexity of the held-out rows."""
        loss_sum, right, targets = self._summed(self.validation_sums).tolist()
        loss = loss_sum / max(1.0, targets)
        self.validation = {
            "val_loss": loss,
            "val_accuracy": right / max(1.0, targets),
            "val_perplexity": float(torch.tensor(loss).exp()),
        }
        self.log_dict(self.validation, logger=False)  # for callbacks that monitor a metric
        row = self.validation | {"tokens": self.progress.tokens, "seconds": round(self.progress.elapsed(), 3)}
        for logger in self.trainer.loggers:
            logger.log_metrics(row, step=int(self.progress.step))

    def _summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks."""
        if self.trainer.world_size == 1:
            return tensor
        return self.trainer.strategy.reduce(tensor.to(self.device, copy=True), reduce_op="sum")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Beside weights and optimiser: what the budget has used, every learning rate, and the open row of the log."""
        checkpoint["identity"] = self.identity
        checkpoint["validation"] = self.validation
        checkpoint["progress"] = self.progress.state()
        checkpoint["learning_rates"] = torch.tensor(self.learning_rates, dtype=torch.float64)
        checkpoint["open_log_row"] = {"loss_sum": self._summed(self.loss_sum).cpu().clone(), "targets": self.targets}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The same back. Lightning counts micro-batches, which this run may deal out otherwise than the one before: steps decide."""
        done = int(checkpoint["progress"]["step"]) * self.split.accumulation
        for counts in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
            if isinstance(counts, dict):  # `total` and `current`
                unfinished = (
                    counts["ready"] - counts["completed"]
                )  # 1 where the hooks of the last micro-batch were still running
                counts |= {"ready": done, "started": done, "processed": done, "completed": done - unfinished}
        for what, before in checkpoint["identity"].items():
            now = self.identity.get(what, "")
            if before != now:
                raise InputError(
                    f"the {what} of this run has changed since its checkpoint ({before[:8]} to {now[:8]}): put it back, or start anew"
                )
        self.validation = checkpoint["validation"]
        self.progress.restore(checkpoint["progress"])
        self.learning_rates = checkpoint["learning_rates"].tolist()
        if self.global_rank == 0:  # the sum over all ranks goes on in one
            self.loss_sum = checkpoint["open_log_row"]["loss_sum"]
        self.targets = checkpoint["open_log_row"]["targets"]
