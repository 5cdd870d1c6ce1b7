"""Word senses by layer: is the nearest sense centroid the right one?

    rows (word, sentence, position, sense) → train and test → one vector a row and layer → nearest centroid → accuracy, macro-F1

The headline is fixed in advance, the sum of the last four layers, and never selected on the test rows. It is compared with controls
that do not use a trained encoder: the most frequent sense, a bag of words, the mean of the model's own token embeddings over the context,
an encoder of the same shape with random initialization; and with layer 0, which sees the word only. Loureiro et al. 2021, "Analysis and
Evaluation of Language Models for Word Sense Disambiguation" (CoarseWSD-20).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from bert.data.tokenizer import Tokenizer
from bert.errors import InputError, check_arguments, check_seed, did_you_mean
from bert.inference.embeddings import encoder_of, resolve_layers, span_tokens, token_vectors, tokenizer_of
from bert.model.encoder import Encoder
from bert.model.hardware import return_freed_memory
from bert.probing import geometry
from bert.probing.config import SensesProtocol
from bert.probing.controls import bag_of_words
from bert.probing.linear import fit, fit_layers
from bert.probing.rows import Row, read_rows, span_of
from bert.report.strata import stratified
from bert.report.text import render, table, tables

MOST_CLUSTERED = 1_000  # occurrences of a word that are clustered: a silhouette takes quadratic time
MOST_FREQUENT, BAG, STATIC, RANDOM = "most frequent sense", "bag of words", "static context", "random encoder"
LAST_LAYERS = 4
HELD_OUT = 5  # every fifth row of a word and sense, in order, is a test row
Located = tuple[list[int], list[int]]
"""the token ids of a sentence, and the positions of the word in them"""


@dataclass(frozen=True)
class Score:
    """Metrics on the test rows."""

    accuracy: float
    macro_f1: float
    """mean over the senses of the test rows"""
    sd: float | None = None
    """standard deviation of the accuracy over samples, if there are several"""


@dataclass(frozen=True)
class WordSenses:
    """One word: numbers of senses and rows, and scores by method."""

    word: str
    senses: int
    train: int
    test: int
    scores: dict[str, Score]
    clusters: geometry.Agreement
    """of clusters that were found without the senses, on the vectors of the headline"""
    random: dict[str, Score]
    """the same as in `scores`, of the methods that learn from the vectors of the headline, on those of the random encoder"""


@dataclass(frozen=True)
class Senses:
    """Sense accuracy by method: the controls, each layer, and the headline. Prints as a summary."""

    words: tuple[WordSenses, ...]
    methods: tuple[str, ...]
    headline: str
    notes: tuple[str, ...]
    """words and senses that were left out, and why"""

    controls = (MOST_FREQUENT, BAG, STATIC, RANDOM)

    def mean(self, method: str) -> float:
        """Accuracy, averaged over words."""
        return float(np.mean([one.scores[method].accuracy for one in self.words]))

    def mean_f1(self, method: str) -> float:
        """Macro-F1, averaged over words."""
        return float(np.mean([one.scores[method].macro_f1 for one in self.words]))

    def random(self, method: str) -> float | None:
        """Accuracy of a method on the random encoder, averaged over words; none of methods that do not learn from the headline."""
        values = [one.random[method].accuracy for one in self.words if method in one.random]
        return float(np.mean(values)) if values else None

    def sd(self, method: str) -> float | None:
        """Standard deviation over samples of the mean accuracy, whose words are drawn independently; none without several samples."""
        values = [sd for one in self.words if (sd := one.scores[method].sd) is not None]
        return float(np.sqrt(np.square(values).sum())) / len(values) if values else None

    def micro(self, method: str) -> float:
        """Accuracy over all test rows."""
        right = sum(one.scores[method].accuracy * one.test for one in self.words)
        return float(right / sum(one.test for one in self.words))

    def headlines(self) -> dict[str, float]:
        """The accuracy of each method but those of single layers, averaged over words."""
        shown = [one for one in self.methods if not one.startswith("layer ") or one == self.headline]
        return {method: self.mean(method) for method in shown}

    def table(self) -> list[dict[str, object]]:
        """One row for each word and method, for files."""
        return [
            {
                "word": one.word, "method": method, "accuracy": score.accuracy, "macro_f1": score.macro_f1,
                "senses": one.senses, "train": one.train, "test": one.test, "sd": score.sd,
                "random_encoder": one.random[method].accuracy if method in one.random else None,
            } for one in self.words for method, score in one.scores.items()
        ]  # fmt: skip

    def summary(self) -> dict[str, object]:
        """The headline, the metrics of every method over all words, and the rows, for files."""
        measures = {"accuracy": self.mean, "macro_f1": self.mean_f1, "micro": self.micro}
        more = {"sd": self.sd, "random_encoder": self.random}
        overall = {method: {name: of(method) for name, of in (measures | more).items()} for method in self.methods}
        clusters = [{"word": one.word, **vars(one.clusters)} for one in self.words]
        parts = {"words": self.table(), "clusters": clusters, "notes": self.notes}
        return {"headline": self.headline, "overall": overall, **parts}

    def __str__(self) -> str:
        """Tables: all methods over all words, then each word by the headline and the controls."""
        overall = []
        for method in self.methods:
            sd, random = self.sd(method), self.random(method)
            accuracy = f"{self.mean(method):.1%}" + ("" if sd is None else f" ± {100 * sd:.1f}")
            beside = "" if random is None else f"{random:.1%}"
            overall.append([method, accuracy, f"{self.mean_f1(method):.1%}", f"{self.micro(method):.1%}", beside])
        shown = [method for method in self.methods if method in (*self.controls, self.headline)]
        by_word = []
        for one in self.words:
            shares = [*(one.scores[method].accuracy for method in shown), one.scores[self.headline].macro_f1]
            counts = map(str, (one.senses, one.train, one.test))
            found = one.clusters
            groups = f"{found.v_measure:.2f}", f"{found.b_cubed:.2f} ({found.one_cluster:.2f})"
            by_word.append([one.word, *counts, *(f"{share:.1%}" for share in shares), *groups])
        header = [f"{len(self.words)} words", "accuracy", "macro-F1", "accuracy over all rows", "on the random encoder"]
        names = ("\n".join(name.rsplit(" ", 1)) for name in shown)
        clusters = "clusters:\nV-measure", "clusters:\nB-cubed (of one)"
        words = tables(["word", "senses", "train", "test", *names, "macro-F1", *clusters], by_word)
        return render(table(header, overall), "", *words, *self.notes)


def senses(
    rows: Sequence[Row] | str | Path,
    model: nn.Module | str | Path,
    test_rows: Sequence[Row] | str | Path | None = None,
    layers: Sequence[int] | int | None = None,
    words: Sequence[str] | str | None = None,
    seed: int = 0,
    *,
    examples: Sequence[int] = (),
    seeds: int = 1,
    protocol: SensesProtocol = SensesProtocol(),
    bf16: bool | None = None,
) -> Senses:
    """Measure how well the vectors of a model, or of the model in a folder, separate the senses of words.

    `rows`, or those of a file, have a word, a sentence and a sense, and the position of the word (default: its first occurrence).
    `test_rows`: default is every fifth row of each word and sense. `layers`: default is all, with the sum of the last four as the
    headline; otherwise the last one given is the headline, on which a nearest neighbor and a linear probe answer too. `words`: measure
    these only. `examples`: also learn from so many train rows of each sense, drawn `seeds` times. `seed`: of the randomly initialized
    encoder, and the first of these.
    `protocol`: how vectors and centroids are computed. `bf16`: see `bert.inference.batching.run_batches`.

    Raises InputError if a row lacks its word or sense, if no word has two senses and a test row, for words without rows, and for invalid
    layers, seeds or models.
    """
    check_arguments(senses, locals())
    rows = read_rows(rows) if isinstance(rows, str | Path) else rows
    test_rows = read_rows(test_rows) if isinstance(test_rows, str | Path) else test_rows
    words = [words] if isinstance(words, str) else words
    check_seed(seed)
    encoder = encoder_of(model)
    numbers = resolve_layers(encoder.config, layers)
    notes: list[str] = []
    measurable = list(_split(rows, test_rows, words, notes))
    if not measurable:
        why = "; ".join(notes) or "there are no rows"
        raise InputError(f"no word to measure: {why}; give test rows, or {HELD_OUT} rows or more of each of two senses")
    bf16 = False if protocol.full_precision else bf16
    control = random_like(encoder, seed)
    locate = one_by_one if protocol.words_one_by_one else _in_running_text
    results = []
    for word, train, test in measurable:
        return_freed_memory()
        labels, gold = (np.array([row.sense for row in side]) for side in (train, test))
        if short := sorted({count for count in examples if count > max(Counter(labels.tolist()).values())}):
            notes.append(f"{word}: no sense has {', '.join(map(str, short))} train rows: all are taken")
        located = locate(tokenizer_of(encoder), [*train, *test])
        texts = [row.sentence for row in train], labels, [row.sentence for row in test]
        predicted = {MOST_FREQUENT: np.full(len(test), _most_frequent(labels)), BAG: bag_of_words(*texts)}
        blind = vectors = np.empty((0, 0))
        for method, vectors in _methods(word, located, encoder, control, numbers, layers is None, bf16):
            blind = vectors if method == RANDOM else blind
            known, asked = vectors[: len(train)], vectors[len(train) :]
            predicted[method] = geometry.nearest_centroid(known, labels, asked, protocol.plain_centroids)
        headline, centroid = predicted.popitem()  # the last
        scores = {method: _score(gold, given) for method, given in predicted.items()}
        samples = examples, range(seed, seed + seeds), protocol.plain_centroids
        learned, random = (_learned(one, labels, gold, *samples) for one in (vectors, blind))
        scores |= learned | {headline: _score(gold, centroid)}
        random[headline] = scores[RANDOM]
        clusters = _agreement(vectors, np.concatenate([labels, gold]), seed)
        results.append(WordSenses(word, len(set(labels)), len(train), len(test), scores, clusters, random))
    methods = tuple(results[-1].scores)
    return Senses(tuple(results), methods, methods[-1], tuple(notes))


def random_like(encoder: Encoder, seed: int) -> Encoder:
    """An encoder of the same shape and tokenizer with random initialization, on the same device."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        control = Encoder(encoder.config)
    control.tokenizer = encoder.tokenizer
    return control.to(next(encoder.parameters()).device).eval()


