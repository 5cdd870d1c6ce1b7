"""The attention weights of a text.

A weight is the share of one token's value in the output of another token, in one head of one layer. It does not explain the output of
the model: attention is not explanation (Jain and Wallace 2019; but Wiegreffe and Pinter 2019).
"""

import unicodedata
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bert.errors import InputError, check_arguments
from bert.inference.batching import check_finite
from bert.inference.embeddings import encoder_of, tokenizer_of, warn_of_unknown
from bert.model.encoder import evaluating
from bert.report.text import render, table

MOST_BYTES = 1 << 30  # of the weights of a text; computing them takes a few times as much
SPACE = "␣"


@dataclass(frozen=True)
class Attention:
    """The attention of every head on one text of T tokens."""

    tokens: tuple[str, ...]
    """T subword tokens, special tokens included"""
    weights: NDArray[np.float32]
    """(L, H, T, T): the attention of token i to token j at [layer, head, i, j]; each row sums to 1"""

    def head(self, layer: int, head: int) -> NDArray[np.float32]:
        """(T, T) weights of a head; layers count from 1, heads from 0. Raises InputError if there is no such head."""
        check_arguments(Attention.head, locals())
        layers, heads = self.weights.shape[:2]
        if not 1 <= layer <= layers:
            raise InputError(f"layer {layer}: the model has layers 1 to {layers} with attention")
        if not 0 <= head < heads:
            raise InputError(f"head {head}: a layer of the model has heads 0 to {heads - 1}")
        return self.weights[layer - 1, head]

    @property
    def labels(self) -> tuple[str, ...]:
        """The tokens, those that occur more than once with their number: `the (1)`, `the (2)`."""
        tokens = self.tokens
        numbers = [tokens[: n + 1].count(token) if tokens.count(token) > 1 else 0 for n, token in enumerate(tokens)]
        return tuple(f"{token} ({number})" if number else token for token, number in zip(tokens, numbers))

    def telling_head(self, layer: int | None = None, head: int | None = None) -> tuple[int, int]:
        """(layer, head) of the most sharply focused head: the sum over its tokens of the largest weight is highest.

        Weights to the token itself, to its neighbors, to punctuation and to special tokens are ignored: most heads attend to those. From
        each weight the mean over all tokens is subtracted. `layer` and `head` narrow the search.
        """
        self.head(1 if layer is None else layer, 0 if head is None else head)
        words = np.array([n for n in range(1, len(self.tokens) - 1) if not _is_punctuation(self.tokens[n])], int)
        inner = self.weights[:, :, words][..., words]
        inner[:, :, abs(words[:, None] - words) <= 1] = 0
        inner -= inner.sum(axis=2, keepdims=True) / max(1, len(words))  # what all attend to does not distinguish them
        sharpness = inner.max(axis=-1, initial=0).sum(axis=-1)  # (L, H)
        layers = range(len(sharpness)) if layer is None else [layer - 1]
        heads = range(sharpness.shape[1]) if head is None else [head]
        best_layer, best_head = max(product(layers, heads), key=sharpness.__getitem__)
        return best_layer + 1, best_head

    def table(self, layer: int, head: int) -> str:
        """The three tokens that each token attends to most, as a table."""
        rows = []
        for token, weights in zip(self.labels, self.head(layer, head)):  # (T,)
            order = np.argsort(-weights, kind="stable")[:3]
            rows.append([token, "  ".join(f"{self.labels[other]} {weights[other]:.0%}" for other in order)])
        return render(f"layer {layer}, head {head}", table(["token", "attends to"], rows, left=2))


def _is_punctuation(token: str) -> bool:
    """Whether a token has punctuation and spaces alone, or ASCII symbols such as $, which BERT splits off as punctuation too."""
    return all((c.isascii() and not c.isalnum()) or unicodedata.category(c)[0] in "PZ" or c == SPACE for c in token)


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
    check_arguments(attention, locals())
    encoder = encoder_of(model)
    tokenizer = tokenizer_of(encoder)
    ids, offsets = tokenizer.encode_with_offsets(text)
    if len(ids) <= 2:
        raise InputError(f"{text!r} has no token: give a text with a word in it")
    if len(ids) > (most := encoder.config.max_length):
        raise InputError(f"the text is {len(ids)} tokens long and the model takes {most}: give a shorter text")
    heads = encoder.config.num_layers * encoder.config.num_heads
    if (size := 4 * heads * len(ids) ** 2) > MOST_BYTES:
        fits = int((MOST_BYTES / (4 * heads)) ** 0.5)
        raise InputError(f"{len(ids):,} tokens have {size / 1e9:.1f} GB of weights: give a text of at most {fits:,}")
    with evaluating(encoder), torch.no_grad():
        row = torch.tensor([ids], device=next(encoder.parameters()).device)
        weights = torch.cat(encoder(row, output_attentions=True).attentions or ())
    check_finite(weights)
    tokens = [tokenizer.token(i) for i in ids]
    warn_of_unknown(tokenizer, tokens[1:-1])
    if tokenizer.kind != "wordpiece":  # tokens of bytes, or with marks for spaces, are hard to read
        tokens = [tokens[0], *(text[start:end] or SPACE for start, end in offsets[1:-1]), tokens[-1]]
    return Attention(tuple(tokens), weights.float().cpu().numpy())
