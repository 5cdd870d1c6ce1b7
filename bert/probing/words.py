"""One word in its contexts: how alike its vectors are from sentence to sentence, layer by layer.

    sentences → occurrences → one vector for each and layer (mean of its pieces) → cosines, clusters, a map

Cosines of contextual vectors do not begin at 0: those of random tokens may lie at 0.3, or at 0.9. So each stands beside the
mean cosine of random tokens of the same sentences, and corrected is what is above it (Ethayarajh 2019, "How Contextual are
Contextualized Word Representations?").
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from torch import nn

from bert.errors import InputError, check_seed, option
from bert.inference.embeddings import encoder_of, resolve_layers, span_tokens, token_vectors, tokenizer_of
from bert.model.encoder import Encoder
from bert.probing import geometry
from bert.probing.occurrences import find, forms_of, nearest_words
from bert.probing.rows import Row, read_rows
from bert.report.page import Marked
from bert.report.text import decimals, render, table

MOST_OCCURRENCES = 2_000
BASELINE_TOKENS = 100
"""random tokens whose 4,950 pairs give the baseline"""
BASELINE_SENTENCES = 1_000
_COSINES = "cosine: mean over pairs of occurrences; random: over pairs of random tokens; corrected: what is above that"
_OF_SENSES = "of senses: their silhouette; Rand: clusters against senses; accuracy: nearest centroid, leave-one-out"
MATRIX_MOST = 12  # occurrences of which the whole matrix is shown


@dataclass(frozen=True)
class Occurrence:
    """A place where the word stands."""

    sentence: str
    start: int
    end: int
    sense: str | None = None

    @property
    def text(self) -> str:
        """The word as it stands there."""
        return self.sentence[self.start : self.end]

    @property
    def marked(self) -> Marked:
        """The sentence with the word marked."""
        return Marked(self.sentence, self.start, self.end)

    def context(self, width: int = 30) -> str:
        """The word between [ ] with at most `width` characters on each side; see `Marked.context`."""
        before, word, after = self.marked.context(width).parts()
        return f"{before}[{word}]{after}".replace("\t", " ").replace("\n", " ")


@dataclass(frozen=True)
class Layer:
    """What one layer makes of n occurrences."""

    number: int
    """0: the embeddings"""
    vectors: geometry.Vectors
    """(n, D) fp32"""
    baseline: float
    """mean cosine of random tokens of the sentences; nan where there are fewer than two"""
    mean_cosine: float
    """over all pairs of occurrences; nan for one occurrence"""
    clusters: geometry.Labels
    """(n,) numbers of the clusters, matched from layer to layer"""
    silhouette: float | None
    """of the clusters, by cosine distance; none where there is one cluster"""
    map: geometry.Vectors
    """(n, 2): for pictures"""
    senses: geometry.SenseScores | None
    """none where fewer than two senses are given"""

    @property
    def cosines(self) -> geometry.Vectors:
        """(n, n) cosines between the occurrences."""
        return geometry.cosines(self.vectors)

    def nearest(self, place: int, top: int = 5) -> list[tuple[int, float]]:
        """The occurrences most like that at `place`, the likest first, with their cosines."""
        directions = geometry.unit(self.vectors)
        near = directions @ directions[place]
        near[place] = -np.inf
        order = np.argsort(-near, kind="stable")[: min(top, len(near) - 1)]
        return [(int(other), float(near[other])) for other in order]


@dataclass(frozen=True)
class Words:
    """A word in its contexts. Print it for a summary."""

    word: str
    occurrences: tuple[Occurrence, ...]
    layers: tuple[Layer, ...]
    found: int
    """occurrences that the sentences hold; more than `len(occurrences)` where a sample was taken"""

    def layer(self, number: int = -1) -> Layer:
        """A layer by its number; -1 for the last that was looked at."""
        if number == -1:
            return self.layers[-1]
        for layer in self.layers:
            if layer.number == number:
                return layer
        raise InputError(f"layer {number} was not looked at: give {', '.join(str(one.number) for one in self.layers)}")

    def __str__(self) -> str:
        """Layer by layer, then the last layer's occurrences: their matrix where they are few, their clusters where many."""
        senses = any(layer.senses for layer in self.layers)
        header = ["layer", "cosine", "random", "corrected", "clusters", "silhouette"]
        header += ["of senses", "Rand", "accuracy", "within", "between"] if senses else []
        sample = "" if self.found == len(self.occurrences) else f", {len(self.occurrences):,} of them taken"
        parts: list[Table | str] = [f"{self.word}: {self.found:,} occurrences{sample}"]
        parts.append(_COSINES)
        if senses:
            parts.append(_OF_SENSES)
        parts.append(table(header, [_layer_row(layer, senses) for layer in self.layers], left=0))
        last = self.layer()
        few = len(self.occurrences) <= MATRIX_MOST
        parts.append("")
        parts += _matrix(self, last) if few else _clusters(self, last)
        return render(*parts)


