"""The pseudo-log-likelihood of a sentence under a masked LM.

Each token is masked once and predicted from all others; the log-probabilities are summed (Salazar et al. 2020, "Masked Language Model
Scoring"). The sum favors short sentences: compare sentences of similar length, or means over tokens. It is not the log-probability of
the sentence, because the factors do not form a chain.

The tokens of a rare word give each other away: `##ge ##ous` suggests `gor`. The tokens of a word can therefore be predicted from left to
right, with the later ones masked too (Kauf and Ivanova 2023, "A Better Way to Do Masked Language Model Scoring": PLL-word-l2r).
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bert.data.encoding import grouped
from bert.data.tokenizer import Tokenizer
from bert.errors import InputError, check_arguments
from bert.inference.batching import Batch, Encoded, run_batches
from bert.inference.embeddings import encoder_of, tokenizer_of, warn_of_unknown, window_around
from bert.model.encoder import evaluating
from bert.model.heads import MaskedLM
from bert.report.text import tabbed

logger = logging.getLogger(__name__)
CHUNK_TOKENS = 1 << 18  # in the masked copies that are in memory at once, besides those of one sentence


@dataclass(frozen=True)
class SentenceScore:
    """The pseudo-log-likelihood of a sentence, in nats."""

    sentence: str
    tokens: tuple[str, ...]
    """its subword tokens, without special tokens"""
    log_probabilities: tuple[float, ...]
    """the log-probability of each token, given all others, or all but the later tokens of its word"""

    @property
    def score(self) -> float:
        """The sum over tokens: 0 or less; nan for a sentence without tokens."""
        return sum(self.log_probabilities) if self.tokens else math.nan

    @property
    def mean(self) -> float:
        """The mean over tokens; nan for a sentence without tokens."""
        return self.score / max(1, len(self.tokens))

    def row(self) -> dict[str, object]:
        """The scores and the sentence, for files; None for undefined scores."""
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
    """The pseudo-log-likelihood, in nats, of each sentence under a masked LM, or under the model in a folder.

    `within_word`: when a token is predicted, also mask the later tokens of its word. Words are defined by `Tokenizer.word_starts`: in
    WordPiece a token and the `##` tokens after it, otherwise what is between spaces and punctuation; a Chinese character is a word. In a
    sentence longer than the model's maximum length, each token is predicted from a window around it. Special-token strings are plain
    text. Computed in fp32 unless `bf16`, because differences may be small. `progress` is the label of a progress bar.

    Raises InputError for a single text instead of a list, and for a model that is not a masked LM or has no tokenizer.
    """
    check_arguments(score, locals())
    if isinstance(model, str | Path):
        model = MaskedLM.load(model).to("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(model, MaskedLM):
        raise InputError(f"{type(model).__name__} predicts no tokens: give a MaskedLM, or the folder of one")
    results, tokenizer, most = list[SentenceScore](), tokenizer_of(model), model.config.max_length
    encoded = ((sentence, tokenizer.encode_with_offsets(sentence)[0]) for sentence in sentences)
    for chunk in grouped(encoded, lambda one: len(one[1]) * min(len(one[1]), most), CHUNK_TOKENS):
        results += _score_chunk(chunk, model, within_word, bf16, progress)
    warn_of_unknown(tokenizer, [token for one in results for token in one.tokens])
    return results


def listed(scores: Sequence[SentenceScore]) -> str:
    """Every sentence with the sum and the mean over its tokens; dashes if it has none."""
    rows = [(*((f"{one.score:.2f}", f"{one.mean:.2f}") if one.tokens else ("–", "–")), one.sentence) for one in scores]
    return tabbed(("score", "per token", "sentence"), rows).rstrip("\n")


_Encoded = tuple[str, list[int]]
"""a sentence and its token ids"""


def _score_chunk(
    chunk: Sequence[_Encoded], model: MaskedLM, within_word: bool, bf16: bool | None, progress: str | None
) -> list[SentenceScore]:
    tokenizer = tokenizer_of(model)
    room = model.config.max_length - 2
    # A masked copy and the position to predict → (number of the prediction, the masked token): sentences of a pair share copies.
    copies: dict[tuple[tuple[int, ...], int], list[tuple[int, int]]] = {}
    count = 0
    for _, ids in chunk:
        if len(ids) * min(len(ids), room + 2) > CHUNK_TOKENS:
            logger.warning(f"a sentence has {len(ids) - 2:,} tokens: each is predicted in a run of its own")
        for position, end in _masks(ids, tokenizer, within_word):
            window, (at,) = window_around(ids, [position], room)
            until = min(at + end - position, len(window) - 1)
            masked = (*window[:at], *[tokenizer.mask_id] * (until - at), *window[until:])
            copies.setdefault((masked, at), []).append((count, ids[position]))
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
        inputs = [Encoded(masked, target=at) for masked, at in copies]
        run_batches(encoder_of(model), inputs, take, bf16=bf16, progress=progress)
    each = iter(values.tolist())
    scores = []
    for sentence, (_, *inner, _) in chunk:
        own = tuple(islice(each, len(inner)))
        scores.append(SentenceScore(sentence, tuple(tokenizer.token(i) for i in inner), own))
    return scores


def _masks(ids: Sequence[int], tokenizer: Tokenizer, within_word: bool) -> Iterator[tuple[int, int]]:
    """For each token between the special ones the positions (first, after the last) that are masked when it is predicted."""
    end = last = len(ids) - 1
    spans = []
    for position in range(last - 1, 0, -1):
        spans.append((position, end if within_word else position + 1))
        if tokenizer.word_starts[ids[position]]:
            end = position  # the tokens before it belong to another word
    return reversed(spans)
