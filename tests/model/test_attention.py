"""`attend`: every backend against the reference, the reference against its definition in loops.

`flex` runs uncompiled here and `varlen` with a kernel in loops, so that on a CPU what they are given is tested and what is made
of it; their own kernels are tested below under the marks `slow` and `gpu`.
"""

import math
import subprocess
import sys
from collections.abc import Iterator
from functools import wraps
from itertools import groupby, pairwise
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask, flex_attention

from bert.errors import InputError
from bert.model import attention, backends
from bert.model.attention import AttentionOptions, Case, Layout, attend_eager
from bert.model.backends import attend, missing
from bert.model.config import Backend, EncoderConfig
from bert.model.encoder import Encoder
from tests.encoders import make_encoder

ON_CPU = Case(torch.device("cpu"), torch.float32, head_size=8, dropout=0.0, training=False)
BACKENDS = [name for name in backends.BACKENDS if not missing(name, ON_CPU._replace(training=True))]
FORWARD = [*(name for name in backends.BACKENDS if not missing(name, ON_CPU)), "varlen"]
ON_GPU = ["auto", *(name for name in backends.BACKENDS if name != "eager")]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def documents_by_loops(
    q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
) -> Tensor:
    """What torch.nn.attention.varlen.varlen_attn says that it computes, one document at a time."""
    assert cu_seq_q.dtype == torch.int32
    assert cu_seq_q is cu_seq_k
    assert enable_gqa or q.shape[1] == k.shape[1]
    parts = []
    for begin, end in pairwise(cu_seq_q.tolist()):
        assert end - begin <= min(max_q, max_k)
        mine, keys, values = (part[begin:end].transpose(0, 1) for part in (q, k, v))  # (heads, n, Dh)
        keys, values = (part.repeat_interleave(len(mine) // len(part), dim=0) for part in (keys, values))
        ahead = torch.arange(end - begin) - torch.arange(end - begin)[:, None]  # j - i
        left, right = window_size
        hidden = ((ahead < -left) & (left >= 0)) | ((ahead > right) & (right >= 0))
        scores = mine @ keys.transpose(1, 2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        parts.append((scores.masked_fill(hidden, -torch.inf).softmax(-1) @ values).transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture(autouse=True)
def everywhere(request: pytest.FixtureRequest) -> Iterator[None]:
    """On a CPU, every backend without its compiler or its kernel."""
    if request.node.get_closest_marker("gpu") is not None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "_compiled_flex", lambda: flex_attention)
        patch.setattr(torch.nn.attention.flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
        patch.setattr(backends, "_varlen", backends._Varlen(documents_by_loops, windows=True, groups=True))
        original = backends.missing

        def lacks(backend: str, case: Case) -> str:
            lack = original(backend, case)
            return "" if backend == "varlen" and case.dtype == torch.float32 and "CUDA" in lack else lack

        patch.setattr(backends, "missing", lacks)
        yield


def by_loops(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """Scaled dot-product attention as its definition says it, one query at a time, in fp64."""
    q, k, v = (t.detach() for t in (q, k, v))
    (rows, heads, queries, size), (kv_heads, keys) = q.shape, k.shape[1:3]
    out = torch.zeros(rows, heads, queries, size, dtype=torch.float64)
    for b in range(rows):
        for h in range(heads):
            g = h * kv_heads // heads
            for i in range(queries):
                mine = 1 if layout.query_documents is None else int(layout.query_documents[b, i])
                seen = []
                for j in range(keys):
                    theirs = 1 if layout.key_documents is None else int(layout.key_documents[b, j])
                    if mine == 0 or mine != theirs:
                        continue
                    if layout.causal and j > i:
                        continue
                    if layout.window is not None and abs(i - j) > layout.window // 2:
                        continue
                    seen.append(j)
                if seen:
                    scores = [math.exp(float(q[b, h, i].double() @ k[b, g, j].double()) / size**0.5) for j in seen]
                    out[b, h, i] = sum(s * v[b, g, j].double() for s, j in zip(scores, seen)) / sum(scores)
    return out


def tensors(rows: int, heads: int, kv_heads: int, queries: int, keys: int, size: int = 8) -> tuple[Tensor, ...]:
    return tuple(
        torch.randn(rows, h, length, size, requires_grad=True)
        for h, length in ((heads, queries), (kv_heads, keys), (kv_heads, keys))
    )


@st.composite
def cases(draw):
    """Tensors and a layout: self or cross, documents or none, rows that are all padding, windows, causality, shared
    keys."""
    rows, queries = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    kv_heads, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    cross = draw(st.booleans())
    keys = draw(st.integers(1, 9)) if cross else queries
    numbers = st.integers(0, 2)

    def documents(length):
        return torch.tensor(
            draw(st.lists(st.lists(numbers, min_size=length, max_size=length), min_size=rows, max_size=rows))
        )

    of_queries = documents(queries) if draw(st.booleans()) else None
    of_keys = (documents(keys) if draw(st.booleans()) else None) if cross else of_queries
    layout = Layout(of_queries, of_keys, causal=draw(st.booleans()), window=draw(st.none() | st.integers(2, 8)))
    torch.manual_seed(draw(st.integers(0, 1000)))
    return tensors(rows, kv_heads * groups, kv_heads, queries, keys), layout


@settings(max_examples=60, deadline=None)
@given(cases())
def test_eager_is_its_definition(case) -> None:
    (q, k, v), layout = case
    assert torch.allclose(attend(q, k, v, layout, backend="eager").double(), by_loops(q, k, v, layout), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_every_backend_equals_eager_forward_and_gradients(case) -> None:
    (q, k, v), layout = case
    weight = torch.randn_like(q)
    results = {}
    for backend in BACKENDS:
        out = attend(q, k, v, layout, backend=backend)
        results[backend] = [out.detach(), *torch.autograd.grad((out * weight).sum(), (q, k, v))]
    for backend in BACKENDS[1:]:
        for ours, reference in zip(results[backend], results["eager"]):
            assert torch.isfinite(ours).all()
            assert (ours - reference).abs().max() <= 1e-5
        with torch.no_grad():  # another kernel may be chosen where no gradient is asked for
            assert (attend(q, k, v, layout, backend=backend) - results["eager"][0]).abs().max() <= 1e-5


@settings(max_examples=40, deadline=None)
@given(cases())
def test_flex_equals_eager_forward(case) -> None:
    qkv, layout = case
    with torch.no_grad():
        ours, reference = (attend(*qkv, layout, backend=backend) for backend in ("flex", "eager"))
    assert (ours - reference).abs().max() <= 1e-5


@st.composite
def packed_cases(draw):
    """Rows of documents side by side, of any length, numbered upward, padding anywhere, also nothing else."""
    rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    documents = torch.zeros(rows, length, dtype=torch.long)
    for row in range(rows):
        number, place = 0, 0
        while place < length:
            number += draw(st.integers(1, 2))
            size = draw(st.integers(1, 9))
            documents[row, place : place + size] = draw(st.sampled_from([number, number, number, 0]))
            place += size
    kv_heads, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    bound = draw(st.none() | st.integers(0, 5))
    layout = Layout(
        *(documents, documents) if draw(st.integers(0, 4)) else (),
        causal=draw(st.booleans()),
        window=draw(st.none() | st.integers(2, 8)),
        most_documents=None if bound is None else bound + stretches(documents),
    )
    torch.manual_seed(draw(st.integers(0, 1000)))
    return tensors(rows, kv_heads * groups, kv_heads, length, length), layout


def stretches(documents: Tensor) -> int:
    return sum(len(list(groupby(row))) for row in documents.tolist())


@settings(max_examples=60, deadline=None)
@given(packed_cases())
def test_varlen_equals_eager_forward_and_gradients(case) -> None:
    qkv, layout = case
    results = []
    weight = torch.randn_like(qkv[0])
    for backend in ("varlen", "eager"):
        out = attend(*qkv, layout, backend=backend)
        results.append([out.detach(), *torch.autograd.grad((out * weight).sum(), qkv)])
    for ours, reference in zip(*results):
        assert (ours - reference).abs().max() <= 1e-5


@settings(max_examples=60, deadline=None)
@given(packed_cases())
def test_offsets_are_the_ends_of_the_stretches_and_then_the_end_for_ever(case) -> None:
    (q, _, _), layout = case
    rows, _, length, _ = q.shape
    offsets = layout.offsets(rows, length, q.device).tolist()
    if layout.key_documents is None:
        assert offsets == list(range(0, rows * length + 1, length))
        return
    ends, place = [0], 0
    for row in layout.key_documents.tolist():
        for _, members in groupby(row):
            place += len(list(members))
            ends.append(place)
    most = rows * length if layout.most_documents is None else layout.most_documents
    assert offsets == ends + [rows * length] * (most + 1 - len(ends))


@pytest.mark.parametrize(
    ("documents", "most"), [([[1, 2, 1]], 9), ([[2, 1, 1]], 9), ([[1, 0, 1]], 9), ([[1, 2, 0], [1, 2, 3]], 5)]
)
def test_documents_in_parts_or_too_many_stop_varlen(documents: list[list[int]], most: int) -> None:
    ids = torch.tensor(documents)
    with pytest.raises(RuntimeError, match="more documents than `most_documents`, or in parts"):
        Layout(ids, ids, most_documents=most).offsets(*ids.shape, ids.device)


@settings(max_examples=40, deadline=None)
@given(cases(), st.data())
def test_the_function_of_flex_is_true_where_a_key_is_visible(case, data) -> None:
    (q, k, _), layout = case
    rows, queries, keys = q.shape[0], q.shape[2], k.shape[2]
    if data.draw(st.booleans()):
        positions = st.lists(st.integers(0, queries - 1), min_size=3, max_size=3)
        layout = layout.at(torch.tensor([data.draw(positions) for _ in range(rows)]))
        queries = 3
    sees, visible = layout._sees(), layout.visible(queries, keys, q.device)
    assert (sees is None) == (visible is None)
    if sees is not None:
        assert torch.equal(create_mask(sees, rows, 1, queries, keys, "cpu"), visible.expand(rows, -1, -1, -1))


@pytest.mark.parametrize("backend", FORWARD)
def test_an_encoder_of_local_and_global_layers_is_the_same_with_every_backend(backend: str) -> None:
    """Packed sequences, and vectors of chosen positions alone, for which two backends have another in the last layer."""
    masked = "sdpa" if backend in ("flex", "varlen") else None
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 16}
    encoder = Encoder(EncoderConfig(vocab_size=32, local_window=4, global_every=3, **shape)).eval()
    documents = torch.tensor([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1], [0] * 6])
    assert stretches(documents) <= 9
    ids, positions = torch.randint(5, 32, (3, 6)), torch.tensor([[4, 1], [0, 0], [2, 5]])
    with torch.no_grad():
        for masked_positions in (None, positions, torch.randint(0, 6, (3, 6))):
            encoder.attention = AttentionOptions("eager")
            expected = encoder(ids, document_ids=documents, masked_positions=masked_positions).last_hidden_state
            encoder.attention = AttentionOptions(backend, masked_backend=masked, most_documents=9)  # type: ignore[arg-type]
            ours = encoder(ids, document_ids=documents, masked_positions=masked_positions).last_hidden_state
            assert (ours - expected).abs().max() <= 1e-5


@settings(max_examples=30, deadline=None)
@given(cases())
def test_in_bf16_too_every_backend_sees_the_same(case) -> None:
    """Values of 1 in one feature for each key show by their mean who was seen, whatever the kernel."""
    (q, k, _), layout = case
    q, k = torch.zeros_like(q).bfloat16().requires_grad_(), torch.zeros_like(k).bfloat16()
    v = torch.eye(k.shape[2], dtype=torch.bfloat16).expand(*k.shape[:3], k.shape[2])
    expected = attend(q, k, v, layout, backend="eager")
    for backend in BACKENDS[1:]:
        assert torch.allclose(attend(q, k, v, layout, backend=backend), expected, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_gives_exact_zeros_forward_and_backward(backend: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = (t.detach().to(dtype).requires_grad_() for t in tensors(2, 2, 2, 6, 6))
    documents = torch.tensor([[1, 1, 2, 2, 0, 0], [0] * 6])  # the second row is nothing but padding
    out = attend(q, k, v, Layout(documents, documents), backend=backend)
    padding = (documents == 0)[:, None, :, None].expand_as(out)
    assert (out[padding] == 0).all()
    assert (out[~padding] != 0).all()
    for gradient in torch.autograd.grad(out.square().sum(), (q, k, v)):
        assert torch.isfinite(gradient).all()
        assert (gradient[padding] == 0).all()


@pytest.mark.parametrize("backend", FORWARD)
@torch.no_grad()
def test_window_counts_half_its_width_on_either_side(backend: str) -> None:
    """A value that is one-hot in its own place shows who was seen: |i - j| <= window // 2, so 3 keys for a window of 2
    or 3."""
    for window, reach in ((2, 1), (3, 1), (4, 2)):
        q, k = torch.zeros(1, 1, 7, 7), torch.zeros(1, 1, 7, 7)
        seen = attend(q, k, torch.eye(7)[None, None], Layout(window=window), backend=backend)[0, 0] > 0
        distance = (torch.arange(7)[:, None] - torch.arange(7)).abs()
        assert torch.equal(seen, distance <= reach)


@pytest.mark.parametrize("backend", FORWARD)
@torch.no_grad()
def test_causal_query_is_blind_to_what_comes_later(backend: str) -> None:
    q, k, v = tensors(1, 2, 2, 6, 6)
    before = attend(q, k, v, Layout(causal=True), backend=backend)
    later_k, later_v = k.clone(), v.clone()
    later_k[:, :, 4:] += 1.0
    later_v[:, :, 4:] += 1.0
    after = attend(q, later_k, later_v, Layout(causal=True), backend=backend)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.isclose(before[:, :, 4:], after[:, :, 4:]).any()
    assert torch.allclose(before[:, :, 0], v[:, :, 0])  # the first query sees one key: its own


@pytest.mark.parametrize("backend", [backend for backend in FORWARD if backend != "varlen"])
@torch.no_grad()
def test_keys_of_another_sequence_with_padding_equal_the_unpadded_sequence(backend: str) -> None:
    q, k, v = tensors(1, 2, 2, 4, 7)
    padding = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
    padded = attend(q, k, v, Layout(key_documents=padding), backend=backend)
    assert torch.allclose(padded, attend(q, k[:, :, :5], v[:, :, :5], Layout(), backend=backend), atol=1e-6)


@pytest.mark.parametrize(("backend", "queries"), [("varlen", "chosen"), ("varlen", "other"), ("flex", "chosen")])
@torch.no_grad()
def test_a_backend_that_cannot_take_such_queries_says_so_and_auto_chooses_one_that_can(
    backend: str, queries: str
) -> None:
    """In `attend` and in an encoder, whose last layer computes chosen positions alone."""
    q, k, v = tensors(1, 2, 2, 4, 7)
    positions = torch.tensor([[6, 3, 0, 1]])
    layout = Layout(query_positions=positions) if queries == "chosen" else Layout()
    message = f"attention {backend} cannot .*: choose another, such as sdpa, or auto"
    with pytest.raises(InputError, match=message):
        attend(q, k, v, layout, backend=backend)  # type: ignore[arg-type]
    assert torch.allclose(attend(q, k, v, layout), attend(q, k, v, layout, backend="eager"), atol=1e-6)
    if queries == "chosen":
        encoder = Encoder(EncoderConfig(32, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=16)).eval()
        encoder.attention = AttentionOptions(backend)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message):
            encoder(torch.ones(1, 7, dtype=torch.long), masked_positions=positions)


@pytest.mark.parametrize("backend", FORWARD)
@torch.no_grad()
def test_shared_keys_equal_repeated_keys(backend: str) -> None:
    q, k, v = tensors(2, 6, 2, 5, 5)
    repeated = [t.repeat_interleave(3, dim=1) for t in (k, v)]
    assert torch.allclose(
        attend(q, k, v, Layout(), backend=backend), attend(q, *repeated, Layout(), backend=backend), atol=1e-6
    )


@pytest.mark.parametrize("backend", FORWARD)
@torch.no_grad()
def test_scale_multiplies_the_scores(backend: str) -> None:
    q, k, v = tensors(1, 1, 1, 5, 5)
    uniform = attend(q, k, v, Layout(), scale=0.0, backend=backend)
    assert torch.allclose(uniform, v.mean(dim=2, keepdim=True).expand_as(uniform), atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_drops_weights_and_keeps_their_mean(backend: str) -> None:
    torch.manual_seed(0)
    q, k, v = (t.detach() for t in tensors(64, 8, 8, 16, 16))
    plain = attend(q, k, v, Layout(), backend=backend)
    dropped = attend(q, k, v, Layout(), dropout=0.5, backend=backend)
    assert not torch.allclose(plain, dropped, atol=0.1)
    assert abs(float(((dropped - plain) * plain).sum() / plain.square().sum())) < 0.02


def test_softmax_is_at_least_fp32_and_gradients_are_exact() -> None:
    q, k, v = (torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    documents = torch.tensor([[1, 1, 2, 0]])
    layout = Layout(documents, documents)
    assert torch.autograd.gradcheck(lambda *qkv: attend(*qkv, layout, backend="eager"), (q, k, v))
    _, weights = attend_eager(q.bfloat16(), k.bfloat16(), v.bfloat16(), layout)
    assert weights.dtype == torch.float32


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("training", [False, True])
def test_in_bf16_a_backend_is_as_near_to_the_truth_as_eager(training: bool, size: int) -> None:
    """Root-mean-square distance from fp32, pooled over 8 seeds: of the output, and in training of the gradients."""
    squares = {backend: [0.0] * 4 for backend in BACKENDS}
    for seed in range(8):
        torch.manual_seed(seed)
        exact = [t.detach().requires_grad_(training) for t in tensors(2, 4, 4, 64, 64, size)]
        weight = torch.randn(2, 4, 64, size)
        documents = torch.arange(64).div(20, rounding_mode="floor").add(1)[None].expand(2, -1)

        def compute(qkv: list[Tensor], backend: str, documents=documents, weight=weight) -> list[Tensor]:
            out = attend(*qkv, Layout(documents, documents), backend=backend)
            gradients = torch.autograd.grad((out * weight.to(out.dtype)).sum(), qkv) if training else ()
            return [out.detach(), *gradients]

        truth = compute(exact, "eager")
        rough = [t.detach().bfloat16().requires_grad_(training) for t in exact]
        for backend in BACKENDS:
            for place, (ours, right) in enumerate(zip(compute(rough, backend), truth)):
                squares[backend][place] += (ours.float() - right).square().sum().item()
    for backend in BACKENDS[1:]:
        for ours, eager in zip(squares[backend], squares["eager"]):
            assert math.sqrt(ours) <= 1.2 * math.sqrt(eager)


def test_nothing_to_hide_needs_no_mask() -> None:
    assert Layout().visible(5, 5, torch.device("cpu")) is None
    assert Layout().bias(5, 5, torch.device("cpu"), torch.float32) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=2, max_size=4), st.none() | st.integers(2, 8))
def test_a_mask_is_a_function_of_the_sizes_asked_for(sizes: list[tuple[int, int]], window: int | None) -> None:
    """One layout, asked for masks of several sizes one after the other."""
    cpu, layout = torch.device("cpu"), Layout(causal=True, window=window)
    for queries, keys in [(4, 4), (1, 6), (4, 4), *sizes]:
        fresh = Layout(causal=True, window=window)
        visible, blocks = layout.visible(queries, keys, cpu), layout.block_mask(1, queries, keys, cpu)
        assert visible.shape == (1, 1, queries, keys)
        assert torch.equal(visible, fresh.visible(queries, keys, cpu))
        assert torch.equal(layout.blind(queries, keys, cpu), fresh.blind(queries, keys, cpu))
        for dtype in (torch.float32, torch.bfloat16):
            bias = layout.bias(queries, keys, cpu, dtype)
            assert (bias.shape, bias.dtype) == (visible.shape, dtype)
            assert torch.equal(bias, fresh.bias(queries, keys, cpu, dtype))
        assert blocks.seq_lengths == (queries, keys)
        assert layout.offsets(queries, keys, cpu).tolist() == list(range(0, queries * keys + 1, keys))


@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_after_a_cache_of_keys_see_what_they_see_in_the_whole_sequence(backend: str) -> None:
    q, k, v = tensors(1, 2, 2, 6, 6)
    for window in (None, 4):
        whole = attend(q, k, v, Layout(causal=True, window=window), backend=backend)
        for position in range(6):
            after = Layout(causal=True, window=window, query_positions=torch.tensor([[position]]))
            step = attend(
                q[:, :, position : position + 1], *(t[:, :, : position + 1] for t in (k, v)), after, backend=backend
            )
            assert torch.allclose(step, whole[:, :, position : position + 1], atol=1e-6)


def masks_made(monkeypatch: pytest.MonkeyPatch) -> list[Layout]:
    """Each layout, as often as it computes its mask from here on."""
    made, original = [], Layout.visible.__wrapped__  # type: ignore[attr-defined]

    @wraps(original)
    def counted(self: Layout, *sizes: object) -> object:
        made.append(self)
        return original(self, *sizes)

    monkeypatch.setattr(Layout, "visible", attention._kept(counted))
    return made


def test_the_mask_is_made_once_a_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    made = masks_made(monkeypatch)
    q, k, v = tensors(1, 1, 1, 4, 4)
    documents = torch.ones(1, 4, dtype=torch.long)
    layout = Layout(documents, documents)
    for _ in range(3):
        attend(q, k, v, layout)
    bias = layout.bias(4, 4, q.device, q.dtype)
    assert len(made) == 1
    assert layout.bias(4, 4, q.device, q.dtype) is bias


def test_an_unknown_backend_is_refused() -> None:
    q, k, v = tensors(1, 1, 1, 2, 2)
    with pytest.raises(ValueError, match="give one of auto, eager, plain, sdpa, flex, varlen"):
        attend(q, k, v, Layout(), backend="flash")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backend", "dropout", "message"),
    [
        ("flex", 0.0, "attention flex has no gradients on a CPU: choose another, such as sdpa, or auto"),
        ("flex", 0.1, "attention flex drops no weights"),
        ("varlen", 0.1, "attention varlen drops no weights"),
    ],
)
def test_what_a_backend_lacks_is_named(backend: str, dropout: float, message: str) -> None:
    qkv = [part.bfloat16() for part in tensors(1, 1, 1, 4, 4)]
    with pytest.raises(InputError, match=message):
        attend(*qkv, Layout(), dropout=dropout, backend=backend)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "head_size", "capability", "known", "lack"),
    [
        (torch.bfloat16, 64, (8, 0), True, ""),
        (torch.float16, 256, (9, 0), True, ""),
        (torch.float32, 64, (9, 0), True, "needs bf16 or fp16"),
        (torch.bfloat16, 12, (9, 0), True, "needs heads of a multiple of 8"),
        (torch.bfloat16, 264, (9, 0), True, "needs heads of a multiple of 8"),
        (torch.bfloat16, 64, (7, 5), True, "needs a CUDA device"),
        (torch.bfloat16, 64, (9, 0), False, "needs a newer PyTorch"),
    ],
)
def test_varlen_is_for_bf16_on_cuda(
    dtype: torch.dtype,
    head_size: int,
    capability: tuple[int, int],
    known: bool,
    lack: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(backends, "_has_varlen", lambda: known)
    found = missing("varlen", Case(torch.device("cuda"), dtype, head_size, 0.0, True))
    assert found.startswith(lack)
    assert bool(found) == bool(lack)
    assert "CUDA" in missing("varlen", Case(torch.device("cpu"), dtype, head_size, 0.0, True))


@pytest.mark.parametrize(
    ("device", "head_size", "training", "lack"),
    [
        ("cuda", 16, True, ""),
        ("cuda", 8, False, "needs heads of 16 features or more"),
        ("mps", 64, True, "has no gradients"),
        ("mps", 64, False, ""),
    ],
)
def test_flex_lacks_small_heads_and_gradients(device: str, head_size: int, training: bool, lack: str) -> None:
    found = missing("flex", Case(torch.device(device), torch.bfloat16, head_size, 0.0, training))
    assert found.startswith(lack)
    assert bool(found) == bool(lack)


def test_auto_takes_plain_operations_for_short_rows_in_bf16_on_a_cpu() -> None:
    limit = backends.PLAIN_BF16_KEYS
    for dtype, keys, chosen in (
        (torch.bfloat16, limit, "plain"),
        (torch.bfloat16, limit + 1, "sdpa"),
        (torch.float32, 1, "sdpa"),
    ):
        k = torch.empty(1, 1, keys, 4, dtype=dtype)
        assert backends._automatic(k[:, :, :1], k, Layout(), 0.0) == chosen


@pytest.mark.slow
def test_the_import_of_backends_leaves_varlen_alone_whose_import_takes_seconds() -> None:
    code = "import sys, bert.model.backends; assert 'torch.nn.attention.varlen' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


# ── the kernels themselves ──


def packed(rows: int, length: int, device: str) -> Tensor:
    """(rows, length) documents of 1, 2, 4, … tokens, the last row all padding, the one before with padding behind."""
    place = torch.arange(length, device=device)
    documents = (place + 1).float().log2().floor().long().add(1).expand(rows, -1).clone()
    documents[-2, length * 2 // 3 :] = 0
    documents[-1] = 0
    return documents


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 40])
def test_compiled_flex_equals_eager_over_several_blocks(window: int | None) -> None:
    """Rows of more than two blocks of 128, longer than the window, and a choice of their queries; in a graph and by itself."""
    torch._dynamo.reset()
    documents = packed(3, 300, "cpu")
    positions = torch.randint(0, 300, (3, 20))
    q, k, v = (part.detach() for part in tensors(3, 4, 2, 300, 300, 16))

    def compute(backend: str, documents: Tensor) -> tuple[Tensor, Tensor]:
        layout = Layout(documents, documents, window=window)
        chosen = q.gather(2, positions[:, None, :, None].expand(-1, 4, -1, 16))
        return (
            attend(q, k, v, layout, backend=backend),  # type: ignore[arg-type]
            attend(
                chosen, k, v, layout.at(positions), backend="sdpa" if backend == "flex" else "eager"
            ),  # flex cannot here
        )

    compiled = torch.compile(compute, fullgraph=True, dynamic=False)
    for ids in (documents, documents.roll(1, 0)):
        for ours, reference in zip(compiled("flex", ids), compute("eager", ids)):
            assert (ours - reference).abs().max() <= 1e-5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "_compiled_flex", lambda: torch.compile(flex_attention))
        alone = attend(q, k, v, Layout(documents, documents, window=window), backend="flex")
    assert (alone - compute("eager", documents)[0]).abs().max() <= 1e-5


def on_gpu(
    backend: str, dtype: torch.dtype, window: int | None, causal: bool, kv_heads: int, seed: int
) -> list[Tensor]:
    """Output and gradients of packed rows of 300 tokens on a GPU, from inputs that are the same in every dtype."""
    generator = torch.Generator("cpu").manual_seed(seed)
    q, k, v, weight = (
        torch.randn(4, heads, 300, 64, generator=generator).bfloat16().to("cuda", dtype)
        for heads in (4, kv_heads, kv_heads, 4)
    )
    documents = packed(4, 300, "cuda")
    layout = Layout(documents, documents, causal=causal, window=window, most_documents=64)
    inputs = [part.requires_grad_() for part in (q, k, v)]
    out = attend(*inputs, layout, backend=backend)  # type: ignore[arg-type]
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), inputs)]


