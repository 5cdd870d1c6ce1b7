"""The training step under measurement: the function that trains, without Lightning's loop around it; and where its time goes, by part
and by operator."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from lightning.fabric.utilities import move_data_to_device
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bert.bench.documents import Text, mean_visible, packed
from bert.bench.machine import device_and_precision
from bert.bench.measurement import TimedSteps
from bert.model.flops import training_flops
from bert.model.tuning import now
from bert.pretraining.backend import attention_options
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.objectives.masked_lm import MaskedLanguageModeling
from bert.pretraining.stream import BatchStream, MicroBatch, StepLoader
from bert.training.compiling import compiles, expect_graphs
from bert.training.optimizers import make_optimizer
from bert.training.step import StepBatch, optimizer_step, scaled_loss
from bert.training.trainer import make_trainer

KINDS = {
    "loss": ("log_softmax", "nll_loss", "cross_entropy"),
    "attention": ("flash", "fmha", "sdpa", "flex_attention", "softmax", "attention"),
    "matrix products": ("mm", "gemm", "linear", "cutlass", "cublas", "nvjet", "xmma", "mkl"),
    "optimizer": ("adam", "foreach", "multi_tensor"),
    "compiled loops": ("triton", "cpp_fused", "cpp_", "graph_"),
    "copies": ("copy", "memcpy", "memset", "contiguous", "aten::cat", "catarray"),
}
"""kind → parts of names of kernels and operators; the first that fits"""


def compiled(recipe: PretrainRecipe, device: torch.device) -> PretrainRecipe:
    """The recipe with its step compiled unless it says no or the device has no compiler."""
    return replace(recipe, compile=recipe.compile is not False and compiles(None, device, None, None)[0])


class Candidate:
    """A randomly initialized model and its optimizer by a recipe, on the device and in the precision of its trainer group. Its step is
    `training.step.optimizer_step`, the one that trains."""

    def __init__(self, recipe: PretrainRecipe) -> None:
        """The step is compiled where the recipe says so; InputError where there is no compiler."""
        trainer = make_trainer(recipe.trainer, [], [], [], None)  # for device and precision alone
        self.recipe, self.device, self.precision = recipe, trainer.strategy.root_device, str(trainer.precision)
        self._context = trainer.precision_plugin.forward_context
        self.objective = MaskedLanguageModeling(bool(recipe.compile) and compiles(True, self.device, None, None)[0])
        if self.objective.compiled:
            expect_graphs(1)
        torch.manual_seed(recipe.seed)
        self.model = self.objective.build(recipe.encoder, recipe.head).to(self.device).train()
        self.model.encoder.attention = attention_options(recipe, self.device, self.precision)
        self.optimizer = make_optimizer(self.model, recipe.optimizer)

    def step(self, batch: StepBatch, done: Callable[[str], None] = lambda part: None) -> None:
        """One optimizer step; `done` is called at the end of each part of it: forward, backward, optimizer."""

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
        """Seconds of a step by part, synchronized with the device after each."""
        parts, start = dict.fromkeys(("forward", "backward", "optimizer"), 0.0), now(self.device)

        def done(part: str) -> None:
            nonlocal start
            end = now(self.device)
            parts[part] += end - start
            start = end

        self.step(batch, done)
        return parts

    def timed_steps(self, steps: Sequence[StepBatch]) -> TimedSteps:
        """These steps, to be timed."""
        positions = [sum(micro["input_ids"].numel() for micro in batch.micro_batches) for batch in steps]
        return TimedSteps(self.step, steps, [batch.tokens for batch in steps], positions, self.device)


def steps_of(text: Text, recipe: PretrainRecipe, count: int) -> list[StepBatch]:
    """The first `count` steps of a run over the text."""
    return list(StepLoader(packed(text, recipe), steps=count))


def flops_per_token(recipe: PretrainRecipe, steps: Sequence[StepBatch]) -> float:
    """FLOPs of training for each token of these steps, by `training_flops`: visible keys and masked positions are counted in the
    batches; padding, unused masked positions and invisible keys are not work."""
    documents = torch.cat([micro["document_ids"] for batch in steps for micro in batch.micro_batches]).cpu().numpy()
    tokens, masked = float((documents > 0).sum()), float(sum(batch.counts["loss"] for batch in steps))
    config = recipe.encoder
    visible, visible_locally = mean_visible(documents), mean_visible(documents, config.local_window)
    return training_flops(config, recipe.head, tokens, masked, visible, visible_locally) / tokens


def split_time(candidate: Candidate, stream: BatchStream, steps: int) -> dict[str, float]:
    """Mean seconds of a step by part over `steps` steps, the batches made as a run makes them: data, forward, backward, optimizer."""
    parts: dict[str, float] = {}
    start = now(candidate.device)
    for number, batch in enumerate(StepLoader(stream, steps=steps + 1)):
        ready = move_data_to_device(batch, candidate.device)
        took = {"data": now(candidate.device) - start} | candidate.timed_step(ready)
        if number:  # the first step warms up
            parts = {part: parts.get(part, 0.0) + seconds / steps for part, seconds in took.items()}
        start = now(candidate.device)
    return parts


def where_the_time_goes(text: Text, recipe: PretrainRecipe, steps: int = 3, operators: int = 20) -> str:
    """A table of the kinds of work of a step and of the operators with the most time of their own, over `steps` steps: what separates
    a rate from its peak. The step is compiled where it can be."""
    candidate = Candidate(compiled(recipe, device_and_precision(recipe)[0]))
    timed = candidate.timed_steps(steps_of(text, recipe, 1))
    timed.run(2)
    gpu = candidate.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu]) as profiler:
        timed.run(steps)
    averages = profiler.key_averages()
    if gpu:  # kernels alone: an operator of the host counts the time of its kernels once more
        averages = [event for event in averages if event.device_type == DeviceType.CUDA]
    times = {event.key: float(event.self_device_time_total if gpu else event.self_cpu_time_total) for event in averages}
    return times_table(times, {event.key: int(event.count) for event in averages}, steps, operators)


def times_table(times: dict[str, float], counts: dict[str, int], steps: int, operators: int) -> str:
    """Microseconds and calls by name, over `steps` steps, as a table of milliseconds a step; kinds first, then names."""
    total = sum(times.values()) or 1.0
    kinds = dict.fromkeys(map(kind_of, times), 0.0)
    for name, time in times.items():
        kinds[kind_of(name)] += time
    rows = [(f"**{kind}**", time, "") for kind, time in sorted(kinds.items(), key=lambda item: -item[1])]
    for name, time in sorted(times.items(), key=lambda item: -item[1])[:operators]:
        rows.append((name[:90].replace("|", "/"), time, f"{counts[name] / steps:g} "))
    lines = ["| operator | ms a step | share | calls a step |", "|---|---|---|---|"]
    lines += [f"| {name} | {time / steps / 1000:.2f} | {time / total:.1%} | {calls}|" for name, time, calls in rows]
    return "\n".join(lines)


def kind_of(name: str) -> str:
    """What kind of work an operator or kernel of this name does."""
    lowered = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lowered for part in parts)), "other")
