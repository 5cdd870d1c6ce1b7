"""The training step under measurement: the function that trains, without Lightning's loop around it; and where its time goes, by part
and by operator."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from lightning.fabric.utilities import move_data_to_device
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bert.bench.documents import Text, mean_visible, packed
from bert.bench.machine import place
from bert.bench.rounds import Contender
from bert.model.flops import training_flops
from bert.model.tuning import now
from bert.pretraining.backend import attention_options
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.objectives.masked_lm import MaskedLanguageModeling
from bert.pretraining.phases import resolve_plan
from bert.pretraining.stream import BatchStream, MicroBatch, StepLoader
from bert.training.compiling import compiles, expect_graphs
from bert.training.optimizers import make_optimizer
from bert.training.step import StepBatch, optimizer_step, scaled_loss
from bert.training.trainer import make_trainer

KINDS = {
    "loss": ("log_softmax", "nll_loss", "cross_entropy"),
    "attention": ("flash", "fmha", "sdpa", "flex_attention", "softmax", "attention"),
    "matrix products": ("mm", "gemm", "linear", "cutlass", "cublas", "nvjet", "xmma", "mkl"),
    "optimiser": ("adam", "foreach", "multi_tensor"),
    "compiled loops": ("triton", "cpp_fused", "cpp_", "graph_"),
    "copies": ("copy", "memcpy", "memset", "contiguous", "aten::cat", "catarray"),
}
"""kind → parts of names of kernels and operators; the first that fits"""


def compiled(recipe: PretrainRecipe, device: torch.device) -> PretrainRecipe:
    """The recipe with its step compiled where it does not say no and the device has a compiler."""
    return replace(recipe, compile=recipe.compile is not False and compiles(None, device, None, None)[0])


class Candidate:
    """A randomly initialized model and its optimizer by a recipe, on the device and in the precision of its trainer group. Its step is
    `training.step.optimizer_step`, the one that trains."""

    def __init__(self, recipe: PretrainRecipe) -> None:
        """The step is compiled where the recipe says so; InputError where there is no compiler."""
        trainer = make_trainer(recipe.trainer, [], [], [], None)  # for device and precision alone
        self.recipe, self.phase = recipe, resolve_plan(recipe).at(0)
        self.device, self.precision = trainer.strategy.root_device, str(trainer.precision)
        self.dtype = torch.float32 if self.precision.startswith("32") else torch.bfloat16
        """that of the matrix rate which the step is held against"""
        self._context = trainer.precision_plugin.forward_context
        self.objective = MaskedLanguageModeling(bool(recipe.compile) and compiles(True, self.device, None, None)[0])
        if self.objective.compiled:
            expect_graphs(1)
        torch.manual_seed(recipe.seed)
        self.model = self.objective.build(recipe.encoder, recipe.head).to(self.device).train()
        self.model.encoder.attention = attention_options(recipe, self.device, self.precision)
        self.optimizer = make_optimizer(self.model, recipe.optimizer)

    def loss(self, micro_batch: MicroBatch, counts: Mapping[str, int]) -> torch.Tensor:
        """The share of a micro-batch in the loss of its step."""
        with self._context():
            return scaled_loss(self.objective.loss(self.model, micro_batch), counts)

    def step(self, batch: StepBatch, took: Callable[[str], None] = lambda part: None) -> None:
        """One optimizer step; `took` is called at the end of each part of it: forward, backward, optimizer."""

        def loss(micro_batch: MicroBatch) -> torch.Tensor:
            value = self.loss(micro_batch, batch.counts)
            took("forward")
            return value

        def backward(value: torch.Tensor) -> None:
            value.backward()
            took("backward")

        optimizer_step(loss, self.optimizer, batch.micro_batches, learning_rate=0.5, backward=backward)
        took("optimizer")

    def timed_step(self, batch: StepBatch) -> dict[str, float]:
        """Seconds of a step by part, the device waited for after each."""
        parts, begun = dict.fromkeys(("forward", "backward", "optimizer"), 0.0), now(self.device)

        def took(part: str) -> None:
            nonlocal begun
            ended = now(self.device)
            parts[part] += ended - begun
            begun = ended

        self.step(batch, took)
        return parts

    def contender(self, steps: Sequence[StepBatch]) -> Contender:
        """These steps over batches that lie ready on the device."""
        positions = [sum(micro["input_ids"].numel() for micro in batch.micro_batches) for batch in steps]
        ready = [on(self.device, batch) for batch in steps]
        return Contender(self.step, ready, [batch.tokens for batch in steps], positions, self.device)


def steps_of(text: Text, recipe: PretrainRecipe, count: int) -> list[StepBatch]:
    """The first `count` steps of a run over the text."""
    return list(StepLoader(packed(text, recipe), steps=count))


def on(device: torch.device, batch: StepBatch) -> StepBatch:
    """The batch with its tensors on a device."""
    return move_data_to_device(batch, device)


def flops_per_token(recipe: PretrainRecipe, steps: Sequence[StepBatch]) -> float:
    """Floating-point operations of training for each real token of these steps, by `training_flops`: the keys that
    tokens see and the masked places are counted in the batches; padding, slots not in use and hidden keys are not work."""
    documents = torch.cat([micro["document_ids"] for batch in steps for micro in batch.micro_batches]).cpu().numpy()
    tokens = float((documents > 0).sum())
    targets = float(sum(batch.counts["loss"] for batch in steps))
    config = recipe.encoder
    seen, seen_locally = mean_visible(documents), mean_visible(documents, config.local_window)
    return training_flops(config, recipe.head, tokens, targets, seen, seen_locally) / tokens


def split_time(candidate: Candidate, stream: BatchStream, steps: int) -> dict[str, float]:
    """Mean seconds of a step by part over `steps` steps, the batches made as a run makes them: data, forward, backward, optimizer."""
    parts: dict[str, float] = {}
    begun = now(candidate.device)
    for number, batch in enumerate(StepLoader(stream, steps=steps + 1)):
        ready = on(candidate.device, batch)
        took = {"data": now(candidate.device) - begun} | candidate.timed_step(ready)
        if number:  # the first step warms up
            parts = {part: parts.get(part, 0.0) + seconds / steps for part, seconds in took.items()}
        begun = now(candidate.device)
    return parts


def where_the_time_goes(text: Text, recipe: PretrainRecipe, steps: int = 3, sequences: int = 20) -> str:
    """The operators of `steps` steps with the most time of their own, and what kinds of work they are, as text: what stands between
    a rate and its ceiling. The step is compiled where it can be."""
    candidate = Candidate(compiled(recipe, place(recipe)[0]))
    again = candidate.contender(steps_of(text, recipe, 1))
    again.turn(2)
    gpu = candidate.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu]) as profiler:
        again.turn(steps)
    averages = profiler.key_averages()
    if gpu:  # kernels alone: an operator of the host counts the time of its kernels once more
        averages = [event for event in averages if event.device_type == DeviceType.CUDA]
    times = {event.key: float(event.self_device_time_total if gpu else event.self_cpu_time_total) for event in averages}
    return times_table(times, {event.key: int(event.count) for event in averages}, steps, sequences)


def times_table(times: dict[str, float], counts: dict[str, int], steps: int, sequences: int) -> str:
    """Microseconds and calls by name, over `steps` steps, as a table of milliseconds a step; kinds first, then names."""
    total = sum(times.values()) or 1.0
    kinds = dict.fromkeys(map(kind_of, times), 0.0)
    for name, time in times.items():
        kinds[kind_of(name)] += time
    told = [(f"**{kind}**", time, "") for kind, time in sorted(kinds.items(), key=lambda item: -item[1])]
    for name, time in sorted(times.items(), key=lambda item: -item[1])[:sequences]:
        told.append((name[:90].replace("|", "/"), time, f"{counts[name] / steps:g} "))
    lines = ["| work | ms a step | share | calls a step |", "|---|---|---|---|"]
    lines += [f"| {name} | {time / steps / 1000:.2f} | {time / total:.1%} | {calls}|" for name, time, calls in told]
    return "\n".join(lines)


def kind_of(name: str) -> str:
    """What kind of work an operator or kernel of this name does."""
    lowered = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lowered for part in parts)), "the rest")
