"""The learning rate as a function of progress, and the progress of a run as a function of its budget. No torch here."""

import math
import time
from dataclasses import dataclass

from bert.training.config import ScheduleConfig, StopConfig


def learning_rate_share(progress: float, schedule: ScheduleConfig) -> float:
    """The share of the highest learning rate at `progress` (0 … 1) of the run.

    It rises in a line over the warm-up and then follows the schedule down to `final`: a line, half a cosine, or a plateau with a line
    over the last `decay` of the run (warm-up, stable, decay; Zhai et al. 2022).
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
    """What a run has used of its budget. It is saved with every checkpoint; the clock alone is not a function of the step."""

    stop: StopConfig
    step: float = 0
    """optimiser steps done"""
    tokens: float = 0
    """tokens seen, padding not counted"""
    seconds: float = 0.0
    """since the first request for a batch, earlier parts of an interrupted run included"""
    first_seconds: float = 0.0
    """of these, those up to the end of the first step, which compiles: the schedule by the clock begins after it, or a cold compiler
    cache would cut the beginning off the warm-up"""
    _started: float | None = None
    _before: float = 0.0

    def start(self) -> None:
        """The first request for a batch: the clock runs from here."""
        self._before, self._started = self.seconds, time.monotonic()

    @property
    def is_running(self) -> bool:
        """Whether the first batch was asked for."""
        return self._started is not None

    def elapsed(self) -> float:
        """Seconds of the run up to now."""
        return self.seconds if self._started is None else self._before + time.monotonic() - self._started

    def leave_out(self, seconds: float) -> None:
        """So many of the seconds since the start were no training."""
        self._before -= seconds

    def advance(self, tokens: int, seconds: float) -> None:
        """One more step, with `tokens` in it, done at `seconds` of the run."""
        if self.step == 0:
            self.first_seconds = seconds
        self.step, self.tokens, self.seconds = self.step + 1, self.tokens + tokens, seconds

    def share(self) -> float:
        """The used share of the budget, 0 … 1: of several budgets the one that ends first."""
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
        """Seconds to the end at the speed of the steps after the first; None before there are any."""
        share = self.share()
        if share == 0 or self.step < 2:
            return None
        return max(0.0, (self.seconds - self.first_seconds) * (1 - share) / share)

    def finished(self) -> bool:
        """Whether the budget is used up."""
        return self.share() >= 1

    def state(self) -> dict[str, float]:
        """For the checkpoint."""
        return {"step": self.step, "tokens": self.tokens, "seconds": self.seconds, "first_seconds": self.first_seconds}

    def restore(self, state: dict[str, float]) -> None:
        """From the checkpoint."""
        self.step, self.tokens, self.seconds = int(state["step"]), int(state["tokens"]), float(state["seconds"])
        self.first_seconds = float(state.get("first_seconds", 0.0))
