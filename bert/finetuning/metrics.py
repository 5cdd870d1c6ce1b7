"""How metrics are shown and compared, and precision, recall and F1 of tagged spans: names, places, chunks.

A span is correct if its type, its first word and its last word are. `conlleval` reads tags like the script of the CoNLL shared tasks
(Tjong Kim Sang and Buchholz 2000): whatever is not O belongs to a span. `strict` counts only spans that are well-formed in the scheme of
the tags, like the strict mode of seqeval. The two differ on ill-formed tags only.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

Scheme = Literal["IOB1", "IOB2", "IOBES", "BILOU"]
Mode = Literal["conlleval", "strict"]

_SPAN_TAG = re.compile("[BIESLUMW]([-_].+)?")  # also of BILOU, BMES and BMEWO
_TO_IOBES = {"L": "E", "U": "S", "M": "I", "W": "S"}


@dataclass(frozen=True)
class Scale:
    """How the values of a metric are shown and compared."""

    title: str
    """its name in a sentence or a table"""
    percent: bool = True
    """whether it is a share, shown in percent"""
    larger_is_better: bool = True

    def shown(self, value: float) -> str:
        """A value in a sentence or a table."""
        return f"{value:.1%}" if self.percent else f"{value:,.3f}"

    def difference(self, value: float) -> str:
        """A difference of two values, with its sign; in percentage points for a share."""
        return f"{100 * value:+.1f}" if self.percent else f"{value:+,.3f}"


Scales = Mapping[str, Scale]


def percents(*titles: str) -> dict[str, Scale]:
    """Scales of shares by the names of their metrics: `macro F1` is the title of `macro_f1`."""
    return {title.lower().replace(" ", "_"): Scale(title) for title in titles}


def numbered(count: float, noun: str) -> str:
    """`1 example`, `2,000 examples`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def read(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The values, 0 for a metric that is undefined, such as the correlation of a constant; resets the metrics."""
    values = {}
    for name, metric in metrics.items():
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # about a variance of 0
            value = metric.compute()
        values[name] = float((value["f1"] if isinstance(value, dict) else value).nan_to_num(0.0))
        metric.reset()
    return values


def in_words(values: Mapping[str, float], scales: Scales) -> str:
    """`accuracy 91.2%, macro F1 90.8%`."""
    return ", ".join(f"{scales[name].title} {scales[name].shown(value)}" for name, value in values.items())


def goodness(values: Mapping[str, float], scales: Scales) -> list[float]:
    """The values with signs that make the larger one the better one, in order of importance."""
    return [value if scales[name].larger_is_better else -value for name, value in values.items()]


class Span(NamedTuple):
    """A type, and the words from `start` to before `end` that have it."""

    type: str
    start: int
    end: int


def scheme_of(sentences: Iterable[Sequence[str]]) -> Scheme | None:
    """The scheme of the tags of many sentences; none if they are not span tags, such as parts of speech.

    IOB1 opens a span with I, or with B right after another span of its type; IOB2 opens every span with B. BMES and
    BMEWO are IOBES with other letters.
    """
    prefixes: set[str] = set()
    b_opens = i_opens = False
    for tags in sentences:
        before = ""
        for tag in tags:
            if tag != "O" and not marks_span(tag):
                return None
            prefix, type_ = tag[0], tag[2:] or "_" * (tag != "O")
            prefixes.add(prefix)
            b_opens |= prefix == "B" and before != type_
            i_opens |= prefix == "I" and before != type_
            before = type_
    if prefixes <= {"O"}:
        return None
    if prefixes & {"L", "U"}:
        return "BILOU"
    if prefixes & set("ESMW"):
        return "IOBES"
    return "IOB1" if i_opens and not b_opens else "IOB2"


def spans(tags: Sequence[str], scheme: Scheme | None = None) -> list[Span]:
    """The spans of a sentence in order: the well-formed ones of a scheme, or, without a scheme, those that conlleval finds.

    In conlleval a span begins at B, and at I if no span of its type is open. As in seqeval, this is extended to E and S (in BILOU L and
    U), which end a span, and to the letters of BMES and BMEWO. Raises ValueError for a tag that is neither O nor like
    B-PER.
    """
    ends_marked = scheme in ("IOBES", "BILOU")
    found: list[Span] = []
    start, (before, type_before) = -1, ("O", "")
    for index, (prefix, type_) in enumerate([*map(_parts, tags), ("O", "")]):
        same = type_ == type_before
        if scheme is None:
            opens = prefix != "O" and (prefix in "BS" or before in "OES" or not same)
            continues, whole = prefix != "O" and not opens, True
        else:
            continues = start >= 0 and same and prefix in ("IE" if ends_marked else "I") and before not in "ES"
            whole = not ends_marked or before in "ES"
            if scheme == "IOB1":
                opens = not continues and (prefix == "I" or (prefix == "B" and same))
            else:
                opens = not continues and prefix in ("BS" if ends_marked else "B")
        if start >= 0 and not continues:
            if whole:
                found.append(Span(type_before, start, index))
            start = -1
        start = index if opens else start
        before, type_before = prefix, type_
    return found


def marks_span(tag: str) -> bool:
    """Whether a tag is a prefix and a type, as B-PER or B_PER, or a prefix alone."""
    return _SPAN_TAG.fullmatch(tag) is not None


def span_tags(labels: Sequence[str]) -> list[str]:
    """The labels with O in place of those that mark no span; empty if these are more than the others. Prefixes
    without a type, B and I, mark spans where no label has one with a type."""
    alone = "B" in labels and not any(map(marks_span, set(labels) - set("BIESLUMW")))
    tags = [label if marks_span(label) and (alone or len(label) > 1) else "O" for label in labels]
    strays = sum(tag != label for tag, label in zip(tags, labels))
    return tags if len(labels) - tags.count("O") >= max(1, strays) else []


def _parts(tag: str) -> tuple[str, str]:
    """The prefix and type of a tag, with the letters of other schemes mapped to IOBES. A type may contain hyphens."""
    if tag != "O" and not marks_span(tag):
        raise ValueError(f"tag {tag!r} is neither O nor a prefix and a type as in B-PER")
    return ("O", "") if tag == "O" else (_TO_IOBES.get(tag[0], tag[0]), tag[2:] or "_")


class SpanF1(Metric):
    """Micro-averaged precision, recall and F1 of spans, in total and by type, over all processes.

    `labels` are all possible tags; `scheme` is used in `strict` mode.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor  # (3, types): numbers of correct, predicted and gold spans

    def __init__(self, labels: Iterable[str], mode: Mode = "conlleval", scheme: Scheme = "IOB2") -> None:
        super().__init__()
        self.tags = tuple(labels)
        self.types = tuple(sorted({_parts(label)[1] for label in self.tags} - {""}))
        self.scheme: Scheme | None = scheme if mode == "strict" else None
        self.add_state("counts", torch.zeros(3, len(self.types), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> None:
        """Count the spans of sentences, given as the tags of their words. Raises ValueError for unequal lengths."""
        if [len(tags) for tags in predicted] != [len(tags) for tags in gold]:
            raise ValueError("predicted and gold tags differ in number: give one of each for every word")
        counts = [[0] * len(self.types) for _ in range(3)]
        for sides in zip(predicted, gold):
            found, there = (set(spans(tags, self.scheme)) for tags in sides)
            for row, some in zip(counts, (found & there, found, there)):
                for span in some:
                    row[self.types.index(span.type)] += 1
        self.counts += torch.tensor(counts, dtype=torch.long, device=self.device)

    def compute(self) -> dict[str, Tensor]:
        """`precision`, `recall` and `f1` over all types, and for each type, such as PER, `precision_PER`, … and `gold_PER`, the number
        of its spans. A ratio with a denominator of 0 is 0."""
        scores = _scores(*self.counts.sum(1))
        for type_, counts in zip(self.types, self.counts.T):
            scores |= {f"{name}_{type_}": score for name, score in _scores(*counts).items()}
            scores[f"gold_{type_}"] = counts[2]
        return scores


def _scores(correct: Tensor, predicted: Tensor, gold: Tensor) -> dict[str, Tensor]:
    return {
        "precision": correct / predicted.clamp(min=1),
        "recall": correct / gold.clamp(min=1),
        "f1": 2 * correct / (predicted + gold).clamp(min=1),
    }