def _split(
    train_rows: Sequence[Row], test_rows: Sequence[Row] | None, words: Sequence[str] | None, notes: list[str]
) -> Iterator[tuple[str, list[Row], list[Row]]]:
    """Train and test rows of each word that can be measured; adds a note for the others."""
    by_word = _by_word(train_rows)
    tests = _by_word(test_rows or [])
    for word in words or []:
        if word.casefold() not in by_word:
            raise InputError(f"{word}: no row has this word.{did_you_mean(word, by_word)}")
    chosen = {word.casefold() for word in words} if words else by_word.keys() | tests.keys()
    notes.extend(f"{word}: left out, no train row" for word in tests if word in chosen - by_word.keys())
    for word, rows in by_word.items():
        if word not in chosen:
            continue
        train, test = held_out(rows) if test_rows is None else (rows, tests.get(word, []))
        counts = Counter(row.sense for row in train)
        if len(counts) < 2 or not test:
            why = "no test row" if len(counts) > 1 else f"only one sense ({next(iter(counts))})"
            notes.append(f"{word}: left out, {why}")
            continue
        if single := sorted(str(sense) for sense, count in counts.items() if count == 1):
            notes.append(f"{word}: only one train row for {', '.join(single)}")
        if unseen := sorted({str(row.sense) for row in test} - {str(sense) for sense in counts}):
            notes.append(f"{word}: no train row, and therefore always wrong, for {', '.join(unseen)}")
        yield word, train, test


