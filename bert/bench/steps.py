"""A training step measured on this machine.

The candidate is the model, objective and optimizer of a recipe; its step is the function that trains, without Lightning's loop around it.
A way to run the step is a recipe too: its attention, compilation and micro-batch. Two modes: tokens/s and MFU by attention backend,
compiled or not, with a profile of the time; and a sweep that doubles the micro-batch, for the fastest one and the largest that fits.
"""

import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import get_args

import torch
from lightning.fabric.utilities import move_data_to_device
from torch.profiler import ProfilerActivity

from bert.bench import machine
from bert.bench.documents import Text, mean_visible, packed
from bert.bench.measurement import Measurement, TimedSteps, alternate, spread
from bert.bench.results import OUT_OF_MEMORY, Value, attempt
from bert.errors import InputError
from bert.model.config import Backend
from bert.model.flops import training_flops
from bert.model.tuning import now
from bert.pretraining.backend import attention_options
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.masking import IGNORED, most_masked
from bert.pretraining.objective import objective_named
from bert.pretraining.stream import BatchStream, MicroBatch, StepLoader
from bert.training.compiling import compiles, expect_graphs
from bert.training.optimizers import make_optimizer
from bert.training.step import StepBatch, optimizer_step, scaled_loss
from bert.training.trainer import make_trainer

logger = logging.getLogger(__name__)

BACKENDS: tuple[Backend, ...] = get_args(Backend)
PREPARED = 8
"""steps that are prepared; they are repeated after the last"""
KINDS = {
    "loss": ("log_softmax", "nll_loss", "cross_entropy"),
    "attention": ("flash", "fmha", "sdpa", "flex_attention", "softmax", "attention"),
    "matrix products": ("mm", "gemm", "linear", "cutlass", "cublas", "nvjet", "xmma", "mkl"),
    "optimizer": ("adam", "foreach", "multi_tensor"),
    "compiled loops": ("triton", "cpp_fused", "cpp_", "graph_"),
    "copies": ("copy", "memcpy", "memset", "contiguous", "aten::cat", "catarray"),
}
"""kind → substrings of the names of its kernels and operators; the first match counts"""


def compiled(recipe: PretrainRecipe, device: torch.device) -> PretrainRecipe:
    """The recipe with a compiled step, unless it says no or the device has no compiler."""
    return replace(recipe, compile=recipe.compile is not False and compiles(None, device, None, None)[0])


class Candidate:
    """The randomly initialized model, objective and optimizer of a recipe, on the device and in the precision of its `trainer` group. Its
    step is `training.step.optimizer_step`, as in training."""

    def __init__(self, recipe: PretrainRecipe) -> None:
        """The step is compiled if the recipe says so. Raises InputError if the device has no compiler."""
        trainer = make_trainer(recipe.trainer, [], [], [], None)  # for its device and precision only
        self.recipe, self.device, self.precision = recipe, trainer.strategy.root_device, str(trainer.precision)
        self._context = trainer.precision_plugin.forward_context
        compiled = bool(recipe.compile) and compiles(True, self.device, None, None)[0]
        self.objective = objective_named(recipe.objective, compiled)
        if self.objective.compiled:
            expect_graphs(1)
        torch.manual_seed(recipe.seed)
        self.model = self.objective.build(recipe.encoder, recipe.head).to(self.device).train()
        self.model.encoder.attention = attention_options(recipe, self.device, self.precision)
        self.optimizer = make_optimizer(self.model, recipe.optimizer)

    def step(self, batch: StepBatch, done: Callable[[str], None] = lambda part: None) -> None:
        """One optimizer step; `done` is called after each of its parts: forward, backward, optimizer."""

        def loss(micro_batch: MicroBatch) -> torch.Tensor:
            with self._context():
                value = scaled_loss(self.objective.loss(self.model, micro_batch), batch.counts)
            done("forward")
            return value

        def backward(value: torch.Tensor) -> None:
            value.backward()
            done("backward")

        optimizer_step(loss, self.optimizer, batch.micro_batches, learning_rate=0.5, backward=backward)
        done("optimizer")

    def timed_step(self, batch: StepBatch) -> dict[str, float]:
        """Seconds of a step by part; the device is synchronized after each."""
        ends = [("", now(self.device))]
        self.step(batch, lambda part: ends.append((part, now(self.device))))
        parts = {"forward": 0.0, "backward": 0.0, "optimizer": 0.0}
        for (_, start), (part, end) in pairwise(ends):
            parts[part] += end - start
        return parts


