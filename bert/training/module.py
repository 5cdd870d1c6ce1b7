"""The LightningModule of pretraining and fine-tuning: one Lightning batch is one optimizer step (manual optimization).

Lightning provides devices, strategies, precision, loggers, callbacks and checkpoint hooks; the step itself is `step.optimizer_step`.
Subclasses define the loss terms of a micro-batch and the validation. It works in any Trainer, also with a user's `max_steps`,
`should_stop` and `ModelCheckpoint`.
"""

import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

from bert.data.rng import Stream, random_bits
from bert.errors import InputError
from bert.training.callbacks import not_finite
from bert.training.checkpoints import check_fingerprint
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from bert.training.doctor import Expected
from bert.training.optimizers import make_optimizer, restore_highest_rates
from bert.training.ranks import Agreement
from bert.training.schedules import Progress, learning_rate_share
from bert.training.step import LossTerms, StepBatch, optimizer_step, scaled_loss

logger = logging.getLogger(__name__)

STEP_COLUMNS = ("step", "tokens", "loss", "learning_rate", "gradient_norm")
"""columns of the log in every training; further loss terms have their own, named after them"""


class TrainingModule(L.LightningModule):
    """Trains `model` until the budget `stop` is used up."""

    model: Any
    """a torch module; subclasses may require more"""
    dropout_stream: Stream
    """the random stream of dropout, a function of (seed, step, rank, micro-batch)"""

    def __init__(
        self, model: nn.Module, optimizer: OptimizerConfig, schedule: ScheduleConfig, stop: StopConfig, seed: int = 0
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.optimizer_config, self.schedule, self.seed = optimizer, schedule, seed
        self.progress = Progress(stop)
        self.learning_rate = 0.0
        """AdamW's, in the last step"""
        # Sums since the last row of the log. They stay on the device, as reading them would make the host wait, and are not buffers, which
        # DDP would overwrite by those of rank 0.
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.weights: Mapping[str, float] = {}
        """weights of the loss terms, by name; subclasses set them"""
        self.fingerprint: Mapping[str, str] = {}
        """identifies what the run reads: a checkpoint with another one is refused; subclasses set it"""
        self.expected: Expected | None = None
        """what is known about the loss, for the callback that watches it"""
        self.validation: dict[str, float] = {}
        """metrics of the last validation"""
        self._agreement: Agreement | None = None
        self._is_restored = False

    def loss_terms(self, micro_batch: Any) -> LossTerms:
        """The loss terms of a micro-batch."""
        raise NotImplementedError

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW or Muon, by the recipe."""
        return make_optimizer(self.model, self.optimizer_config, self.rate_share)

    def rate_share(self, name: str) -> float:
        """The share of the learning rate for the parameter `name` of the model."""
        return 1.0

    def on_fit_start(self) -> None:
        """Make ranks agree on the time, if the schedule depends on it."""
        if self.progress.stop.minutes is not None:
            self._agreement = Agreement(self.trainer.world_size)

    def on_train_start(self) -> None:
        """A resumed run uses the learning rates of its recipe, and takes no step if its budget is used up."""
        if self._is_restored and self.trainer.global_step != self.progress.step:
            steps = f"{self.progress.step} steps and Lightning's part of it {self.trainer.global_step}"
            raise InputError(f"the checkpoint has {steps}: move it away")
        for optimizer in self.trainer.optimizers:
            restore_highest_rates(optimizer, self.optimizer_config)
        if self.progress.finished():
            self.trainer.should_stop = True

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """One optimizer step. Its number is `progress.step`, never `batch_idx`."""
        micro_batches = list(enumerate(batch.micro_batches))

        def loss(numbered: tuple[int, Any]) -> Tensor:
            number, micro_batch = numbered
            key = random_bits(self.seed, self.dropout_stream, int(self.progress.step), self.global_rank, number)
            torch.manual_seed(int(key[0] >> 1))
            with self.trainer.precision_plugin.forward_context():
                terms = self.loss_terms(micro_batch)
            self._add(terms)
            return scaled_loss(terms, batch.counts, self.trainer.world_size)

        strategy = self.trainer.strategy
        without_sync = strategy.block_backward_sync if isinstance(strategy, ParallelStrategy) else nullcontext
        with torch.autocast(self.device.type, enabled=False):  # Lightning calls a training step inside autocast
            optimizer_step(
                loss,
                self.optimizers(),  # type: ignore[arg-type]
                micro_batches,
                learning_rate=self._learning_rate_share(batch.tokens),
                backward=self.manual_backward,
                without_sync=without_sync,
            )
        for name, count in batch.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        seconds = self.progress.elapsed()
        self.progress.advance(batch.tokens, self._agreement.largest(seconds) if self._agreement else seconds)
        if self.progress.finished():
            self.trainer.should_stop = True

    def _learning_rate_share(self, tokens: int) -> float:
        """The share of the highest learning rate in the next step, of `tokens` tokens: a function of the progress at its middle, so that no
        step has a rate of 0. With a budget in minutes alone the first two have, as the duration of a step is not known yet."""
        progress = self.progress
        middle = replace(progress, step=progress.step + 0.5, tokens=progress.tokens + 0.5 * tokens)
        share = learning_rate_share(middle.share(), self.schedule)
        self.learning_rate = share * self.optimizer_config.lr
        return share

    def _add(self, terms: LossTerms) -> None:
        self.weights = terms.weights
        for name, total in terms.sums.items():
            self.sums[name] = self.sums[name].to(self.device) + total.detach() if name in self.sums else total.detach()

    @property
    def gradient_norm(self) -> Tensor:
        """2-norm of the gradients in the last step, before clipping."""
        optimizer = self.trainer.optimizers[0]
        return getattr(optimizer, "gradient_norm", torch.zeros(()))

    def read_log(self) -> dict[str, float]:
        """`mean_losses`, learning rate and gradient norm of the last step, for a row of the log, which ends here."""
        losses = self.mean_losses()
        self.sums, self.counts = {}, {}
        return losses | {"learning_rate": self.learning_rate, "gradient_norm": float(self.gradient_norm)}

    def mean_losses(self) -> dict[str, float]:
        """The mean loss since the last row of the log, and its terms if there are several, over all ranks: each must call it."""
        means = {name: float(self.summed(total)) / max(1, self.counts[name]) for name, total in self.sums.items()}
        loss = sum(self.weights[name] * mean for name, mean in means.items())
        return {"loss": loss, **(means if len(means) > 1 else {})}

    def log_validation(self, metrics: Mapping[str, float], **also: float) -> None:
        """Pass the metrics of a validation to callbacks that monitor them, and, together with `also`, to every logger."""
        self.log_dict(dict(metrics), logger=False)
        row = {**metrics, **also, "tokens": self.progress.tokens, "seconds": round(self.progress.elapsed(), 3)}
        for logger in self.trainer.loggers:
            logger.log_metrics(row, step=int(self.progress.step))

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks."""
        if self.trainer.world_size == 1:
            return tensor
        return self.trainer.strategy.reduce(tensor.to(self.device, copy=True), reduce_op="sum")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add to weights and optimizer: the used part of the budget, the open row of the log, the family of the model."""
        checkpoint |= {"fingerprint": dict(self.fingerprint), "validation": self.validation}
        checkpoint["model_type"] = self.model.model_type
        checkpoint |= {"progress": self.progress.state(), "learning_rate": self.learning_rate}
        sums = {}
        for name in self.weights:
            total = self.sums.get(name, torch.zeros(())).to(self.device)
            sums[name] = self.trainer.strategy.all_gather(total).reshape(-1).cpu().clone()  # one per rank
        values = [("loss", float(each.sum())) for each in sums.values()]
        for what, value in [*values, ("gradient norm", float(self.gradient_norm))]:
            if not math.isfinite(value):
                raise not_finite(what, value, self.progress.step)
        checkpoint["open_log_row"] = {"loss_sums": sums, "counts": dict(self.counts)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` has added."""
        if len(checkpoint["optimizer_states"]) != 1:
            raise InputError("the checkpoint has no state of the optimizer: move it away")
        check_fingerprint(checkpoint["fingerprint"], self.fingerprint)
        self.validation = checkpoint["validation"]
        self.model.model_type = checkpoint.get("model_type")  # absent in checkpoints of earlier versions
        self.progress.restore(checkpoint["progress"])
        self._is_restored = True
        self.learning_rate = float(checkpoint["learning_rate"])
        rate = learning_rate_share(self.progress.share(), self.schedule) * self.optimizer_config.lr
        logger.info(f"resumed at step {self.progress.step:,}: learning rate {rate:.3g}, after {self.learning_rate:.3g}")
        row = checkpoint["open_log_row"]
        self.counts = dict(row["counts"])
        for name, sums in row["loss_sums"].items() if self.counts else ():
            if len(sums) == self.trainer.world_size:
                self.sums[name] = sums[self.global_rank]
            else:  # with another number of ranks, one rank continues the sum of all
                self.sums[name] = sums.sum() if self.global_rank == 0 else torch.zeros(())
