"""The parts of a Transformer block: norms, positions, attention with its projections, the MLP, the block.

In and out: vectors (B, T, D). The kind of block (post-norm or pre-norm, gated or not, with or without biases) is determined by fields of
`EncoderConfig` at construction; `forward` is the same for all of them. The names of the parameters are those in our own model folders;
`bert.hf.families` maps them to other names.

Vaswani et al. 2017 (block, sines), Xiong et al. 2020 (pre-norm), Su et al. 2021 (rotary positions), Shazeer 2020 (gated MLP).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bert.model.attention import Layout, attend_eager
from bert.model.backends import attend
from bert.model.config import Backend, EncoderConfig, TaskActivation
from bert.model.dropout import Dropout

Rotation = tuple[Tensor, Tensor]
"""cosines and sines, each (B or 1, T, 1, Dh / 2)"""


class Shared(NamedTuple):
    """What all layers of a kind, global or local, share in a batch."""

    layout: Layout
    rotation: Rotation | None
    """None without rotary positions"""


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm in the dtype of its weight: fp32 under autocast, which does not handle it."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) → (..., D)."""
        return super().forward(x.to(self.weight.dtype))


def make_norm(config: EncoderConfig, size: int | None = None) -> nn.Module:
    """LayerNorm or RMSNorm over the features of each token; `size` is their number, by default `hidden_size`."""
    size = config.hidden_size if size is None else size
    if config.norm == "rmsnorm":
        return RMSNorm(size, eps=config.norm_eps)
    return nn.LayerNorm(size, eps=config.norm_eps, bias=config.norm_bias)


