"""The learning rate as a function of progress, and the progress of a run as the used share of its budget. No torch here."""

import math
import time
from dataclasses import dataclass

from bert.training.config import ScheduleConfig, StopConfig


def learning_rate_share(progress: float, schedule: ScheduleConfig) -> float:
    """The share of the highest learning rate at `progress` (0 … 1) of the run.

    It rises linearly during the warm-up and then falls to `final`: linearly, along half a cosine, or linearly after a plateau, in the last
    `decay` of the run (warm-up, stable, decay; Zhai et al. 2022).
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < schedule.warmup:
        return progress / schedule.warmup
    begin = 1 - schedule.decay if schedule.kind == "wsd" else schedule.warmup
    if progress <= begin:
        return 1.0
    way = (progress - begin) / (1 - begin)
    fall = 0.5 * (1 + math.cos(math.pi * way)) if schedule.kind == "cosine" else 1 - way
    return schedule.final + (1 - schedule.final) * fall


@dataclass
class Progress:
    """The used part of the budget of a run. It is saved in every checkpoint; only the time is not a function of the step."""

    stop: StopConfig
    step: float = 0
    """optimizer steps done"""
    tokens: float = 0
    """tokens seen, padding not counted"""
    seconds: float = 0.0
    """since the first request for a batch, including earlier parts of an interrupted run"""
    first_seconds: float = 0.0
    """of these, until the end of the first step, which includes compilation: a schedule in minutes starts after it, as a cold compiler
    cache would otherwise cut off the start of the warm-up"""
    _started: float | None = None
    _before: float = 0.0

    def start(self) -> None:
        """Start the clock, at the first request for a batch."""
        self._before, self._started = self.seconds, time.monotonic()

    @property
    def is_running(self) -> bool:
        """Whether the first batch has been requested."""
        return self._started is not None

    def elapsed(self) -> float:
        """Seconds since the start of the run."""
        return self.seconds if self._started is None else self._before + time.monotonic() - self._started

    def leave_out(self, seconds: float) -> None:
        """Do not count `seconds` of the time since the start."""
        self._before -= seconds

    def advance(self, tokens: int, seconds: float) -> None:
        """Count one more step of `tokens` tokens, finished at `seconds` of the run."""
        if self.step == 0:
            self.first_seconds = seconds
        self.step, self.tokens, self.seconds = self.step + 1, self.tokens + tokens, seconds

    def share(self) -> float:
        """The used share of the budget, from 0 to 1; of several budgets, the largest share."""
        used = [0.0]
        if self.stop.steps is not None:
            used.append(self.step / self.stop.steps)
        if self.stop.tokens is not None:
            used.append(self.tokens / self.stop.tokens)
        if self.stop.minutes is not None:
            budget = 60 * self.stop.minutes - self.first_seconds
            used.append((self.seconds - self.first_seconds) / budget if budget > 0 else 1.0)
        return max(used)

    def left(self) -> float | None:
        """Estimated seconds to the end, at the speed of the steps after the first; None before there are any."""
        share = self.share()
        if share == 0 or self.step < 2:
            return None
        return max(0.0, (self.seconds - self.first_seconds) * (1 - share) / share)

    def finished(self) -> bool:
        """Whether the budget is used up."""
        return self.share() >= 1

    def describe(self) -> str:
        """The used budget, as text."""
        return f"{self.step:,} steps, {self.tokens / 1e6:.2f} M tokens, {self.seconds / 60:.1f} minutes"

    def state(self) -> dict[str, float]:
        """The state for a checkpoint."""
        return {"step": self.step, "tokens": self.tokens, "seconds": self.seconds, "first_seconds": self.first_seconds}

    def restore(self, state: dict[str, float]) -> None:
        """Restore the state from a checkpoint."""
        self.step, self.tokens, self.seconds = int(state["step"]), int(state["tokens"]), float(state["seconds"])
        self.first_seconds = float(state.get("first_seconds", 0.0))
