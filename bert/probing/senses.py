"""Word senses by layer: is the nearest sense centroid the right one?

    rows (word, sentence, place, sense) → train and test → a vector a row and layer → nearest centroid → accuracy, macro-F1

The figure that is reported is fixed beforehand, the sum of the last four layers, and never chosen on the test rows. It stands
beside what does without an encoder that reads: the most frequent sense, a bag of words, the mean of the model's own word
embeddings over the context, an encoder of the same shape with random initialization, and layer 0, which knows the word alone.
Loureiro et al. 2021, "Analysis and Evaluation of Language Models for Word Sense Disambiguation" (CoarseWSD-20).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from bert.data.tokenizer import Tokenizer, is_unspaced
from bert.errors import InputError, check_seed, did_you_mean
from bert.inference.embeddings import Pieces, encoder_of, resolve_layers, span_tokens, token_vectors, tokenizer_of
from bert.model.encoder import Encoder
from bert.probing import geometry
from bert.probing.config import SensesProtocol
from bert.probing.occurrences import find
from bert.probing.rows import Row, read_rows
from bert.report.text import render, table

MOST_FREQUENT, BAG, STATIC, RANDOM = "most frequent sense", "bag of words", "static context", "random encoder"
LAST_LAYERS = 4
HELD_OUT = 5  # of a word's rows with one sense, in their order, every fifth is a test row


@dataclass(frozen=True)
class Score:
    """How many test rows are right."""

    accuracy: float
    macro_f1: float
    """mean over the senses of the test rows"""


@dataclass(frozen=True)
class WordSenses:
    """One word: rows and scores by method."""

    word: str
    senses: int
    train: int
    test: int
    scores: dict[str, Score]


@dataclass(frozen=True)
class Senses:
    """Sense accuracy by method: the controls, each layer, and the headline. Print it for a summary."""

    words: tuple[WordSenses, ...]
    methods: tuple[str, ...]
    headline: str
    notes: tuple[str, ...]
    """what was left out, and why"""

    controls = (MOST_FREQUENT, BAG, STATIC, RANDOM)

    def mean(self, method: str) -> float:
        """Accuracy, mean over words."""
        return float(np.mean([one.scores[method].accuracy for one in self.words]))

    def mean_f1(self, method: str) -> float:
        """Macro-F1, mean over words."""
        return float(np.mean([one.scores[method].macro_f1 for one in self.words]))

    def micro(self, method: str) -> float:
        """Accuracy over all test rows."""
        right = sum(one.scores[method].accuracy * one.test for one in self.words)
        return float(right / sum(one.test for one in self.words))

    def rows(self) -> Iterator[dict[str, object]]:
        """One row a word and method, for files."""
        for one in self.words:
            for method in self.methods:
                counts = {"senses": one.senses, "train": one.train, "test": one.test}
                yield {"word": one.word, "method": method, **vars(one.scores[method]), **counts}

    def summary(self) -> dict[str, object]:
        """The headline, every method over all words, and the rows, for files."""
        measures = {"accuracy": self.mean, "macro_f1": self.mean_f1, "micro": self.micro}
        overall = {method: {name: of(method) for name, of in measures.items()} for method in self.methods}
        return {"headline": self.headline, "overall": overall, "words": list(self.rows()), "notes": self.notes}

    def __str__(self) -> str:
        """All methods over all words, then each word by the headline beside the controls."""
        measures = self.mean, self.mean_f1, self.micro
        overall = [[method, *(f"{of(method):.1%}" for of in measures)] for method in self.methods]
        shown = [method for method in self.methods if method in (*self.controls, self.headline)]
        by_word = []
        for one in self.words:
            shares = [*(one.scores[method].accuracy for method in shown), one.scores[self.headline].macro_f1]
            counts = map(str, (one.senses, one.train, one.test))
            by_word.append([one.word, *counts, *(f"{share:.1%}" for share in shares)])
        header = [f"{len(self.words)} words", "accuracy", "macro-F1", "accuracy over all rows"]
        names = ("\n".join(name.rsplit(" ", 1)) for name in shown)
        words = table(["word", "senses", "train", "test", *names, "macro-F1"], by_word)
        return render(table(header, overall), "", words, *self.notes)


def senses(
    rows: Sequence[Row] | str | Path,
    model: nn.Module | str | Path,
    test_rows: Sequence[Row] | str | Path | None = None,
    layers: Sequence[int] | int | None = None,
    words: Sequence[str] | str | None = None,
    seed: int = 0,
    *,
    protocol: SensesProtocol = SensesProtocol(),
    bf16: bool | None = None,
) -> Senses:
    """How well the vectors of one of our models, or of that in a folder, tell the senses of words.

    Rows, or those of a file, give word, sentence and sense, and the place of the word (else its first occurrence is taken).
    Without `test_rows` every fifth row of each word and sense is held out. `layers` not given: each, and as the headline the
    sum of the last four; given: those, and the last of them is the headline. `words` takes these alone. `seed` is that of the
    random encoder. `protocol` is how vectors and centroids are made, `bf16` that of `bert.inference.batching.run_batches`.

    Raises InputError where a row lacks its word or sense, or no word has two senses and a test row, and for words that no row
    has, for layers, seeds or a model that cannot be.
    """
    rows = read_rows(rows) if isinstance(rows, str | Path) else rows
    test_rows = read_rows(test_rows) if isinstance(test_rows, str | Path) else test_rows
    words = [words] if isinstance(words, str) else words
    check_seed(seed)
    encoder = encoder_of(model)
    numbers = resolve_layers(encoder.config, layers)
    notes: list[str] = []
    parted = list(_parted(rows, test_rows, words, notes))
    if not parted:
        why = "; ".join(notes) or "the rows hold none"
        raise InputError(f"no word to measure: {why}; give test rows, or {HELD_OUT} rows or more of each of two senses")
    fresh = random_like(encoder, seed)
    locate = one_by_one if protocol.words_one_by_one else _in_running_text
    results, methods = [], {}
    for word, train, test in parted:
        gold = np.array([row.sense for row in test])
        pieces = locate(tokenizer_of(encoder), [*train, *test])
        answers = {method: np.asarray(given) for method, given in _trivial(train, test).items()}
        for method, vectors in _methods(word, pieces, encoder, fresh, numbers, layers is None, bf16):
            labels = np.array([row.sense for row in train])
            known, asked = vectors[: len(train)], vectors[len(train) :]
            answers[method] = geometry.nearest_centroid(known, labels, asked, protocol.plain_centroids)
        methods = answers
        scored = {method: _score(gold, predicted) for method, predicted in answers.items()}
        results.append(WordSenses(word, len({row.sense for row in train}), len(train), len(test), scored))
    names = tuple(methods)
    return Senses(tuple(results), names, names[-1], tuple(notes))


def random_like(encoder: Encoder, seed: int) -> Encoder:
    """An encoder of the same shape and tokenizer with random initialization, on the same device."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = Encoder(encoder.config)
    fresh.tokenizer = encoder.tokenizer
    return fresh.to(next(encoder.parameters()).device).eval()


