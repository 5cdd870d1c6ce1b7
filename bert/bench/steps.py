"""A recipe measured on this machine: tokens a second and MFU, by attention backend, compiled or not; and in a sweep the fastest way to run
its step and the largest micro-batch that fits, sizes doubled.

A way to run the step is a recipe: its attention, compile and micro-batch.
"""

import logging
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch

from bert.bench import machine
from bert.bench.candidate import Candidate, flops_per_token, split_time, steps_of, where_the_time_goes
from bert.bench.documents import Text, packed
from bert.bench.measurement import Measurement, TimedRun, TimedSteps, alternate, spread
from bert.bench.results import OUT_OF_MEMORY, Value, attempt
from bert.errors import InputError
from bert.model.config import Backend
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.masking import most_masked
from bert.training.step import StepBatch

logger = logging.getLogger(__name__)

BACKENDS: tuple[Backend, ...] = get_args(Backend)
PREPARED = 8
"""steps that are ready; after the last the first comes again"""


def bench_steps(
    measurement: Measurement, backends: Sequence[Backend] = BACKENDS, profile: bool = False
) -> dict[str, Any]:
    """A result for each backend, compiled and not (as the recipe says, where it does), beside the measured peaks of the hardware; with
    `profile` also where the time of the step goes. Returns what metrics.json holds."""
    begin(measurement, "steps")
    refused: dict[str, Value] = {}  # a backend that cannot run here gives its own reason; the compiler would not
    for way in ways(measurement.recipe, backends):
        known = refused.get(way.attention)
        measure = partial(dict, known) if known else partial(attempt, partial(step_result, measurement, way))
        value = measurement.result({"kind": "step", **_key(way)}, measure)
        if value.get("error", OUT_OF_MEMORY) != OUT_OF_MEMORY:
            refused[way.attention] = value
    if profile:
        logger.info(where_the_time_goes(measurement.text, measurement.recipe))
    return measurement.report()


def bench_sweep(
    measurement: Measurement, backends: Sequence[Backend] = BACKENDS, smallest: int = 4, largest: int = 64
) -> dict[str, Any]:
    """A result for each backend, compiled or not, and micro-batch: `smallest` sequences, twice as many, … up to `largest`, or until
    memory is used up. Returns what metrics.json holds."""
    if not 1 <= smallest <= largest:
        raise InputError(f"smallest is {smallest} and largest {largest}: give 1 or more, the smaller first")
    begin(measurement, "sweep")
    for way in ways(measurement.recipe, backends):
        size = smallest
        while size <= largest:
            key = {"kind": "sweep", **_key(way, f"{size} sequences, "), "sequences": size}
            if "error" in measurement.result(key, partial(attempt, partial(sweep_result, measurement, way, size))):
                break  # more sequences need more memory, and what a backend cannot do it cannot do with more sequences
            size *= 2
    return measurement.report()


def begin(measurement: Measurement, mode: str, given: Value | None = None, texts: Sequence[Text] = ()) -> None:
    """Open the results of a mode that leaves the phases of the recipe aside, and measure the peaks of the hardware and what the products
    of the model reach back to back."""
    recipe, data = measurement.recipe, measurement.recipe.data
    if recipe.phases:
        shape = f"{data.batch_size} sequences of {data.sequence_length} (data.batch_size, data.sequence_length)"
        logger.info(f"the recipe's {len(recipe.phases)} phases are ignored: measured are {shape}")
        recipe = measurement.recipe = replace(recipe, phases=[])
    measurement.open(mode, given, texts)
    sequences, masked = data.micro_batch_size or data.batch_size, most_masked(recipe.masking.rate, data.sequence_length)
    own = machine.model_shapes(recipe.encoder, recipe.head, sequences, data.sequence_length, masked)
    device, seconds = machine.device_and_precision(recipe)[0], min(0.3, measurement.seconds)
    peaks = measurement.results.measured({"kind": "peaks"}, lambda: machine.measure_peaks(device, own, seconds))
    measurement.product = tuple(peaks["best_shape"])