def steps_of(text: Text, recipe: PretrainRecipe, count: int) -> list[StepBatch]:
    """The first `count` steps of a run over the text."""
    return list(StepLoader(packed(text, recipe), objective_named(recipe.objective).counts, steps=count))


def flops_per_token(recipe: PretrainRecipe, steps: Sequence[StepBatch]) -> float:
    """Training FLOPs per token of these steps, by `training_flops`: visible keys and masked positions are counted in the batches;
    padding, unused masked positions and invisible keys are not counted."""
    micro_batches = [micro for batch in steps for micro in batch.micro_batches]
    documents = torch.cat([micro["document_ids"] for micro in micro_batches]).cpu().numpy()
    tokens = float((documents > 0).sum())
    masked = float(sum((micro["labels"] != IGNORED).sum() for micro in micro_batches))
    visible, visible_locally = mean_visible(documents), mean_visible(documents, recipe.encoder.local_window)
    return training_flops(recipe.encoder, recipe.head, tokens, masked, visible, visible_locally) / tokens


def bench_steps(measurement: Measurement, backends: Sequence[Backend] = BACKENDS, profile: bool = False) -> Value:
    """Measure the step with each backend, compiled and not, unless the recipe decides, and the hardware peaks; with `profile` also where
    the time of the step goes. Returns the content of metrics.json."""
    begin(measurement, "steps")
    # The compiler would hide the reason of a backend that cannot run here.
    refused: dict[str, Callable[[], Value]] = {}
    for way in ways(measurement.recipe, backends):
        measure = refused.get(way.attention, partial(attempt, step_result, measurement, way))
        value = measurement.result({"kind": "step", **_key(way)}, measure)
        if value.get("error", OUT_OF_MEMORY) != OUT_OF_MEMORY:
            refused[way.attention] = partial(dict, value)
    if profile:
        logger.info(where_the_time_goes(measurement.text, measurement.recipe))
    return measurement.report()


def bench_sweep(
    measurement: Measurement, backends: Sequence[Backend] = BACKENDS, smallest: int = 4, largest: int = 64
) -> Value:
    """Measure micro-batches of `smallest` sequences, twice as many, … up to `largest` or until memory runs out, with each backend, compiled
    or not. Returns the content of metrics.json."""
    if not 1 <= smallest <= largest:
        raise InputError(f"smallest is {smallest} and largest {largest}; must be at least 1, and in this order")
    begin(measurement, "sweep")
    for way in ways(measurement.recipe, backends):
        size = smallest
        while size <= largest:
            key = {"kind": "sweep", **_key(way, f"{size} sequences, "), "sequences": size}
            if "error" in measurement.result(key, partial(attempt, sweep_result, measurement, way, size)):
                break  # larger micro-batches need more memory, and no backend can do more with them
            size *= 2
    return measurement.report()


