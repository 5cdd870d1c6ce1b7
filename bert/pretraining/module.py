"""Pretraining as a LightningModule: the step of `training.module`, the objective's losses and validation, phases, checkpoints."""

import logging
import math
from dataclasses import replace
from typing import Any

import torch

from bert.data.rng import Stream
from bert.errors import InputError
from bert.model.heads import MaskedLM
from bert.pretraining.objective import Objective
from bert.pretraining.phases import Plan
from bert.pretraining.stream import MicroBatch
from bert.training.callbacks import not_finite
from bert.training.compiling import expect_graphs
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from bert.training.module import TrainingModule
from bert.training.schedules import learning_rate_share
from bert.training.step import LossTerms, StepBatch

logger = logging.getLogger(__name__)


class PretrainingModule(TrainingModule):
    """Trains the model with an objective."""

    dropout_stream = Stream.PRETRAINING_DROPOUT

    def __init__(
        self,
        model: MaskedLM,
        objective: Objective,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        stop: StopConfig,
        seed: int = 0,
        plan: Plan | None = None,
        fingerprint: dict[str, str] | None = None,
    ) -> None:
        """`plan` holds the rotary base of each phase; None: that of the model. `fingerprint` identifies the data of the run; a checkpoint
        with another one is refused."""
        super().__init__(model, optimizer, schedule, stop, seed)
        self.objective, self.plan, self.fingerprint = objective, plan, fingerprint or {}
        self._validation_sums = torch.zeros(())
        self._is_restored = False
        if objective.compiled:
            expect_graphs(1 if plan is None else len(plan.phases))

    def on_train_start(self) -> None:
        """A resumed run continues in its phase."""
        super().on_train_start()
        if self._is_restored and self.trainer.global_step != self.progress.step:
            steps = f"{self.progress.step} steps and Lightning's part of it {self.trainer.global_step}"
            raise InputError(f"the checkpoint has {steps}: move it away")
        self._set_rope_theta(max(0, int(self.progress.step) - 1))

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """One optimizer step in its phase."""
        self._set_rope_theta(int(self.progress.step))
        super().training_step(batch, batch_idx)

    def loss_terms(self, micro_batch: MicroBatch) -> LossTerms:
        """The loss terms of the objective."""
        return self.objective.loss(self.model, micro_batch)

    def _set_rope_theta(self, step: int) -> None:
        """Set the rotary base of the phase of `step`, which also holds when the model is measured and saved after that step."""
        config = self.model.config
        if self.plan is not None and (theta := self.plan.at(step).rope_theta) != config.rope_theta:
            self.model.config = self.model.encoder.config = replace(config, rope_theta=theta)

    def validation_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Add the sums that the objective measures."""
        for micro_batch in batch.micro_batches:
            self._validation_sums = self._validation_sums + self.objective.evaluate(self.model, micro_batch)

    def on_validation_epoch_start(self) -> None:
        """Reset the sums."""
        self._validation_sums = torch.zeros((), device=self.device)  # counts are exact in fp32 up to 16 M tokens

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation split."""
        self.validation = self.objective.summarize(self.summed(self._validation_sums))
        self.log_validation(self.validation)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add to weights and optimizer: the used part of the budget, the open row of the log, the family of the model."""
        checkpoint |= {"fingerprint": self.fingerprint, "validation": self.validation}
        checkpoint["model_type"] = self.model.model_type
        checkpoint |= {"progress": self.progress.state(), "learning_rate": self.learning_rate}
        sums = {}
        for name in self.objective.weights:
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
        self.counts, self.weights = dict(row["counts"]), self.objective.weights
        for name, sums in row["loss_sums"].items() if self.counts else ():
            if len(sums) == self.trainer.world_size:
                self.sums[name] = sums[self.global_rank]
            else:  # with another number of ranks, one rank continues the sum of all
                self.sums[name] = sums.sum() if self.global_rank == 0 else torch.zeros(())


def check_fingerprint(before: dict[str, str], now: dict[str, str]) -> None:
    """InputError if the data of a run has changed since a checkpoint."""
    for what, value in before.items():
        if value != now.get(what):
            raise InputError(f"the {what} of this run has changed since its checkpoint: put it back or start a new run")
