"""Phases of a run: which sequences a step reads, how long they are and how many of their tokens are masked, as a function of the step.

A phase lasts for a number of positions, sequences × sequence length, brought up to whole steps, so that a step belongs to one phase.
Phases of one sequence length go on counting its sequences through the run; sequences of another length are another numbering, from 0.

A worked example. `phases: [{tokens: 4096, sequence_length: 128}, {sequence_length: 512}]` with 8 sequences a step: a step of the first
phase has 1,024 positions, so it is steps 0 to 3, sequences 0 to 31 of those of 128 positions; step 4 begins with sequence 0 of those of
512 positions.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from bert.data.rng import Stream, random_bits
from bert.errors import InputError
from bert.pretraining.config import PhaseConfig, PretrainRecipe


@dataclass(frozen=True)
class Phase:
    """One phase of a run, as plain numbers."""

    first_step: int
    first_sequence: int
    """the lowest number among the sequences of its first step, counted over those of its length"""
    sequence_length: int
    batch_size: int
    micro_batch_size: int
    mask_rate: float
    mask_seed: int
    """sequences of one number and two lengths are two sequences, masked apart; those of data.sequence_length by the seed of the run"""
    rope_theta: float
    ranks: int = 1
    """processes that share a batch"""

    @property
    def accumulation(self) -> int:
        """Micro-batches of one rank in one step."""
        return self.batch_size // (self.micro_batch_size * self.ranks)

    def first_sequence_of(self, step: int) -> int:
        """The first of the sequences of `step`, which is a step of this phase; as many follow it as the batch has."""
        return self.first_sequence + (step - self.first_step) * self.batch_size

    def describe(self) -> str:
        """How its batches are dealt out, in words."""
        return f"{self.batch_size} sequences a step = {self.ranks} × {self.accumulation} × {self.micro_batch_size}"


@dataclass(frozen=True)
class Plan:
    """The phases of a run, in their order; the first begins with step 0."""

    phases: tuple[Phase, ...]

    def at(self, step: int) -> Phase:
        """The phase that `step` belongs to."""
        return self.phases[bisect_right([phase.first_step for phase in self.phases], step) - 1]

    def spans(self) -> Iterator[tuple[int, float, Phase]]:
        """(first step, the step after the last one, phase) of each phase; the last one has no end (infinite)."""
        ends = [*(phase.first_step for phase in self.phases[1:]), math.inf]
        for phase, end in zip(self.phases, ends):
            yield phase.first_step, end, phase

    @property
    def lengths(self) -> set[int]:
        """The sequence lengths of the run."""
        return {phase.sequence_length for phase in self.phases}


def resolve_plan(recipe: PretrainRecipe, ranks: int = 1) -> Plan:
    """The phases of a recipe, one where it names none, dealt out over `ranks` processes. InputError where a batch does not divide."""
    first_step, next_sequence = 0, dict[int, int]()  # sequence length → sequences of it so far
    phases = []
    for number, config in enumerate(recipe.phases or [PhaseConfig()], start=1):
        length = config.sequence_length or recipe.data.sequence_length
        batch_size = config.batch_size or recipe.data.batch_size
        micro = config.micro_batch_size or recipe.data.micro_batch_size
        own = length == recipe.data.sequence_length
        phases.append(
            Phase(
                first_step,
                next_sequence.get(length, 0),
                length,
                batch_size,
                divide(batch_size, micro, ranks, f"phase {number}: " if recipe.phases else ""),
                recipe.masking.rate if config.mask_rate is None else config.mask_rate,
                recipe.seed if own else int(random_bits(recipe.seed, Stream.PHASE_MASKS, length)[0] >> 1),
                recipe.encoder.rope_theta if config.rope_theta is None else config.rope_theta,
                ranks,
            )
        )
        steps = math.ceil((config.tokens or 0) / (batch_size * length))
        first_step += steps
        next_sequence[length] = next_sequence.get(length, 0) + steps * batch_size
    return Plan(tuple(phases))


def divide(batch_size: int, micro_batch_size: int | None, ranks: int, where: str = "") -> int:
    """The micro-batch size of a batch over `ranks` devices; InputError where it does not divide, beginning with `where` that is."""
    if batch_size % ranks:
        raise InputError(
            f"{where}data.batch_size {batch_size} does not divide over {ranks} devices: give a multiple of {ranks}"
        )
    per_rank = batch_size // ranks
    micro = micro_batch_size or per_rank
    if per_rank % micro:
        raise InputError(
            f"{where}data.batch_size {batch_size} over {ranks} device{'s' * (ranks > 1)} is {per_rank} sequences each, which"
            f" data.micro_batch_size {micro} does not divide: give a divisor of {per_rank}"
        )
    return micro
