"""The attention weights of a text.

A weight is the share of one token's value in the output of another token, in one head of one layer. It does not explain the output of
the model: attention is not explanation (Jain and Wallace 2019; but Wiegreffe and Pinter 2019).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bert.errors import InputError, checked
from bert.inference.batching import check_finite, evaluating
from bert.inference.embeddings import encoder_of, tokenizer_of, warn_of_unknown
from bert.report.text import render, table


@dataclass(frozen=True)
class Attention:
    """The attention of every head on one text of T tokens."""

    tokens: tuple[str, ...]
    """T subword tokens, special tokens included"""
    weights: NDArray[np.float32]
    """(L, H, T, T): the attention of token i to token j at [layer, head, i, j]; each row sums to 1"""

    def head(self, layer: int, head: int) -> NDArray[np.float32]:
        """(T, T) weights of a head; layers count from 1, heads from 0. Raises InputError if there is no such head."""
        layers, heads = self.weights.shape[:2]
        if not 1 <= layer <= layers:
            raise InputError(f"layer {layer}: the model has layers 1 to {layers} with attention")
        if not 0 <= head < heads:
            raise InputError(f"head {head}: a layer of the model has heads 0 to {heads - 1}")
        return self.weights[layer - 1, head]

    def telling_head(self, layer: int | None = None, head: int | None = None) -> tuple[int, int]:
        """(layer, head) of the most sharply focused head: the mean over its tokens of the largest weight is highest.

        Weights to the token itself, to its neighbors and to special tokens are ignored: most heads attend to those. `layer` and `head`
        narrow the search.
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
        """The three tokens that each token attends to most, as a table."""
        rows = []
        for token, weights in zip(self.tokens, self.head(layer, head)):  # (T,)
            order = np.argsort(-weights, kind="stable")[:3]
            rows.append([token, "  ".join(f"{self.tokens[other]} {weights[other]:.0%}" for other in order)])
        return render(f"layer {layer}, head {head}", table(["token", "attends to"], rows, left=2))


@checked
def attention(text: str, model: nn.Module | str | Path) -> Attention:
    """The attention of every layer and head of a model, or of the model in a folder, on a text, in fp32.

    Raises InputError if the text has no token, or more than the maximum length of the model, and if the model is not one of ours or has
    no tokenizer.

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
    if len(ids) > (most := encoder.config.max_length):
        raise InputError(f"the text is {len(ids)} tokens long and the model takes {most}: give a shorter text")
    with evaluating(encoder), torch.no_grad():
        row = torch.tensor([ids], device=next(encoder.parameters()).device)
        weights = torch.cat(encoder(row, output_attentions=True).attentions or ())
    check_finite(weights)
    tokens = [tokenizer.token(i) for i in ids]
    warn_of_unknown(tokenizer, tokens[1:-1])
    if tokenizer.kind != "wordpiece":  # tokens of bytes, or with marks for spaces, are hard to read
        tokens = [tokens[0], *(text[start:end] or "␣" for start, end in offsets[1:-1]), tokens[-1]]
    return Attention(tuple(tokens), weights.float().cpu().numpy())
