"""A word in its contexts: the similarity of its vectors across sentences, layer by layer.

    sentences → occurrences → one vector for each occurrence and layer (mean of its tokens) → cosines, clusters, a map

The baseline of cosines of contextual vectors is not 0: the mean over random tokens may be 0.3, or 0.9. Each mean cosine is therefore shown
with that of random tokens of the same sentences, and with the difference, the corrected cosine (Ethayarajh 2019, "How Contextual are
Contextualized Word Representations?").
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from torch import nn

from bert.errors import InputError, check_arguments, check_seed, option
from bert.inference.embeddings import encoder_of, resolve_layers, span_tokens, token_vectors, tokenizer_of
from bert.model.encoder import Encoder
from bert.probing import geometry
from bert.probing.occurrences import find, fold, forms_of, nearest_words
from bert.probing.rows import Row, read_rows
from bert.report.page import Marked
from bert.report.strata import numbered, stratified
from bert.report.text import decimals, render, table

logger = logging.getLogger(__name__)
MOST_OCCURRENCES = 2_000
BASELINE_TOKENS = 100
"""random tokens whose 4,950 pairs give the baseline"""
BASELINE_SENTENCES = 1_000
COSINES = "cosine: mean over pairs of occurrences; random: over pairs of random tokens; corrected: the difference"
OF_SENSES = "of senses: their silhouette; adj. Rand: of clusters and senses; accuracy: nearest centroid, leave-one-out"
MATRIX_MOST = 12  # most occurrences for which the whole matrix is shown


@dataclass(frozen=True)
class Occurrence:
    """An occurrence of the word."""

    sentence: str
    start: int
    end: int
    sense: str | None = None

    @property
    def text(self) -> str:
        """The word as written there."""
        return self.sentence[self.start : self.end]

    @property
    def marked(self) -> Marked:
        """The sentence with the word marked."""
        return Marked(self.sentence, self.start, self.end)

    def context(self, width: int = 30) -> str:
        """The word in [ ] with at most `width` characters on each side; see `Marked.context`."""
        before, word, after = self.marked.context(width).parts()
        return f"{before}[{word}]{after}".replace("\t", " ").replace("\n", " ")


@dataclass(frozen=True)
class Layer:
    """The vectors of n occurrences in one layer, and their metrics."""

    number: int
    """0: the embeddings"""
    vectors: geometry.Vectors
    """(n, D) fp32"""
    baseline: float
    """mean cosine of random tokens of the sentences; nan for fewer than two tokens"""
    mean_cosine: float
    """over all pairs of occurrences; nan for one occurrence"""
    clusters: geometry.Labels
    """(n,) numbers of the clusters, matched between layers"""
    silhouette: float | None
    """of the clusters, by cosine distance; none if there is one cluster"""
    map: geometry.Vectors
    """(n, 2): the first two principal components of the directions of the vectors, on one scale in all layers"""
    senses: geometry.SenseScores | None
    """none if fewer than two senses are given"""

    @property
    def cosines(self) -> geometry.Vectors:
        """(n, n) cosines between the occurrences."""
        return geometry.cosines(self.vectors)

    def nearest(self, index: int, top: int = 5) -> list[tuple[int, float]]:
        """The occurrences most similar to that at `index`, the nearest first, with their cosines."""
        directions = geometry.unit(self.vectors)
        near = directions @ directions[index]
        near[index] = -np.inf
        order = np.argsort(-near, kind="stable")[: min(top, len(near) - 1)]
        return [(int(other), float(near[other])) for other in order]


@dataclass(frozen=True)
class Words:
    """A word in its contexts. Prints as a summary."""

    word: str
    occurrences: tuple[Occurrence, ...]
    layers: tuple[Layer, ...]
    found: int
    """number of occurrences in the sentences; more than `len(occurrences)` if a sample was taken"""
    unknown: int = 0
    """number of `occurrences` with an unknown token: their vectors are not those of the word, but of [UNK]"""

    def layer(self, number: int = -1) -> Layer:
        """The layer with this number; -1 for the last one. Raises InputError if it was not computed."""
        by_number = {-1: self.layers[-1]} | {layer.number: layer for layer in self.layers}
        if number not in by_number:
            raise InputError(f"layer {number} was not computed: use one of {', '.join(map(str, [*by_number][1:]))}")
        return by_number[number]

    @property
    def most_frequent(self) -> tuple[str, float]:
        """The most frequent sense of the occurrences and its share: the accuracy of a constant answer."""
        ((sense, count),) = Counter(one.sense or "" for one in self.occurrences).most_common(1)
        return sense, count / len(self.occurrences)

    @property
    def vectors(self) -> geometry.Vectors:
        """(N, L, D) fp32 vectors of the occurrences in the layers that were computed."""
        return np.stack([layer.vectors for layer in self.layers], axis=1)

    def columns(self, layer: int = -1) -> dict[str, list[Any]]:
        """For files, of each occurrence its sentence, its characters there, its form and sense, and in one layer its cluster and the
        sentence of the occurrence nearest to it. Raises InputError if the layer was not computed."""
        cosines = self.layer(layer).cosines
        np.fill_diagonal(cosines, -np.inf)
        of_all = {"sentence": "sentence", "start": "start", "end": "end", "form": "text", "sense": "sense"}
        columns = {name: [getattr(one, own) for one in self.occurrences] for name, own in of_all.items()}
        columns["cluster"] = self.layer(layer).clusters.tolist()
        nearest = [self.occurrences[near].sentence for near in cosines.argmax(axis=1)]
        return columns | {"nearest": nearest if len(nearest) > 1 else [None]}

    def by_layer(self) -> list[list[str]]:
        """The metrics of each layer, as rows of cells with a header."""
        header = ["layer", "cosine", "random", "corrected", "clusters", "silhouette"]
        header += ["of senses", "adj. Rand", "accuracy", "within", "between"] if self.layers[-1].senses else []
        return [header, *map(_layer_row, self.layers)]

    def __str__(self) -> str:
        """The metrics by layer, then the occurrences in the last layer: their cosines if they are few, otherwise their clusters."""
        header, *rows = self.by_layer()
        sample = "" if self.found == len(self.occurrences) else f", sample of {len(self.occurrences):,}"
        unknown = f", {self.unknown:,} of them unknown to the model ([UNK])" if self.unknown else ""
        title = f"{self.word}: {self.found:,} occurrences{sample}{unknown}"
        constant = "accuracy of always the most frequent sense: {1:.1%} ({0})".format(*self.most_frequent)
        legend = [COSINES, OF_SENSES, constant] if self.layers[-1].senses else [COSINES]
        below = _matrix if len(self.occurrences) <= MATRIX_MOST else _clusters
        return render(title, *legend, table(header, rows, left=0), "", *below(self, self.layer()))


def _layer_row(layer: Layer) -> list[str]:
    cosines = layer.mean_cosine, layer.baseline, layer.mean_cosine - layer.baseline
    row = [str(layer.number), *map(decimals, cosines), str(len({*layer.clusters.tolist()})), decimals(layer.silhouette)]
    if scores := layer.senses:
        row += [decimals(scores.silhouette), decimals(scores.adjusted_rand), f"{scores.accuracy:.1%}"]
        row += [decimals(scores.within), decimals(scores.between)]
    return row


def _matrix(words: Words, layer: Layer) -> list[Table | str]:
    rows = []
    for n, (one, own, cluster) in enumerate(zip(words.occurrences, layer.cosines, layer.clusters), start=1):
        rows.append([f"{n:2} {one.context(18)}", *map(decimals, own), str(cluster)])
    header = ["", *map(str, range(1, len(rows) + 1)), "cluster"]
    return [f"cosines at layer {layer.number} (random tokens: {decimals(layer.baseline)})", table(header, rows)]


def _clusters(words: Words, layer: Layer) -> list[Table | str]:
    directions = geometry.unit(layer.vectors)
    parts: list[Table | str] = [f"clusters at layer {layer.number}, each with the occurrences nearest to its center"]
    for name in sorted(set(layer.clusters.tolist())):
        members = np.flatnonzero(layer.clusters == name)
        near = members[np.argsort(-(directions[members] @ directions[members].mean(axis=0)), kind="stable")][:3]
        senses = Counter(words.occurrences[index].sense or "" for index in members)
        shown = ", ".join(f"{one} {count}" for one, count in senses.most_common(4) if one) + ", …" * (len(senses) > 4)
        parts.append(f"cluster {name}: {len(members)} occurrences{f' ({shown})' if shown else ''}")
        parts += [f"    {words.occurrences[index].context(40)}" for index in near]
    return parts


def words(
    word: str,
    sentences: Sequence[str] | Sequence[Row] | Path,
    model: nn.Module | str | Path,
    layers: Sequence[int] | int | None = None,
    forms: bool = False,
    senses: Sequence[str] | None = None,
    clusters: int | None = None,
    seed: int = 0,
    also: Sequence[str] = (),
) -> Words:
    """Find a word in sentences and compare the vectors of its occurrences.

    `sentences` may be the Path of a file. `model` is one of our models, or its folder. `layers` counts from 0, the embeddings; default:
    all. `forms`: also find inflected forms, by English rules. `also`: other forms to find. `senses` gives the sense of the word in each
    sentence, like rows with senses. `clusters` is their number; default: the one with the best silhouette. Of more than 2,000 occurrences
    a sample is taken by `seed`, in which every sense has its share, and at least one.

    Raises InputError if the word is empty or does not occur, naming similar words, and for invalid layers, clusters, seeds, senses or
    models.

    >>> from bert import Encoder, EncoderConfig, words
    >>> from bert.data.vocabulary import train_tokenizer
    >>> sentences = ["An apple fell.", "She ate the apple.", "Apple sold phones."]
    >>> tokenizer = train_tokenizer(sentences)
    >>> encoder = Encoder(EncoderConfig(tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=2))
    >>> encoder.tokenizer = tokenizer  # as `Encoder.load` does
    >>> found = words("apple", sentences, encoder)
    >>> [one.text for one in found.occurrences]
    ['apple', 'apple', 'Apple']
    >>> [layer.number for layer in found.layers]
    [0, 1, 2]
    """
    check_arguments(words, locals())
    if not fold(word).strip():
        raise InputError("the word is empty: give a word of the sentences")
    if clusters is not None and clusters < 1:
        raise InputError(f"clusters is {clusters}: give 1 or more")
    check_seed(seed)
    rows = _as_rows(sentences, senses)
    found = _occurrences(word.strip(), rows, forms, also)
    encoder = encoder_of(model)
    numbers = sorted(set(resolve_layers(encoder.config, layers)))
    if clusters is not None and clusters > len(found):
        raise InputError(f"clusters is {clusters} and {word.strip()} occurs {len(found)} times: give at most that many")
    chosen = tuple(found[index] for index in stratified([one.sense or "" for one in found], MOST_OCCURRENCES, seed))
    if left := len({one.sense for one in found}) - len({one.sense for one in chosen}):
        why = f"at most {len(chosen):,} occurrences are compared"
        logger.warning(f"{left:,} senses of {word.strip()} are left out: {why}")
    tokenizer, spans = tokenizer_of(encoder), [(one.start, one.end) for one in chosen]
    located = span_tokens(tokenizer, [one.sentence for one in chosen], spans)
    vectors = token_vectors(encoder, located, numbers, progress=f"vectors of {word}").numpy()
    by_layer = [vectors[:, column] for column in range(len(numbers))]
    baselines = _baselines(encoder, [row.sentence for row in rows], numbers, seed)
    given = [one.sense for one in chosen]
    labels = np.unique(np.array(given), return_inverse=True)[1] if None not in given and len({*given}) > 1 else None
    measured: list[Layer] = []  # from the last layer down, whose clusters determine the numbers of the others
    by_number = [*zip(numbers, by_layer, baselines, geometry.maps(by_layer), strict=True)]
    for number, own, baseline, flat in reversed(by_number):
        groups = geometry.cluster(own, clusters, seed)
        groups = geometry.match_clusters(groups, measured[-1].clusters if measured else numbered(groups.tolist()))
        scores = None if labels is None else geometry.sense_scores(own, groups, labels)
        score, mean = geometry.silhouette(own, groups), geometry.mean_cosine(own)
        measured.append(Layer(number, own, baseline, mean, groups, score, flat, scores))
    unknown = sum(tokenizer.unk_id in (ids[position] for position in positions) for ids, positions in located)
    return Words(word.strip(), chosen, tuple(measured[::-1]), len(found), unknown)


def _as_rows(sentences: Sequence[str] | Sequence[Row] | Path, senses: Sequence[str] | None) -> list[Row]:
    if isinstance(sentences, Path):
        sentences = read_rows(sentences)
    if senses is not None and len(senses) != len(sentences):
        raise InputError(f"{len(senses)} senses for {len(sentences)} sentences: give one for each")
    rows = [one if isinstance(one, Row) else Row(str(one), f"sentence {n}") for n, one in enumerate(sentences, start=1)]
    if senses is not None:
        rows = [replace(row, sense=sense) for row, sense in zip(rows, senses)]
    rows = [row for row in rows if row.sentence.strip()]
    if not rows:
        raise InputError("no sentences: all are empty")
    return rows


def _occurrences(word: str, rows: Sequence[Row], forms: bool, also: Sequence[str]) -> list[Occurrence]:
    """The occurrences of the word. If rows give senses, only rows whose own word it is, by name or by place, are used."""
    wanted = [*(forms_of(word) if forms else [word]), *also]

    def is_of_word(row: Row) -> bool:
        if row.word is not None:
            return fold(row.word) == fold(word)
        return row.span is None or bool(find(row.sentence[slice(*row.span)], wanted))

    of_word = [row for row in rows if is_of_word(row)]
    own = [row for row in of_word if row.sense is not None]
    for row in of_word if own else []:
        if row.sense is None and find(row.sentence, wanted):
            raise InputError(f"{row.where}: no sense of {word}, which other rows have: add it, or remove the row")
    places = [(row, [row.span] if row.span and is_of_word(row) else find(row.sentence, wanted)) for row in own or rows]
    found = [Occurrence(row.sentence, *at, row.sense if own else None) for row, spans in places for at in spans]
    if not found:
        near = nearest_words(word, (row.sentence for row in rows))
        similar = f": similar words are {', '.join(near)}" if near else ", and no similar word"
        english = f"{option('forms')} also finds inflected forms, by English rules"
        other = english if word.isascii() else f"{option('also')} finds other forms that you name"
        more = "" if forms or also else f"; {other}"
        raise InputError(f"{word} is not in the {len(rows):,} sentences{similar}{more}")
    if absent := [row.where for row, spans in places if not spans and row.word is not None and is_of_word(row)]:
        what = f"{len(absent):,} of {len(places):,} rows of {word} are left out: it is not in their sentences"
        logger.warning(f"{what} ({absent[0]} is the first); `also` finds other forms")
    return found


def _baselines(encoder: Encoder, sentences: Sequence[str], layers: Sequence[int], seed: int) -> list[float]:
    """For each layer the mean cosine over all pairs of 100 random tokens of the sentences, without special tokens."""
    draw = np.random.default_rng(seed)
    tokenizer = tokenizer_of(encoder)
    tokens = [
        (sentences[index], span)
        for index in sorted(draw.permutation(len(sentences))[:BASELINE_SENTENCES])
        for span in tokenizer.encode_with_offsets(sentences[index])[1][1:-1]
        if span[0] < span[1]
    ]
    chosen = [tokens[index] for index in sorted(draw.permutation(len(tokens))[:BASELINE_TOKENS])]
    located = span_tokens(tokenizer, [text for text, _ in chosen], [span for _, span in chosen])
    vectors = token_vectors(encoder, located, layers).numpy()
    return [geometry.mean_cosine(vectors[:, column]) for column in range(len(layers))]
