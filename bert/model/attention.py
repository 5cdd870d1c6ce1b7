"""Attention: who sees whom (`Layout`) and the weighted mean over what is seen (`attend`).

In: queries (B, H, T, Dh), keys and values (B, Hkv, S, Dh), a layout. Out: (B, H, T, Dh). Everything about visibility
(padding, several documents in a row, sliding windows, causality, keys of another sequence) lives in the layout, so that
a backend is one function of four tensors. Another backend is one more function and one more `case` in `attend`; `eager`
is the reference that each must equal.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1; grouped queries: Ainslie et al. 2023.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Backend = Literal["eager", "sdpa"]

PLAIN_BF16_KEYS = 512
"""In training, in bf16 on a CPU, up to this many keys a plain softmax is faster than the fused kernel, whose backward
alone takes about three times as long as all of the former at 128 keys (torch 2.13, AMX)."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Who sees whom. Made once a batch and handed to every layer of its kind: what it computes, it computes once.

    A query sees a key where both belong to the same document (and that is not 0, padding), and, where asked, the key
    does not come later (`causal`) and is near (`window`). Places are counted from the start of the row, in queries and
    keys alike.
    """

    query_documents: Tensor | None = None
    """(B, T) numbers of the documents that the queries belong to, 0 for padding; none: all belong to document 1"""
    key_documents: Tensor | None = None
    """(B, S) the same of the keys; give the same tensor twice for self-attention"""
    causal: bool = False
    """key j is visible to query i only where j <= i"""
    window: int | None = None
    """key j is visible to query i only where |i - j| <= window // 2"""
    query_places: Tensor | None = None
    """(B, T) places of the queries within their rows, where they are a choice of them; none: 0, 1, 2, …"""
    _made: dict[object, Tensor | None] = field(default_factory=dict, init=False, repr=False)

    def at(self, places: Tensor) -> "Layout":
        """The same for a choice of the queries: those at `places` (B, K) of each row."""
        documents = None if self.query_documents is None else self.query_documents.gather(1, places)
        return replace(self, query_documents=documents, query_places=places)

    def visible(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """(B or 1, 1, T, S) booleans, true where query i sees key j; none where everything is visible."""
        if "visible" not in self._made:  # a dictionary, not functools.cached_property: torch.compile reads this too
            self._made["visible"] = self._visible(queries, keys, device)
        return self._made["visible"]

    def bias(self, queries: int, keys: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """`visible` as what is added to the scores: 0 where visible, -inf elsewhere; none where everything is visible.

        A blind query has 0 everywhere: what a softmax over nothing but -inf gives differs from kernel to kernel. A
        backend that uses the bias fills the output of such queries with zeros.
        """
        if ("bias", dtype) not in self._made:
            visible = self.visible(queries, keys, device)
            bias = None
            if visible is not None:
                hidden = ~(visible | self.blind(visible))
                bias = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
            self._made["bias", dtype] = bias
        return self._made["bias", dtype]

    def blind(self, visible: Tensor) -> Tensor:
        """(B or 1, 1, T, 1) booleans, true for queries that see no key at all: padding."""
        if "blind" not in self._made:
            self._made["blind"] = ~visible.any(dim=-1, keepdim=True)
        blind = self._made["blind"]
        assert blind is not None
        return blind

    def _visible(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        parts: list[Tensor] = []
        if self.query_documents is not None or self.key_documents is not None:
            one = torch.ones(1, 1, dtype=torch.long, device=device)
            of_query = (one if self.query_documents is None else self.query_documents)[:, None, :, None]  # (B, 1, T, 1)
            of_key = (one if self.key_documents is None else self.key_documents)[:, None, None, :]  # (B, 1, 1, S)
            parts.append(((of_query == of_key) & (of_key != 0)).expand(-1, -1, queries, keys))
        if self.causal or self.window is not None:
            place = torch.arange(max(queries, keys), device=device)
            of_query = place[None, :queries] if self.query_places is None else self.query_places  # (1 or B, T)
            distance = of_query[:, None, :, None] - place[:keys]  # (1 or B, 1, T, S): i - j
            if self.causal:
                parts.append(distance >= 0)
            if self.window is not None:
                parts.append(distance.abs() <= self.window // 2)
        if not parts:
            return None
        visible = parts[0]
        for part in parts[1:]:
            visible = visible & part
        return visible


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: Backend = "sdpa",
) -> Tensor:
    """Mean of the values that each query sees, weighted by softmax(scale · q·k): (B, H, T, Dh).

    `q` is (B, H, T, Dh); `k` and `v` are (B, Hkv, S, Dh) with Hkv a divisor of H: each serves H / Hkv query heads in a
    row. `scale` is 1/√Dh where not given. `dropout` is the probability with which a weight is dropped: give 0 when not
    training. A query that sees nothing gets zeros. Raises ValueError for an unknown backend.
    """
    match backend:
        case "eager":
            return attend_eager(q, k, v, layout, scale, dropout)[0]
        case "sdpa":
            return _attend_sdpa(q, k, v, layout, scale, dropout)
    raise ValueError(f"attention backend {backend!r}: give one of eager, sdpa")


def attend_eager(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The reference in plain tensor operations: what `attend` gives, and the weights (B, H, T, S) of the values.

    The weights of a query sum to 1 over the keys that it sees and are exactly 0 elsewhere (before dropout, which is not
    in them).
    """
    k, v = _repeat(k, q), _repeat(v, q)  # (B, H, S, Dh)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    exact = torch.promote_types(q.dtype, torch.float32)  # softmax in fp32 at least, whatever the inputs are
    scores = (q @ k.transpose(-1, -2)).to(exact) * scale  # (B, H, T, S)
    visible = layout.visible(q.shape[-2], k.shape[-2], q.device)
    if visible is None:
        weights = scores.softmax(dim=-1)
    else:
        # The least number in place of -inf: a row without any visible key would be 0/0, and its gradient too. The
        # second fill makes such rows, and nothing else, zero.
        weights = scores.masked_fill(~visible, torch.finfo(exact).min).softmax(dim=-1).masked_fill(~visible, 0.0)
    dropped = F.dropout(weights, dropout) if dropout > 0 else weights
    return dropped.to(v.dtype) @ v, weights


def _attend_sdpa(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float | None, dropout: float) -> Tensor:
    """PyTorch's fused kernels, but plain operations where the fused kernel for CPUs is slow.

    The additive mask is made in the dtype of the inputs: a kernel would convert another once a layer.
    """
    bias = layout.bias(q.shape[-2], k.shape[-2], q.device, q.dtype)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad and k.shape[-2] <= PLAIN_BF16_KEYS:
        k, v = _repeat(k, q), _repeat(v, q)  # (B, H, S, Dh)
        scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-1, -2)  # (B, H, T, S)
        weights = (scores if bias is None else scores + bias).softmax(dim=-1)  # fp32 inside the kernel
        out = (F.dropout(weights, dropout) if dropout > 0 else weights) @ v
    else:
        grouped = q.shape[1] != k.shape[1]
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale, enable_gqa=grouped
        )
    visible = layout.visible(q.shape[-2], k.shape[-2], q.device)
    return out if visible is None else out.masked_fill(layout.blind(visible), 0.0)


def _repeat(kv: Tensor, q: Tensor) -> Tensor:
    """Keys or values (B, Hkv, S, Dh), each once for every query head that it serves: (B, H, S, Dh)."""
    groups = q.shape[1] // kv.shape[1]
    return kv if groups == 1 else kv.repeat_interleave(groups, dim=1)
