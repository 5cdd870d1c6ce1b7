"""A number for each text or pair of texts."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MeanSquaredError, Metric, PearsonCorrCoef, SpearmanCorrCoef

from bert.data.columns import LABELS
from bert.data.examples import Example
from bert.data.rows import cell_of
from bert.errors import InputError
from bert.finetuning.batches import Item
from bert.finetuning.evaluation.details import Chart, Detail
from bert.finetuning.evaluation.label_errors import Suspect, wrong_values
from bert.finetuning.evaluation.per_example import Numbers
from bert.finetuning.evaluation.scored import Scored
from bert.finetuning.metrics import Scale
from bert.finetuning.tasks.task import Names, Prediction, Task, TaskModel, flat
from bert.model.loss import squared_error
from bert.training.step import LossTerms

_MOST_POINTS = 2_000


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
    recipe_options = ("label_errors", "head.pooling")
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

    def loss(self, scores: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> LossTerms:
        return LossTerms({"loss": squared_error(scores, labels)[0]}, self.weights)

    def constant_loss(self, labels: np.ndarray, classes: int) -> float:
        """The variance of the numbers."""
        return float(labels.var())

    def metrics(self, labels: Names, examples: Sequence[Any]) -> dict[str, Metric]:
        with warnings.catch_warnings(action="ignore"):  # about keeping all numbers in memory, which ranks need
            metrics = MeanSquaredError(squared=False), PearsonCorrCoef(), SpearmanCorrCoef()
        return dict(zip(self.scales, metrics))

    def decide(self, scores: Tensor, sizes: Sequence[int]) -> Tensor:
        return scores[:, 0]

    def per_example(self, scored: Scored, decided: np.ndarray) -> Numbers:
        return Numbers(decided.astype(np.float64), scored.right.double().numpy())

    def choices(self, scores: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return scores[:0], right[:0].long()

    def constant(self, labels: Tensor, classes: int) -> Tensor:
        return labels.mean(0, keepdim=True)

    def details(self, scored: Scored, training: Sequence[Any] = ()) -> list[Detail]:
        kept = np.random.default_rng(0).permutation(len(scored.right))[:_MOST_POINTS]
        gold, found = (side.double().numpy()[kept] for side in (scored.right, scored.decided))
        both = "Right and predicted numbers", f"On the line both are equal; {len(kept):,} examples."
        rest = "Residuals", "Above the line a prediction is too large, below it too small."
        return [_points(*both, gold, found, "predicted", 1), _points(*rest, gold, found - gold, "predicted − right", 0)]

    def probabilities(self, scores: Tensor) -> Tensor:
        return scores

    def prediction(self, example: Example, scores: Tensor, labels: Names) -> "ValuePrediction":
        return ValuePrediction(float(scores[0, 0]))

    def suspects(self, examples: list[Any], scores: Sequence[Tensor], labels: Names) -> list[Suspect]:
        given, predicted = flat(self, examples, labels), torch.cat([*scores])[:, 0]
        return wrong_values(examples, given.double().numpy(), predicted.double().numpy())


def _points(title: str, lead: str, x: np.ndarray, y: np.ndarray, y_label: str, slope: int) -> Chart:
    """Points beside the line y = `slope` · x, on which they would be best."""
    line = [(float(end), slope * float(end)) for end in (x.min(), x.max())]
    series = {"examples": [*zip(x.tolist(), y.tolist())], "no error": line}
    return Chart(title, lead, "right", y_label, series, dots=["examples"])


TASK = Regression()
