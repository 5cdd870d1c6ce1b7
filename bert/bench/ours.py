"""Our training step, as a run takes it, without Lightning's loop around it: forward, backward, clipping, learning rate, optimiser;
and where its time goes, by part and by operator."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bert.bench.documents import Text, mean_visible, packed
from bert.bench.machine import place
from bert.bench.rounds import Contender
from bert.model.flops import training_flops
from bert.model.heads import MaskedLM
from bert.model.tuning import now
from bert.pretraining.backend import attention_options
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.module import MaskedLMTraining
from bert.pretraining.stream import BatchStream, MicroBatch, StepLoader, split_batch
from bert.training.compiling import compiles
from bert.training.config import StopConfig
from bert.training.optimizers import set_learning_rate
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


class CandidateSteps:
    """A fresh model and its optimiser by a recipe, on the device and in the precision of its trainer group."""

    def __init__(self, recipe: PretrainRecipe) -> None:
        """The step is compiled where the recipe says so; InputError where there is no compiler."""
        trainer = make_trainer(recipe.trainer, [], [], [], 1, None)  # for device and precision alone
        self.recipe = recipe
        self.split = split = split_batch(recipe.data.batch_size, recipe.data.micro_batch_size, 1)
        self.device, self.precision = trainer.strategy.root_device, str(trainer.precision)
        self.dtype = torch.float32 if self.precision.startswith("32") else torch.bfloat16
        """that of the matrix rate which the step is held against"""
        self._context = trainer.precision_plugin.forward_context
        graph = bool(recipe.compile) and compiles(True, self.device, None, None)[0]
        torch.manual_seed(recipe.seed)
        model = MaskedLM(recipe.encoder, recipe.head)
        model.encoder.attention = attention_options(recipe, self.device, self.precision)
        stop = StopConfig(steps=1)  # the rate is set here: nothing asks for it
        self.module = MaskedLMTraining(
            model, recipe.optimizer, recipe.schedule, stop, split, recipe.seed, compiled=graph
        )
        self.module.to(self.device).train()
        self.optimizer = self.module.configure_optimizers()

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """The share of a micro-batch in the loss of its step."""
        with self._context():
            return self.module.sum_losses(batch) / max(1, batch["global_targets"])

    def update(self) -> None:
        """What follows the last backward pass of a step."""
        self.module.configure_gradient_clipping(self.optimizer)
        set_learning_rate(self.optimizer, 0.5)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self, batches: Sequence[MicroBatch]) -> None:
        """One optimiser step."""
        for batch in batches:
            self.forward(batch).backward()
        self.update()

    def contender(self, steps: Sequence[Sequence[MicroBatch]]) -> Contender:
        """These steps over batches that lie ready on the device."""
        ready = [[on(self.device, batch) for batch in batches] for batches in steps]
        tokens = [batches[0]["global_tokens"] for batches in steps]
        positions = [sum(batch["input_ids"].numel() for batch in batches) for batches in steps]
        return Contender(self.step, ready, tokens, positions, self.device)


def steps_of(text: Text, recipe: PretrainRecipe, count: int) -> list[list[MicroBatch]]:
    """The micro-batches of the first `count` steps of a run over the text."""
    stream, split = packed(text, recipe), split_batch(recipe.data.batch_size, recipe.data.micro_batch_size, 1)
    micros = range(split.accumulation)
    return [[stream.micro_batch(step, split, micro=micro) for micro in micros] for step in range(count)]


def on(device: torch.device, batch: MicroBatch) -> MicroBatch:
    """The batch with its tensors on a device."""
    moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    return MicroBatch(**moved)  # type: ignore[typeddict-item]


def flops_per_token(recipe: PretrainRecipe, steps: Sequence[Sequence[MicroBatch]]) -> float:
    """Floating-point operations of training for each real token of these steps, by `training_flops`: the keys that
    tokens see and the masked places are counted in the batches; padding, slots not in use and hidden keys are not work."""
    documents = torch.cat([batch["document_ids"] for batches in steps for batch in batches]).cpu().numpy()
    tokens = float((documents > 0).sum())
    targets = float(sum(batches[0]["global_targets"] for batches in steps))
    config = recipe.encoder
    seen, seen_locally = mean_visible(documents), mean_visible(documents, config.local_window)
    return training_flops(config, recipe.head, tokens, targets, seen, seen_locally) / tokens


def split_time(ours: CandidateSteps, stream: BatchStream, steps: int) -> dict[str, float]:
    """Mean seconds of a step by part over `steps` steps, the batches made as a run makes them, the device waited for after each
    part: data, forward, backward, optimizer."""
    parts = dict.fromkeys(("data", "forward", "backward", "optimizer"), 0.0)
    begun = now(ours.device)

    def took(part: str) -> None:
        nonlocal begun
        ended = now(ours.device)
        parts[part] += (ended - begun) / steps
        begun = ended

    for number, batch in enumerate(StepLoader(stream, ours.split, steps=steps + 1), start=1):
        batch = on(ours.device, batch)
        took("data")
        loss = ours.forward(batch)
        took("forward")
        loss.backward()
        took("backward")
        if number % ours.split.accumulation == 0:
            ours.update()
            took("optimizer")
        if number == ours.split.accumulation:  # the first step warms up
            parts = dict.fromkeys(parts, 0.0)
    return parts


def where_the_time_goes(text: Text, recipe: PretrainRecipe, steps: int = 3, sequences: int = 20) -> str:
    """The operators of `steps` steps with the most time of their own, and what kinds of work they are, as text: what stands between
    a rate and its ceiling. The step is compiled where it can be."""
    ours = CandidateSteps(compiled(recipe, place(recipe)[0]))
    again = ours.contender(steps_of(text, recipe, 1))
    again.turn(2)
    gpu = ours.device.type == "cuda"
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