def _parted(
    train_rows: Sequence[Row], test_rows: Sequence[Row] | None, words: Sequence[str] | None, notes: list[str]
) -> Iterator[tuple[str, list[Row], list[Row]]]:
    """Train and test rows of each word that can be measured; `notes` hears of the others."""
    by_word = _by_word(train_rows)
    tests = None if test_rows is None else _by_word(test_rows)
    for word in words or []:
        if word.casefold() not in by_word:
            raise InputError(f"{word}: no row has this word.{did_you_mean(word, by_word)}")
    chosen = {word.casefold() for word in words} if words else by_word.keys() | (tests or {}).keys()
    notes.extend(f"{word}: left out, it has no train row" for word in tests or {} if word in chosen - by_word.keys())
    for word, rows in by_word.items():
        if word not in chosen:
            continue
        train, test = held_out(rows) if tests is None else (rows, tests.get(word, []))
        counts = Counter(row.sense for row in train)
        if len(counts) < 2:
            notes.append(f"{word}: left out, it has one sense only ({next(iter(counts))})")
            continue
        if not test:
            notes.append(f"{word}: left out, it has no test row")
            continue
        single = sorted(str(sense) for sense, count in counts.items() if count == 1)
        unseen = sorted({str(row.sense) for row in test} - {str(sense) for sense in counts})
        if single:
            notes.append(f"{word}: one train row alone for {', '.join(single)}")
        if unseen:
            notes.append(f"{word}: no train row, so all wrong, for {', '.join(unseen)}")
        yield word, train, test


