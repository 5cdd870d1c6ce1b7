"""Phases of a run: which sequences a step reads, how long they are and how many of their tokens are masked, by the number of the step.

The length of a phase is a number of positions, sequences × sequence length, rounded up to whole steps, so each step belongs to one phase.
Phases with the same sequence length continue the numbering of its sequences; each sequence length has its own numbering, from 0.

A worked example. `phases: [{tokens: 4096, sequence_length: 128}, {sequence_length: 512}]` with 8 sequences per step: a step of the first
phase has 1,024 positions, so it is steps 0 to 3, with sequences 0 to 31 of length 128; step 4 starts at sequence 0 of length 512.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from bert.data.rng import Stream, random_bits
from bert.errors import InputError
from bert.model.flops import training_flops
from bert.pretraining.config import PhaseConfig, PretrainRecipe


@dataclass(frozen=True)
class Phase:
    """A phase of a run as plain numbers."""

    first_step: int
    first_sequence: int
    """number of the first sequence of its first step, among the sequences of this length"""
    sequence_length: int
    batch_size: int
    micro_batch_size: int
    mask_rate: float
    mask_seed: int
    """a separate seed for each sequence length, as equal numbers are different sequences; data.sequence_length has the seed of the run"""
    rope_theta: float
    ranks: int = 1
    """number of processes that share a batch"""

    @property
    def accumulation(self) -> int:
        """Micro-batches per rank and step."""
        return self.batch_size // (self.micro_batch_size * self.ranks)

    def first_sequence_of(self, step: int) -> int:
        """The number of the first sequence of `step`, a step of this phase; the rest of its batch follows."""
        return self.first_sequence + (step - self.first_step) * self.batch_size

    def describe(self) -> str:
        """How a batch is divided, as text."""
        return f"{self.batch_size} sequences per step = {self.ranks} × {self.accumulation} × {self.micro_batch_size}"


@dataclass(frozen=True)
class Plan:
    """The phases of a run in order; the first starts at step 0."""

    phases: tuple[Phase, ...]

    def at(self, step: int) -> Phase:
        """The phase that `step` belongs to."""
        return self.phases[bisect_right([phase.first_step for phase in self.phases], step) - 1]

    def spans(self) -> Iterator[tuple[int, float, Phase]]:
        """(first step, the step after its last one, phase) for each phase; the last one ends at infinity."""
        ends = [*(phase.first_step for phase in self.phases[1:]), math.inf]
        return ((phase.first_step, end, phase) for phase, end in zip(self.phases, ends))

    @property
    def lengths(self) -> set[int]:
        """The sequence lengths of the run."""
        return {phase.sequence_length for phase in self.phases}


def resolve_plan(recipe: PretrainRecipe, ranks: int = 1) -> Plan:
    """The phases of a recipe, by default one, for `ranks` processes. InputError if a batch does not divide."""
    first_step, next_sequence = 0, dict[int, int]()  # sequence length → its sequences so far
    data, phases = recipe.data, []
    for number, config in enumerate(recipe.phases or [PhaseConfig()], start=1):
        length, batch_size = config.sequence_length or data.sequence_length, config.batch_size or data.batch_size
        micro, where = config.micro_batch_size or data.micro_batch_size, f"phase {number}: " if recipe.phases else ""
        other = length != data.sequence_length
        phase = Phase(
            first_step=first_step,
            first_sequence=next_sequence.get(length, 0),
            sequence_length=length,
            batch_size=batch_size,
            micro_batch_size=divide(batch_size, micro, ranks, where),
            mask_rate=recipe.masking.rate if config.mask_rate is None else config.mask_rate,
            mask_seed=int(random_bits(recipe.seed, Stream.PHASE_MASKS, length)[0] >> 1) if other else recipe.seed,
            rope_theta=recipe.encoder.rope_theta if config.rope_theta is None else config.rope_theta,
            ranks=ranks,
        )
        phases.append(phase)
        steps = math.ceil((config.tokens or 0) / (batch_size * length))
        first_step += steps
        next_sequence[length] = phase.first_sequence + steps * batch_size
    return Plan(tuple(phases))


def divide(batch_size: int, micro_batch_size: int | None, ranks: int, where: str = "") -> int:
    """The micro-batch size of a batch over `ranks` devices. InputError, which starts with `where`, if it does not divide."""
    size = f"{where}data.batch_size {batch_size}"
    if batch_size % ranks:
        raise InputError(f"{size} does not divide over {ranks} devices: give a multiple of {ranks}")
    per_rank = batch_size // ranks
    micro = micro_batch_size or per_rank
    if per_rank % micro:
        size += f" over {ranks} device{'s' * (ranks > 1)} is {per_rank} sequences each"
        raise InputError(f"{size}, which data.micro_batch_size {micro} does not divide: give a divisor of {per_rank}")
    return micro


def flops_of(recipe: PretrainRecipe, plan: Plan) -> float | None:
    """FLOPs of a run with a budget in steps or tokens; None without one."""
    left = math.inf if recipe.stop.tokens is None else recipe.stop.tokens
    end = math.inf if recipe.stop.steps is None else recipe.stop.steps
    if left == end == math.inf:
        return None
    flops = 0.0
    for first, next_first, phase in plan.spans():
        steps = max(0, min(end, next_first) - first)
        tokens = min(left, steps * phase.batch_size * phase.sequence_length)
        masked = phase.mask_rate * tokens
        flops += training_flops(recipe.encoder, recipe.head, tokens, masked, visible=phase.sequence_length)
        left -= tokens
    return flops
