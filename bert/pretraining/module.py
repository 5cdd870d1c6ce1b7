"""Pretraining as a LightningModule: the step of `training.module`, the objective's losses and validation, and phases."""

from dataclasses import replace

import torch

from bert.data.rng import Stream
from bert.model.heads import MaskedLM
from bert.pretraining.objective import Objective
from bert.pretraining.phases import Plan
from bert.pretraining.stream import MicroBatch
from bert.training.compiling import expect_graphs
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from bert.training.module import TrainingModule
from bert.training.step import LossTerms, StepBatch


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
        """`plan` holds the rotary base of each phase; None: that of the model. `fingerprint`: see `TrainingModule`."""
        super().__init__(model, optimizer, schedule, stop, seed)
        self.objective, self.plan = objective, plan
        self.weights, self.fingerprint = objective.weights, fingerprint or {}
        self._validation_sums = torch.zeros(())
        if objective.compiled:
            expect_graphs(1 if plan is None else len(plan.phases))

    def on_train_start(self) -> None:
        """A resumed run continues in its phase."""
        super().on_train_start()
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
