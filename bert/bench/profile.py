"""Where the time of our step goes, by operator: what stands between a rate and its ceiling."""

from collections.abc import Sequence

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bert.bench.ours import OurSteps, on
from bert.pretraining.stream import MicroBatch

KINDS = {
    "loss": ("log_softmax", "nll_loss", "cross_entropy"),
    "attention": ("flash", "fmha", "sdpa", "flex_attention", "softmax", "attention"),
    "matrix products": ("mm", "gemm", "linear", "cutlass", "cublas", "nvjet", "xmma", "mkl"),
    "optimiser": ("adam", "foreach", "multi_tensor"),
    "compiled loops": ("triton", "cpp_fused", "cpp_", "graph_"),
    "copies": ("copy", "memcpy", "memset", "contiguous", "aten::cat", "catarray"),
}
"""kind → parts of names of kernels and operators; the first that fits"""


def profile_table(ours: OurSteps, batches: Sequence[MicroBatch], steps: int = 3, rows: int = 20) -> str:
    """The operators of `steps` steps with the most time of their own, and what kinds of work they are, as text."""
    ready = [on(ours.device, batch) for batch in batches]
    ours.step(ready)
    ours.step(ready)
    gpu = ours.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiler:
        for _ in range(steps):
            ours.step(ready)
    averages = profiler.key_averages()
    if gpu:  # kernels alone: an operator of the host counts the time of its kernels once more
        averages = [event for event in averages if event.device_type == DeviceType.CUDA]
    times = {event.key: float(event.self_device_time_total if gpu else event.self_cpu_time_total) for event in averages}
    counts = {event.key: int(event.count) for event in averages}
    return times_table(times, counts, steps, rows)


def times_table(times: dict[str, float], counts: dict[str, int], steps: int, rows: int) -> str:
    """Microseconds and calls by name, over `steps` steps, as a table of milliseconds a step; kinds first, then names."""
    total = sum(times.values()) or 1.0
    kinds: dict[str, float] = {}
    for name, time in times.items():
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0.0) + time
    lines = ["| work | ms a step | share | calls a step |", "|---|---|---|---|"]
    for kind, time in sorted(kinds.items(), key=lambda item: -item[1]):
        lines.append(f"| **{kind}** | {time / steps / 1000:.2f} | {time / total:.1%} | |")
    for name, time in sorted(times.items(), key=lambda item: -item[1])[:rows]:
        lines.append(
            f"| {name[:90].replace('|', '/')} | {time / steps / 1000:.2f} | {time / total:.1%} | {counts[name] / steps:g} |"
        )
    return "\n".join(lines)


def kind_of(name: str) -> str:
    """What kind of work an operator or kernel of this name does."""
    lowered = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in lowered for part in parts)), "the rest")
