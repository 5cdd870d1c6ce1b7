"""`attend`: every backend against the reference, the reference against its definition in loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bert.model import attention
from bert.model.attention import Layout, attend, attend_eager

BACKENDS = ["eager", "sdpa"]


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
    q, k, v = (t.detach().to(dtype).requires_grad_() for t in tensors(2, 2, 2, 6, 6))
    documents = torch.tensor([[1, 1, 2, 2, 0, 0], [0] * 6])  # the second row is nothing but padding
    out = attend(q, k, v, Layout(documents, documents), backend=backend)
    padding = (documents == 0)[:, None, :, None].expand_as(out)
    assert (out[padding] == 0).all()
    assert (out[~padding] != 0).all()
    for gradient in torch.autograd.grad(out.square().sum(), (q, k, v)):
        assert torch.isfinite(gradient).all()
        assert (gradient[padding] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_window_counts_half_its_width_on_either_side(backend: str) -> None:
    """A value that is one-hot in its own place shows who was seen: |i - j| <= window // 2, so 3 keys for a window of 2
    or 3."""
    for window, reach in ((2, 1), (3, 1), (4, 2)):
        q, k = torch.zeros(1, 1, 7, 7), torch.zeros(1, 1, 7, 7)
        seen = attend(q, k, torch.eye(7)[None, None], Layout(window=window), backend=backend)[0, 0] > 0
        distance = (torch.arange(7)[:, None] - torch.arange(7)).abs()
        assert torch.equal(seen, distance <= reach)


@pytest.mark.parametrize("backend", BACKENDS)
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


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_of_another_sequence_with_padding_equal_the_unpadded_sequence(backend: str) -> None:
    q, k, v = tensors(1, 2, 2, 4, 7)
    padding = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
    padded = attend(q, k, v, Layout(key_documents=padding), backend=backend)
    assert torch.allclose(padded, attend(q, k[:, :, :5], v[:, :, :5], Layout(), backend=backend), atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_shared_keys_equal_repeated_keys(backend: str) -> None:
    q, k, v = tensors(2, 6, 2, 5, 5)
    repeated = [t.repeat_interleave(3, dim=1) for t in (k, v)]
    assert torch.allclose(
        attend(q, k, v, Layout(), backend=backend), attend(q, *repeated, Layout(), backend=backend), atol=1e-6
    )


@pytest.mark.parametrize("backend", BACKENDS)
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


def test_the_mask_is_made_once_a_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = Layout._visible
    monkeypatch.setattr(Layout, "_visible", lambda self, *sizes: made.append(sizes) or original(self, *sizes))
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
    with pytest.raises(ValueError, match="give one of eager, sdpa"):
        attend(q, k, v, Layout(), backend="flash")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_rows_are_zero_on_a_gpu(dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    q, k, v = (torch.randn(2, 4, 64, 64, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3))
    documents = torch.ones(2, 64, dtype=torch.long, device="cuda")
    documents[0, 40:] = 0
    documents[1] = 0
    out = attend(q, k, v, Layout(documents, documents), backend="sdpa")
    assert (out[1] == 0).all()
    assert (out[0, :, 40:] == 0).all()
    for gradient in torch.autograd.grad(out.float().square().sum(), (q, k, v)):
        assert torch.isfinite(gradient).all()


def test_backends_are_named_in_the_type() -> None:
    assert set(attention.Backend.__args__) == set(BACKENDS)
