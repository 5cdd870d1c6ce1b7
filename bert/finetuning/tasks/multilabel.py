"""Any number of labels for each text or pair of texts: all, some or none.

The labels are in a list of a .jsonl file, in one cell separated by `data.separator`, or as 0 and 1 in one column each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MultilabelExactMatch, MultilabelF1Score

from bert.data.columns import LABELS, Columns
from bert.data.examples import Example, Examples, label_name, read_examples
from bert.data.rows import cell_of
from bert.errors import InputError, option
from bert.finetuning.config import DataConfig
from bert.finetuning.metrics import percents
from bert.finetuning.tasks.task import Names, Prediction, Task, ranked
from bert.model.loss import binary_cross_entropy
from bert.training.step import LossTerms

_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


@dataclass(frozen=True)
class LabelsPrediction(Prediction):
    """Any number of labels."""

    labels: tuple[str, ...]
    """those above their thresholds"""
    probabilities: dict[str, float]
    """of all labels, each from 0 to 1 by itself"""

    def cells(self, top: int | None) -> dict[str, str]:
        each = {label: f"{p:.4f}" for label, p in self.probabilities.items()}
        return {"labels": "|".join(self.labels)} | (each if top is None else ranked(self.probabilities, top))


class Multilabel(Task):
    """Each label is predicted independently, at a probability of at least one half."""

    name = "multilabel"
    problem_type = "multi_label_classification"
    options = (*Task.options, "separator", "label_columns")
    scales = percents("micro F1", "macro F1", "exact match")

    def read(self, file: str, data: DataConfig, labeled: bool = True, learned: Columns = Columns()) -> Examples:
        if data.label and data.label_columns:
            raise InputError(f"{option('label')} and {option('label_columns')} are both given; remove one")
        columns = data.label_columns or ([] if data.label else list(learned.label_columns))

        def several(where: str, row: dict[str, Any], column: str) -> tuple[str, ...]:
            if columns:
                return tuple(name for name in columns if _flag(where, row, name))
            cell = cell_of(where, row, column)
            cells = cell.split(data.separator) if isinstance(cell, str) else cell if isinstance(cell, list) else [cell]
            found = (label_name(where, column, one) for one in cells)
            return tuple(dict.fromkeys(name for name in found if name))

        given = data.text, data.pair, columns[0] if columns and labeled else data.label
        usual = () if columns else ("labels", *LABELS)
        advice = f", or columns of 0 and 1 by {option('label_columns')}"
        read = read_examples(file, *given, labeled, data.file_format, several, usual, learned, advice)
        if not columns or not labeled:
            return read
        return replace(read, columns=replace(read.columns, label=None, label_columns=columns))

    def names(self, example: Example) -> tuple[str, ...]:
        return example.label if isinstance(example.label, tuple) else ()

    def numbers(self, example: Example, ids: Mapping[str, int]) -> tuple[int, ...]:
        there = set(self.names(example))
        return tuple(int(label in there) for label in ids)

    def loss(self, scores: Tensor, labels: Tensor) -> LossTerms:
        return LossTerms({"loss": binary_cross_entropy(scores, labels.view_as(scores))[0]}, self.weights)

    def metrics(self, labels: Names, examples: Sequence[Any]) -> dict[str, Metric]:
        f1 = {f"{mean}_f1": MultilabelF1Score(len(labels), average=mean) for mean in ("micro", "macro")}
        return {**f1, "exact_match": MultilabelExactMatch(len(labels))}

    def decide(self, scores: Tensor, sizes: Sequence[int]) -> Tensor:
        return (scores >= 0).long()

    def constant(self, labels: Tensor, classes: int) -> Tensor:
        # the most frequent label, and all labels of at least half of the texts
        share = labels.view(-1, classes).float().mean(0)
        return share - share.max().clamp(max=0.5)

    def prediction(self, example: Example, scores: Tensor, labels: Names) -> "LabelsPrediction":
        found = {label: round(p, 6) for label, p in zip(labels, scores[0].sigmoid().tolist())}
        chosen = self.decide(scores, [1])[0].tolist()
        return LabelsPrediction(tuple(label for label, one in zip(labels, chosen) if one), found)


def _flag(where: str, row: dict[str, Any], column: str) -> bool:
    """Whether a row has the label of a column."""
    cell = str(cell_of(where, row, column)).strip().lower()
    if cell not in _FLAGS:
        raise InputError(f"{where}: column {column!r} holds {cell!r}; write 1 where a text has this label, else 0")
    return _FLAGS[cell]


TASK = Multilabel()
