"""What attention is: which keys a query sees (`Layout`), and the weighted mean over their values (`attend_eager`).

In: queries (B, H, T, Dh), keys and values (B, Hkv, S, Dh), a layout. Out: (B, H, T, Dh). The layout holds everything about visibility
(padding, several documents per sequence, sliding windows, causality, keys of another sequence), so a backend is one function of three
tensors and a layout. `attend_eager` is the reference that every one of `bert.model.backends` must match.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1; grouped queries: Ainslie et al. 2023.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce, wraps
from operator import and_
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from bert.model.config import Backend
from bert.model.dropout import drop

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
    seen: Tensor | None = None
    """(B, T, S) booleans, false where a query does not see a key for another reason; None: there is none"""
    most_documents: int | None = None
    """upper bound of the number of documents in the batch, each run of padding counted as one. It also promises that the documents of
    a sequence are contiguous and in ascending order. None: unknown"""
    _made: dict[str, tuple[Any, Any]] = field(default_factory=dict, init=False, repr=False)

    def at(self, positions: Tensor) -> "Layout":
        """The layout of a selection of the queries: those at `positions` (B, K) of each sequence."""
        documents = None if self.query_documents is None else self.query_documents.gather(1, positions)
        seen = (
            None if self.seen is None else self.seen.gather(1, positions[..., None].expand(-1, -1, self.seen.shape[-1]))
        )
        return replace(self, query_documents=documents, query_positions=positions, seen=seen)

    @_kept
    def visible(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """(B or 1, 1, T, S) booleans, true if query i sees key j; None if all keys are visible."""
        parts: list[Tensor] = []
        if self.query_documents is not None or self.key_documents is not None:
            one = torch.ones(1, 1, dtype=torch.long, device=device)
            of_query = (one if self.query_documents is None else self.query_documents)[:, None, :, None]  # (B, 1, T, 1)
            of_key = (one if self.key_documents is None else self.key_documents)[:, None, None, :]  # (B, 1, 1, S)
            parts.append(((of_query == of_key) & (of_key != 0)).expand(-1, -1, queries, keys))
        if self.seen is not None:
            parts.append(self.seen[:, None])
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
        allowed = self.seen
        if of_query is None and of_key is None and not causal and reach is None and allowed is None:
            return None

        def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = query.new_ones((), dtype=torch.bool)
            if of_query is not None or of_key is not None:
                mine = query.new_ones(()) if of_query is None else of_query[row, query]
                theirs = query.new_ones(()) if of_key is None else of_key[row, key]
                seen = seen & (mine == theirs) & (theirs != 0)
            if allowed is not None:
                seen = seen & allowed[row, query, key]
            distance = (query if positions is None else positions[row, query]) - key
            if causal:
                seen = seen & (distance >= 0)
            if reach is not None:
                seen = seen & (distance <= reach) & (distance >= -reach)
            return seen

        return sees


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


def attend_eager(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The reference in plain tensor operations: the result of `bert.model.backends.attend`, and the attention weights (B, H, T, S).

    The weights of a query sum to 1 over the keys that it sees and are exactly 0 elsewhere. They are returned without dropout.
    """
    k, v = repeat_heads(k, q), repeat_heads(v, q)  # (B, H, S, Dh)
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


def without_blind(out: Tensor, k: Tensor, layout: Layout) -> Tensor:
    """`out` (B, H, T, Dh) with zeros for the queries that see no key."""
    blind = layout.blind(out.shape[-2], k.shape[-2], out.device)
    return out if blind is None else out.masked_fill(blind, 0.0)


def repeat_heads(kv: Tensor, q: Tensor) -> Tensor:
    """Keys or values (B, Hkv, S, Dh), repeated for every query head that they serve: (B, H, S, Dh)."""
    groups = q.shape[1] // kv.shape[1]
    return kv if groups == 1 else kv.repeat_interleave(groups, dim=1)