_ACTIVATIONS: dict[TaskActivation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def activate(x: Tensor, activation: TaskActivation) -> Tensor:
    """The nonlinearity of that name, elementwise."""
    return _ACTIVATIONS[activation](x)


def sinusoids(positions: Tensor, size: int, halves: bool = False) -> Tensor:
    """(...) → (..., size) fixed position encodings: the sine of p / 10000^(2i / size) at feature 2i, its cosine at 2i + 1 (Vaswani et al.
    2017, section 3.5); with `halves`, at features i and i + size / 2."""
    rate = 10_000.0 ** (-torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size)
    angle = positions[..., None].float() * rate  # (..., size / 2)
    both = angle.sin(), angle.cos()
    return torch.cat(both, dim=-1) if halves else torch.stack(both, dim=-1).flatten(-2)


def rotations(
    positions: Tensor, head_size: int, theta: float, dtype: torch.dtype, length: int | None = None
) -> Rotation:
    """Cosines and sines that rotate feature pair i of a head by position · theta^(-2i / head_size).

    `positions` is (B or 1, T), positions within sequences of T tokens, or of `length`; the result has the same first two axes.
    """
    pair = torch.arange(0, head_size, 2, dtype=torch.float32, device=positions.device)
    rate = 1.0 / theta ** (pair / head_size)
    # In fp32, as positions are large.
    length = positions.shape[1] if length is None else length
    place = torch.arange(length, dtype=torch.float32, device=positions.device)
    angle = place[:, None] * rate  # (length, Dh / 2)
    # A lookup table: a compiled graph would otherwise recompute powers, cosines and sines for every token and layer.
    cos, sin = (F.embedding(positions, table.to(dtype)) for table in (angle.cos(), angle.sin()))
    return cos[:, :, None], sin[:, :, None]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the heads x (B, T, H, Dh); feature i is paired with i + Dh / 2, as in Hugging Face and GPT-NeoX."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a linear layer computes x: that of autocast if enabled."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


def path_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the residual path: bf16 under bf16 autocast, which halves the memory traffic of norms and sums. The range of fp16 is
    too small for sums over layers."""
    dtype = compute_dtype(x)
    return dtype if dtype == torch.bfloat16 else x.dtype


class Attention(nn.Module):
    """Multi-head self-attention. Queries, keys and values are projected by one matrix with the rows [Q; K; V], each with its heads in
    order."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.num_heads, self.kv_heads, self.head_size = config.num_heads, config.kv_heads, config.head_size
        self.dropout = config.attention_dropout
        fused = (config.num_heads + 2 * config.kv_heads) * config.head_size
        self.qkv = nn.Linear(config.hidden_size, fused, bias=config.bias)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.q_norm = RMSNorm(config.head_size, eps=config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_size, eps=config.norm_eps) if config.qk_norm else None

    def forward(
        self,
        x: Tensor,
        shared: Shared,
        backend: Backend,
        return_weights: bool = False,
        masked_positions: Tensor | None = None,
        cache: "KeyValueCache | None" = None,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) → (B, T, D), or (B, K, D) at `masked_positions` (B, K) only, to which the layout then refers; and, with
        `return_weights`, the attention weights (B, H, T or K, T), computed by `attend_eager`. Keys are those of `cache`, too, to which
        those of x are added."""
        q, k, v = self._heads(x, masked_positions)  # (B, T or K, H, Dh), (B, T, Hkv, Dh) twice
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if (rotation := shared.rotation) is not None:
            of_queries = rotation if masked_positions is None else _rotation_at(rotation, masked_positions)
            q, k = rotate(q, of_queries), rotate(k, rotation)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or Hkv, T, Dh)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, Hkv, S, Dh)
        mixed, weights = mix_heads(
            q, k, v, shared.layout, self.dropout if self.training else 0.0, backend, return_weights
        )
        return self.out(mixed), weights

    def _heads(self, x: Tensor, masked_positions: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, at `masked_positions` only if they are given, keys and values: (B, T or K, heads, Dh) each."""
        # A replacement of the projection, such as an adapter, computes queries everywhere: its weight cannot be split.
        if masked_positions is None or type(self.qkv) is not nn.Linear:
            parts = (self.num_heads, self.kv_heads, self.kv_heads)
            q, k, v = self.qkv(x).unflatten(-1, (-1, self.head_size)).split(parts, dim=2)
            if masked_positions is not None:
                q = gather_positions(q.flatten(-2), masked_positions).unflatten(-1, (-1, self.head_size))
            return q, k, v
        sizes = (self.num_heads * self.head_size, 2 * self.kv_heads * self.head_size)
        of_q, of_kv = self.qkv.weight.split(sizes)
        bias_q, bias_kv = (None, None) if self.qkv.bias is None else self.qkv.bias.split(sizes)
        k, v = F.linear(x, of_kv, bias_kv).unflatten(-1, (-1, self.head_size)).chunk(2, dim=2)
        return F.linear(gather_positions(x, masked_positions), of_q, bias_q).unflatten(-1, (-1, self.head_size)), k, v


def mix_heads(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, dropout: float, backend: Backend, return_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """The result of `attend` with its heads side by side, (B, T, D), and with `return_weights` the weights (B, H, T, S)."""
    weights = None
    if return_weights:
        mixed, weights = attend_eager(q, k, v, layout, dropout=dropout)
    else:
        mixed = attend(q, k, v, layout, dropout=dropout, backend=backend)
    return mixed.transpose(1, 2).flatten(-2), weights


class KeyValueCache:
    """Keys and values of the tokens so far, of one attention, so that each is computed once.

    Memory for `room` tokens is taken at the first of them.
    """

    def __init__(self, room: int) -> None:
        self.room, self.length = room, 0
        self._both = torch.empty(0)  # (2, B, Hkv, room, Dh)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of T tokens, (B, Hkv, T, Dh) each; returns all so far, (B, Hkv, length, Dh) each."""
        if not self.length:
            self._both = keys.new_empty(2, *keys.shape[:2], self.room, keys.shape[3])
        begin, self.length = self.length, self.length + keys.shape[2]
        assert self.length <= self.room, "more tokens than the cache has room for"
        for side, new in enumerate((keys, values)):
            self._both[side, :, :, begin : self.length] = new
        return self._both[0, :, :, : self.length], self._both[1, :, :, : self.length]

    def numel(self) -> int:
        """Numbers that are kept."""
        return self._both.numel()


class MLP(nn.Module):
    """Two matrices with a nonlinearity between them; in a gated MLP, the activated first half of `wi` is multiplied by the second."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.activation, self.gated = config.activation, config.gated
        self.wi = nn.Linear(config.hidden_size, config.intermediate_size * (2 if config.gated else 1), bias=config.bias)
        self.dropout = Dropout(config.mlp_dropout)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D), for each token separately."""
        inner = self.wi(x)  # (B, T, F), or (B, T, 2 F) gated
        if self.gated:
            active, gate = inner.chunk(2, dim=-1)
            inner = activate(active, self.activation) * gate
        else:
            inner = activate(inner, self.activation)
        return self.wo(self.dropout(inner))


class Block(nn.Module):
    """Attention, then MLP, each added to the residual path.

    Pre-norm normalizes the input of a sublayer and leaves the path unchanged, so gradients reach the first layer of a deep stack
    undiminished; post-norm normalizes the sum.
    """

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        skip_norm = layer == 0 and config.norm_first and not config.first_attention_norm
        self.attention_norm = nn.Identity() if skip_norm else make_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(
        self, x: Tensor, shared: Shared, backend: Backend, return_weights: bool, masked_positions: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) → (B, T, D) and, with `return_weights`, the attention weights (B, H, T, T).

        With `masked_positions` (B, K), positions in each sequence, only they are computed: (B, K, D). Their keys are all positions.
        """
        path = x if masked_positions is None else gather_positions(x, masked_positions)
        if self.norm_first:
            mixed, weights = self.attention(self.attention_norm(x), shared, backend, return_weights, masked_positions)
            x = path + self.dropout(mixed)
            x = x + self.dropout(self.mlp(self.mlp_norm(x)))
        else:
            mixed, weights = self.attention(x, shared, backend, return_weights, masked_positions)
            x = self.attention_norm(path + self.dropout(mixed)).to(path.dtype)
            x = self.mlp_norm(x + self.dropout(self.mlp(x))).to(path.dtype)
        return x, weights


def gather_positions(x: Tensor, positions: Tensor) -> Tensor:
    """x (B, T, D) at the positions (B, K) of each sequence: (B, K, D)."""
    rows = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (positions + rows).flatten()).unflatten(0, positions.shape)


def _rotation_at(rotation: Rotation, positions: Tensor) -> Rotation:
    """Cosines and sines at the positions (B, K) of each sequence: (B, K, 1, Dh / 2) each."""
    rows = positions.shape[0]
    cos, sin = (gather_positions(part[:, :, 0].expand(rows, -1, -1), positions)[:, :, None] for part in rotation)
    return cos, sin


class _WithoutValues(TorchFunctionMode):
    """Skips the functions of `torch.nn.init`."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Modules that are made inside have parameters on the device `meta`. None is drawn, which would import the compiler: a second."""
    with torch.device("meta"), _WithoutValues():
        yield


def initialize(module: nn.Module, config: EncoderConfig) -> None:
    """Initialize the parameters of `module` and its submodules.

    Truncated normals within two standard deviations, as in BERT (google-research/bert, modeling.py) and ModernBERT; biases 0, norms 1.
    Layers that write to the residual path or follow it (`out`, `wo`, `dense`) use `output_std`.
    """
    std, std_of_outputs = config.initializer_range, output_std(config)
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            deviation = std_of_outputs if name.rpartition(".")[2] in ("out", "wo", "dense") else std
            nn.init.trunc_normal_(part.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)


def output_std(config: EncoderConfig) -> float:
    """Initial standard deviation of layers that write to the residual path.

    Pre-norm adds 2 · num_layers branches to one path: their last matrices are smaller by √(2 · num_layers), so the size of the sum does
    not grow with depth (Radford et al. 2019; ModernBERT). Post-norm rescales after each sum and does not need it.
    """
    return config.initializer_range / (math.sqrt(2 * config.num_layers) if config.norm_first else 1.0)
