"""How probable a sentence is to a masked LM: its pseudo-log-likelihood.

Each token is masked once and predicted from all others; the log-probabilities are summed (Salazar et al. 2020, "Masked
Language Model Scoring"). The sum prefers short sentences: compare sentences of like length, or means over tokens. It is no
log-probability of the sentence: the factors are not those of a chain.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bert.embed import Batch, Encoded, encoder_of, run_batches, tokenizer_of, window_around
from bert.errors import InputError
from bert.model.heads import MaskedLM

CHUNK_TOKENS = 1 << 18  # tokens of masked copies that are held at once


@dataclass(frozen=True)
class SentenceScore:
    """The pseudo-log-likelihood of a sentence, in nats."""

    sentence: str
    tokens: tuple[str, ...]
    """its pieces, special tokens aside"""
    log_probabilities: tuple[float, ...]
    """of each piece, given all others"""

    @property
    def score(self) -> float:
        """The sum over pieces: 0 or less; nan for a sentence without pieces, which nothing can be said of."""
        return sum(self.log_probabilities) if self.tokens else math.nan

    @property
    def mean(self) -> float:
        """The mean over pieces; nan for a sentence without pieces."""
        return self.score / max(1, len(self.tokens))


def score(
    sentences: Sequence[str],
    model: nn.Module | str | Path,
    *,
    bf16: bool | None = False,
    progress: str | None = None,
) -> list[SentenceScore]:
    """The pseudo-log-likelihood of each sentence to a masked LM, or to that in a folder.

    A sentence with more tokens than the model takes is seen through the window in whose middle the masked token is. What looks
    like a special token is text. fp32 where `bf16` does not say otherwise: what is compared may differ by little.
    """
    if isinstance(sentences, str):
        raise InputError('score takes a list of sentences: give ["…"] for one')
    if isinstance(model, str | Path):
        model = MaskedLM.load(model).to("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(model, MaskedLM):
        raise InputError(f"{type(model).__name__} predicts no tokens: give a MaskedLM, or the folder of one")
    results: list[SentenceScore] = []
    for chunk in _chunks(sentences, model):
        results += _score_chunk(chunk, model, bf16, progress)
    return results


@dataclass(frozen=True)
class _Masked:
    """A sentence and the copies that are made of it."""

    sentence: str
    ids: list[int]


def _chunks(sentences: Iterable[str], model: MaskedLM) -> Iterator[list[_Masked]]:
    """Sentences in order, so many at a time that their masked copies stay small."""
    tokenizer = tokenizer_of(model)
    waiting = iter(sentences)
    chunk: list[_Masked] = []
    held = 0
    for sentence in waiting:
        ids = tokenizer.encode_with_offsets(sentence)[0]
        size = len(ids) * min(len(ids), model.config.max_length)
        if chunk and held + size > CHUNK_TOKENS:
            yield chunk
            chunk, held = [], 0
        chunk.append(_Masked(sentence, ids))
        held += size
    if chunk:
        yield chunk


def _score_chunk(
    chunk: Sequence[_Masked], model: MaskedLM, bf16: bool | None, progress: str | None
) -> list[SentenceScore]:
    tokenizer = tokenizer_of(model)
    room = model.config.max_length - 2
    copies: list[Encoded] = []
    targets: list[tuple[int, int]] = []  # place of the mask, and what is behind it
    for one in chunk:
        for place in range(1, len(one.ids) - 1):
            window, (at,) = window_around(one.ids, [place], room)
            copies.append(Encoded([*window[:at], tokenizer.mask_id, *window[at + 1 :]]))
            targets.append((at, one.ids[place]))

    def take(output: Any, batch: Batch) -> list[float]:
        device = output.last_hidden_state.device
        at, originals = torch.tensor([targets[place] for place in batch.places], device=device).T
        hidden = output.last_hidden_state[torch.arange(len(at), device=device), at].float()  # (B, D)
        logits = model.head(hidden, model.encoder.embeddings.tokens.weight)  # (B, V)
        return logits.log_softmax(dim=-1)[torch.arange(len(at), device=device), originals].tolist()

    training = model.training
    model.eval()
    try:
        values = iter(run_batches(encoder_of(model), copies, take, bf16=bf16, progress=progress))
    finally:
        model.train(training)
    scores = []
    for one in chunk:
        inner = one.ids[1:-1]
        own = tuple(islice(values, len(inner)))
        scores.append(SentenceScore(one.sentence, tuple(tokenizer.token(i) for i in inner), own))
    return scores