def begin(measurement: Measurement, mode: str, given: Value | None = None, texts: Sequence[Text] = ()) -> None:
    """Open the results of a mode that ignores the phases of the recipe, and measure the peaks of the hardware and of the matrix products of
    the model."""
    recipe, data = measurement.recipe, measurement.recipe.data
    if recipe.phases:
        shape = f"{data.batch_size} sequences of {data.sequence_length} (data.batch_size, data.sequence_length)"
        logger.info(f"the recipe's {len(recipe.phases)} phases are ignored: measuring {shape}")
        recipe = measurement.recipe = replace(recipe, phases=[])
    measurement.open(mode, given, texts)
    sequences, masked = data.micro_batch_size or data.batch_size, most_masked(recipe.masking.rate, data.sequence_length)
    own = machine.model_shapes(recipe.encoder, recipe.head, sequences, data.sequence_length, masked)
    device, seconds = machine.device_and_precision(recipe)[0], min(0.3, measurement.seconds)
    peaks = measurement.results.measured({"kind": "peaks"}, lambda: machine.measure_peaks(device, own, seconds))
    measurement.product = tuple(peaks["best_shape"])


def ways(recipe: PretrainRecipe, backends: Sequence[Backend]) -> Iterator[PretrainRecipe]:
    """The recipe with each backend, not compiled and compiled, or only one of them if the recipe decides."""
    if unknown := [name for name in backends if name not in BACKENDS]:
        raise InputError(f"backends: {unknown[0]} is unknown; must be some of {', '.join(BACKENDS)}")
    for compiled in (False, True) if recipe.compile is None else (recipe.compile,):
        for backend in backends:
            yield replace(recipe, attention=backend, local_attention=None, compile=compiled)


def _key(way: PretrainRecipe, before: str = "") -> Value:
    name = f"{before}{way.attention}{', compiled' if way.compile else ''}"
    return {"name": name, "backend": way.attention, "compile": "yes" if way.compile else "no"}


def step_result(measurement: Measurement, recipe: PretrainRecipe) -> Value:
    """Rate, MFU, time by part, and memory of one way to run the step."""
    machine.fresh_start()
    candidate, steps = Candidate(recipe), steps_of(measurement.text, recipe, PREPARED)
    (found,), common = beside_peak(measurement, candidate, steps)
    parts = split_time(candidate, packed(measurement.text, recipe), PREPARED)
    fill = 1 / found.pop("positions_per_token")
    share = {part: took / sum(parts.values()) for part, took in parts.items()}
    return common | found | {"flops_per_token": flops_per_token(recipe, steps), "fill": fill, "share": share}


def beside_peak(
    measurement: Measurement, candidate: Candidate, steps: Sequence[StepBatch], *others: TimedSteps
) -> tuple[list[Value], Value]:
    """Metrics of the candidate and of `others`, timed in turn, their MFU by the FLOPs of the candidate; and metrics that they share. The
    matrix rate is measured again in each round, next to the steps that are compared with it."""
    rates: list[float] = []
    machine.reset_peak_memory(candidate.device)
    dtype = torch.float32 if candidate.precision.startswith("32") else torch.bfloat16
    matrix_rate = partial(machine.matrix_rate, [measurement.product], dtype, candidate.device, 0.2)
    sides = [TimedSteps(candidate.step, steps, candidate.device), *others]
    flops, data = flops_per_token(candidate.recipe, steps), candidate.recipe.data
    found: list[Value] = []
    for runs in alternate(sides, measurement.rounds, measurement.seconds, lambda: rates.append(matrix_rate())):
        rounds = [run.rate for run in runs]
        mfu = spread([flops * each / rate for each, rate in zip(rounds, rates)])
        computed = sum(run.positions for run in runs) / sum(run.tokens for run in runs)
        metrics = {"rounds": rounds, "tokens_per_second": spread(rounds), "mfu": mfu, "positions_per_token": computed}
        found.append(metrics)
    sequences = [data.batch_size, data.micro_batch_size or data.batch_size, data.sequence_length]
    common = {"matrix_rate": statistics.median(rates), "precision": candidate.precision, "sequences": sequences}
    return found, common | {"peak_gib": machine.peak_gib(candidate.device)}


