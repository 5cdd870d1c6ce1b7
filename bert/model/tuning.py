"""Which attention backend is fastest for tensors of given shapes, measured on this machine."""

import statistics
import time
from functools import partial

import torch

from bert.errors import InputError
from bert.model.attention import Case, Layout
from bert.model.backends import attend, missing
from bert.model.config import Backend

FAILURES = (RuntimeError, ValueError, InputError)
"""what a backend or a compiler raises for an unsupported shape, or when memory runs out"""


def candidates(case: Case, compiled: bool) -> list[Backend]:
    """The supported backends that may be the fastest. Left out: `flex` outside a compiled graph, where it is compiled for every shape, and
    `plain` on a GPU, where it keeps the attention weights of all heads until the backward pass."""
    asked: list[Backend] = ["sdpa", "plain"] if case.device.type == "cpu" else ["sdpa", "varlen"]
    if compiled:
        asked.append("flex")
    return [backend for backend in asked if not missing(backend, case)]


def fastest(
    backends: list[Backend],
    shape: tuple[int, int, int, int],
    *,
    kv_heads: int | None = None,
    documents: int = 4,
    window: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device = torch.device("cpu"),
    dropout: float = 0.0,
    training: bool = True,
    compiled: bool = False,
    layers: int = 1,
    rounds: int = 7,
) -> dict[Backend, float]:
    """Seconds per layer of attention with each of `backends`, the fastest first: the median over alternating rounds.

    `shape` is (B, H, T, Dh): self-attention over sequences of `documents` documents of T / documents tokens each. With `training`, the
    backward pass is included; with `compiled`, it is measured as in a compiled step, compiling excluded. What is computed once per
    batch, such as a mask, is shared by `layers` layers, as in a model. A backend that fails is left out; if all fail, the error of the
    last one is raised.
    """
    if compiled:
        torch.compiler.reset()  # earlier measurements in this process count against the compiler's limit
    rows, heads, length, head_size = shape
    place = torch.arange(length, device=device)
    ids = (place * documents // length + 1).expand(rows, -1)  # (B, T)
    sizes = ((rows, length, number, head_size) for number in (heads, kv_heads or heads, kv_heads or heads))
    draw = partial(torch.randn, device=device, dtype=dtype)
    q, k, v = (draw(*size).transpose(1, 2).requires_grad_(training) for size in sizes)

    def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, backend: Backend) -> torch.Tensor:
        layout = Layout(ids, ids, window=window, most_documents=rows * documents)
        for _ in range(layers):
            q = attend(q, k, v, layout, dropout=dropout, backend=backend)
        return q

    compute = torch.compile(forward, fullgraph=True, dynamic=False) if compiled else forward

    def seconds(backend: Backend) -> float:
        begun = now(device)
        with torch.set_grad_enabled(training):
            out = compute(q, k, v, backend)
            if training:
                torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
        return now(device) - begun

    took: dict[Backend, list[float]] = {}
    for backend in backends:
        try:
            for _ in range(2):  # compilation, and the setup of a first call
                seconds(backend)
        except FAILURES:
            if backend == backends[-1] and not took:
                raise
        else:
            took[backend] = []
    for _ in range(rounds):
        for backend, times in took.items():
            times.append(seconds(backend))
    medians = {backend: statistics.median(times) / layers for backend, times in took.items()}
    return dict(sorted(medians.items(), key=lambda entry: entry[1]))


def now(device: torch.device) -> float:
    """The time in seconds, after the device has finished its queued work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
