"""How probable a sentence is to a masked LM: its pseudo-log-likelihood.

Each token is masked once and predicted from all others; the log-probabilities are summed (Salazar et al. 2020, "Masked
Language Model Scoring"). The sum prefers short sentences: compare sentences of like length, or means over tokens. It is no
log-probability of the sentence: the factors are not those of a chain.

A rare word of several pieces gives itself away: who sees `##ge ##ous` guesses `gor`. Within words the pieces can therefore be
guessed from left to right, the later ones masked too (Kauf and Ivanova 2023, "A Better Way to Do Masked Language Model
Scoring", where it is PLL-word-l2r).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bert.data.tokenizer import Tokenizer
from bert.errors import InputError
from bert.inference.batching import Batch, Encoded, evaluating, run_batches
from bert.inference.embeddings import encoder_of, tokenizer_of, window_around
from bert.model.heads import MaskedLM
from bert.report.text import tabbed

CHUNK_TOKENS = 1 << 18  # tokens of masked copies that are held at once


@dataclass(frozen=True)
class SentenceScore:
    """The pseudo-log-likelihood of a sentence, in nats."""

    sentence: str
    tokens: tuple[str, ...]
    """its pieces, special tokens aside"""
    log_probabilities: tuple[float, ...]
    """of each piece, given all others, or all but the later ones of its word"""

    @property
    def score(self) -> float:
        """The sum over pieces: 0 or less; nan for a sentence without pieces, which nothing can be said of."""
        return sum(self.log_probabilities) if self.tokens else math.nan

    @property
    def mean(self) -> float:
        """The mean over pieces; nan for a sentence without pieces."""
        return self.score / max(1, len(self.tokens))

    def row(self) -> dict[str, object]:
        """What is known, for files; none where there is nothing to say."""
        scores = {"score": self.score, "per_token": self.mean} if self.tokens else {"score": None, "per_token": None}
        return scores | {"sentence": self.sentence}


def score(
    sentences: Sequence[str],
    model: nn.Module | str | Path,
    *,
    within_word: bool = False,
    bf16: bool | None = False,
    progress: str | None = None,
) -> list[SentenceScore]:
    """The pseudo-log-likelihood, in nats, of each sentence to a masked LM, or to that in a folder.

    `within_word` masks the later pieces of a word too while one is guessed. A word is what `Tokenizer.word_starts` says: in
    WordPiece a piece and the `##` after it, elsewhere what stands between spaces and punctuation; a Chinese character is a
    word. A sentence with more tokens than the model takes is seen through the window in whose middle the masked token is. What
    looks like a special token is text. fp32 where `bf16` does not say otherwise: what is compared may differ by little.
    `progress` names a bar on the terminal.

    Raises InputError for one text in place of a list, and for a model that predicts no tokens or has no tokenizer.
    """
    if isinstance(sentences, str):
        raise InputError('score takes a list of sentences: give ["…"] for one')
    for place, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise InputError(f"sentences[{place}] is {sentence!r}: score takes a list of sentences")
    if isinstance(model, str | Path):
        model = MaskedLM.load(model).to("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(model, MaskedLM):
        raise InputError(f"{type(model).__name__} predicts no tokens: give a MaskedLM, or the folder of one")
    results: list[SentenceScore] = []
    for chunk in _chunks(sentences, model):
        results += _score_chunk(chunk, model, within_word, bf16, progress)
    return results


def listed(scores: Sequence[SentenceScore]) -> str:
    """Every sentence with the sum and the mean of its pieces; dashes where it has none."""
    rows = [(*((f"{one.score:.2f}", f"{one.mean:.2f}") if one.tokens else ("–", "–")), one.sentence) for one in scores]
    return tabbed(("score", "per token", "sentence"), rows).rstrip("\n")


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
    chunk: Sequence[_Masked], model: MaskedLM, within_word: bool, bf16: bool | None, progress: str | None
) -> list[SentenceScore]:
    tokenizer = tokenizer_of(model)
    room = model.config.max_length - 2
    # a copy and its place that is guessed → (number of the guess, what is behind the mask): sentences of a pair share copies
    copies: dict[tuple[tuple[int, ...], int], list[tuple[int, int]]] = {}
    count = 0
    for one in chunk:
        for place, end in _masks(one.ids, tokenizer, within_word):
            ids, (at,) = window_around(one.ids, [place], room)
            until = min(at + end - place, len(ids) - 1)
            window = (*ids[:at], *[tokenizer.mask_id] * (until - at), *ids[until:])
            copies.setdefault((window, at), []).append((count, one.ids[place]))
            count += 1
    wanted = list(copies.values())
    values = torch.empty(count)

    def take(output: Any, batch: Batch) -> list[None]:
        logits = model.head(output.last_hidden_state[:, 0].float(), model.encoder.embeddings.tokens.weight)  # (B, V)
        here = [(row, *guess) for row, copy in enumerate(batch.positions) for guess in wanted[copy]]
        rows, numbers, originals = torch.tensor(here).T
        values[numbers] = logits.log_softmax(dim=-1)[rows, originals].cpu()
        return [None] * len(batch.positions)

    with evaluating(model):
        inputs = [Encoded(window, target=at) for window, at in copies]
        run_batches(encoder_of(model), inputs, take, bf16=bf16, progress=progress)
    each = iter(values.tolist())
    scores = []
    for one in chunk:
        inner = one.ids[1:-1]
        own = tuple(islice(each, len(inner)))
        scores.append(SentenceScore(one.sentence, tuple(tokenizer.token(i) for i in inner), own))
    return scores


def _masks(ids: Sequence[int], tokenizer: Tokenizer, within_word: bool) -> Iterator[tuple[int, int]]:
    """For each token between the special ones the positions (first, after the last) that are masked while it is guessed."""
    end = last = len(ids) - 1
    spans = []
    for place in range(last - 1, 0, -1):
        spans.append((place, end if within_word else place + 1))
        if tokenizer.word_starts[ids[place]]:
            end = place  # what stands before it is of another word
    return reversed(spans)
