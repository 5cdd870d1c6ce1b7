"""What an evaluation shows of one task only: plain values for metrics.json, which its page draws by their type."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bert.finetuning.evaluation.per_example import f1
from bert.finetuning.metrics import span_counts, span_types
from bert.finetuning.tags import Scheme, Span, spans

MOST_EXAMPLES = 20  # of a cell


@dataclass(frozen=True)
class Detail:
    """A section of the page."""

    title: str
    lead: str
    """how to read it"""


@dataclass(frozen=True)
class Table(Detail):
    """A table. A float is a share, from 0 to 1."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


@dataclass(frozen=True)
class Chart(Detail):
    """Curves or points on the same axes."""

    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    """name → (x, y) points"""
    dots: Sequence[str] = ()
    """the names of series that are points, not curves"""


Cell = tuple[str, str, int, Sequence[int]]
"""a right label, a predicted one, how often they meet, and the numbers of at most 20 such examples, from 0, the largest loss first"""


@dataclass(frozen=True)
class Confusion(Detail):
    """The cells of a confusion matrix that are not 0."""

    labels: Sequence[str]
    """those that are right or predicted at least once"""
    cells: Sequence[Cell]


def confusion(labels: Sequence[str], sides: np.ndarray, losses: np.ndarray, sizes: Sequence[int]) -> Confusion:
    """The confusions of gold and predicted class ids (2, N) of E examples with `sizes` of them each, and their losses (E,)."""
    example = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((-losses[example], *sides[::-1]))
    pairs, starts = np.unique(sides[:, order], axis=1, return_index=True)
    cells = []
    for (gold, said), of in zip(pairs.T, np.split(order, starts[1:])):
        cells.append((labels[gold], labels[said], len(of), [*dict.fromkeys(example[of].tolist())][:MOST_EXAMPLES]))
    lead = "A row is a right label, a column a predicted one; the diagonal is right. Choose a number to read its texts."
    return Confusion("Confusions", lead, [labels[number] for number in np.unique(sides)], cells)


# ── tagging: the kinds of errors of spans, and mentions that stand in the training data or do not ──

Sides = tuple[Sequence[str], Sequence[str]]
"""the predicted and the gold tags of a sentence"""
Mention = tuple[tuple[str, ...], str]
"""the words of a span, and its type"""

KINDS = ("right", "wrong type", "wrong boundary", "both wrong", "missing", "spurious")


def kind_of(gold: Span, predicted: Collection[Span]) -> str:
    """The first that holds for a gold span among the predicted spans of its sentence: `right`: it is one of them; `wrong type`: one has
    its boundaries; `wrong boundary`: one of its type shares a word with it; `both wrong`: one shares a word with it; `missing`."""
    near = [span for span in predicted if span.start < gold.end and gold.start < span.end]
    if any((span.start, span.end) == (gold.start, gold.end) for span in near):
        return "right" if gold in near else "wrong type"
    if any(span.type == gold.type for span in near):
        return "wrong boundary"
    return "both wrong" if near else "missing"


def error_kinds(sides: Iterable[Sides]) -> Counter[tuple[str, str]]:
    """(type, kind) → the number of gold spans of this kind; of `spurious` ones, of predicted spans that share no word with a gold span."""
    counts: Counter[tuple[str, str]] = Counter()
    for predicted, gold in ([spans(tags) for tags in pair] for pair in sides):
        counts.update((span.type, kind_of(span, predicted)) for span in gold)
        counts.update((span.type, "spurious") for span in predicted if kind_of(span, gold) == "missing")
    return counts


def types_table(sides: Sequence[Sides], tags: Sequence[str], scheme: Scheme) -> Table:
    """The kinds of errors of each type, and its F1 in both modes."""
    types, counts = span_types(tags), error_kinds(sides)
    modes = [np.sum([span_counts(*pair, types, mode) for pair in sides], axis=0) for mode in (None, scheme)]
    rows: list[tuple[str | float, ...]] = []
    for name, of in [*((one, [number]) for number, one in enumerate(types)), ("all", [*range(len(types))])]:
        kinds = (sum(counts[types[number], kind] for number in of) for kind in KINDS)
        rows.append((name, *kinds, *(float(np.nan_to_num(f1(*mode[:, of].sum(1)))) for mode in modes)))
    lead = "A gold span counts once, from right to missing; a spurious one overlaps none. Strict F1 takes well-formed spans alone."
    return Table("Spans by type", lead, ["type", *KINDS, "F1", "strict F1"], rows)


def mention(words: Sequence[str], span: Span) -> Mention:
    """The mention of a span of a sentence."""
    return tuple(words[span.start : span.end]), span.type


def seen_table(sentences: Iterable[Sequence[str]], sides: Iterable[Sides], learned: Collection[Mention]) -> Table:
    """The recall of the gold mentions of sentences that are among the `learned` ones, and of those that are not."""
    forms, found = {form for form, _ in learned}, dict[str, list[bool]]()
    for words, pair in zip(sentences, sides):
        predicted, gold = map(spans, pair)
        for one, is_found in [(mention(words, span), span in predicted) for span in gold]:
            for what, is_seen in (("words with this type", one in learned), ("words", one[0] in forms)):
                found.setdefault(f"{what}: {'seen' if is_seen else 'not seen'} in training", []).append(is_found)
    lead = "A model that knows names by heart finds those of its training data, and misses the others."
    rows = [(name, len(of), sum(of), sum(of) / len(of)) for name, of in sorted(found.items(), reverse=True)]
    return Table("Mentions seen in training", lead, ["mentions", "spans", "found", "recall"], rows)
