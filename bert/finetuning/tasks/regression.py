"""A number for each text or pair of texts."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import MeanSquaredError, Metric, PearsonCorrCoef, SpearmanCorrCoef

from bert.data.columns import LABELS
from bert.data.examples import Example
from bert.data.rows import cell_of
from bert.errors import InputError
from bert.finetuning.batches import Item
from bert.finetuning.metrics import Scale
from bert.finetuning.tasks.task import LabelMetrics, Names, Prediction, Task, TaskModel
from bert.model.loss import squared_error
from bert.training.step import LossTerms


def number(where: str, row: dict[str, Any], column: str) -> float:
    """The number in a cell. Raises InputError for anything else."""
    cell = cell_of(where, row, column)
    try:
        value = math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: column {column!r} holds {cell!r}, not a finite number; fix it or remove the row")
    return value


@dataclass(frozen=True)
class ValuePrediction(Prediction):
    """A number."""

    value: float

    def cells(self, top: int | None) -> dict[str, str]:
        return {"value": f"{self.value:.6g}"}


class Regression(Task):
    """The headline is the root mean squared error: in the unit of the numbers, the smaller the better."""

    name = "regression"
    problem_type = "regression"
    output = "values.tsv"
    has_top = False
    bf16 = False  # it has only three digits
    scales: ClassVar = {"rmse": Scale("RMSE", percent=False, larger_is_better=False)}
    scales |= {"pearson": Scale("Pearson", percent=False), "spearman": Scale("Spearman", percent=False)}
    label_names = ("score", "value", "similarity", "rating", "stars", *LABELS)
    parse = number

    def names(self, example: Example) -> tuple[str, ...]:
        return ()

    def outcomes(self, examples: Sequence[Example]) -> set[Any]:
        return {example.label for example in examples}

    def labels(self, examples: Sequence[Example]) -> tuple[str, ...]:
        return ("value",)

    def numbers(self, example: Example, ids: Mapping[str, int]) -> tuple[float, ...]:
        return (float(example.label),)  # type: ignore[arg-type]

    def described(self, train: Sequence[Example], dev: Sequence[Example]) -> str:
        values = [float(example.label) for example in train]  # type: ignore[arg-type]
        return f"values: {min(values):g} to {max(values):g}, mean {sum(values) / len(values):g}"

    def initialize(self, model: TaskModel, items: Sequence[Item]) -> None:
        """Start at the mean of the numbers instead of 0: a bias changes by small steps only."""
        with torch.no_grad():
            model.head.output.bias.fill_(sum(item.labels[0] for item in items) / len(items))

    def loss(self, scores: Tensor, labels: Tensor) -> LossTerms:
        return LossTerms({"loss": squared_error(scores, labels)[0]}, self.weights)

    def metrics(self, labels: Names, examples: Sequence[Any]) -> dict[str, Metric]:
        with warnings.catch_warnings(action="ignore"):  # about keeping all numbers in memory, which ranks need
            metrics = MeanSquaredError(squared=False), PearsonCorrCoef(), SpearmanCorrCoef()
        return dict(zip(self.scales, metrics))

    def decide(self, scores: Tensor, sizes: Sequence[int]) -> Tensor:
        return scores[:, 0]

    def parts(self, *_: Any) -> list[LabelMetrics]:
        return []

    def constant(self, labels: Tensor, classes: int) -> Tensor:
        return labels.mean(0, keepdim=True)

    def prediction(self, example: Example, scores: Tensor, labels: Names) -> "ValuePrediction":
        return ValuePrediction(float(scores[0, 0]))


TASK = Regression()
