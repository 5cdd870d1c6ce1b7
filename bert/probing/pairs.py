"""Minimal pairs: does a masked LM find the good sentence more probable than the bad one?

    pairs (good, bad, phenomenon) → the scores of both sentences → right, wrong or a tie → accuracy, by phenomenon

Warstadt et al. 2020, "BLiMP: The Benchmark of Linguistic Minimal Pairs for English"; sentences are compared by the sums of their
log-probabilities (`bert.probing.sentences`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from torch import nn

from bert.data.rows import name_of
from bert.errors import InputError, check_arguments
from bert.probing.rows import Pair, read_pairs
from bert.probing.sentences import SentenceScore, score
from bert.report.text import render, tabbed, table

TIE = 1e-4
"""nats: scores that differ by less are equal, as for two sentences of the same tokens; rounding errors are smaller"""

Verdict = Literal["right", "wrong", "tie"]
Column = Literal["phenomenon", "field", "paradigm"]
COLUMNS: tuple[Column, ...] = get_args(Column)


@dataclass(frozen=True)
class ScoredPair:
    """A pair with the scores of both sentences."""

    pair: Pair
    good: SentenceScore
    bad: SentenceScore

    @property
    def verdict(self) -> Verdict:
        """Whether the model prefers the good sentence, the bad one, or neither."""
        ahead = self.good.score - self.bad.score
        return "tie" if abs(ahead) < TIE else "right" if ahead > 0 else "wrong"


@dataclass(frozen=True)
class Group:
    """Counts over several pairs."""

    name: str
    pairs: int
    right: int
    ties: int

    @property
    def accuracy(self) -> float:
        """The share of pairs whose good sentence has the higher score, from 0 to 1. A tie is not right."""
        return self.right / self.pairs

    def row(self) -> dict[str, object]:
        """The counts and the accuracy, for files."""
        return {**vars(self), "accuracy": self.accuracy}


@dataclass(frozen=True)
class MinimalPairs:
    """Scored pairs in order. Prints as the accuracy of each phenomenon."""

    pairs: tuple[ScoredPair, ...]

    @property
    def overall(self) -> Group:
        """All pairs."""
        return _group("all", self.pairs)

    def groups(self, column: Column) -> list[Group]:
        """The pairs by one of their columns, in order of appearance; pairs without a value are left out."""
        by_name: dict[str, list[ScoredPair]] = {}
        for one in self.pairs:
            name = getattr(one.pair, column)
            if name is not None:
                by_name.setdefault(name, []).append(one)
        return [_group(name, pairs) for name, pairs in by_name.items()]

    def rows(self) -> Iterator[dict[str, object]]:
        """One row for each pair, for files."""
        for one in self.pairs:
            kind: dict[str, object] = {column: getattr(one.pair, column) for column in COLUMNS}
            scores = {"good_score": one.good.score, "bad_score": one.bad.score, "verdict": one.verdict}
            yield {**kind, **scores, "good": one.pair.good, "bad": one.pair.bad}

    def summary(self) -> dict[str, object]:
        """Counts and accuracy of all pairs, and of each phenomenon, field and paradigm, for files."""
        by_column: dict[str, object] = {column: [group.row() for group in self.groups(column)] for column in COLUMNS}
        return {"all": self.overall.row(), **by_column, "pairs": list(self.rows())}

    def __str__(self) -> str:
        """A table of the accuracy of each phenomenon (or paradigm, if no pair has a phenomenon) and of all pairs."""
        phenomena, paradigms = self.groups("phenomenon"), self.groups("paradigm")
        groups = [*(phenomena or paradigms), self.overall]
        rows = [
            [one.name, *(f"{n:,}" for n in (one.pairs, one.right, one.ties)), f"{one.accuracy:.1%}"] for one in groups
        ]
        ties = self.overall.ties
        are = "pair is a tie" if ties == 1 else "pairs are ties"
        remark = f"{ties:,} {are}: the scores differ by less than 0.0001 nats; counted as not right"
        name = "phenomenon" if phenomena else "paradigm" if paradigms else ""
        header = [name, "pairs", "right", "ties", "accuracy"]
        return render(table(header, rows), *([remark] if ties else []))

    def listed(self) -> str:
        """Every pair with both scores, and the accuracy."""
        marks = {"right": "yes", "wrong": "no", "tie": "tie"}
        rows = []
        for one in self.pairs:
            scores = f"{one.good.score:.2f}", f"{one.bad.score:.2f}", marks[one.verdict]
            rows.append((*scores, one.pair.good, one.pair.bad))
        total = self.overall
        ties = f", and the same score in {total.ties:,}" if total.ties else ""
        right = f"the good sentence has the higher score in {total.right:,} of {total.pairs:,} pairs{ties}"
        lines = tabbed(("good", "bad", "right", "good sentence", "bad sentence"), rows)
        return f"{lines}accuracy {total.accuracy:.1%}: {right}"


def minimal_pairs(
    pairs: Sequence[Pair] | str | Path,
    model: nn.Module | str | Path,
    *,
    limit: int | None = None,
    within_word: bool = False,
    progress: str | None = None,
) -> MinimalPairs:
    """Score both sentences of each pair with a masked LM, or with the model in a folder.

    `pairs` may be a file, of which `limit` takes the first pairs of each paradigm. `within_word`: see `score`.

    Raises InputError if there are no pairs, or a sentence has no token.
    """
    check_arguments(minimal_pairs, locals())
    if isinstance(pairs, str | Path):
        pairs = pairs_of(pairs, limit)
    if not pairs:
        raise InputError("no pairs: give at least one")
    sentences = [sentence for pair in pairs for sentence in (pair.good, pair.bad)]
    scores = score(sentences, model, within_word=within_word, progress=progress)
    made = tuple(ScoredPair(*three) for three in zip(pairs, scores[::2], scores[1::2]))
    for number, one in enumerate(made, start=1):
        for sentence in (one.good, one.bad):
            if not sentence.tokens:
                where = one.pair.where or f"pair {number}"
                raise InputError(f"{where}: no token in the sentence {sentence.sentence!r}: fix or remove it")
    return MinimalPairs(made)


def pairs_of(file: str | Path, limit: int | None = None) -> list[Pair]:
    """The pairs of a file. Raises InputError if it has no such columns; see `read_pairs`."""
    pairs = read_pairs(file, limit)
    if pairs is None:
        raise InputError(f"{name_of(file)}: no columns good and bad: give .jsonl, .tsv or .csv with pairs of sentences")
    return pairs


def _group(name: str, pairs: Sequence[ScoredPair]) -> Group:
    verdicts = [one.verdict for one in pairs]
    return Group(name, len(pairs), verdicts.count("right"), verdicts.count("tie"))
