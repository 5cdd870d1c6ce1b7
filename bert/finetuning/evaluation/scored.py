"""Labeled examples with the scores of a model: what every part of an evaluation is computed from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bert.finetuning.evaluation.per_example import PerExample, Values
from bert.finetuning.inputs import checked
from bert.finetuning.predict import Predictor
from bert.finetuning.tasks.task import Names, Task, first_of, flat

WORST = 50  # errors that are shown


@dataclass(frozen=True)
class Scored:
    """E labeled examples of N units, texts or words, with their scores."""

    task: Task
    labels: Names
    examples: Sequence[Any]
    scores: Tensor
    """(N, C)"""
    sizes: Sequence[int]
    """the number of units of each example"""

    @cached_property
    def right(self) -> Tensor:
        """The labels as flat numbers (`Task.numbers`)."""
        return flat(self.task, self.examples, self.labels)

    @cached_property
    def decided(self) -> Tensor:
        """The predictions: (N,), or (N, C) of several labels."""
        return self.task.decide(self.scores, self.sizes)

    @cached_property
    def per_example(self) -> PerExample:
        """The metrics of weighted examples."""
        return self.deciding(self.decided)

    def deciding(self, decided: Tensor) -> PerExample:
        """The same with other predictions."""
        return self.task.per_example(self, decided.numpy())

    @cached_property
    def is_wrong(self) -> np.ndarray:
        """(E,) bool: whether a unit of the example has another label than predicted."""
        wrong = (self.decided != self.right.view_as(self.decided)).view(len(self.scores), -1)
        return np.array([bool(of_one.any()) for of_one in wrong.split(list(self.sizes))])

    @cached_property
    def losses(self) -> np.ndarray:
        """(E,): the loss of each example, the mean over its units."""
        width = len(self.right) // max(1, len(self.scores))
        parts = zip(self.scores.split(list(self.sizes)), self.right.split([size * width for size in self.sizes]))
        return np.array([float(sum(self.task.loss(*of_one).sums.values())) / len(of_one[1]) for of_one in parts])

    def choices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The logits (M, C) of all decisions between C classes, the right classes (M,), and the example of each (M,)."""
        logits, right = self.task.choices(self.scores, self.right)
        units = np.repeat(np.arange(len(self.sizes)), self.sizes)
        return logits.double().numpy(), right.numpy(), np.repeat(units, len(logits) // max(1, len(units)))

    def of_examples(self) -> Sequence[Any]:
        """The outputs of each example (`Task.outputs`)."""
        return self.scores.split(list(self.sizes))

    def worst(self, most: int = WORST) -> list[int]:
        """The numbers of the wrong examples with the largest losses."""
        wrong = np.flatnonzero(self.is_wrong)
        return wrong[np.argsort(-self.losses[wrong], kind="stable")][:most].tolist()

    def measured(self, decided: Tensor) -> dict[str, float]:
        """The metrics of these predictions."""
        return first(self.deciding(decided).metrics(np.ones((1, len(self.sizes)))))

    def constant(self) -> dict[str, float]:
        """The metrics of the best constant prediction."""
        scores = self.task.constant(self.right, len(self.labels)).expand_as(self.scores)
        return self.measured(self.task.decide(scores, self.sizes))


def first(values: Values) -> dict[str, float]:
    """The values of the first sample, 0 for those that are undefined, such as the correlation of a constant."""
    return {name: float(np.nan_to_num(value[0])) for name, value in values.items()}


def score(predictor: Predictor, examples: Iterable[Any]) -> Scored:
    """Labeled examples with the scores of a model. Raises InputError for a label that the model has not."""
    task, labels = predictor.task, predictor.model.labels
    unknown = f"is not one of the model's labels ({first_of(labels, 20)}): fix it, or name the column of the labels"
    asked, outputs = zip(*predictor.scores(checked(task, examples, labels, unknown)))
    own: Scored | None = task.scored(labels, asked, outputs)
    return own or Scored(task, labels, asked, torch.cat(outputs), [len(one) for one in outputs])
