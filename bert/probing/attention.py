"""The attention weights of a text, for a look at what heads do.

A weight says how much of a token's value goes into another token's sum in one head of one layer. It does not say why the model
answers as it does: attention is not explanation (Jain and Wallace 2019; but Wiegreffe and Pinter 2019).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bert.errors import InputError
from bert.inference.batching import check_finite, evaluating
from bert.inference.embeddings import encoder_of, tokenizer_of
from bert.report.text import render, table


@dataclass(frozen=True)
class Attention:
    """The attention of every head on one text of T tokens."""

    tokens: tuple[str, ...]
    """T pieces with the special tokens"""
    weights: NDArray[np.float32]
    """(L, H, T, T): how much token i takes from token j at [layer, head, i, j]; each row sums to 1"""

    def head(self, layer: int, head: int) -> NDArray[np.float32]:
        """(T, T) weights of a head, layers from 1, heads from 0. InputError where there is none."""
        layers, heads = self.weights.shape[:2]
        if not 1 <= layer <= layers:
            raise InputError(f"layer {layer}: the model has layers 1 to {layers} with attention")
        if not 0 <= head < heads:
            raise InputError(f"head {head}: a layer of the model has heads 0 to {heads - 1}")
        return self.weights[layer - 1, head]

    def telling_head(self, layer: int | None = None, head: int | None = None) -> tuple[int, int]:
        """(layer, head) of the head whose tokens each look hardest at one other token, neighbors and special ones aside.

        What most heads look at, the token itself, the one beside it and [SEP], tells little. `layer` and `head` narrow the
        search; both given are the answer.
        """
        self.head(1 if layer is None else layer, 0 if head is None else head)
        inner = self.weights[:, :, 1:-1, 1:-1].copy()
        positions = np.arange(inner.shape[2])
        inner[:, :, abs(positions[:, None] - positions) <= 1] = 0
        sharpness = inner.max(axis=-1, initial=0).mean(axis=-1) if inner.size else np.zeros(inner.shape[:2])  # (L, H)
        layers, heads = (np.arange(size) for size in self.weights.shape[:2])
        asked = np.ix_(layers == layer - 1 if layer else layers >= 0, heads == head if head is not None else heads >= 0)
        chosen = np.full(sharpness.shape, -1.0)
        chosen[asked] = sharpness[asked]
        best_layer, best_head = divmod(int(chosen.argmax()), len(heads))
        return best_layer + 1, best_head

    def table(self, layer: int, head: int) -> str:
        """Where each token of a head looks, the positions with most weight first, as text."""
        weights = self.head(layer, head)  # (T, T)
        rows = []
        for place, token in enumerate(self.tokens):
            order = np.argsort(-weights[place], kind="stable")[:3]
            rows.append([token, "  ".join(f"{self.tokens[other]} {weights[place, other]:.0%}" for other in order)])
        return render(f"layer {layer}, head {head}", table(["token", "looks at"], rows, left=2))


def attention(text: str, model: nn.Module | str | Path) -> Attention:
    """The attention of every layer and head of one of our models, or of that in a folder, on a text, in fp32.

    Raises InputError where the text has no token, or more than the model takes, and where the model is none of ours or has no
    tokenizer.

    >>> from bert import Encoder, EncoderConfig, attention
    >>> from bert.data.vocabulary import train_tokenizer
    >>> tokenizer = train_tokenizer(["the cat and the dog"] * 3)
    >>> encoder = Encoder(EncoderConfig(tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=4))
    >>> encoder.tokenizer = tokenizer  # as `Encoder.load` does
    >>> found = attention("the cat", encoder)
    >>> found.tokens, found.weights.shape  # (L, H, T, T)
    (('[CLS]', 'the', 'cat', '[SEP]'), (2, 4, 4, 4))
    """
    encoder = encoder_of(model)
    tokenizer = tokenizer_of(encoder)
    ids, offsets = tokenizer.encode_with_offsets(text)
    if len(ids) <= 2:
        raise InputError(f"{text!r} has no token: give a text with a word in it")
    if len(ids) > encoder.config.max_length:
        most = encoder.config.max_length
        raise InputError(f"the text is {len(ids)} tokens long and the model takes {most}: give a shorter text")
    with evaluating(encoder), torch.no_grad():
        row = torch.tensor([ids], device=next(encoder.parameters()).device)
        weights = torch.cat(encoder(row, output_attentions=True).attentions or ())
    check_finite(weights)
    pieces = [tokenizer.token(i) for i in ids]
    if tokenizer.kind != "wordpiece":  # pieces of bytes, or with marks for blanks, are not for the eye
        pieces = [pieces[0], *(text[start:end] or "␣" for start, end in offsets[1:-1]), pieces[-1]]
    return Attention(tuple(pieces), weights.float().cpu().numpy())