def _layer_row(layer: Layer, senses: bool) -> list[str]:
    cosines = layer.mean_cosine, layer.baseline, layer.mean_cosine - layer.baseline
    row = [str(layer.number), *map(decimals, cosines), str(len({*layer.clusters.tolist()})), decimals(layer.silhouette)]
    if senses and layer.senses is not None:
        scores = layer.senses
        row += [decimals(scores.silhouette), decimals(scores.adjusted_rand), f"{scores.accuracy:.1%}"]
        row += [decimals(scores.within), decimals(scores.between)]
    return row


def _matrix(words: Words, layer: Layer) -> list[Table | str]:
    cosines, n = layer.cosines, len(words.occurrences)
    rows = [
        [f"{place + 1:2} {one.context(18)}", *(decimals(value) for value in cosines[place]), str(layer.clusters[place])]
        for place, one in enumerate(words.occurrences)
    ]
    header = ["", *(str(place + 1) for place in range(n)), "cluster"]
    return [f"cosines at layer {layer.number} (random tokens: {decimals(layer.baseline)})", table(header, rows)]


def _clusters(words: Words, layer: Layer) -> list[Table | str]:
    directions = geometry.unit(layer.vectors)
    parts: list[Table | str] = [f"clusters at layer {layer.number}, each with the occurrences nearest to its middle"]
    for name in sorted(set(layer.clusters.tolist())):
        positions = np.flatnonzero(layer.clusters == name)
        near = positions[np.argsort(-(directions[positions] @ directions[positions].mean(axis=0)), kind="stable")][:3]
        senses = Counter(words.occurrences[place].sense or "" for place in positions)
        told = ", ".join(f"{sense} {count}" for sense, count in senses.most_common(4) if sense)
        parts.append(f"cluster {name}: {len(positions)} occurrences{f' ({told})' if told else ''}")
        parts += [f"    {words.occurrences[place].context(40)}" for place in near]
    return parts


