"""How metrics are shown and compared, and precision, recall and F1 of tagged spans: names, places, chunks.

A span is correct if its type, its first word and its last word are. `conlleval` reads tags like the script of the CoNLL shared tasks
(Tjong Kim Sang and Buchholz 2000): whatever is not O belongs to a span. `strict` counts only spans that are well-formed in the scheme of
the tags, like the strict mode of seqeval. The two differ on ill-formed tags only.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from bert.finetuning.tags import Scheme, parts, spans

LOSS = "loss"
"""name of the mean loss of the units of a dev set among its metrics, the last of which it is: it decides between equal scores"""
Mode = Literal["conlleval", "strict"]


@dataclass(frozen=True)
class Scale:
    """How the values of a metric are shown and compared."""

    title: str
    """its name in a sentence or a table"""
    percent: bool = True
    """whether it is a share, shown in percent"""
    larger_is_better: bool = True
    is_share: bool = True
    """whether 0 and 1 are its ends, as of a share of the examples"""

    def shown(self, value: float) -> str:
        """A value in a sentence or a table."""
        return f"{value:.1%}" if self.percent else f"{value:,.3f}"

    def range(self, bounds: tuple[float, float] | None) -> str:
        """An interval in a sentence or a table, a dash for none."""
        return "–" if bounds is None else "–".join(map(self.shown, bounds)).replace("%–", "–")

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
    """`accuracy 91.2%, macro F1 90.8%`, without the loss."""
    shown = ((scales[name], value) for name, value in values.items() if name != LOSS)
    return ", ".join(f"{scale.title} {scale.shown(value)}" for scale, value in shown)


def goodness(values: Mapping[str, float], scales: Scales) -> list[float]:
    """The values with signs that make the larger one the better one, in order of importance."""
    return [value if name != LOSS and scales[name].larger_is_better else -value for name, value in values.items()]


class SpanF1(Metric):
    """Micro-averaged precision, recall and F1 of spans, over all processes.

    `labels` are all possible tags; `scheme` is used in `strict` mode.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor  # (3, types): numbers of correct, predicted and gold spans

    def __init__(self, labels: Iterable[str], mode: Mode = "conlleval", scheme: Scheme = "IOB2") -> None:
        super().__init__()
        self.tags = tuple(labels)
        self.types = span_types(self.tags)
        self.scheme: Scheme | None = scheme if mode == "strict" else None
        self.add_state("counts", torch.zeros(3, len(self.types), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> None:
        """Count the spans of sentences, given as the tags of their words. Raises ValueError for unequal lengths."""
        if [len(tags) for tags in predicted] != [len(tags) for tags in gold]:
            raise ValueError("predicted and gold tags differ in number: give one of each for every word")
        for sides in zip(predicted, gold):
            self.counts += torch.from_numpy(span_counts(*sides, self.types, self.scheme)).to(self.device)

    def compute(self) -> dict[str, Tensor]:
        """`precision`, `recall` and `f1` over all types. A ratio with a denominator of 0 is 0."""
        correct, predicted, gold = self.counts.sum(1)
        shares = correct / predicted.clamp(min=1), correct / gold.clamp(min=1)
        return dict(zip(("precision", "recall", "f1"), (*shares, 2 * correct / (predicted + gold).clamp(min=1))))


def span_types(tags: Iterable[str]) -> tuple[str, ...]:
    """The types of the spans that tags mark, sorted."""
    return tuple(sorted({parts(tag)[1] for tag in tags} - {""}))


def span_counts(decided: Sequence[str], gold: Sequence[str], types: Sequence[str], scheme: Scheme | None) -> np.ndarray:
    """(3, types): the numbers of correct, predicted and gold spans of a sentence, given as the tags of its words."""
    found, there = (set(spans(tags, scheme)) for tags in (decided, gold))
    counts = np.zeros((3, len(types)), np.int64)
    for row, some in enumerate((found & there, found, there)):
        for span in some:
            counts[row, types.index(span.type)] += 1
    return counts
