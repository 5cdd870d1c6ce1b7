"""Phases of a run: which sequences a step reads, how long they are and how many of their tokens are hidden, as a function of the step.

A phase lasts for a number of positions, sequences × sequence length, brought up to whole steps, so that a step belongs to one phase. Phases of one
sequence length go on counting its sequences through the run; sequences of another length are another numbering, from 0.

A worked example. `phases: [{tokens: 4096, sequence_length: 128}, {sequence_length: 512}]` with 8 sequences a step: a step of the first
phase has 1,024 positions, so it is steps 0 to 3, sequences 0 to 31 of those of 128 positions; step 4 begins with sequence 0 of those of 512 positions.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from bert.data.rng import Stream, random_bits
from bert.pretraining.config import PhaseConfig, PretrainRecipe

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Phased(Generic[T]):
    """What may differ from phase to phase."""

    first_steps: tuple[int, ...]
    """the step with which each phase begins; that of the first is 0"""
    values: tuple[T, ...]

    @classmethod
    def always(cls, value: "T | Phased[T]") -> "Phased[T]":
        """What is the same at every step; what is phased already stays so."""
        return value if isinstance(value, Phased) else cls((0,), (value,))

    def at(self, step: int) -> T:
        """The value of the phase that `step` belongs to."""
        return self.values[bisect_right(self.first_steps, step) - 1]

    def map(self, function: Callable[[T], U]) -> "Phased[U]":
        """What `function` makes of each value."""
        return Phased(self.first_steps, tuple(map(function, self.values)))

    def spans(self) -> Iterator[tuple[int, float, T]]:
        """(first step, the step behind the last one, value) of each phase; the last one has no end (infinite)."""
        yield from zip(self.first_steps, (*self.first_steps[1:], math.inf), self.values)


@dataclass(frozen=True)
class Phase:
    """One phase of a run."""

    first_step: int
    first_sequence: int
    """the sequence of its first step with the lowest number, among those of its sequence length"""
    recipe: PretrainRecipe
    """the recipe as it is in this phase, which is its only one"""
    mask_seed: int
    """sequences of one number and two lengths are two sequences, masked apart; those of data.sequence_length by the seed of the run itself"""

    def first_sequence_of(self, step: int) -> int:
        """The first of the sequences of `step`, which is a step of this phase; as many follow it as the batch has."""
        return self.first_sequence + (step - self.first_step) * self.recipe.data.batch_size


def plan(recipe: PretrainRecipe) -> Phased[Phase]:
    """The phases of a recipe; one where it names none."""
    first_step, next_sequence = 0, dict[int, int]()  # sequence length → sequences of it so far
    phases = []
    for config in recipe.phases or [PhaseConfig()]:
        inside = _in_phase(recipe, config)
        length, sequences = inside.data.sequence_length, inside.data.batch_size
        own = length == recipe.data.sequence_length
        mask_seed = recipe.seed if own else int(random_bits(recipe.seed, Stream.PHASE_MASKS, length)[0] >> 1)
        phases.append(Phase(first_step, next_sequence.get(length, 0), inside, mask_seed))
        steps = math.ceil((config.tokens or 0) / (sequences * length))
        first_step += steps
        next_sequence[length] = next_sequence.get(length, 0) + steps * sequences
    return Phased(tuple(phase.first_step for phase in phases), tuple(phases))


def longest_sequence(recipe: PretrainRecipe) -> int:
    """Positions of the longest sequence of a run."""
    return max(phase.recipe.data.sequence_length for phase in plan(recipe).values)


def _in_phase(recipe: PretrainRecipe, config: PhaseConfig) -> PretrainRecipe:
    data = {name: getattr(config, name) for name in ("sequence_length", "batch_size", "micro_batch_size")}
    changed = {name: value for name, value in data.items() if value is not None}
    rate, theta = config.mask_rate, config.rope_theta
    return replace(
        recipe,
        phases=[],
        data=replace(recipe.data, **changed),
        masking=recipe.masking if rate is None else replace(recipe.masking, rate=rate),
        encoder=recipe.encoder if theta is None else replace(recipe.encoder, rope_theta=theta),
    )