def words(
    word: str,
    sentences: Sequence[str] | Sequence[Row] | Path,
    model: nn.Module | str | Path,
    layers: Sequence[int] | int | None = None,
    forms: bool | str | Sequence[str] = False,
    senses: Sequence[str] | None = None,
    clusters: int | None = None,
    seed: int = 0,
) -> Words:
    """Find a word in sentences and compare its vectors from place to place.

    `sentences` may be the Path of a file. `model` is one of ours, or its folder. `layers` counts from 0, the embeddings; not
    given: all. `forms` takes inflected forms by English rules as well, or those listed. `senses` gives the sense of the word in
    each sentence, as rows with senses do. `clusters` is their number; not given, the one with the best silhouette. Of more than
    2,000 occurrences a sample drawn by `seed` is taken.

    Raises InputError where the word is empty or does not occur, naming words that do, and for layers, clusters, seeds, senses
    or a model that cannot be.

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
    if not word.strip():
        raise InputError("the word is empty: give one that stands in the sentences")
    if clusters is not None and clusters < 1:
        raise InputError(f"clusters is {clusters}: give 1 or more")
    check_seed(seed)
    rows = _as_rows(sentences, senses)
    found = _occurrences(word.strip(), rows, forms)
    encoder = encoder_of(model)
    numbers = sorted(set(resolve_layers(encoder.config, layers)))
    draw = np.random.default_rng(seed)
    if clusters is not None and clusters > len(found):
        raise InputError(f"clusters is {clusters}: {word.strip()} occurs {len(found)} times: give so many or fewer")
    taken = sorted(draw.permutation(len(found))[:MOST_OCCURRENCES])
    chosen = tuple(found[place] for place in taken)
    spans = [(one.start, one.end) for one in chosen]
    pieces = span_tokens(tokenizer_of(encoder), [one.sentence for one in chosen], spans)
    vectors = token_vectors(encoder, pieces, numbers, progress=f"vectors of {word}").numpy()
    by_layer = [vectors[:, column] for column in range(len(numbers))]
    baselines = _baselines(encoder, [row.sentence for row in rows], numbers, seed)
    given = [one.sense for one in chosen]
    labels = None
    if None not in given and len(set(given)) > 1:
        labels = np.unique(np.array(given), return_inverse=True)[1]
    looked = _look(numbers, by_layer, baselines, labels, clusters, seed)
    return Words(word.strip(), chosen, looked, len(found))


def _look(
    numbers: Sequence[int],
    by_layer: Sequence[geometry.Vectors],
    baselines: Sequence[float],
    labels: geometry.Labels | None,
    clusters: int | None,
    seed: int,
) -> tuple[Layer, ...]:
    """Everything that is said of each layer; from the last one down, whose clusters give the others their numbers."""
    maps = geometry.maps(by_layer)
    looked: list[Layer] = []
    for number, vectors, baseline, flat in reversed(list(zip(numbers, by_layer, baselines, maps, strict=True))):
        groups = geometry.cluster(vectors, clusters, seed)
        groups = geometry.match_clusters(groups, looked[-1].clusters if looked else _first_come(groups))
        scores = None if labels is None else geometry.sense_scores(vectors, groups, labels, seed)
        score = geometry.silhouette(vectors, groups, seed)
        mean = geometry.mean_cosine(vectors)
        looked.append(Layer(number, vectors, baseline, mean, groups, score, flat, scores))
    return tuple(looked[::-1])


def _first_come(groups: geometry.Labels) -> geometry.Labels:
    """Clusters numbered by their first occurrence."""
    order = {old: new for new, old in enumerate(dict.fromkeys(groups.tolist()))}
    return np.array([order[old] for old in groups.tolist()])


def _as_rows(sentences: Sequence[str] | Sequence[Row] | Path, senses: Sequence[str] | None) -> list[Row]:
    if isinstance(sentences, str):
        raise InputError('words takes a list of sentences, or a Path: give ["…"] for one sentence')
    if isinstance(sentences, Path):
        sentences = read_rows(sentences)
    if senses is not None and len(senses) != len(sentences):
        raise InputError(f"{len(senses)} senses for {len(sentences)} sentences: give one for each")
    rows = [one if isinstance(one, Row) else Row(str(one), f"sentence {n}") for n, one in enumerate(sentences, start=1)]
    if senses is not None:
        rows = [Row(row.sentence, row.where, row.word, row.span, sense) for row, sense in zip(rows, senses)]
    rows = [row for row in rows if row.sentence.strip()]
    if not rows:
        raise InputError("no sentence to look at: all are empty")
    return rows


def _occurrences(word: str, rows: Sequence[Row], forms: bool | str | Sequence[str]) -> list[Occurrence]:
    """Where the word stands. Rows that give senses of words speak for their own word: then only those of this word count."""
    forms = [forms] if isinstance(forms, str) else forms
    wanted = forms_of(word) if forms is True else [word, *(forms or [])]
    of_word = [row for row in rows if row.word is None or row.word.casefold() == word.casefold()]
    own = [row for row in of_word if row.sense is not None]
    for row in of_word if own else []:
        if row.sense is None and find(row.sentence, wanted):
            raise InputError(f"{row.where}: no sense of {word}, which other rows have: fill it in, or leave it out")
    found: list[Occurrence] = []
    for row in own or rows:
        spans = find(row.sentence, wanted)
        if row.span is not None and row.word is not None and row.word.casefold() == word.casefold():
            spans = [row.span]
        found += [Occurrence(row.sentence, *span, row.sense if own else None) for span in spans]
    if not found:
        near = nearest_words(word, (row.sentence for row in rows))
        there = f": near to it are {', '.join(near)}" if near else ", nor anything like it"
        inflected = "" if forms else f"; for its inflected forms too give {option('forms')}"
        raise InputError(f"{word} occurs in none of the {len(rows):,} sentences{there}{inflected}")
    return found


def _baselines(encoder: Encoder, sentences: Sequence[str], layers: Sequence[int], seed: int) -> list[float]:
    """For each layer the mean cosine of all pairs of 100 tokens drawn from the sentences, special tokens aside."""
    draw = np.random.default_rng(seed)
    tokenizer = tokenizer_of(encoder)
    tokens = [
        (sentences[place], span)
        for place in sorted(draw.permutation(len(sentences))[:BASELINE_SENTENCES])
        for span in tokenizer.encode_with_offsets(sentences[place])[1][1:-1]
        if span[0] < span[1]
    ]
    chosen = [tokens[place] for place in sorted(draw.permutation(len(tokens))[:BASELINE_TOKENS])]
    pieces = span_tokens(tokenizer, [text for text, _ in chosen], [span for _, span in chosen])
    vectors = token_vectors(encoder, pieces, layers).numpy()
    return [geometry.mean_cosine(vectors[:, column]) for column in range(len(layers))]
