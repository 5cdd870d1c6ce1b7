"""`bert evaluate` of a fine-tuned model: its metrics on labeled rows, also by label, next to those of the best constant prediction."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bert.finetuning.config import DataConfig
from bert.finetuning.inputs import checked
from bert.finetuning.metrics import Scales, read
from bert.finetuning.predict import Predictor, load_predictor
from bert.finetuning.tasks.task import LabelMetrics, first_of, flat


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a model on labeled rows."""

    metrics: dict[str, float]
    """the headline first"""
    baseline: dict[str, float]
    """the same for a constant prediction: the most frequent label of the data, or the mean of its numbers"""
    labels: list[LabelMetrics]
    """precision, recall and F1 of each label, or type of span; empty for regression"""
    size: str
    """`300 sentences, 3,686 words`"""
    scales: Scales
    """how the metrics are shown"""

    def __str__(self) -> str:
        """The metrics as tables."""
        lines = [self.size, metric_table({"model": self.metrics, "baseline": self.baseline}, self.scales)]
        if self.labels:
            width = max(len("label"), *(len(part.label) for part in self.labels))
            lines.append(f"\n{'label':<{width}}{'precision':>11}{'recall':>8}{'F1':>8}{'count':>9}")
        for part in self.labels:
            shares = f"{part.precision:>11.1%}{part.recall:>8.1%}{part.f1:>8.1%}"
            lines.append(f"{part.label:<{width}}{shares}{part.count:>9,}")
        return "\n".join(lines)


def evaluate(folder: str | Path, file: str, data: DataConfig) -> Evaluation:
    """Measure the fine-tuned model of `folder` on the labeled rows of `file`. Raises InputError."""
    predictor = load_predictor(folder)
    return evaluate_examples(predictor, predictor.read(file, data))


def evaluate_examples(predictor: Predictor, examples: Iterable[Any]) -> Evaluation:
    """Measure a loaded model on labeled examples. Raises InputError."""
    task, labels = predictor.task, predictor.model.labels
    unknown = f"is not one of the model's labels ({first_of(labels, 20)}): fix it, or name the column of the labels"
    asked, scores = zip(*predictor.scores(checked(task, examples, labels, unknown)))
    right, given, sizes = flat(task, asked, labels), torch.cat(scores), [len(one) for one in scores]
    metrics, constant = task.metrics(labels, asked), task.constant(right, len(labels))
    task.update(metrics, given, right, sizes)
    parts, values = task.parts(metrics, labels, given, right, sizes), read(metrics)
    task.update(metrics, constant.expand_as(given), right, sizes)
    return Evaluation(values, read(metrics), parts, task.counted(sizes), task.scales)


def metric_table(columns: dict[str, dict[str, float]], scales: Scales, change: bool = False) -> str:
    """A table with a row for each metric and the given columns; with `change` also the difference of the last from the first."""
    values = list(columns.values())
    lines = [" " * 14 + "".join(f"{name:>10}" for name in columns) + ("    change" if change else "")]
    for name in values[0]:
        cells = [scales[name].shown(column[name]) for column in values]
        if change:
            cells.append(scales[name].difference(values[-1][name] - values[0][name]))
        lines.append(f"{scales[name].title:<14}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)
