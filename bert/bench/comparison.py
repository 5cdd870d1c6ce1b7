"""Candidate and baseline on the same documents, in alternating rounds: the ratio of their tokens a second, with the spread of the rounds.

Workloads: sequences without padding (the same sequences and masks for both); ragged documents that the baseline pads to the longest of a
batch; and ragged documents that it concatenates without masks. The candidate packs them. A result is one workload against one setting of
the baseline.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, lru_cache, partial
from typing import Any

import torch

from bert.bench import machine
from bert.bench.baseline import Baseline, Batches, workload_batches
from bert.bench.candidate import Candidate, compiled
from bert.bench.documents import Text, mixture
from bert.bench.measurement import Measurement, spread
from bert.bench.results import OUT_OF_MEMORY, Value, attempt
from bert.bench.settings import BaselineSettings, Workload
from bert.bench.steps import begin, beside_peak
from bert.errors import InputError
from bert.pretraining.backend import select_attention
from bert.pretraining.phases import resolve_plan

DOCUMENTS = 4096
"""ragged documents that are measured on"""
Pairs = Sequence[tuple[Workload, BaselineSettings]]


def bench_compare(
    measurement: Measurement, pairs: Pairs, ragged: Sequence[Text] = (), baseline_batch_size: int | None = None
) -> dict[str, Any]:
    """A result for each pair of a workload and a setting of the baseline. Each stands beside the measured peaks of the hardware. Returns what metrics.json holds.

    Both sides use AdamW, fused. The candidate is compiled unless the recipe says no. The baseline takes `baseline_batch_size` sequences
    or documents a step, not given as many as a batch of the recipe, and half of them where memory does not suffice, and half of those, …
    `ragged` texts are mixed, equal numbers of documents of each; none given: the documents of the text.
    """
    product = begin(measurement, "compare", {"baseline_batch_size": baseline_batch_size}, ragged)
    recipe, text = measurement.recipe, measurement.text
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, kind="adamw"))
    documents = mixture(ragged or [text], DOCUMENTS, recipe.data.sequence_length, recipe.seed)
    device, precision = machine.device_and_precision(recipe)
    torch._dynamo.config.recompile_limit = 64  # several models of one class in a process

    @cache
    def candidate() -> Candidate:  # made once, and only where something is left to measure
        machine.fresh_start()
        way = compiled(recipe, device)
        plan = resolve_plan(way)
        return Candidate(select_attention(way, plan, device, precision, bool(way.compile), measurement.say))

    batches = lru_cache(maxsize=1)(lambda workload, size: workload_batches(workload, recipe, text, documents, size))

    def measure(workload: Workload, setting: BaselineSettings) -> Value:
        size = baseline_batch_size or recipe.data.batch_size
        trial = attempt(lambda: vars(candidate().timed_steps(batches(workload, size)[0]).run(1)), "candidate")
        if "error" in trial:
            return trial  # what fails here is the candidate, and not the baseline
        while True:
            both = partial(compare_pair, measurement, candidate(), batches(workload, size), setting, product)
            value = attempt(both, "baseline", (InputError,))
            if value.get("error") != OUT_OF_MEMORY or size == 1:
                return value
            size //= 2
            machine.free_memory()

    for workload, setting in pairs:
        names = {"name": f"{workload}, {setting}", "workload": workload, "setting": str(setting)}
        measurement.result({"kind": "compare", **names, **asdict(setting)}, partial(measure, workload, setting))
    return measurement.report()


def compare_pair(
    measurement: Measurement, candidate: Candidate, batches: Batches, setting: BaselineSettings, product: machine.Shape
) -> Value:
    """The candidate against the baseline in one setting."""
    steps, of_baseline = batches
    static = len({batch.input_ids.shape for batch in of_baseline}) == 1
    baseline = Baseline(candidate.recipe, setting, static).timed_steps(of_baseline)
    runs, mfu, common = beside_peak(measurement, candidate, steps, [baseline], product)
    rates = {side: [run.rate for run in each] for side, each in zip(("candidate", "baseline"), runs)}
    return common | {
        "ratio": spread([a / b for a, b in zip(rates["candidate"], rates["baseline"])]),
        "tokens_per_second": {side: spread(rate) for side, rate in rates.items()},
        "mfu": {side: statistics.median(each) for side, each in zip(rates, mfu)},
        "positions_per_token": {
            "candidate": sum(run.positions for run in runs[0]) / sum(run.tokens for run in runs[0]),
            "baseline": sum(baseline.positions) / sum(baseline.tokens),
        },
        "rounds": rates,
        "peak_gib": machine.peak_gib(candidate.device),
        "baseline_batch_size": len(of_baseline[0].input_ids),
    }
