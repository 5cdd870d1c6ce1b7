"""Structured initialization: weights that start with what random ones learn late (token frequencies, neighbors, copying).

The first steps of a run are spent on learning token frequencies: here, the output bias starts with them.

Most of the information about a masked token is elsewhere in the text, next to the same neighbors. A Transformer finds it in two steps
(induction heads, Olsson et al. 2022): heads that attend to the previous or next position, then heads that attend to positions with the
same neighbors and copy what is there. From random weights, small encoders learn this after millions of tokens, or never. Therefore two
heads of a middle layer start out attending to the token before and the token after; in the layers above, keys start equal to queries, so
that similar tokens attend to each other; and output projections start as transposed value projections, so that values are passed on
unchanged (after Trockman and Kolter 2023, "Mimetic Initialization of Self-Attention Layers"). These are ordinary weights: nothing keeps
them fixed, and the architecture is unchanged.

A middle layer is used because what it adds to the vector of a token, its neighbors, remains in all layers above and says little about the
sense of a word.
"""

import torch
from torch import Tensor, nn

from bert.errors import InputError
from bert.model.config import EncoderConfig
from bert.model.encoder import Encoder, evaluating
from bert.model.heads import MaskedLM, MaskedLMHead
from bert.model.layers import Attention, Block, output_std

_OFFSETS = (-1, 1)
"""positions that these heads attend to, relative to their own"""
_COMMON = 1.0
"""norm of the component that all tokens share, which these heads rotate, relative to the rest of their embedding"""
_PEAK = 10.0
"""attention score of that position, before softmax, for tokens that consist of the common component only"""
_ROTATIONS = (0.5, 0.3, 0.2)
"""weights of the fastest rotations in that score: rotations of a few radians per position distinguish adjacent positions, several of them
together also positions a full turn away"""


@torch.no_grad()
def structure(model: MaskedLM, counts: Tensor, rope_theta: float | None = None) -> None:
    """Give a randomly initialized model structured weights: the output bias, from the token counts `counts` (V,), and, with rotary
    positions, which encode offsets, attention."""
    _bias_by_frequency(model.head, counts)
    if model.config.positions == "rope":
        structure_attention(model.encoder, rope_theta)


def _bias_by_frequency(head: MaskedLMHead, counts: Tensor) -> None:
    """Set the output bias, if there is one, to the logarithm of the token counts (V,) plus one.

    A softmax is invariant to a constant: their mean is subtracted, because smaller numbers are more exact in bf16.
    """
    if head.bias is not None:
        logarithms = counts.to(head.bias).add(1).log()
        head.bias.copy_(logarithms - logarithms.mean())


@torch.no_grad()
def structure_attention(encoder: Encoder, rope_theta: float | None = None) -> None:
    """Give a randomly initialized encoder with rotary positions structured attention, using PyTorch's generator.

    `rope_theta` is the rotary base at the start of training; None: that of the config. If keys have a single head, it attends to the
    token before.

    Raises InputError for other positions, which do not encode offsets.
    """
    if (positions := encoder.config.positions) != "rope":
        raise InputError(f"structured attention is for rotary positions and encoder.positions is {positions}")
    ratio = output_std(encoder.config) / encoder.config.initializer_range
    middle = layer_of_neighbors(encoder.config)
    for layer, block in enumerate(encoder.layers):
        attention = block.attention
        assert isinstance(attention, Attention)
        queries, keys, values = _projections(attention)
        groups = len(queries) // len(keys)
        if layer > middle:
            keys.copy_(queries[::groups])
        attention.out.weight.copy_(values.repeat_interleave(groups, dim=0).flatten(0, 1).T * ratio)
    _look_at_neighbors(encoder, middle, rope_theta or encoder.config.rope_theta)


def layer_of_neighbors(config: EncoderConfig) -> int:
    """The layer that attends to neighbors: in the middle, below the last, which copies, and global, as its rotary base is known."""
    middle = max(0, min(config.num_layers // 2, config.num_layers - 2))
    return max(layer for layer in range(middle + 1) if not config.is_local(layer))


def _projections(attention: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """Views of the matrix of each head: queries (H, Dh, D), keys and values (Hkv, Dh, D)."""
    sizes = (attention.num_heads, attention.kv_heads, attention.kv_heads)
    return attention.qkv.weight.unflatten(0, (-1, attention.head_size)).split(sizes)


def _look_at_neighbors(encoder: Encoder, layer: int, rope_theta: float) -> None:
    """Give all tokens a common component, and a layer heads that rotate it by their offset.

    With a common component c, queries u(c) at position i and keys u(c) rotated back by the offset have a score that depends on the
    distance only and is highest at the offset.
    """
    config, attention = encoder.config, encoder.layers[layer].attention
    assert isinstance(attention, Attention)
    tokens = encoder.embeddings.tokens.weight  # (V, E)
    common = torch.randn(tokens.shape[1], device=tokens.device, dtype=tokens.dtype)
    common -= common.mean()  # LayerNorm removes the mean
    tokens += common / common.norm() * tokens.norm(dim=1).mean() * _COMMON
    part = _inputs(encoder, layer).mean(dim=0)  # (D,) the common component in the inputs of the layer
    pairs = config.head_size // 2
    shares = torch.zeros(pairs, device=tokens.device, dtype=tokens.dtype)
    shares[: len(_ROTATIONS)] = torch.tensor(_ROTATIONS[:pairs], dtype=tokens.dtype)
    # Angles of a step of one position in a global layer.
    angles = rope_theta ** (-torch.arange(pairs, device=tokens.device, dtype=tokens.dtype) / pairs)
    reader = part / part.square().sum() * (_PEAK * config.head_size**0.5 / float(shares.sum())) ** 0.5
    queries, keys, _ = _projections(attention)
    groups = len(queries) // len(keys)
    for head, offset in zip(range(len(keys)), _OFFSETS):
        turned = [shares.sqrt() * (-offset * angles).cos(), shares.sqrt() * (-offset * angles).sin()]
        queries[head * groups] += torch.outer(torch.cat([shares.sqrt(), torch.zeros_like(shares)]), reader)
        keys[head] += torch.outer(torch.cat(turned), reader)


def _inputs(encoder: Encoder, layer: int) -> Tensor:
    """(V, D): the input of the attention of a layer for each entry of the vocabulary, ignoring what the layers below add."""
    embeddings, block = encoder.embeddings, encoder.layers[layer]
    assert isinstance(block, Block)
    ids = torch.arange(encoder.config.vocab_size, device=embeddings.tokens.weight.device)[None]
    with evaluating(embeddings):  # no dropout
        x = embeddings(ids, None, torch.zeros_like(ids))[0]
    norm: nn.Module = nn.Identity()
    if block.norm_first:
        norm = block.attention_norm
    elif layer:  # post-norm: the layer below normalizes its output
        below = encoder.layers[layer - 1]
        assert isinstance(below, Block)
        norm = below.mlp_norm
    return norm(x)