def sweep_result(measurement: Measurement, recipe: PretrainRecipe, size: int) -> Value:
    """Tokens/s of steps of the recipe's batch in micro-batches of `size` sequences, from the times of a micro-batch and of an update, so
    that a step of a thousand sequences costs no more to measure than one of ten."""
    machine.fresh_start()
    batch_size = max(size, recipe.data.batch_size // size * size)
    recipe = replace(recipe, data=replace(recipe.data, batch_size=size, micro_batch_size=size))
    batches = steps_of(measurement.text, recipe, 4)
    candidate = Candidate(recipe)
    machine.reset_peak_memory(candidate.device)
    timed = TimedSteps(candidate.step, batches, candidate.device)
    timed.run(3)
    times: list[dict[str, float]] = []
    while sum(sum(parts.values()) for parts in times) < measurement.seconds or len(times) < 3 * len(batches):
        times += [candidate.timed_step(batch) for batch in timed.batches]
    took = {part: statistics.median_high(parts[part] for parts in times) for part in times[0]}
    seconds = took["forward"] + took["backward"] + took["optimizer"] / (batch_size // size)
    rate = statistics.mean(batch.tokens for batch in batches) / seconds
    return {"tokens_per_second": rate, "peak_gib": machine.peak_gib(candidate.device), "batch_size": batch_size}


def split_time(candidate: Candidate, stream: BatchStream, steps: int) -> dict[str, float]:
    """Mean seconds of a step by part over `steps` steps: data, forward, backward, optimizer. Batches are made as in a run."""
    parts: dict[str, float] = {}
    start = now(candidate.device)
    for number, batch in enumerate(StepLoader(stream, candidate.objective.counts, steps=steps + 1)):
        ready = move_data_to_device(batch, candidate.device)
        took = {"data": now(candidate.device) - start} | candidate.timed_step(ready)
        if number:  # the first step warms up
            parts = {part: parts.get(part, 0.0) + seconds / steps for part, seconds in took.items()}
        start = now(candidate.device)
    return parts


def where_the_time_goes(text: Text, recipe: PretrainRecipe, steps: int = 3, operators: int = 20) -> str:
    """A profile of the step as a Markdown table, over `steps` steps: kinds of work first, then the operators with the most self time.
    The step is compiled where the device has a compiler."""
    candidate = Candidate(compiled(recipe, machine.device_and_precision(recipe)[0]))
    timed = TimedSteps(candidate.step, steps_of(text, recipe, 1), candidate.device)
    timed.run(2)
    gpu = candidate.device.type == "cuda"
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu]) as profiler:
        timed.run(steps)
    averages = profiler.key_averages()
    if gpu:  # kernels only: the time of an operator on the host includes that of its kernels
        averages = [event for event in averages if event.device_type == torch.autograd.DeviceType.CUDA]
    times = {event.key: float(event.self_device_time_total if gpu else event.self_cpu_time_total) for event in averages}
    return times_table(times, {event.key: int(event.count) for event in averages}, steps, operators)


def times_table(times: Mapping[str, float], counts: Mapping[str, int], steps: int, operators: int) -> str:
    """Microseconds and calls by name over `steps` steps, as a table of milliseconds per step: kinds first, then names."""
    total, kinds = sum(times.values()) or 1.0, dict.fromkeys(map(kind_of, times), 0.0)
    for name, time in times.items():
        kinds[kind_of(name)] += time
    rows = [(f"**{kind}**", time, "") for kind, time in sorted(kinds.items(), key=lambda item: -item[1])]
    for name, time in sorted(times.items(), key=lambda item: -item[1])[:operators]:
        rows.append((name[:90].replace("|", "/"), time, f"{counts[name] / steps:g} "))
    lines = ["| operator | ms per step | share | calls per step |", "|---|---|---|---|"]
    lines += [f"| {name} | {time / steps / 1000:.2f} | {time / total:.1%} | {calls}|" for name, time, calls in rows]
    return "\n".join(lines)


def kind_of(name: str) -> str:
    """The kind of work that an operator or kernel of this name does."""
    lowered = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lowered for part in parts)), "other")