def held_out(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Train and test rows of one word: the rows of each sense, in order, with index % 5 == 4 are test rows."""
    seen: Counter[str | None] = Counter()
    train, test = list[Row](), list[Row]()
    for row in rows:
        seen[row.sense] += 1
        (train if seen[row.sense] % HELD_OUT else test).append(row)
    return train, test


def _by_word(rows: Sequence[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for column, value in (("word", row.word), ("sense", row.sense)):
            if value is None:
                raise InputError(f"{row.where}: no value in column {column!r}: senses are measured on rows with both")
        grouped[str(row.word).casefold()].append(row)
    return grouped


def _most_frequent(labels: np.ndarray) -> str:
    """The most frequent label, the alphabetically first of ties."""
    return str(Counter(np.sort(labels)).most_common(1)[0][0])


def _methods(
    word: str,
    located: Sequence[Located],
    encoder: Encoder,
    control: Encoder,
    layers: Sequence[int],
    with_sum: bool,
    bf16: bool | None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Methods with their vectors (rows, D): controls, layers, the headline last."""
    yield STATIC, static_context(encoder, located)
    summed = layers[1:][-LAST_LAYERS:] if with_sum else layers[-1:]
    random = token_vectors(control, located, summed, bf16=bf16, progress=f"random vectors of {word}")
    yield RANDOM, random.sum(dim=1).numpy()
    vectors = token_vectors(encoder, located, layers, bf16=bf16, progress=f"vectors of {word}").numpy()
    for column, layer in enumerate(layers):
        yield f"layer {layer}", vectors[:, column]
    if with_sum:  # `layers` are all of them
        name = f"layers {summed[0]}–{summed[-1]}" if len(summed) > 1 else f"layer {summed[0]}, the only one"
        yield name, vectors[:, summed].sum(axis=1)


def static_context(encoder: Encoder, located: Sequence[Located]) -> np.ndarray:
    """(rows, D): the mean embedding of the tokens around the word, without special tokens.

    No positions, no order, no layers: a bag of word vectors. Zeros if there is no other token.
    """
    table = encoder.embeddings.tokens.weight.detach().float().cpu()  # (V, D)
    means = torch.zeros(len(located), table.shape[1])
    for row, (ids, positions) in enumerate(located):
        others = [ids[position] for position in range(1, len(ids) - 1) if position not in positions]
        if others:
            means[row] = table[others].mean(dim=0)
    return means.numpy()


def _in_running_text(tokenizer: Tokenizer, rows: Sequence[Row]) -> list[Located]:
    """The words in their sentences, tokenized as running text."""
    return span_tokens(tokenizer, [row.sentence for row in rows], [span_of(row) for row in rows])


def one_by_one(tokenizer: Tokenizer, rows: Sequence[Row]) -> list[Located]:
    """The words in their sentences, with each stretch between spaces tokenized separately and located as a whole."""
    found = []
    for row in rows:
        start, end = span_of(row)
        words = list(re.finditer(r"\S+", row.sentence))
        ids: list[int] = [tokenizer.cls_id]
        positions: list[int] = []
        for word, own in zip(words, tokenizer.word_tokens([word.group() for word in words])):
            if max(word.start(), start) < min(word.end(), end):
                positions += range(len(ids), len(ids) + len(own))
            ids += own
        if not positions:
            raise InputError(f"{row.where}: characters {start} to {end} contain no word: fix start and end")
        found.append(([*ids, tokenizer.sep_id], positions))
    return found


def _linear(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The answers of a linear probe. Its C is chosen on every fifth train row of a sense; where that leaves none to learn from, it is 1."""
    names, numbers = np.unique(labels, return_inverse=True)
    is_dev = np.zeros(len(labels), bool)
    for number in range(len(names)):
        is_dev[np.flatnonzero(numbers == number)[HELD_OUT - 1 :: HELD_OUT]] = True
    c = 1.0
    if is_dev.any():
        splits = (train[None, ~is_dev], numbers[~is_dev]), (train[None, is_dev], numbers[is_dev])
        c = fit_layers(*splits[0], *splits[1], len(names))[0].probe.c
    probe = fit(train, numbers, train[:1], numbers[:1], len(names), c).probe
    return names[probe.log_probabilities(test).argmax(axis=1)]


CLASSIFIERS: dict[str, Callable[..., np.ndarray]] = {
    "nearest neighbor": geometry.nearest_neighbor,
    "linear probe": _linear,
}


def _learned(
    vectors: np.ndarray,
    labels: np.ndarray,
    gold: np.ndarray,
    examples: Sequence[int],
    seeds: Sequence[int],
    plain: bool,
) -> dict[str, Score]:
    """The scores of each classifier that has seen so many rows of each sense, or all of a sense with fewer: means over samples; and those
    of the classifiers that have seen all rows, but the nearest centroid."""
    classifiers: dict[str, Callable[..., np.ndarray]] = {
        "nearest centroid": partial(geometry.nearest_centroid, plain=plain),
        **CLASSIFIERS,
    }
    train, test = vectors[: len(labels)], vectors[len(labels) :]
    found: dict[str, list[Score]] = defaultdict(list)
    for count, seed in product(examples, seeds):
        order = np.random.default_rng(seed).permutation(len(labels))
        rows = np.concatenate([order[labels[order] == name][:count] for name in np.unique(labels)])
        for method, answer in classifiers.items():
            found[f"{count} a sense, {method}"].append(_score(gold, answer(train[rows], labels[rows], test)))
    few = {method: _mean(scores) for method, scores in found.items()}
    return few | {method: _score(gold, answer(train, labels, test)) for method, answer in CLASSIFIERS.items()}


def _mean(scores: Sequence[Score]) -> Score:
    accuracies = [one.accuracy for one in scores]
    sd = float(np.std(accuracies, ddof=1)) if len(scores) > 1 else None
    return Score(float(np.mean(accuracies)), float(np.mean([one.macro_f1 for one in scores])), sd)


def _agreement(vectors: np.ndarray, senses: np.ndarray, seed: int) -> geometry.Agreement:
    """How well clusters agree with the senses, on at most 1,000 occurrences."""
    some = stratified(senses.tolist(), MOST_CLUSTERED, seed)
    clusters = geometry.cluster(vectors[some], None, seed)
    return geometry.Agreement.of(clusters, np.unique(senses[some], return_inverse=True)[1])


def _score(gold: np.ndarray, predicted: np.ndarray) -> Score:
    f1 = f1_score(gold, predicted, labels=np.unique(gold), average="macro", zero_division=0)
    return Score(float(accuracy_score(gold, predicted)), float(f1))