GPU_LAYOUTS = pytest.mark.parametrize(
    ("window", "causal", "kv_heads"), [(None, False, 4), (None, True, 2), (32, False, 4), (32, True, 2)]
)


@pytest.mark.gpu
@needs_gpu
@GPU_LAYOUTS
@pytest.mark.parametrize("backend", [backend for backend in ON_GPU if backend != "varlen"])
def test_on_a_gpu_every_backend_equals_eager_in_fp32(
    backend: str, window: int | None, causal: bool, kv_heads: int
) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        ours, reference = (on_gpu(name, torch.float32, window, causal, kv_heads, 0) for name in (backend, "eager"))
    finally:
        torch.set_float32_matmul_precision(before)
    for mine, theirs in zip(ours, reference):
        assert (mine - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


@pytest.mark.gpu
@needs_gpu
@GPU_LAYOUTS
@pytest.mark.parametrize("backend", ON_GPU)
def test_on_a_gpu_every_backend_is_as_near_to_the_truth_as_eager_in_bf16(
    backend: str, window: int | None, causal: bool, kv_heads: int
) -> None:
    squares = {name: [0.0] * 4 for name in (backend, "eager")}
    for seed in range(8):
        truth = on_gpu("eager", torch.float32, window, causal, kv_heads, seed)
        for name, sums in squares.items():
            for place, (mine, right) in enumerate(
                zip(on_gpu(name, torch.bfloat16, window, causal, kv_heads, seed), truth)
            ):
                assert torch.isfinite(mine).all()
                sums[place] += (mine.float() - right).square().sum().item()
    for mine, eager in zip(squares[backend], squares["eager"]):
        assert math.sqrt(mine) <= 1.2 * math.sqrt(eager)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("backend", ON_GPU)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_rows_are_zero_on_a_gpu(dtype: torch.dtype, backend: str) -> None:
    if backend == "varlen" and dtype == torch.float32:
        pytest.skip("varlen has no fp32")
    q, k, v = (torch.randn(2, 4, 64, 64, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3))
    documents = torch.ones(2, 64, dtype=torch.long, device="cuda")
    documents[0, 40:] = 0
    documents[1] = 0
    out = attend(q, k, v, Layout(documents, documents, most_documents=3), backend=backend)  # type: ignore[arg-type]
    assert (out[1] == 0).all()
    assert (out[0, :, 40:] == 0).all()
    for gradient in torch.autograd.grad(out.float().square().sum(), (q, k, v)):
        assert torch.isfinite(gradient).all()
        assert (gradient[1] == 0).all()


@pytest.mark.gpu
@needs_gpu
def test_auto_takes_varlen_for_packed_rows_of_known_number_in_bf16() -> None:
    q = torch.empty(2, 4, 8, 64, device="cuda", dtype=torch.bfloat16)
    documents = torch.ones(2, 8, dtype=torch.long, device="cuda")
    known, unknown = Layout(documents, documents, most_documents=2), Layout(documents, documents)
    assert backends._automatic(q, q, known, 0.0) == "varlen"
    for layout, dropout, like in ((unknown, 0.0, q), (known, 0.1, q), (known, 0.0, q.float())):
        assert backends._automatic(like, like, layout, dropout) == "sdpa"
    assert backends._automatic(q[:, :, :1], q, known.at(documents[:, :1] - 1), 0.0) == "sdpa"


def test_backends_are_named_in_the_type() -> None:
    assert get_args(Backend) == ("auto", *backends.BACKENDS)
    assert {*FORWARD} >= {"eager", "plain", "sdpa", "flex", "varlen"}  # tested on a CPU
    assert {*BACKENDS} >= {"eager", "plain", "sdpa"}


def test_the_compiler_takes_whether_there_is_attention_of_variable_length_as_a_constant() -> None:
    """As its decorator says, which imports the compiler."""

    def other() -> bool:
        return True

    assert vars(torch.compiler.assume_constant_result(other)) == vars(backends._has_varlen)


def test_vectors_of_a_model_folder_are_computed_without_the_compiler(tmp_path) -> None:
    """Its import takes longer than all others together."""
    make_encoder("wordpiece").save(tmp_path)
    code = (
        "import sys; from bert.inference.embeddings import embed, encoder_of; embed(encoder_of(sys.argv[1]), ['a dog'])"
    )
    code += "; assert not {'torch._dynamo', 'lightning', 'matplotlib'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
