"""How attention is computed: `attend` and its backends.

A backend is one function of queries, keys, values and a layout, and what it lacks. A new one is a function, here or in a file of its own,
and one line in `BACKENDS`; its name is added to `Backend`. `eager`, the reference in `bert.model.attention`, is what it must match.

Several documents per sequence without a mask: Dao 2023, "FlashAttention-2"; masks as functions: Dong et al. 2024, "Flex Attention".
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from bert.errors import InputError
from bert.model.attention import Case, Layout, attend_eager, repeat_heads, without_blind
from bert.model.config import Backend
from bert.model.dropout import drop

DROPS_NOTHING = "drops no weights (encoder.attention_dropout is above 0)"
"""what a backend without dropout lacks"""
PLAIN_BF16_KEYS = 512
"""up to this many keys, in bf16 on a CPU, plain operations are faster than the fused kernel: 1.2 to 1.9 times in a forward pass with
16 to 512 keys (torch 2.13, AVX512-BF16), more with gradients"""


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """Mean of the values that each query sees, weighted by softmax(scale · q·k): (B, H, T, Dh).

    `q` is (B, H, T, Dh); `k` and `v` are (B, Hkv, S, Dh) with Hkv a divisor of H: each serves H / Hkv consecutive query heads. `scale`
    is 1/√Dh by default. `dropout` is the probability of dropping a weight; give 0 outside training. A query that sees no key gets zeros.

    Raises InputError if the backend does not support the call (see `missing`), ValueError for an unknown backend.
    """
    if backend == "auto":
        backend = _automatic(q, k, layout, dropout)
    if backend not in BACKENDS:
        raise ValueError(f"attention backend {backend!r}: give one of auto, {', '.join(BACKENDS)}")
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    check_backend(backend, _case(q, k, layout, dropout, training))
    return BACKENDS[backend].attend(q, k, v, layout, scale, dropout)


def check_backend(backend: Backend, case: Case) -> None:
    """InputError if the backend does not support the case; see `missing`."""
    if lack := missing(backend, case):
        raise InputError(f"attention {backend} {lack}: choose another, such as sdpa, or auto")


def missing(backend: Backend, case: Case) -> str:
    """Why a backend does not support a case, as words that follow its name; an empty string if it does, as `auto` always does."""
    return "" if backend == "auto" else BACKENDS[backend].lacks(case)


def _automatic(q: Tensor, k: Tensor, layout: Layout, dropout: float) -> Backend:
    """A fast backend by the properties of the tensors, not by timing, so that runs are repeatable. See `bert.model.tuning.fastest`."""
    if q.device.type == "cpu":
        return "plain" if q.dtype == torch.bfloat16 and k.shape[-2] <= PLAIN_BF16_KEYS else "sdpa"
    known = layout.most_documents is not None
    return "varlen" if known and not missing("varlen", _case(q, k, layout, dropout, training=True)) else "sdpa"


def _case(q: Tensor, k: Tensor, layout: Layout, dropout: float, training: bool) -> Case:
    same = layout.query_documents is layout.key_documents and q.shape[-2] == k.shape[-2]
    queries: Literal["all", "chosen", "other"] = "all" if same else "other"
    if layout.seen is not None:
        queries = "other"
    if layout.query_positions is not None:
        queries = "chosen"
    return Case(q.device, q.dtype, q.shape[-1], dropout, training, queries)


def _attend_eager(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None, dropout: float) -> Tensor:
    return attend_eager(q, k, v, layout, scale, dropout)[0]


def _attend_plain(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None, dropout: float) -> Tensor:
    """Softmax(QKᵀ + bias) V in the dtype of the inputs, with fewer passes over the scores than the reference."""
    # Heads are strided views, which a batched matrix product would copy one number at a time.
    q, k, v = q.contiguous(), repeat_heads(k, q).contiguous(), repeat_heads(v, q).contiguous()  # (B, H, S, Dh)
    bias = layout.bias(q.shape[-2], k.shape[-2], q.device, q.dtype)
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-1, -2)  # (B, H, T, S)
    # A CPU's kernel uses fp32 inside, forward and backward; on a GPU, bf16 scores would make the gradients of keys less exact.
    exact = torch.promote_types(q.dtype, torch.float32) if q.is_cuda else None
    weights = (scores if bias is None else scores + bias).softmax(dim=-1, dtype=exact).to(v.dtype)
    return without_blind(drop(weights, dropout) @ v, k, layout)


def _attend_sdpa(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None, dropout: float) -> Tensor:
    """PyTorch's fused kernels. The bias has the dtype of the inputs; a kernel would convert any other in every layer."""
    bias = layout.bias(q.shape[-2], k.shape[-2], q.device, q.dtype)
    grouped = q.shape[1] != k.shape[1]
    if grouped and bias is not None and q.is_cuda:  # CUDA's fused kernels take groups or a mask, not both
        k, v, grouped = repeat_heads(k, q), repeat_heads(v, q), False
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale, enable_gqa=grouped)
    return without_blind(out, k, layout)


