"""First weights that begin with what random ones find late: how frequent tokens are, where the neighbours are, how to copy.

The first steps of a run go into how often each token comes: the output bias begins there.

Much of what a text says of a hidden word stands elsewhere in it, next to the same neighbours. A Transformer finds it in two steps
(induction heads, Olsson et al. 2022): heads that look one place back or ahead, then heads that look for a place with the same
neighbours and copy what is there. From random weights small encoders come upon that after millions of tokens, or not at all. So
two heads of a layer in the middle begin by looking at the token before and the one after, keys of the layers above begin equal to
the queries, so that like looks at like, and output projections as transposed value projections, so that what is seen is passed on
as it is (after Trockman and Kolter 2023, "Mimetic Initialization of Self-Attention Layers"). Nothing is held there: these are
weights like others, and the architecture is the same.

The layer is one in the middle because what it writes into a word's vector, the words beside it, stays in all layers above, and
says little of the word's sense.
"""

import torch
from torch import Tensor, nn

from bert.errors import InputError
from bert.model.config import EncoderConfig
from bert.model.encoder import Encoder
from bert.model.heads import MaskedLM, MaskedLMHead
from bert.model.layers import Attention, Block, output_std

_OFFSETS = (-1, 1)
"""positions that those heads look at, from their own"""
_COMMON = 1.0
"""size of what all tokens have in common, which those heads turn by, beside what is their own"""
_PEAK = 10.0
"""score of that place, before softmax, where tokens have nothing but their common part"""
_ROTATIONS = (0.5, 0.3, 0.2)
"""shares of the fastest rotations in it: those of a few radians a place tell a neighbour from the next, several of them the one
neighbour from positions a turn away"""


@torch.no_grad()
def structure(model: MaskedLM, counts: Tensor, rope_theta: float | None = None) -> None:
    """Write such weights into a fresh model: the output bias from `counts` (V,), how often each token comes; and with rotary
    positions, which know of offsets, attention."""
    _bias_by_frequency(model.head, counts)
    if model.config.positions == "rope":
        structure_attention(model.encoder, rope_theta)


def _bias_by_frequency(head: MaskedLMHead, counts: Tensor) -> None:
    """Let the output bias, where there is one, be the logarithm of how often tokens come, `counts` (V,) with one added to each.

    A softmax knows no difference if a number is added to all: their mean is taken away, for smaller numbers are finer in bf16.
    """
    if head.bias is not None:
        logarithms = counts.to(head.bias).add(1).log()
        head.bias.copy_(logarithms - logarithms.mean())


@torch.no_grad()
def structure_attention(encoder: Encoder, rope_theta: float | None = None) -> None:
    """Write such weights into a fresh encoder with rotary positions, drawing from PyTorch's generator.

    `rope_theta` is the rotary base that training begins with; None: that of the config. Where keys have one head alone, it looks at the
    token before.

    Raises InputError for other positions, which know of no offset.
    """
    if encoder.config.positions != "rope":
        raise InputError(
            f"structured attention is for rotary positions and encoder.positions is {encoder.config.positions}"
        )
    ratio = output_std(encoder.config) / encoder.config.initializer_range
    middle = layer_of_neighbours(encoder.config)
    for layer, block in enumerate(encoder.layers):
        attention = block.attention
        assert isinstance(attention, Attention)
        queries, keys, values = _projections(attention)
        groups = len(queries) // len(keys)
        if layer > middle:
            keys.copy_(queries[::groups])
        attention.out.weight.copy_(values.repeat_interleave(groups, dim=0).flatten(0, 1).T * ratio)
    _look_at_neighbours(encoder, middle, rope_theta or encoder.config.rope_theta)


def layer_of_neighbours(config: EncoderConfig) -> int:
    """The layer that looks at neighbours: in the middle, below the last, which copies, and a global one, whose rotary base is known."""
    middle = max(0, min(config.num_layers // 2, config.num_layers - 2))
    return max(layer for layer in range(middle + 1) if not config.is_local(layer))


def _projections(attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """Views of the matrices of each head: queries (H, Dh, D), keys and values (Hkv, Dh, D)."""
    sizes = (attention.num_heads, attention.kv_heads, attention.kv_heads)
    queries, keys, values = attention.qkv.weight.unflatten(0, (-1, attention.head_size)).split(sizes)
    return queries, keys, values


def _look_at_neighbours(encoder: Encoder, layer: int, rope_theta: float) -> None:
    """Give tokens a common part, and a layer heads that turn it by their offset.

    With a common part c, queries u(c) at place i and keys u(c) turned back by the offset have a score that depends on the distance
    alone, and is highest at the offset.
    """
    config, attention = encoder.config, encoder.layers[layer].attention
    assert isinstance(attention, Attention)
    tokens = encoder.embeddings.tokens.weight  # (V, E)
    common = torch.randn(tokens.shape[1], device=tokens.device, dtype=tokens.dtype)
    common -= common.mean()  # a LayerNorm takes the mean away
    tokens += common / common.norm() * tokens.norm(dim=1).mean() * _COMMON
    part = _inputs(encoder, layer).mean(dim=0)  # (D,) what is common of what the layer sees
    pairs = config.head_size // 2
    shares = torch.zeros(pairs, device=tokens.device, dtype=tokens.dtype)
    shares[: len(_ROTATIONS)] = torch.tensor(_ROTATIONS[:pairs], dtype=tokens.dtype)
    # Angles of a step of one place, in a global layer.
    angles = rope_theta ** (-torch.arange(pairs, device=tokens.device, dtype=tokens.dtype) / pairs)
    reader = part / part.square().sum() * (_PEAK * config.head_size**0.5 / float(shares.sum())) ** 0.5
    queries, keys, _ = _projections(attention)
    groups = len(queries) // len(keys)
    for head, offset in zip(range(len(keys)), _OFFSETS):
        turned = [shares.sqrt() * (-offset * angles).cos(), shares.sqrt() * (-offset * angles).sin()]
        queries[head * groups] += torch.outer(torch.cat([shares.sqrt(), torch.zeros_like(shares)]), reader)
        keys[head] += torch.outer(torch.cat(turned), reader)


def _inputs(encoder: Encoder, layer: int) -> Tensor:
    """(V, D) what the attention of a layer gets for each entry of the vocabulary, but for what the fresh layers below it add."""
    embeddings, block = encoder.embeddings, encoder.layers[layer]
    assert isinstance(block, Block)
    was_training = embeddings.training
    embeddings.eval()  # no dropout
    ids = torch.arange(encoder.config.vocab_size, device=embeddings.tokens.weight.device)[None]
    x = embeddings(ids, None, torch.zeros_like(ids))[0]
    embeddings.train(was_training)
    norm: nn.Module = nn.Identity()
    if block.norm_first:
        norm = block.attention_norm
    elif layer:  # post-norm: the layer below has normalised what comes
        below = encoder.layers[layer - 1]
        assert isinstance(below, Block)
        norm = below.mlp_norm
    seen: Tensor = norm(x)
    return seen
