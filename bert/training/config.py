"""How a model is trained: optimizer, schedule, budget, checkpoints, log. Plain dataclasses without torch, for all kinds of training."""

from dataclasses import dataclass
from typing import Literal

from bert.errors import InputError, require, require_positive


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019), or Muon (Jordan et al. 2024) for hidden matrices and AdamW for the rest."""

    kind: Literal["adamw", "muon"] = "adamw"
    """adamw: for all parameters; muon: for the matrices of the blocks, AdamW for the rest"""
    lr: float = 2e-3
    """highest learning rate of AdamW"""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates of the two moments"""
    eps: float = 1e-8
    """term added to AdamW's denominator"""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay of matrices; vectors (norms, biases) have none"""
    clip_norm: float | None = 1.0
    """largest 2-norm of the gradient over all parameters; null: no clipping"""
    muon_lr: float = 0.02
    """highest learning rate of Muon"""
    muon_momentum: float = 0.95
    """momentum of Muon"""
    muon_weight_decay: float = 0.01
    """decoupled weight decay of the matrices that Muon updates"""
    muon_block: int | None = None
    """number of neurons (rows of matrices that read the residual path, columns of those that write to it) that Muon orthogonalizes
    together: fewer are cheaper; null: whole matrices"""

    def __post_init__(self) -> None:
        require_positive("optimizer", self, "lr eps clip_norm muon_lr muon_block")
        require("optimizer", self, "betas", lambda betas: 0 <= min(betas) <= max(betas) < 1, "0 to below 1")
        require("optimizer", self, "muon_momentum", lambda value: 0 <= value < 1, "0 to below 1")
        require("optimizer", self, "weight_decay muon_weight_decay", lambda value: not value < 0, "0 or more")


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate during the run, as a share of its highest value. Progress is the used share of the budget."""

    kind: Literal["linear", "cosine", "wsd"] = "linear"
    """after warm-up: linear decay, half a cosine, or constant and then linear decay (warm-up, stable, decay)"""
    warmup: float = 0.06
    """share of the run in which the learning rate rises from 0"""
    decay: float = 0.5
    """wsd only: last share of the run, in which the learning rate falls"""
    final: float = 0.0
    """learning rate at the end, as a share of the highest"""

    def __post_init__(self) -> None:
        require("schedule", self, "warmup decay final", lambda value: 0 <= value <= 1, "a share from 0 to 1")
        if self.kind == "wsd" and self.warmup + self.decay > 1:
            shares = f"schedule.warmup {self.warmup} and schedule.decay {self.decay}"
            raise InputError(f"{shares} are more than the whole run: lower one")


@dataclass(frozen=True)
class StopConfig:
    """The budget of the run, over which the learning rate decays. With several budgets, the run ends when the first is used up."""

    steps: int | None = None
    """optimizer steps"""
    tokens: float | None = None
    """tokens seen, padding not counted"""
    minutes: float | None = None
    """wall-clock minutes from the first request for a batch, including compilation, validation and checkpoints (the schedule starts after
    the first step, which includes compilation)"""

    def __post_init__(self) -> None:
        require_positive("stop", self, "steps tokens minutes")


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save checkpoints. One is always saved at the end, and when the run is interrupted."""

    every_steps: int | None = None
    """steps between checkpoints; null: by time only"""
    every_minutes: float | None = 10.0
    """minutes between checkpoints; null: by steps only"""
    keep: int = 2
    """number of checkpoints to keep, the newest ones"""

    def __post_init__(self) -> None:
        require_positive("checkpoint", self, "every_steps every_minutes")
        # If the newest is damaged, a run is resumed from the one before.
        require("checkpoint", self, "keep", lambda value: value >= 2, "2 or more")


@dataclass(frozen=True)
class LogConfig:
    """What to log during the run. RUN/metrics.csv is always written."""

    every_steps: int = 20
    """steps between rows of the log"""
    tensorboard: bool = False
    """also write TensorBoard events to RUN/tensorboard"""
    wandb: str | None = None
    """also log to this Weights & Biases project"""
    progress_bar: bool = True
    """show loss, tokens per second and the remaining time; plain lines if the output is not a terminal"""

    def __post_init__(self) -> None:
        require_positive("log", self, "every_steps")