def ways(recipe: PretrainRecipe, backends: Sequence[Backend]) -> Iterator[PretrainRecipe]:
    """The recipe by every backend, not compiled and compiled; one of both where it decides."""
    if unknown := [name for name in backends if name not in BACKENDS]:
        raise InputError(f"backends: {unknown[0]} is not known: use some of {', '.join(BACKENDS)}")
    for compiled in (False, True) if recipe.compile is None else (recipe.compile,):
        for backend in backends:
            yield replace(recipe, attention=backend, local_attention=None, compile=compiled)


def _key(way: PretrainRecipe, before: str = "") -> dict[str, Any]:
    name = f"{before}{way.attention}{', compiled' if way.compile else ''}"
    return {"name": name, "backend": way.attention, "compile": "yes" if way.compile else "no"}


def step_result(measurement: Measurement, recipe: PretrainRecipe) -> Value:
    """Rate, MFU, parts and memory of one way to run the step."""
    machine.fresh_start()
    candidate, steps = Candidate(recipe), steps_of(measurement.text, recipe, PREPARED)
    (runs,), (mfu,), common = beside_peak(measurement, candidate, steps, [])
    parts = split_time(candidate, packed(measurement.text, recipe), PREPARED)
    return common | {
        "tokens_per_second": spread([run.rate for run in runs]),
        "rounds": [run.rate for run in runs],
        "flops_per_token": flops_per_token(recipe, steps),
        "mfu": spread(mfu),
        "fill": sum(run.tokens for run in runs) / sum(run.positions for run in runs),
        "share": {part: took / sum(parts.values()) for part, took in parts.items()},
        "peak_gib": machine.peak_gib(candidate.device),
    }


def beside_peak(
    measurement: Measurement, candidate: Candidate, steps: Sequence[StepBatch], others: Sequence[TimedSteps]
) -> tuple[list[list[TimedRun]], list[list[float]], Value]:
    """The timed runs of the candidate and of `others`, their MFU by the FLOPs of the candidate, and metrics of any such result.
    The matrix rate is measured again in each round, beside the steps that it is compared with."""
    rates: list[float] = []
    machine.reset_peak_memory(candidate.device)
    sides = [candidate.timed_steps(steps), *others]
    dtype = torch.float32 if candidate.precision.startswith("32") else torch.bfloat16
    rate = partial(machine.matrix_rate, [measurement.product], dtype, candidate.device, 0.2)
    runs = alternate(sides, measurement.rounds, measurement.seconds, lambda: rates.append(rate()))
    flops, data = flops_per_token(candidate.recipe, steps), candidate.recipe.data
    mfu = [[flops * run.rate / rate for run, rate in zip(each, rates)] for each in runs]
    sequences = [data.batch_size, data.micro_batch_size or data.batch_size, data.sequence_length]
    common = {"matrix_rate": statistics.median(rates), "precision": candidate.precision, "sequences": sequences}
    return runs, mfu, common


def sweep_result(measurement: Measurement, recipe: PretrainRecipe, size: int) -> Value:
    """Tokens a second of steps of the recipe's batch in micro-batches of `size` sequences, from the times of a micro-batch and of an
    update: so a step of a thousand sequences costs no more to measure than one of ten."""
    machine.fresh_start()
    batch_size = max(size, recipe.data.batch_size // size * size)
    recipe = replace(recipe, data=replace(recipe.data, batch_size=size, micro_batch_size=size))
    batches = steps_of(measurement.text, recipe, 4)
    candidate = Candidate(recipe)
    machine.reset_peak_memory(candidate.device)
    timed = candidate.timed_steps(batches)
    timed.run(3)
    times: list[dict[str, float]] = []
    while sum(sum(parts.values()) for parts in times) < measurement.seconds or len(times) < 3 * len(batches):
        times += [candidate.timed_step(batch) for batch in timed.batches]
    took = {part: statistics.median_high(parts[part] for parts in times) for part in times[0]}
    seconds = took["forward"] + took["backward"] + took["optimizer"] / (batch_size // size)
    rate = statistics.mean(batch.tokens for batch in batches) / seconds
    return {"tokens_per_second": rate, "peak_gib": machine.peak_gib(candidate.device), "batch_size": batch_size}
