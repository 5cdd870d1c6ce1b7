"""Attention: which keys a query sees (`Layout`) and the weighted mean over their values (`attend`).

In: queries (B, H, T, Dh), keys and values (B, Hkv, S, Dh), a layout. Out: (B, H, T, Dh). The layout holds everything about visibility
(padding, several documents per sequence, sliding windows, causality, keys of another sequence), so a backend is one function of three
tensors and a layout. A new backend is one function, one `case` in `attend` and its limits in `missing`; `eager` is the reference that
every backend must match.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1; grouped queries: Ainslie et al. 2023; several documents per sequence
without a mask: Dao 2023, "FlashAttention-2"; masks as functions: Dong et al. 2024, "Flex Attention".
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, reduce, wraps
from operator import and_
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from bert.errors import InputError
from bert.model.config import Backend
from bert.model.dropout import drop

PLAIN_BF16_KEYS = 512
"""up to this many keys, in bf16 on a CPU, plain operations are faster than the fused kernel: 1.2 to 1.9 times in a forward pass with
16 to 512 keys (torch 2.13, AVX512-BF16), more with gradients"""

_Method = TypeVar("_Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class AttentionOptions:
    """How an encoder computes attention. Options may differ from run to run; weights and results do not depend on them.

    To change them, assign a new object to `encoder.attention`. A backend that does not support a batch raises InputError; only `auto`
    chooses between backends.
    """

    backend: Backend = "auto"
    """backend of every layer, except as follows"""
    local_backend: Backend | None = None
    """backend of layers with a window; None: `backend`"""
    masked_backend: Backend | None = None
    """backend of the last layer if it computes chosen positions only, such as the masked ones in training; None: as in other batches"""
    most_documents: int | None = None
    """largest number of documents in a batch with `document_ids`; see `Layout.most_documents` and `Encoder.make_room`"""

    def of_layer(self, local: bool, chosen: bool) -> Backend:
        """The backend of a layer, with a window (`local`) or without, at chosen positions (`chosen`) or at all."""
        backend = self.local_backend or self.backend if local else self.backend
        return self.masked_backend or backend if chosen else backend


def _kept(make: _Method) -> _Method:
    """Keep the result of a method of `Layout` until it is called with other arguments. They are compared, not hashed: the sizes in an
    exported graph are symbols."""
    name = make.__name__

    @wraps(make)
    def call(self: "Layout", *arguments: Any) -> Any:
        known = self._made.get(name)
        if known is None or known[0] != arguments:
            known = self._made[name] = (arguments, make(self, *arguments))
        return known[1]

    return call  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Layout:
    """Which keys each query sees. It is made once per batch and shared by all layers of a kind, global or local; what it computes for
    the same sizes is computed once.

    A query sees a key of the same document (except document 0, padding) that does not come later (`causal`) and is near enough
    (`window`). Positions are counted from the start of the sequence, for queries and keys alike; for queries after a cache of keys,
    give `query_positions`.
    """

    query_documents: Tensor | None = None
    """(B, T) number of the document that each query belongs to, 0 for padding; None: document 1 everywhere"""
    key_documents: Tensor | None = None
    """(B, S) the same for the keys; for self-attention, give the same tensor twice"""
    causal: bool = False
    """query i sees key j only if j <= i"""
    window: int | None = None
    """query i sees key j only if |i - j| <= window // 2"""
    query_positions: Tensor | None = None
    """(B, T) positions of the queries in their sequences, if they are a selection; None: 0, 1, 2, …"""
    most_documents: int | None = None
    """upper bound of the number of documents in the batch, each run of padding counted as one. It also promises that the documents of
    a sequence are contiguous and in ascending order. None: unknown"""
    _made: dict[str, tuple[Any, Any]] = field(default_factory=dict, init=False, repr=False)

    def at(self, positions: Tensor) -> "Layout":
        """The layout of a selection of the queries: those at `positions` (B, K) of each sequence."""
        documents = None if self.query_documents is None else self.query_documents.gather(1, positions)
        return replace(self, query_documents=documents, query_positions=positions)

    @_kept
    def visible(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """(B or 1, 1, T, S) booleans, true if query i sees key j; None if all keys are visible."""
        parts: list[Tensor] = []
        if self.query_documents is not None or self.key_documents is not None:
            one = torch.ones(1, 1, dtype=torch.long, device=device)
            of_query = (one if self.query_documents is None else self.query_documents)[:, None, :, None]  # (B, 1, T, 1)
            of_key = (one if self.key_documents is None else self.key_documents)[:, None, None, :]  # (B, 1, 1, S)
            parts.append(((of_query == of_key) & (of_key != 0)).expand(-1, -1, queries, keys))
        if self.causal or self.window is not None:
            place = torch.arange(max(queries, keys), device=device)
            of_query = place[None, :queries] if self.query_positions is None else self.query_positions  # (1 or B, T)
            distance = of_query[:, None, :, None] - place[:keys]  # (1 or B, 1, T, S): i - j
            if self.causal:
                parts.append(distance >= 0)
            if self.window is not None:
                parts.append(distance.abs() <= self.window // 2)
        return reduce(and_, parts) if parts else None

    @_kept
    def bias(self, queries: int, keys: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """`visible` as a bias of the scores: 0 if visible, otherwise -inf; None if all keys are visible.

        A query that sees no key has 0 everywhere, because kernels disagree on the softmax of a row of -inf. A backend that uses the
        bias fills the output of such queries with zeros.
        """
        visible, blind = self.visible(queries, keys, device), self.blind(queries, keys, device)
        if visible is None or blind is None:
            return None
        return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~(visible | blind), float("-inf"))

    @_kept
    def blind(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """(B or 1, 1, T, 1) booleans, true for queries that see no key (padding); None if all keys are visible."""
        visible = self.visible(queries, keys, device)
        return None if visible is None else ~visible.any(dim=-1, keepdim=True)

    @_kept
    def block_mask(self, rows: int, queries: int, keys: int, device: torch.device) -> BlockMask | None:
        """`visible` as a function of positions and the list of blocks in which it is true anywhere, for `flex`."""
        sees = self._sees()
        return None if sees is None else create_block_mask(sees, rows, None, queries, keys, device=device)

    @_kept
    def offsets(self, rows: int, length: int, device: torch.device) -> Tensor:
        """(N + 1,) int32: where each document, or run of padding, starts in the flat (rows · length) tokens, then the end.

        N is `most_documents`, or the number of tokens if that is unknown, so the shape does not depend on the contents of the batch;
        unused entries repeat the end: documents without tokens. No loop, no host sync. A batch that breaks the promise of
        `most_documents` fails an assertion on the device.
        """
        documents, total = self.key_documents, rows * length
        if documents is None:
            return torch.arange(0, total + 1, length, dtype=torch.int32, device=device)
        begins = torch.ones_like(documents, dtype=torch.bool)  # (B, T)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        most = total if self.most_documents is None else self.most_documents
        number = begins.flatten().cumsum(0) - 1  # (B · T,) the document or run of padding of each token
        before = F.pad(documents.cummax(dim=1).values[:, :-1], (1, 0))  # the highest number so far
        upward = (~begins | (documents == 0) | (documents > before)).all()
        torch._assert_async(upward & (number[-1] < most), "more documents than `most_documents`, or in parts")
        place = torch.arange(total, dtype=torch.int32, device=device)
        # A token that starts nothing writes to the last entry, which is the end however often it is written.
        entry = torch.where(begins.flatten(), number, most)
        offsets = torch.full((most + 1,), total, dtype=torch.int32, device=device)
        return offsets.scatter(0, entry, torch.where(begins.flatten(), place, total))

    def _sees(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None:
        """A function of scalar tensors (row, head, query, key), true if the query sees the key; None if all keys are visible."""
        of_query, of_key, positions = self.query_documents, self.key_documents, self.query_positions
        causal, reach = self.causal, None if self.window is None else self.window // 2
        if of_query is None and of_key is None and not causal and reach is None:
            return None

        def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = query.new_ones((), dtype=torch.bool)
            if of_query is not None or of_key is not None:
                mine = query.new_ones(()) if of_query is None else of_query[row, query]
                theirs = query.new_ones(()) if of_key is None else of_key[row, key]
                seen = seen & (mine == theirs) & (theirs != 0)
            distance = (query if positions is None else positions[row, query]) - key
            if causal:
                seen = seen & (distance >= 0)
            if reach is not None:
                seen = seen & (distance <= reach) & (distance >= -reach)
            return seen

        return sees


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
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    check_backend(backend, _case(q, k, layout, dropout, training))
    match backend:
        case "eager":
            return attend_eager(q, k, v, layout, scale, dropout)[0]
        case "plain":
            return _attend_plain(q, k, v, layout, scale, dropout)
        case "sdpa":
            return _attend_sdpa(q, k, v, layout, scale, dropout)
        case "flex":
            return _attend_flex(q, k, v, layout, scale)
        case "varlen":
            return _attend_varlen(q, k, v, layout, scale)
    raise ValueError(f"attention backend {backend!r}: give one of auto, eager, plain, sdpa, flex, varlen")


class Case(NamedTuple):
    """The properties of a call that a backend may not support."""

    device: torch.device
    dtype: torch.dtype
    """of queries and keys; under autocast, that of autocast"""
    head_size: int
    dropout: float
    training: bool
    """whether gradients are needed"""
    queries: Literal["all", "chosen", "other"] = "all"
    """queries at all positions of the sequences of the keys; at chosen positions of them; or from other sequences"""


def check_backend(backend: Backend, case: Case) -> None:
    """InputError if the backend does not support the case; see `missing`."""
    if lack := missing(backend, case):
        raise InputError(f"attention {backend} {lack}: choose another, such as sdpa, or auto")


def missing(backend: Backend, case: Case) -> str:
    """Why a backend does not support a case, as words that follow its name; an empty string if it does."""
    device, dtype, head_size, dropout, training, queries = case
    if backend in ("flex", "varlen") and dropout > 0:
        return "drops no weights (encoder.attention_dropout is above 0)"
    if backend == "flex" and training and device.type in ("cpu", "mps"):
        return f"has no gradients on {'a CPU' if device.type == 'cpu' else 'Apple GPUs'}"
    if backend == "flex" and queries == "chosen" and device.type == "cpu":
        return "cannot compute chosen positions alone on a CPU"
    if backend == "flex" and device.type == "cuda" and head_size < 16:
        return f"needs heads of 16 features or more on a GPU and got {head_size}"
    if backend == "varlen":
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


class _Varlen(NamedTuple):
    """Variable-length attention of this PyTorch, and which of its newer arguments it takes."""

    function: Callable[..., Any]
    windows: bool
    """`window_size` and `scale`"""
    groups: bool
    """`enable_gqa`, since 2.12"""


_varlen: _Varlen | None = None  # set by `_has_varlen`, as the import takes seconds


@torch.compiler.assume_constant_result  # the compiler calls this and uses its result as a constant
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


def _automatic(q: Tensor, k: Tensor, layout: Layout, dropout: float) -> Backend:
    """A fast backend by the properties of the tensors, not by timing, so that runs are repeatable. See `bert.model.tuning.fastest`."""
    if q.device.type == "cpu":
        return "plain" if q.dtype == torch.bfloat16 and k.shape[-2] <= PLAIN_BF16_KEYS else "sdpa"
    known = layout.most_documents is not None
    return "varlen" if known and not missing("varlen", _case(q, k, layout, dropout, training=True)) else "sdpa"


def _case(q: Tensor, k: Tensor, layout: Layout, dropout: float, training: bool) -> Case:
    same = layout.query_documents is layout.key_documents and q.shape[-2] == k.shape[-2]
    queries: Literal["all", "chosen", "other"] = "all" if same else "other"
    if layout.query_positions is not None:
        queries = "chosen"
    return Case(q.device, q.dtype, q.shape[-1], dropout, training, queries)


def attend_eager(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The reference in plain tensor operations: the result of `attend`, and the attention weights (B, H, T, S).

    The weights of a query sum to 1 over the keys that it sees and are exactly 0 elsewhere. They are returned without dropout.
    """
    k, v = _repeat(k, q), _repeat(v, q)  # (B, H, S, Dh)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    exact = torch.promote_types(q.dtype, torch.float32)  # softmax in fp32 or more
    scores = (q @ k.transpose(-1, -2)).to(exact) * scale  # (B, H, T, S)
    visible = layout.visible(q.shape[-2], k.shape[-2], q.device)
    if visible is None:
        weights = scores.softmax(dim=-1)
    else:
        # The smallest number instead of -inf, with which a row without a visible key, and its gradient, would be 0/0. The second
        # fill sets such rows, and nothing else, to zero.
        weights = scores.masked_fill(~visible, torch.finfo(exact).min).softmax(dim=-1).masked_fill(~visible, 0.0)
    return drop(weights, dropout).to(v.dtype) @ v, weights


def _attend_plain(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None, dropout: float) -> Tensor:
    """Softmax(QKᵀ + bias) V in the dtype of the inputs, with fewer passes over the scores than the reference."""
    # Heads are strided views, which a batched matrix product would copy one number at a time.
    q, k, v = q.contiguous(), _repeat(k, q).contiguous(), _repeat(v, q).contiguous()  # (B, H, S, Dh)
    bias = layout.bias(q.shape[-2], k.shape[-2], q.device, q.dtype)
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-1, -2)  # (B, H, T, S)
    # A CPU's kernel uses fp32 inside, forward and backward; on a GPU, bf16 scores would make the gradients of keys less exact.
    exact = torch.promote_types(q.dtype, torch.float32) if q.is_cuda else None
    weights = (scores if bias is None else scores + bias).softmax(dim=-1, dtype=exact).to(v.dtype)
    return _without_blind(drop(weights, dropout) @ v, k, layout)


def _attend_sdpa(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None, dropout: float) -> Tensor:
    """PyTorch's fused kernels. The bias has the dtype of the inputs; a kernel would convert any other in every layer."""
    bias = layout.bias(q.shape[-2], k.shape[-2], q.device, q.dtype)
    grouped = q.shape[1] != k.shape[1]
    if grouped and bias is not None and q.is_cuda:  # CUDA's fused kernels take groups or a mask, not both
        k, v, grouped = _repeat(k, q), _repeat(v, q), False
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale, enable_gqa=grouped)
    return _without_blind(out, k, layout)


def _attend_flex(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None) -> Tensor:
    """A kernel generated from the layout, which gives zeros to queries that see no key.

    Inside a compiled graph it is part of the graph; elsewhere it is compiled separately, once per shape.
    """
    if q.device.type == "cpu":  # it refuses leaves that require gradients, even with gradients disabled
        q, k, v = q.detach(), k.detach(), v.detach()
    blocks = layout.block_mask(q.shape[0], q.shape[-2], k.shape[-2], q.device)
    compute: Any = flex_attention if torch.compiler.is_compiling() else _compiled_flex()
    return compute(q, k, v, block_mask=blocks, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


@cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention)


def _attend_varlen(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None) -> Tensor:
    """FlashAttention over the flat tokens of all sequences, document by document. Shapes do not depend on the documents.

    Padding is treated as a document, and its output is replaced by zeros.
    """
    rows, _, length, _ = q.shape
    assert _varlen is not None
    if not _varlen.groups:
        k, v = _repeat(k, q), _repeat(v, q)
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


def _without_blind(out: Tensor, k: Tensor, layout: Layout) -> Tensor:
    """`out` (B, H, T, Dh) with zeros for the queries that see no key."""
    blind = layout.blind(out.shape[-2], k.shape[-2], out.device)
    return out if blind is None else out.masked_fill(blind, 0.0)


def _repeat(kv: Tensor, q: Tensor) -> Tensor:
    """Keys or values (B, Hkv, S, Dh), repeated for every query head that they serve: (B, H, S, Dh)."""
    groups = q.shape[1] // kv.shape[1]
    return kv if groups == 1 else kv.repeat_interleave(groups, dim=1)
