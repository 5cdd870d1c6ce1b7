"""Masked-LM training as a LightningModule: the loss of a step, the optimiser, the learning rate, validation.

It works in any Trainer with automatic optimisation; its batches are those of `stream`. The loss of a step is the sum over targets divided
by the number of targets in the global batch. Lightning divides by the accumulation and DDP by the number of ranks, so `training_step`
multiplies by both first.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning as L
import torch

from bert.data.rng import Stream, random_bits
from bert.errors import InputError
from bert.model.heads import HeadOutput, MaskedLM
from bert.pretraining.phases import Phased
from bert.pretraining.stream import MicroBatch, Split
from bert.training.callbacks import not_finite
from bert.training.compiling import expect_graphs
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from bert.training.optimizers import clip_gradients, make_optimizer, restore_highest_rates, set_learning_rate
from bert.training.ranks import Agreement
from bert.training.schedules import Progress, learning_rate_share

LOG_COLUMNS = ["step", "tokens", "loss", "learning_rate", "gradient_norm", "val_loss", "val_accuracy", "val_perplexity"]


class MaskedLMTraining(L.LightningModule):
    """Trains a MaskedLM. `split` says how a global batch is dealt out, which decides the scale of the loss."""

    def __init__(
        self,
        model: MaskedLM,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        stop: StopConfig,
        split: Split | Phased[Split],
        seed: int = 0,
        fingerprint: dict[str, str] | None = None,
        compiled: bool = False,
    ) -> None:
        """`fingerprint` names what the run reads; a checkpoint carries it and is refused where it is another. `compiled`: one
        graph for the step and one for validation."""
        super().__init__()
        # Functions and no modules: a second name for the model would be in the state dict.
        self._loss_sum: Callable[..., torch.Tensor] = model.loss_sum
        self._forward: Callable[..., HeadOutput] = model.__call__
        if compiled:
            self._loss_sum = torch.compile(model.loss_sum, fullgraph=True, dynamic=False)
            self._forward = torch.compile(model.forward, fullgraph=True, dynamic=False)
        self.fingerprint = fingerprint or {}
        self.model = model
        self.optimizer_config, self.schedule, self.seed = optimizer, schedule, seed
        self.split = Phased.always(split)
        self.rope_theta: Phased[float] | None = None
        """base of the rotary wavelengths, where it follows phases; none: as the model has it"""
        if compiled:
            expect_graphs(len(self.split.values))
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
        """A run that has used its budget takes no further step when it is resumed; one that goes on does so in its phase."""
        for optimizer in self.trainer.optimizers:
            restore_highest_rates(optimizer, self.optimizer_config)
        self._set_rope_theta(max(0, int(self.progress.step) - 1))
        self._follow_phase()
        if self.progress.finished():
            self.trainer.should_stop = True

    def training_step(self, batch: MicroBatch, batch_idx: int) -> torch.Tensor:
        """The share of this micro-batch in the loss of the step, scaled for Lightning's and DDP's means."""
        step = int(self.progress.step)
        split = self.split.at(step)
        self._set_rope_theta(step)
        micro = batch_idx % split.accumulation
        key = (self.seed, Stream.PRETRAINING_DROPOUT, step, self.global_rank, micro)
        torch.manual_seed(int(random_bits(*key)[0] >> 1))  # dropout is a function of (seed, step, rank, micro-batch)
        self._batch = batch
        loss_sum = self.sum_losses(batch)
        self.loss_sum = self.loss_sum.to(self.device) + loss_sum.detach()
        return loss_sum * (split.ranks * split.accumulation / max(1, batch["global_targets"]))

    def on_train_batch_end(self, *_: Any) -> None:
        """Behind the last step of a phase Lightning goes on with the accumulation of the next."""
        if not self.trainer.fit_loop.epoch_loop._should_accumulate():
            self._follow_phase()

    def _follow_phase(self) -> None:
        """Give Lightning the accumulation of the step that comes next. It counts micro-batches, and takes a step and a validation
        where their number divides; so they are counted as if all steps before had had as many."""
        trainer, step = self.trainer, int(self.progress.step)
        before, now = trainer.accumulate_grad_batches, self.split.at(step).accumulation
        if before == now:
            return
        trainer.accumulate_grad_batches = now
        if trainer.val_check_batch is not None and math.isfinite(trainer.val_check_batch):
            trainer.val_check_batch = trainer.val_check_batch // before * now
        progress = trainer.fit_loop.epoch_loop.batch_progress
        for counts in (progress.total, progress.current):
            counts.load_state_dict(_recounted(counts.state_dict(), step * now))

    def _set_rope_theta(self, step: int) -> None:
        """The rotary base of the phase of `step`, for training and for what measures and saves the model after that step."""
        theta = self.model.config.rope_theta if self.rope_theta is None else self.rope_theta.at(step)
        if theta != self.model.config.rope_theta:
            self.model.config = self.model.encoder.config = replace(self.model.config, rope_theta=theta)

    def sum_losses(self, batch: MicroBatch) -> torch.Tensor:
        """() cross-entropy, summed over the targets of a micro-batch."""
        return self._loss_sum(**self._inputs(batch))

    def _inputs(self, batch: MicroBatch) -> dict[str, torch.Tensor]:
        """A micro-batch as the model takes it: every row has as many slots as another, so that they are a table (B, K)."""
        rows, length = batch["input_ids"].shape
        if batch["input_ids"].is_cuda:
            self.model.encoder.make_room(batch["documents"])
        targets = batch["targets"].view(rows, -1) % length
        return {
            "input_ids": batch["input_ids"],
            "document_ids": batch["document_ids"],
            "targets": targets,
            "labels": batch["labels"],
        }

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Instead of Lightning's own clipping, which refuses fused optimisers under bf16-mixed (its issue 21435)."""
        self.gradient_norm = clip_gradients(self.model, self.optimizer_config.clip_norm)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate of this step, a function of the progress at its middle, so that no step has a rate of 0; by the clock
        alone the first two have, before it is known how long a step takes."""
        progress = self.progress
        middle = replace(
            progress, step=progress.step + 0.5, tokens=progress.tokens + 0.5 * self._batch["global_tokens"]
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
        output = self._forward(**self._inputs(batch))
        right = (output.logits.argmax(-1).flatten() == batch["labels"]).sum()
        assert output.loss_sum is not None
        assert output.num_targets is not None
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
        checkpoint["fingerprint"] = self.fingerprint
        checkpoint["validation"] = self.validation
        checkpoint["progress"] = self.progress.state()
        checkpoint["learning_rates"] = torch.tensor(self.learning_rates, dtype=torch.float64)
        sums = self.trainer.strategy.all_gather(self.loss_sum.to(self.device))  # of each rank
        sums = sums.reshape(-1).cpu().clone()
        # a scaler of fp16 leaves out the steps whose gradients overflow
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        for what, value in (("loss", float(sums.sum())), ("gradient norm", float(self.gradient_norm))):
            if not math.isfinite(value) and not (scaled and what == "gradient norm"):
                raise not_finite(what, value, self.progress.step)
        checkpoint["open_log_row"] = {"loss_sums": sums, "targets": self.targets}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The same back. Lightning counts micro-batches, which this run may deal out otherwise than the one before: steps decide."""
        if len(checkpoint["optimizer_states"]) != 1:
            raise InputError("the checkpoint has no state of the optimizer: move it away")
        step = int(checkpoint["progress"]["step"])
        for counts in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
            if isinstance(counts, dict):  # `total` and `current`
                counts |= _recounted(counts, step * self.split.at(step).accumulation)
        check_fingerprint(checkpoint["fingerprint"], self.fingerprint)
        self.validation = checkpoint["validation"]
        self.progress.restore(checkpoint["progress"])
        self.learning_rates = checkpoint["learning_rates"].tolist()
        sums = checkpoint["open_log_row"]["loss_sums"]
        if len(sums) == self.trainer.world_size:
            self.loss_sum = sums[self.global_rank]
        elif self.global_rank == 0:  # the sum over all ranks goes on in one
            self.loss_sum = sums.sum()
        self.targets = checkpoint["open_log_row"]["targets"]


def check_fingerprint(before: dict[str, str], now: dict[str, str]) -> None:
    """InputError where a run no longer reads what it did at a checkpoint."""
    for what, value in before.items():
        if value != now.get(what):
            raise InputError(f"the {what} of this run has changed since its checkpoint: put it back, or start anew")


def _recounted(counts: dict[str, int], done: int) -> dict[str, int]:
    """Lightning's counts of micro-batches when it stands at number `done`."""
    unfinished = counts["ready"] - counts["completed"]  # 1 where the hooks of the last micro-batch were still running
    return {"ready": done, "started": done, "processed": done, "completed": done - unfinished}
