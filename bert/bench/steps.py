"""A recipe measured on this machine: real tokens a second and their share of the matrix rate, by attention backend, compiled or not;
and in a sweep the fastest way to run its step and the largest micro-batch that fits, sizes doubled.

A way to run the step is a recipe: its attention, compile and micro-batch say it.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from bert.bench.candidate import Candidate, flops_per_token, on, split_time, steps_of
from bert.bench.cells import OUT_OF_MEMORY, Cells, Value, attempt
from bert.bench.documents import packed
from bert.bench.machine import Shape, forget_peak, fresh_start, matrix_rate, measure_peaks, model_shapes, peak, place
from bert.bench.plan import Bench
from bert.bench.rounds import Contender, Turn, alternate, spread
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.masking import most_masked
from bert.training.step import StepBatch

Ways = Sequence[tuple[dict[str, Any], Callable[[], Contender]]]
PREPARED = 8
"""steps that lie ready; then the first comes again"""


def peaks_result(bench: Bench) -> Shape:
    """The ceilings of the device, and what the products of the model reach back to back; returns the shape of the fastest product."""

    def measure() -> Value:
        recipe, data = bench.recipe, bench.recipe.data
        sequences, used = (
            data.micro_batch_size or data.batch_size,
            most_masked(recipe.masking.rate, data.sequence_length),
        )
        own = model_shapes(recipe.encoder, recipe.head, sequences, data.sequence_length, used)
        return asdict(measure_peaks(place(recipe)[0], own, min(0.3, bench.plan.seconds)))

    sequences, inner, columns = bench.cells.measured({"what": "ceilings"}, measure)["best_shape"]
    return sequences, inner, columns


def ways(bench: Bench) -> Iterator[PretrainRecipe]:
    """The recipe by every backend, not compiled and compiled; one of both where it decides."""
    for compiled in (False, True) if bench.recipe.compile is None else (bench.recipe.compile,):
        for backend in bench.plan.backends:
            yield replace(bench.recipe, attention=backend, local_attention=None, compile=compiled)


def measure_steps(bench: Bench, product: Shape) -> None:
    """A cell for each backend, compiled and not (as the recipe says, where it does), beside the rate of a matrix product."""
    refused: dict[str, Value] = {}  # a backend that cannot be here says why; the compiler would not
    for way in ways(bench):
        known = refused.get(way.attention)
        measure = partial(dict, known) if known else partial(attempt, partial(step_cell, bench, way, product))
        value = bench.told({"what": "step", "backend": way.attention, "compiled": way.compile}, measure)
        if value.get("fails", OUT_OF_MEMORY) != OUT_OF_MEMORY:
            refused[way.attention] = value


def step_cell(bench: Bench, recipe: PretrainRecipe, product: Shape) -> Value:
    """Rate, share of the matrix rate, parts and memory of one way to run the step."""
    fresh_start()
    ours, steps = Candidate(recipe), steps_of(bench.text, recipe, PREPARED)
    (turns,), (shares,), common = beside_peak(bench, ours, steps, [], product)
    return common | {
        "tokens_per_second": spread([turn.rate for turn in turns]),
        "rounds": [turn.rate for turn in turns],
        "flops_per_token": flops_per_token(recipe, steps),
        "mfu": spread(shares),
        "fill": sum(turn.tokens for turn in turns) / sum(turn.positions for turn in turns),
        "seconds": split_time(ours, packed(bench.text, recipe), PREPARED),
        "peak_bytes": peak(ours.device),
    }


def beside_peak(
    bench: Bench,
    ours: Candidate,
    steps: Sequence[StepBatch],
    others: Sequence[Contender],
    product: Shape,
) -> tuple[list[list[Turn]], list[list[float]], Value]:
    """The turns of our steps and of `others`, their shares of the matrix rate by the operations of ours, and figures of any such cell.
    The matrix rate is measured again in each round, beside the steps that it is compared with."""
    limits: list[float] = []
    forget_peak(ours.device)
    contenders = [ours.contender(steps), *others]
    between = partial(matrix_rate, [product], ours.dtype, ours.device, 0.2)
    turns = alternate(contenders, bench.plan.rounds, bench.plan.seconds, lambda: limits.append(between()))
    operations, data = flops_per_token(ours.recipe, steps), ours.recipe.data
    shares = [[operations * turn.rate / limit for turn, limit in zip(each, limits)] for each in turns]
    sequences = [data.batch_size, ours.phase.micro_batch_size, data.sequence_length]
    return (
        turns,
        shares,
        {"matrix_rate": statistics.median(limits), "precision": ours.precision, "sequences": sequences},
    )


def best_micro_batch(bench: Bench, least: int = 8) -> PretrainRecipe:
    """The recipe with the micro-batch that runs fastest compiled: its own where it names one, else the batch, its half, … down
    to `least` sequences."""
    recipe, data = bench.recipe, bench.recipe.data
    if data.micro_batch_size is not None:
        return recipe
    sizes = [data.batch_size]
    while sizes[-1] % 2 == 0 and sizes[-1] // 2 >= least:
        sizes.append(sizes[-1] // 2)

    def contender(sequences: int) -> Contender:
        way = replace(recipe, data=replace(data, micro_batch_size=sequences), compile=recipe.compile is not False)
        return Candidate(way).contender(steps_of(bench.text, way, 2))

    ways = [({"sequences": sequences}, partial(contender, sequences)) for sequences in sizes]
    sequences = sizes[fastest(bench.cells, "micro-batch", ways, min(1.0, bench.plan.seconds))]
    return replace(recipe, data=replace(data, micro_batch_size=sequences))


def fastest(cells: Cells, what: str, ways: Ways, seconds: float, fatal: tuple[type[Exception], ...] = ()) -> int:
    """Which of the `ways`, each a key and a contender, alone makes most tokens a second, the median of three rounds, a cell each of
    the kind `what`; the first where none runs. What is `fatal` is raised."""

    def measure(make: Callable[[], Contender]) -> Value:
        fresh_start()
        (turns,) = alternate([make()], 3, seconds)
        return {"tokens_per_second": statistics.median(turn.rate for turn in turns)}

    tried = [({"what": what, **key}, partial(attempt, partial(measure, make), fatal=fatal)) for key, make in ways]
    rates = [cells.measured(key, one).get("tokens_per_second", 0.0) for key, one in tried]
    return rates.index(max(rates))


def sweep(bench: Bench) -> None:
    """A cell for each backend, compiled or not, and micro-batch: `smallest` sequences of the plan, twice as many, … up to `largest`, or
    until memory is used up."""
    for way in ways(bench):
        sequences = bench.plan.smallest
        while sequences <= bench.plan.largest:
            key = {"what": "sweep", "backend": way.attention, "compiled": way.compile, "sequences": sequences}
            if "fails" in bench.told(key, partial(attempt, partial(sweep_cell, bench, way, sequences))):
                break  # more sequences need more memory, and what a backend cannot do it cannot do with more sequences
            sequences *= 2


def sweep_cell(bench: Bench, recipe: PretrainRecipe, sequences: int) -> Value:
    """Real tokens a second of steps of the recipe's sequences in micro-batches of `sequences`, from the times of a micro-batch and of
    an update: so a step of a thousand sequences costs no more to measure than one of ten."""
    fresh_start()
    batch_size = max(sequences, recipe.data.batch_size // sequences * sequences)
    recipe = replace(recipe, data=replace(recipe.data, batch_size=sequences, micro_batch_size=sequences))
    batches = steps_of(bench.text, recipe, 4)
    tokens = statistics.mean(batch.tokens for batch in batches)
    candidate = Candidate(recipe)
    forget_peak(candidate.device)
    ready = [on(candidate.device, batch) for batch in batches]
    for batch in ready[:3]:
        candidate.step(batch)
    times: list[dict[str, float]] = []
    while sum(sum(parts.values()) for parts in times) < bench.plan.seconds or len(times) < 3 * len(ready):
        times += [candidate.timed_step(batch) for batch in ready]
    took = {part: statistics.median_high(parts[part] for parts in times) for part in times[0]}
    rate = tokens / (took["forward"] + took["backward"] + took["optimizer"] / (batch_size // sequences))
    return {"tokens_per_second": rate, "peak_bytes": peak(candidate.device), "batch_size": batch_size}