def _attend_flex(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None, dropout: float) -> Tensor:
    """A kernel generated from the layout, which gives zeros to queries that see no key.

    Inside a compiled graph it is part of the graph; elsewhere it is compiled separately, once per shape.
    """
    if q.device.type == "cpu":  # it refuses leaves that require gradients, even with gradients disabled
        q, k, v = q.detach(), k.detach(), v.detach()
    blocks = layout.block_mask(q.shape[0], q.shape[-2], k.shape[-2], q.device)
    compute: Any = flex_attention if torch.compiler.is_compiling() else _compiled_flex()
    return compute(q, k, v, block_mask=blocks, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


def _flex_lacks(case: Case) -> str:
    device, _, head_size, dropout, training, queries = case
    if dropout > 0:
        return DROPS_NOTHING
    if training and device.type in ("cpu", "mps"):
        return f"has no gradients on {'a CPU' if device.type == 'cpu' else 'Apple GPUs'}"
    if queries == "chosen" and device.type == "cpu":
        return "cannot compute chosen positions alone on a CPU"
    if device.type == "cuda" and head_size < 16:
        return f"needs heads of 16 features or more on a GPU and got {head_size}"
    return ""


@cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention)


class _Varlen(NamedTuple):
    """Variable-length attention of this PyTorch, and which of its newer arguments it takes."""

    function: Callable[..., Any]
    windows: bool
    """`window_size` and `scale`"""
    groups: bool
    """`enable_gqa`, since 2.12"""


_varlen: _Varlen | None = None  # set by `_has_varlen`, as the import takes seconds


def _has_varlen() -> bool:
    """Whether this PyTorch has variable-length attention with windows."""
    global _varlen
    if _varlen is None:
        try:
            from torch.nn.attention.varlen import varlen_attn
        except ImportError:
            return False
        takes = inspect.signature(varlen_attn).parameters
        _varlen = _Varlen(varlen_attn, "window_size" in takes and "scale" in takes, "enable_gqa" in takes)
    return _varlen.windows


# The compiler calls it and uses its result as a constant: what torch.compiler.assume_constant_result does, which takes a second to import
# the compiler for programs that compile nothing.
_has_varlen._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _attend_varlen(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None, dropout: float) -> Tensor:
    """FlashAttention over the flat tokens of all sequences, document by document. Shapes do not depend on the documents.

    Padding is treated as a document, and its output is replaced by zeros.
    """
    rows, _, length, _ = q.shape
    assert _varlen is not None
    if not _varlen.groups:
        k, v = repeat_heads(k, q), repeat_heads(v, q)
    grouped = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}
    reach = -1 if layout.window is None else layout.window // 2
    offsets = layout.offsets(rows, length, q.device)
    out = _varlen.function(
        *(part.transpose(1, 2).flatten(0, 1) for part in (q, k, v)),  # (B · T, heads, Dh)
        cu_seq_q=offsets,
        cu_seq_k=offsets,
        max_q=length,
        max_k=length,
        scale=scale,
        window_size=(reach, 0 if layout.causal else reach),
        **grouped,
    )
    out = out.unflatten(0, (rows, length)).transpose(1, 2)  # (B, H, T, Dh)
    padding = None if layout.key_documents is None else (layout.key_documents == 0)[:, None, :, None]
    return out if padding is None else out.masked_fill(padding, 0.0)


def _varlen_lacks(case: Case) -> str:
    device, dtype, head_size, dropout, _, queries = case
    if dropout > 0:
        return DROPS_NOTHING
    if queries == "chosen":
        return "cannot compute chosen positions alone"
    if queries == "other":
        return "cannot take keys of another sequence"
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return "needs a CUDA device of compute capability 8.0 or more"
    if not _has_varlen():
        return f"needs a newer PyTorch than {torch.__version__}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"needs bf16 or fp16 (trainer.precision bf16-mixed) and got {str(dtype).removeprefix('torch.')}"
    if head_size % 8 or head_size > 256:
        return f"needs heads of a multiple of 8 features, 256 at most, and got {head_size}"
    return ""


class Implementation(NamedTuple):
    """A backend."""

    attend: Callable[[Tensor, Tensor, Tensor, Layout, float | None, float], Tensor]
    """queries, keys, values, layout, scale, dropout → the result of `attend`, where nothing is lacking"""
    lacks: Callable[[Case], str] = lambda case: ""
    """see `missing`"""


BACKENDS: dict[Backend, Implementation] = {
    "eager": Implementation(_attend_eager),
    "plain": Implementation(_attend_plain),
    "sdpa": Implementation(_attend_sdpa),
    "flex": Implementation(_attend_flex, _flex_lacks),
    "varlen": Implementation(_attend_varlen, _varlen_lacks),
}
"""all backends that compute, by name; `Backend` names them too, with `auto`"""
