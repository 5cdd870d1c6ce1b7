"""`bert evaluate` of a fine-tuned model: its metrics on labeled rows with intervals, also by label, next to those of the best constant
prediction."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bert.errors import InputError, did_you_mean, option
from bert.finetuning.config import DataConfig
from bert.finetuning.evaluation.per_example import Counts, Values
from bert.finetuning.evaluation.scored import Scored, first, score
from bert.finetuning.evaluation.statistics import intervals
from bert.finetuning.metrics import Scales
from bert.finetuning.predict import Predictor, load_predictor

FEWEST = 20  # rows with a label, for an interval
_PARTS = 4  # by length

Interval = tuple[float, float] | None
"""the lower and the upper bound; none if the data does not tell"""
Intervals = dict[str, Interval]


@dataclass(frozen=True)
class LabelMetrics:
    """How well the model finds a label, or a type of span."""

    label: str
    count: int
    """its frequency in the data"""
    precision: float
    recall: float
    f1: float
    predicted: int
    """how often it is predicted"""
    correct: int
    """how often this is right"""
    intervals: Intervals
    """of precision, recall and F1; empty for a label that is in less than 20 rows"""


@dataclass(frozen=True)
class Slice:
    """Some of the examples."""

    name: str
    count: int
    value: float
    """their headline"""
    interval: Interval


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a model on labeled rows."""

    scored: Scored
    groups: np.ndarray
    """(E,): the unit of resampling of each example"""
    unit: str = "example"
    """the name of such a unit"""

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The headline first."""
        return self.scored.measured(self.scored.decided)

    @cached_property
    def baseline(self) -> dict[str, float]:
        """The same for a constant prediction: the most frequent label of the data, or the mean of its numbers."""
        return self.scored.constant()

    @property
    def scales(self) -> Scales:
        """How the metrics are shown."""
        return self.scored.task.scales

    @property
    def size(self) -> str:
        """`300 sentences, 3,686 words`"""
        return self.scored.task.counted(self.scored.sizes)

    @property
    def headline(self) -> str:
        """The name of the first metric."""
        return next(iter(self.metrics))

    def _is_share(self, name: str) -> bool:
        return self.scales[name].is_share

    @cached_property
    def intervals(self) -> Intervals:
        """The 95 % bootstrap interval of each metric."""
        return _known(intervals(self.scored.per_example.metrics, self.groups, shares=self._is_share))

    @cached_property
    def labels(self) -> list[LabelMetrics]:
        """Precision, recall and F1 of each label, or type of span, that occurs or is predicted; empty for regression."""
        counts = self.scored.per_example
        if not isinstance(counts, Counts):
            return []
        values = counts.labels(np.ones((1, len(self.groups))))
        ranges = _known(intervals(lambda weights: _flat(counts.labels(weights)), self.groups))
        found = []
        for number, (label, (correct, predicted, gold)) in enumerate(zip(counts.names, counts.support().T.tolist())):
            if predicted or gold:
                own = {name: ranges[f"{name} {number}"] for name in values} if gold >= FEWEST else {}
                shares = {name: float(np.nan_to_num(value[0, number])) for name, value in values.items()}
                found.append(LabelMetrics(label, gold, **shares, predicted=predicted, correct=correct, intervals=own))
        return found

    def slices(self, names: Iterable[str]) -> list[Slice]:
        """The headline of the examples of each name."""
        numbers: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            numbers.setdefault(name, []).append(number)
        found = []
        for name, chosen in numbers.items():
            counts, here = self.scored.per_example.chosen(np.array(chosen)), self.groups[chosen]
            value = first(counts.metrics(np.ones((1, len(chosen)))))[self.headline]
            interval = None
            if len(chosen) >= FEWEST:
                interval = _known(intervals(counts.metrics, here, shares=self._is_share))[self.headline]
            found.append(Slice(name, len(chosen), value, interval))
        return found

    def by_length(self) -> list[Slice]:
        """The headline of short and long examples: four parts of about as many examples."""
        task, examples = self.scored.task, self.scored.examples
        lengths = np.array([sum(map(len, task.texts(example))) for example in examples])
        bounds = np.unique(np.quantile(lengths, np.linspace(0, 1, _PARTS + 1)[1:], method="lower"))
        parts = np.searchsorted(bounds, lengths)
        ranges = [(lengths[parts == i].min(), bound) for i, bound in enumerate(bounds)]
        names = [f"{low:,}–{high:,} characters" if low < high else f"{low:,} characters" for low, high in ranges]
        return sorted(self.slices(names[part] for part in parts), key=lambda one: names.index(one.name))

    def by_column(self, column: str) -> list[Slice]:
        """The headline for each value of a column, the most frequent first. Raises InputError if there is no such column."""
        return sorted(self.slices(cells(self.scored.examples, column, "slice")), key=lambda one: -one.count)

    def __str__(self) -> str:
        """The metrics as tables."""
        columns = {"model": self.metrics, "baseline": self.baseline}
        lines = [self.size, metric_table(columns, self.scales, self.intervals)]
        if self.labels:
            width = max(len("label"), *(len(part.label) for part in self.labels))
            lines.append(f"\n{'label':<{width}}{'precision':>11}{'recall':>8}{'F1':>8}{'count':>9}")
        for part in self.labels:
            shares = f"{part.precision:>11.1%}{part.recall:>8.1%}{part.f1:>8.1%}"
            lines.append(f"{part.label:<{width}}{shares}{part.count:>9,}")
        return "\n".join(lines)


def _known(found: dict[str, tuple[float, float]]) -> Intervals:
    """Intervals, none in place of those that are undefined."""
    return {name: None if np.isnan(bounds[0]) else bounds for name, bounds in found.items()}


def _flat(values: Values) -> Values:
    """(B, K) values by name as (B,) values by name and number."""
    return {f"{name} {number}": column for name, value in values.items() for number, column in enumerate(value.T)}


def evaluate(folder: str | Path, file: str, data: DataConfig, group: str | None = None) -> Evaluation:
    """Measure the fine-tuned model of `folder` on the labeled rows of `file`. Rows with the same value in the column `group`, such as
    a user or a document, are resampled together. Raises InputError."""
    predictor = load_predictor(folder)
    return evaluate_examples(predictor, predictor.read(file, data), group)


def evaluate_examples(predictor: Predictor, examples: Iterable[Any], group: str | None = None) -> Evaluation:
    """Measure a loaded model on labeled examples. Raises InputError."""
    scored = score(predictor, examples)
    if group is None:
        return Evaluation(scored, np.arange(len(scored.sizes)))
    _, groups = np.unique(cells(scored.examples, group, "group"), return_inverse=True)
    return Evaluation(scored, groups, group)


def cells(examples: Iterable[Any], column: str, asked: str) -> list[str]:
    """The cells of a column of labeled examples. Raises InputError if a row has none; `asked` is the option that names it."""
    found = []
    for example in examples:
        row = example.row or {}
        if column not in row:
            names = f"name one of {', '.join(row)}.{did_you_mean(column, row)}"
            fix = names if row else "its rows have no columns; remove it"
            raise InputError(f"{option(asked)} {column}: is no column of {example.at(0)}; {fix}")
        if asked == "group" and row[column] in (None, ""):
            raise InputError(f"{example.at(0)}: column {column!r} is empty; fill it in, as groups are resampled")
        found.append("(none)" if row[column] in (None, "") else str(row[column]))
    return found


def metric_table(
    columns: dict[str, dict[str, float]], scales: Scales, ranges: Intervals | None = None, change: bool = False
) -> str:
    """A table with a row for each metric and the given columns; with `ranges` also the interval of the first column, and with
    `change` the difference of the last from the first."""
    values = list(columns.values())
    heads = [f"{name:>10}" for name in columns] + [f"{'95% interval':>18}"] * bool(ranges) + ["    change"] * change
    lines = [" " * 14 + "".join(heads)]
    for name in values[0]:
        scale, line = scales[name], f"{scales[name].title:<14}"
        line += "".join(f"{scale.shown(column[name]):>10}" for column in values)
        if ranges:
            line += f"{scale.range(ranges[name]):>18}"
        lines.append(line + f"{scale.difference(values[-1][name] - values[0][name]):>10}" * change)
    return "\n".join(lines)