def held_out(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Train and test rows of one word: those of each sense, in their order, whose index % 5 is 4 are test rows."""
    seen: Counter[str | None] = Counter()
    train: list[Row] = []
    test: list[Row] = []
    for row in rows:
        (test if seen[row.sense] % HELD_OUT == HELD_OUT - 1 else train).append(row)
        seen[row.sense] += 1
    return train, test


def _by_word(rows: Sequence[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for column, value in (("word", row.word), ("sense", row.sense)):
            if value is None:
                raise InputError(f"{row.where}: nothing in column {column!r}: senses are measured on rows that have it")
        grouped[str(row.word).casefold()].append(row)
    return grouped


def _trivial(train: Sequence[Row], test: Sequence[Row]) -> dict[str, np.ndarray]:
    """The senses that the methods without vectors give the test rows."""
    labels = np.array([row.sense for row in train])
    often = Counter(labels.tolist())
    best = min(often, key=lambda sense: (-often[sense], sense))
    return {MOST_FREQUENT: np.full(len(test), best), BAG: _bag_of_words(train, labels, test)}


def _methods(
    word: str,
    pieces: Sequence[Pieces],
    encoder: Encoder,
    fresh: Encoder,
    layers: Sequence[int],
    with_sum: bool,
    bf16: bool | None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Methods with a vector for each row, (rows, D): controls, layers, the headline last."""
    yield STATIC, static_context(encoder, pieces)
    top = encoder.config.num_layers
    last = list(range(max(1, top - LAST_LAYERS + 1), top + 1))
    summed = last if with_sum else [layers[-1]]
    random = token_vectors(fresh, pieces, summed, bf16=bf16, progress=f"random vectors of {word}")
    yield RANDOM, random.sum(dim=1).numpy()
    needed = sorted({*layers, *(last if with_sum else [])})
    vectors = token_vectors(encoder, pieces, needed, bf16=bf16, progress=f"vectors of {word}").numpy()
    for layer in layers:
        yield f"layer {layer}", vectors[:, needed.index(layer)]
    if with_sum:
        name = f"layers {last[0]}–{last[-1]}" if len(last) > 1 else f"layer {last[0]}, the only one"
        yield name, vectors[:, [needed.index(layer) for layer in last]].sum(axis=1)


def static_context(encoder: Encoder, pieces: Sequence[Pieces]) -> np.ndarray:
    """(rows, D): the mean of the rows of the embedding matrix that belong to the pieces beside the word, special ones aside.

    No position, no order, no layer: what a bag of word vectors knows. Zeros where the word stands alone.
    """
    table = encoder.embeddings.tokens.weight.detach().float().cpu()  # (V, D)
    means = torch.zeros(len(pieces), table.shape[1])
    for row, (ids, positions) in enumerate(pieces):
        word = set(positions)
        beside = [ids[place] for place in range(1, len(ids) - 1) if place not in word]
        if beside:
            means[row] = table[beside].mean(dim=0)
    return means.numpy()


def _in_running_text(tokenizer: Tokenizer, rows: Sequence[Row]) -> list[Pieces]:
    """The ids of the sentences and the positions of their words, as the tokenizer cuts running text."""
    return span_tokens(tokenizer, [row.sentence for row in rows], [_span(row) for row in rows])


def one_by_one(tokenizer: Tokenizer, rows: Sequence[Row]) -> list[Pieces]:
    """The same where each word between blanks is cut by itself: the place of the word is all of what stands between them."""
    found = []
    for row in rows:
        start, end = _span(row)
        words = list(re.finditer(r"\S+", row.sentence))
        ids: list[int] = [tokenizer.cls_id]
        positions: list[int] = []
        for word, own in zip(words, tokenizer.word_tokens([word.group() for word in words])):
            if max(word.start(), start) < min(word.end(), end):
                positions += range(len(ids), len(ids) + len(own))
            ids += own
        if not positions:
            raise InputError(f"{row.where}: characters {start} to {end} are none of a word: repair start and end")
        found.append(([*ids, tokenizer.sep_id], positions))
    return found


def _span(row: Row) -> tuple[int, int]:
    if row.span is not None:
        return row.span
    found = find(row.sentence, [str(row.word)])
    if not found:
        raise InputError(f"{row.where}: {row.word} does not occur in its sentence: give start and end, or index")
    return found[0]


def _bag_of_words(train: Sequence[Row], labels: np.ndarray, test: Sequence[Row]) -> np.ndarray:
    """Logistic regression on the counts of the words beside it; of Chinese, of characters and pairs of them."""
    counts = CountVectorizer(analyzer=_units)
    try:
        known = counts.fit_transform([row.sentence for row in train])
    except ValueError:  # no unit at all
        return np.full(len(test), Counter(labels.tolist()).most_common(1)[0][0])
    model = LogisticRegression(max_iter=1_000).fit(known, labels)
    return model.predict(counts.transform([row.sentence for row in test]))


def _units(sentence: str) -> list[str]:
    units = []
    for run in re.findall(r"\w+", sentence.casefold()):
        if any(is_unspaced(character) for character in run):
            units += [*run, *(run[at : at + 2] for at in range(len(run) - 1))]
        else:
            units.append(run)
    return units


def _score(gold: np.ndarray, predicted: np.ndarray) -> Score:
    f1 = f1_score(gold, predicted, labels=np.unique(gold), average="macro", zero_division=0)
    return Score(float(accuracy_score(gold, predicted)), float(f1))
