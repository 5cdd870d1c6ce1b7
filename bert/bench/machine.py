"""The hardware: its measured peaks, which a training step is compared with, its device and precision, and its memory.

A matrix rate counts a multiplication and an addition as two FLOPs and is the best of several products; the data are random, because
zeros run faster on some hardware. Products of the model's own shapes, back to back, show how much of that rate is possible at its sizes
(forward shapes; the backward pass has their transposes). Peak memory is that of the process on a CPU and of the allocator on a GPU.
"""

import gc
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from bert.model.config import EncoderConfig, HeadConfig
from bert.model.flops import PER_PRODUCT
from bert.model.hardware import return_freed_memory
from bert.model.tuning import now
from bert.training.trainer import make_trainer

Shape = tuple[int, int, int]
"""rows, inner size and columns of a matrix product"""
CPU_SHAPES: tuple[Shape, ...] = ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 512, 2048))
GPU_SHAPES: tuple[Shape, ...] = ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 4096, 4096))
CPU_VECTOR, GPU_VECTOR = 16_000_000, 256_000_000
"""fp32 elements, far more than the caches hold"""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure_peaks(device: torch.device, own: list[Shape], seconds: float = 0.3) -> dict[str, Any]:
    """Measure a device, each product for about `seconds`; `own` are the shapes of a model's products.

    In TFLOP/s: `bf16`, reached with `best_shape`; `model_shapes`, the products of the model back to back, in bf16; `fp32`, PyTorch's
    default, without tf32. In GB/s, read and written: `copy`, and `triad`, a = b + s · c.
    """
    shapes = CPU_SHAPES if device.type == "cpu" else GPU_SHAPES
    bf16 = {shape: matrix_rate([shape], torch.bfloat16, device, seconds) for shape in shapes}
    best = max(bf16, key=lambda shape: bf16[shape])
    reached = matrix_rate(own, torch.bfloat16, device, seconds)
    fp32 = max(matrix_rate([shape], torch.float32, device, seconds) for shape in shapes[:2])
    copy, triad = bandwidth(device, seconds)
    most = max(bf16[best], reached)  # measured low on a busy machine: the peak is at least what the model reaches
    rates = {"bf16": most / 1e12, "model_shapes": reached / 1e12, "fp32": fp32 / 1e12}
    return rates | {"best_shape": best, "copy": copy / 1e9, "triad": triad / 1e9}


def matrix_rate(shapes: list[Shape], dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    """FLOP/s of products of these shapes, one after the other: the best of the passes within `seconds`."""
    sizes = [((m, k), (n, k), (m, n)) for m, k, n in shapes]
    factors = [[torch.randn(size, device=device).to(dtype) for size in product] for product in sizes]

    def multiply() -> None:
        for a, b, out in factors:
            torch.mm(a, b.T, out=out)  # the second factor as nn.Linear stores its weight

    return PER_PRODUCT * sum(m * k * n for m, k, n in shapes) / shortest(multiply, device, seconds)


def model_shapes(
    config: EncoderConfig, head: HeadConfig, sequences: int, sequence_length: int, masked: int
) -> list[Shape]:
    """The shape of every matrix product with a weight in a forward pass over `sequences` sequences with `masked` masked positions
    each. The last layer computes only keys and values at all positions."""
    tokens, chosen, width = sequences * sequence_length, sequences * masked, config.hidden_size
    kv, inner = 2 * config.kv_heads * config.head_size, config.intermediate_size * (2 if config.gated else 1)

    def after_attention(queries: int) -> list[Shape]:  # its output, and both products of the MLP
        return [(queries, width, width), (queries, width, inner), (queries, config.intermediate_size, width)]

    shapes = [(tokens, width, width + kv), *after_attention(tokens)] * (config.num_layers - 1)
    shapes += [(tokens, width, kv), (chosen, width, width), *after_attention(chosen)]
    if config.embedding_width != width:
        shapes.append((tokens, config.embedding_width, width))
    if head.transform:
        shapes.append((chosen, width, config.embedding_width))
    return [*shapes, (chosen, config.embedding_width, config.vocab_size)]


def bandwidth(device: torch.device, seconds: float) -> tuple[float, float]:
    """(copy, triad): bytes per second, read and written, of vectors far larger than the caches."""
    size = CPU_VECTOR if device.type == "cpu" else GPU_VECTOR
    a, b, c = (torch.rand(size, device=device) for _ in range(3))
    copied = shortest(lambda: a.copy_(b), device, seconds)
    added = shortest(lambda: torch.add(b, c, alpha=3.0, out=a), device, seconds)
    return 2 * 4 * size / copied, 3 * 4 * size / added


def shortest(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The shortest time of one call of `work` in seconds, out of at least five calls and about `seconds`."""
    times: list[float] = []
    start = now(device)
    until = start + seconds
    while len(times) < 5 or start < until:
        work()
        end = now(device)
        times.append(end - start)
        start = end
    return min(times)


def device_and_precision(recipe: Any) -> tuple[torch.device, str]:
    """The device and precision that the `trainer` group of a recipe selects on this machine."""
    trainer = make_trainer(recipe.trainer, [], [], [], None)
    return trainer.strategy.root_device, str(trainer.precision)


def fresh_start() -> None:
    """Drop everything left by an earlier result: compiled code counts toward the compiler's limits, and unused models occupy memory."""
    torch.compiler.reset()
    free_memory()


def free_memory() -> None:
    """Free the memory of models that are no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_peak_memory(device: torch.device) -> None:
    """Reset the memory peak. Only Linux and CUDA can: elsewhere the peak of the whole process remains."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    return_freed_memory()
    with suppress(OSError):
        _CLEAR.write_text("5")  # man 5 proc: resets the peak of the resident set


def peak_gib(device: torch.device) -> float:
    """Peak memory in GiB; on a CPU resident memory, mapped files included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    with suppress(OSError, StopIteration, ValueError):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**20
    unit = 2**30 if sys.platform == "darwin" else 2**20  # getrusage(2): bytes or KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
