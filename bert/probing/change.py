"""Change of meaning: how differently words are used in two periods, or two corpora.

    rows (word, sentence, period) → one vector an occurrence → three distances between the periods → p-values by permutation

Each measure compares the occurrences of a word in the first period with those in the second. Its p-value is the share of random
assignments of the same occurrences to the periods in which it is as large: a word with many senses is not a word that changed.
Giulianelli et al. 2020, "Analysing Lexical Semantic Change with Contextualised Word Representations"; Kutuzov and Giulianelli 2020,
"UiO-UvA at SemEval-2020 Task 1".
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy, false_discovery_control
from torch import nn

from bert.errors import InputError, check_arguments, check_seed, did_you_mean, option
from bert.inference.embeddings import encoder_of, resolve_layers, span_tokens, token_vectors, tokenizer_of
from bert.probing import geometry
from bert.probing.rows import Row, read_rows, span_of
from bert.report.page import Marked
from bert.report.strata import stratified
from bert.report.text import render, table

FEWEST, MOST = 5, 1_000  # occurrences of a word in a period, and in both together
PERMUTATIONS = 999
CONTEXT = 36


@dataclass(frozen=True)
class WordChange:
    """How differently one word is used in two periods."""

    word: str
    first: int
    """occurrences in the first period"""
    second: int
    apd: float
    """average pairwise distance: the mean cosine distance between an occurrence of each period"""
    prt: float
    """1 / the cosine of the mean vectors (prototypes) of the periods"""
    jsd: float
    """Jensen–Shannon divergence, in bits, of the shares of the word's clusters in the periods"""
    p_apd: float
    p_prt: float
    p_jsd: float
    example_first: str
    """the most typical occurrence in the first period of the cluster whose share is larger there by most; empty with one cluster"""
    example_second: str
    q: float = 1.0
    """expected share of unchanged words among those with this `p_prt` or less (Benjamini and Hochberg 1995)"""


@dataclass(frozen=True)
class Changes:
    """Words by their change between two periods, the most surprising first. Prints as a table."""

    periods: tuple[str, str]
    words: tuple[WordChange, ...]
    notes: tuple[str, ...]
    layers: str
    """whose vectors are compared"""

    def table(self) -> list[dict[str, object]]:
        """One row a word, for files and for pandas."""
        about = {"first_period": self.periods[0], "second_period": self.periods[1], "vectors": self.layers}
        return [vars(one) | about for one in self.words]

    def __str__(self) -> str:
        """The table of all words, then examples of those with q < 0.05."""
        rows = [
            [one.word, str(one.first), str(one.second), f"{one.apd:.3g}", f"1 + {one.prt - 1:.2g}", f"{one.jsd:.3f}",
             *(f"{value:.3f}" for value in (one.p_apd, one.p_prt, one.p_jsd, one.q))]
            for one in self.words
        ]  # fmt: skip
        header = ["word", *self.periods, "APD", "PRT", "JSD", "p APD", "p PRT", "p JSD", "q"]
        shown = [
            f"{one.word}, {period}: {example}"
            for one in self.words
            for period, example in zip(self.periods, (one.example_first, one.example_second))
            if example and one.q < 0.05
        ]
        return render(f"vectors of {self.layers}", table(header, rows), *[""] * bool(shown), *shown, *self.notes)


def change(
    rows: Sequence[Row] | str | Path,
    model: nn.Module | str | Path,
    column: str | None = None,
    layer: int | None = None,
    words: Sequence[str] = (),
    seed: int = 0,
    *,
    bf16: bool | None = None,
) -> Changes:
    """Rank words by how differently they are used in two periods.

    `rows`, or those of a file, have a word, a sentence, the position of the word (default: its first occurrence), and one of two periods
    as their `group`, which is the `column` of a file. `layer`: vectors of this one, from 0, the embeddings; default: the sum of the last
    four. `words`: these only. A word needs 5 occurrences in each period; of more than 1,000 a sample is taken by `seed`.

    Raises InputError if there are not exactly two periods, if no word has enough occurrences, and for invalid models and layers.
    """
    check_arguments(change, locals())
    check_seed(seed)
    if isinstance(rows, str | Path):
        if column is None:
            raise InputError("no column with the period: name it")
        rows = read_rows(rows, group=column)
    periods, by_word, notes = _grouped(rows, words)
    encoder = encoder_of(model)
    layers = resolve_layers(encoder.config, range(max(1, encoder.config.num_layers - 3), encoder.config.num_layers + 1))
    layers = layers if layer is None else resolve_layers(encoder.config, layer)
    draw, found = np.random.default_rng(seed), []
    for word, own in by_word.items():
        own = [own[index] for index in stratified([row.group for row in own], MOST, seed)]
        located = span_tokens(tokenizer_of(encoder), [row.sentence for row in own], [span_of(row) for row in own])
        vectors = token_vectors(encoder, located, layers, bf16, f"vectors of {word}").sum(dim=1).numpy()
        second = np.array([row.group == periods[1] for row in own])
        clusters = geometry.cluster(vectors, None, seed)
        (apd, prt, jsd), (p_apd, p_prt, p_jsd) = with_p(vectors, second, clusters, draw)
        sizes = int((~second).sum()), int(second.sum())
        examples = _example(own, vectors, clusters, ~second), _example(own, vectors, clusters, second)
        found.append(WordChange(word, *sizes, apd, prt, jsd, p_apd, p_prt, p_jsd, *examples))
    q = false_discovery_control([one.p_prt for one in found])
    ranked = [replace(one, q=float(of)) for one, of in zip(found, q)]
    ranked.sort(key=lambda one: (one.p_prt, -one.prt))
    name = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}–{layers[-1]}, summed"
    return Changes(periods, tuple(ranked), tuple(notes), name)


