"""Which attention backend is fastest for tensors of given shapes, by the clock of the machine at hand."""

import statistics
import time

import torch

from bert.errors import InputError
from bert.model.attention import Case, Layout, attend, missing
from bert.model.config import Backend

FAILURES = (RuntimeError, ValueError, InputError)
"""what a backend or a compiler raises where it cannot do a shape; memory that is used up among it"""


def candidates(case: Case, compiled: bool) -> list[Backend]:
    """The backends that may be the fastest. `flex` outside of a graph is compiled for every shape anew, and `plain` on a GPU
    keeps the weights of all heads until the backward pass, so they are not asked there."""
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
    """Seconds that attention of a layer takes with each of `backends`, the fastest first: the median of alternating rounds.

    `shape` is (B, H, T, Dh), self-attention over rows of `documents` documents each of T / documents tokens. In `training`
    the backward pass is in it. `compiled`: as it is inside a compiled step; compiling is not in it. What is made once a batch, as
    a mask, is shared by `layers` layers, as in a model. A backend that fails at this shape is left out; where all do, what the
    last one raised is.
    """
    if compiled:
        torch.compiler.reset()  # what was timed before in this process counts against the compiler's limit
    rows, heads, length, head_size = shape
    place = torch.arange(length, device=device)
    ids = (place * documents // length + 1).expand(rows, -1)  # (B, T)
    sizes = (heads, kv_heads or heads, kv_heads or heads)
    q, k, v = (
        torch.randn(rows, length, of, head_size, device=device, dtype=dtype).transpose(1, 2).requires_grad_(training)
        for of in sizes
    )

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
            for _ in range(2):  # compiling, and what a first call sets up
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
    """Seconds by a clock, when the device has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
