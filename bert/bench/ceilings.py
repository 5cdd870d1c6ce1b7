"""What this machine can do at best: matrix rates and memory bandwidth, to hold a training step against.

A matrix rate counts a multiplication with an addition as two operations and is the best of several products; data are random,
because zeros run faster on some hardware. Products of the model's own shapes, back to back, say what is left of that rate at its
sizes (forward shapes; the backward pass has the same ones transposed).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bert.model.config import EncoderConfig, HeadConfig
from bert.model.operations import PER_PRODUCT
from bert.model.tuning import now

Shape = tuple[int, int, int]
"""rows, inner size and columns of a matrix product"""
CPU_SHAPES: tuple[Shape, ...] = ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 512, 2048))
GPU_SHAPES: tuple[Shape, ...] = ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 4096, 4096))
CPU_VECTOR, GPU_VECTOR = 16_000_000, 256_000_000
"""numbers in fp32, far more than caches hold"""


@dataclass(frozen=True)
class Ceilings:
    """Measured limits of a device: operations a second, bytes a second."""

    bf16: float
    fp32: float
    """as PyTorch computes it where nobody asks for tf32"""
    best_shape: Shape
    """where the bf16 rate was reached"""
    copy: float
    """bytes read and written by a copy"""
    triad: float
    """bytes read and written by a = b + s · c"""


def measure_ceilings(device: torch.device, seconds: float = 0.3, shapes: tuple[Shape, ...] | None = None) -> Ceilings:
    """Measure a device, each product for about `seconds`."""
    shapes = shapes or (CPU_SHAPES if device.type == "cpu" else GPU_SHAPES)
    bf16 = {shape: matrix_rate([shape], torch.bfloat16, device, seconds) for shape in shapes}
    best = max(bf16, key=lambda shape: bf16[shape])
    fp32 = max(matrix_rate([shape], torch.float32, device, seconds) for shape in shapes[:2])
    copy, triad = bandwidth(device, seconds)
    return Ceilings(bf16[best], fp32, best, copy, triad)


def matrix_rate(shapes: list[Shape], dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    """Operations a second of products of these shapes, one after the other: the best of the passes within `seconds`."""
    factors = [
        (
            torch.randn(rows, inner, device=device).to(dtype),
            torch.randn(columns, inner, device=device).to(dtype),
            torch.empty(rows, columns, device=device, dtype=dtype),
        )
        for rows, inner, columns in shapes
    ]

    def multiply() -> None:
        for a, b, out in factors:
            torch.mm(a, b.T, out=out)  # the second factor as nn.Linear keeps its weight

    operations = PER_PRODUCT * sum(rows * inner * columns for rows, inner, columns in shapes)
    return operations / shortest(multiply, device, seconds)


def model_shapes(
    config: EncoderConfig, head: HeadConfig, rows: int, row_length: int, slots: int
) -> list[tuple[str, Shape]]:
    """(name, shape) of every matrix product with a weight in a forward pass over `rows` rows with `slots` slots each; the last
    layer goes on at the slots alone."""
    tokens, chosen, width = rows * row_length, rows * slots, config.hidden_size
    kv, inner = 2 * config.kv_heads * config.head_size, config.intermediate_size * (2 if config.gated else 1)
    shapes: list[tuple[str, Shape]] = []
    for layer in range(config.num_layers):
        if layer + 1 < config.num_layers:
            looking = tokens
            shapes.append(("qkv", (tokens, width, width + kv)))
        else:
            looking = chosen
            shapes += [("kv", (tokens, width, kv)), ("q", (chosen, width, width))]
        shapes += [
            ("out", (looking, width, width)),
            ("wi", (looking, width, inner)),
            ("wo", (looking, config.intermediate_size, width)),
        ]
    if config.embedding_width != width:
        shapes.append(("project", (tokens, config.embedding_width, width)))
    if head.transform:
        shapes.append(("dense", (chosen, width, config.embedding_width)))
    return [*shapes, ("vocabulary", (chosen, config.embedding_width, config.vocab_size))]


def bandwidth(device: torch.device, seconds: float) -> tuple[float, float]:
    """(copy, triad): bytes a second, read and written, of vectors far larger than the caches."""
    size = CPU_VECTOR if device.type == "cpu" else GPU_VECTOR
    a, b, c = (torch.rand(size, device=device) for _ in range(3))
    copied = shortest(lambda: a.copy_(b), device, seconds)
    added = shortest(lambda: torch.add(b, c, alpha=3.0, out=a), device, seconds)
    return 2 * 4 * size / copied, 3 * 4 * size / added


def shortest(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The shortest time of one call of `work`, of at least three within about `seconds`, in seconds."""
    for _ in range(2):
        work()
    best, spent, calls = float("inf"), 0.0, 0
    while spent < seconds or calls < 3:
        begun = now(device)
        work()
        took = now(device) - begun
        best, spent, calls = min(best, took), spent + took, calls + 1
    return best