def _grouped(rows: Sequence[Row], words: Sequence[str]) -> tuple[tuple[str, str], dict[str, list[Row]], list[str]]:
    """The two periods, the rows of each word with enough of them, and notes on the others."""
    periods = sorted({row.group or "" for row in rows})
    if len(periods) != 2:
        held = shorten(", ".join(periods[:5]), 120, placeholder="…")
        raise InputError(f"{option('change')}: {len(periods)} periods ({held}): give rows of exactly two")
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.word is None:
            raise InputError(f"{row.where}: no value in column 'word': change is measured for words")
        grouped[row.word.casefold()].append(row)
    for word in words:
        if word.casefold() not in grouped:
            raise InputError(f"{word}: no row has this word.{did_you_mean(word, grouped)}")
    grouped = {word: grouped[word] for word in dict.fromkeys(map(str.casefold, words))} if words else grouped
    counts = {word: Counter(row.group for row in own) for word, own in grouped.items()}
    few = [word for word, of in counts.items() if min(of[one] for one in periods) < FEWEST]
    if len(few) == len(grouped):
        raise InputError(f"no word has {FEWEST} occurrences in {periods[0]} and in {periods[1]}: give more rows")
    notes = [f"left out, fewer than {FEWEST} occurrences in a period: {', '.join(few)}"] if few else []
    return (periods[0], periods[1]), {word: own for word, own in grouped.items() if word not in few}, notes


def with_p(
    vectors: geometry.Vectors, second: NDArray[np.bool_], clusters: geometry.Labels, draw: np.random.Generator
) -> tuple[list[float], list[float]]:
    """APD, PRT and JSD of the occurrences that are `second` and those that are not, (n,) bool, and their p-values by permutation."""
    assignments = np.stack([second, *(draw.permutation(second) for _ in range(PERMUTATIONS))])  # (P + 1, n)
    values = measures(vectors.astype(np.float64), clusters, assignments.astype(np.float64))  # (3, P + 1)
    as_large = values >= values[:, :1] - geometry.ROUNDING
    return values[:, 0].tolist(), as_large.mean(axis=1).tolist()


def measures(
    vectors: geometry.Vectors, clusters: geometry.Labels, second: NDArray[np.floating]
) -> NDArray[np.floating]:
    """(3, P): APD, PRT and JSD for each of P assignments to the second period, (P, n) of 0 and 1."""
    sizes = second.sum(axis=1)  # (P,)
    first_size = second.shape[1] - sizes

    def sums(values: geometry.Vectors) -> tuple[geometry.Vectors, geometry.Vectors]:
        of_second = second @ values
        return values.sum(axis=0) - of_second, of_second

    one, two = sums(geometry.unit(vectors))
    apd = 1 - (one * two).sum(axis=1) / (first_size * sizes)
    one, two = map(geometry.unit, sums(vectors))
    prt = 1 / np.maximum((one * two).sum(axis=1), 1e-6)  # opposite means are as far apart as orthogonal ones
    one, two = sums((clusters[:, None] == np.unique(clusters)).astype(np.float64))
    p, q = one / first_size[:, None], two / sizes[:, None]
    jsd = (entropy(p, (p + q) / 2, base=2, axis=1) + entropy(q, (p + q) / 2, base=2, axis=1)) / 2
    return np.stack([apd, prt, jsd])


def _example(rows: Sequence[Row], vectors: geometry.Vectors, clusters: geometry.Labels, own: NDArray[np.bool_]) -> str:
    """The most typical occurrence, among `own`, of the cluster that has the largest lead there; empty if there is one cluster."""
    names = np.unique(clusters)
    if len(names) == 1:
        return ""
    lead = [(clusters[own] == name).mean() - (clusters[~own] == name).mean() for name in names]
    members = np.flatnonzero((clusters == names[np.argmax(lead)]) & own)
    directions = geometry.unit(vectors)[members]
    row = rows[members[np.argmax(directions @ directions.mean(axis=0))]]
    before, word, after = Marked(row.sentence, *span_of(row)).context(CONTEXT).parts()
    return f"{before}[{word}]{after}"
