"""Rates side by side: contenders take turns, because machines drift, and only what is measured within a round is compared."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bert.model.tuning import now

_WARM_UP = 3  # steps before anything is timed


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of the rounds, of one value a round."""
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


@dataclass
class Contender:
    """Optimiser steps that can be timed. `step` does one with what was prepared for it; `tokens` and `positions` are the real tokens
    of each and its places, padding included."""

    step: Callable[[Any], None]
    prepared: Sequence[Any]
    """of each step; after the last the first comes again"""
    tokens: Sequence[int]
    positions: Sequence[int]
    device: torch.device
    done: int = 0
    """steps so far"""

    def turn(self, steps: int) -> "Turn":
        """Do and time `steps` further steps."""
        places = [number % len(self.prepared) for number in range(self.done, self.done + steps)]
        begun = now(self.device)
        for place in places:
            self.step(self.prepared[place])
        seconds = now(self.device) - begun
        self.done += steps
        return Turn(seconds, sum(self.tokens[n] for n in places), sum(self.positions[n] for n in places))


@dataclass(frozen=True)
class Turn:
    """What one contender did in one round."""

    seconds: float
    tokens: int
    positions: int

    @property
    def rate(self) -> float:
        """Real tokens a second."""
        return self.tokens / self.seconds


def alternate(
    contenders: Sequence[Contender], rounds: int, seconds: float, between: Callable[[], None] = lambda: None
) -> list[list[Turn]]:
    """Let each contender do steps for about `seconds` a round; none is always the first. A list of turns for each.

    Before the first round every one does a few steps that do not count: they compile, and fill caches. `between` is called
    once a round.
    """
    steps = []
    for contender in contenders:
        contender.turn(_WARM_UP)
        steps.append(max(2, math.ceil(seconds / (contender.turn(2).seconds / 2))))
    turns: list[list[Turn]] = [[] for _ in contenders]
    for number in range(rounds):
        between()
        order = range(len(contenders))
        for which in order if number % 2 else reversed(order):
            contenders[which].turn(1)  # what the other left in the caches
            turns[which].append(contenders[which].turn(steps[which]))
    return turns
