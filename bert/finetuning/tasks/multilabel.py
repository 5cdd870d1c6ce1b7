"""Any number of labels for each text or pair of texts: all, some or none.

The labels are in a list of a .jsonl file, in one cell separated by `data.separator`, or as 0 and 1 in one column each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.stats import entropy
from sklearn.metrics import precision_recall_curve
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MultilabelExactMatch, MultilabelF1Score

from bert.data.columns import LABELS, Columns
from bert.data.examples import Example, Examples, label_name, read_examples
from bert.data.rows import cell_of
from bert.errors import InputError, option
from bert.finetuning.config import DataConfig
from bert.finetuning.evaluation.details import Chart, Detail, Table
from bert.finetuning.evaluation.label_errors import Suspect, wrong_labels
from bert.finetuning.evaluation.per_example import Counts, Totals, Values, f1, ratio
from bert.finetuning.evaluation.scored import Scored
from bert.finetuning.metrics import percents
from bert.finetuning.tasks.task import Names, Prediction, Task, flat, ranked
from bert.model.loss import binary_cross_entropy
from bert.training.step import LossTerms

_GRID = [number / 100 for number in range(1, 100)]  # of thresholds
_MOST_CURVES = 12  # the most frequent labels
_FEWEST = 5  # examples with a label, and without it, to fit a threshold to
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
    """Each label is predicted independently: at a probability of at least one half, or at a threshold fitted to the dev set."""

    def __init__(self, thresholds: Sequence[float] = ()) -> None:
        """`thresholds`: a probability for each label; none: one half for all."""
        self.thresholds = tuple(thresholds)

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

    def loss(self, scores: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> LossTerms:
        loss, _ = binary_cross_entropy(scores, labels.view_as(scores), weights, smoothing)
        return LossTerms({"loss": loss}, self.weights)

    def class_weights(self, labels: Tensor, classes: int) -> Tensor:
        share = labels.view(-1, classes).float().mean(0)
        return ((1 - share) / share).where((share > 0) & (share < 1), 1.0)

    def constant_loss(self, labels: np.ndarray, classes: int) -> float:
        """The mean entropy of having a label."""
        share = labels.reshape(-1, classes).mean(0)
        return float(entropy([share, 1 - share]).mean())

    def metrics(self, labels: Names, examples: Sequence[Any]) -> dict[str, Metric]:
        f1 = {f"{mean}_f1": MultilabelF1Score(len(labels), average=mean) for mean in ("micro", "macro")}
        return {**f1, "exact_match": MultilabelExactMatch(len(labels))}

    def decide(self, scores: Tensor, sizes: Sequence[int]) -> Tensor:
        return (scores >= torch.tensor(self.thresholds or (0.5,)).logit().to(scores)).long()

    def settings(self) -> dict[str, Any]:
        return {"thresholds": list(self.thresholds)} if self.thresholds else {}

    def restored(self, settings: Mapping[str, Any], labels: Names) -> "Multilabel":
        thresholds = [float(one) for one in settings.get("thresholds", ())]
        if len(thresholds) not in (0, len(labels)) or not all(0 < one < 1 for one in thresholds):
            raise ValueError(f"thresholds are {thresholds}, not one from 0 to 1 for each of {len(labels)} labels")
        return Multilabel(thresholds)

    def tables(self, labels: Names) -> dict[str, Any]:
        return {"labels": [*labels]} | self.settings() if self.thresholds else {}

    def tuned(self, scores: Tensor, right: Tensor) -> "Multilabel":
        """For each label the threshold of the largest F1, between two scores; one half where the label is rare."""
        gold = right.view_as(scores)
        columns = zip(scores.double().sigmoid().T.numpy(), gold.T.numpy())
        return Multilabel([_best_threshold(*column) for column in columns])

    def per_example(self, scored: Scored, decided: np.ndarray) -> Counts:
        right = scored.right.numpy().reshape(decided.shape)
        exact = (decided == right).all(1, keepdims=True)
        counts = np.concatenate([decided * right, decided, right, exact, np.ones_like(exact)], axis=1, dtype=np.float64)
        return Counts(tuple(scored.labels), csr_array(counts), _several_labels)

    def choices(self, scores: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        each = scores.flatten()
        return torch.stack([torch.zeros_like(each), each], dim=1), right.flatten()

    def constant(self, labels: Tensor, classes: int) -> Tensor:
        # the most frequent label, and all labels of at least half of the texts
        share = labels.view(-1, classes).float().mean(0)
        return share - share.max().clamp(max=0.5)

    def details(self, scored: Scored, training: Sequence[Any] = ()) -> list[Detail]:
        gold, chances = scored.right.view_as(scored.scores).numpy(), scored.scores.double().sigmoid().numpy()
        curves, used = {}, []
        rows: list[tuple[str, int, float, float, float]] = []
        for number in (number for number in np.argsort(-gold.sum(0), kind="stable") if gold[:, number].any()):
            label, threshold = scored.labels[number], self.thresholds[number] if self.thresholds else 0.5
            grid = _GRID if len(rows) < _MOST_CURVES else []
            *curve, now, half = f1_over(chances[:, number], gold[:, number], [*grid, threshold, 0.5])
            rows.append((label, int(gold[:, number].sum()), threshold, now, half))
            if grid:
                curves[label] = [*zip(grid, curve)]
                used.append((threshold, now))
        lead = "F1 if a label is predicted at this probability and above, and the threshold that is used for it."
        chart = Chart("F1 over the threshold", lead, "threshold", "F1", curves | {"in use": used}, dots=["in use"])
        lead = "They were fitted to the dev set of the training: measured on that, F1 is too good."
        table = Table("Fitted thresholds", lead, ["label", "rows", "threshold", "F1", "F1 at 50%"], rows)
        return [chart, table] if self.thresholds else [chart]

    def probabilities(self, scores: Tensor) -> Tensor:
        return scores.sigmoid()

    def prediction(self, example: Example, scores: Tensor, labels: Names) -> "LabelsPrediction":
        found = {label: round(p, 6) for label, p in zip(labels, self.probabilities(scores)[0].tolist())}
        chosen = self.decide(scores, [1])[0].tolist()
        return LabelsPrediction(tuple(label for label, one in zip(labels, chosen) if one), found)

    def suspects(self, examples: list[Any], scores: Sequence[Tensor], labels: Names) -> list[Suspect]:
        """Each label by itself: does a text have it or not?"""
        given, yes = flat(self, examples, labels).view(-1, len(labels)), torch.cat([*scores]).double().sigmoid()
        both = torch.stack([1 - yes, yes], 2).transpose(0, 1).numpy()  # (C, N, 2)
        names = ([f"{label}: no", f"{label}: yes"] for label in labels)
        return [one for column in zip(given.T.numpy(), both, names) for one in wrong_labels(examples, *column)]


def _several_labels(totals: Totals) -> Values:
    """Micro and macro F1, and the share of examples whose labels are all right."""
    *counts, rest = totals
    micro, macro = f1(*(part.sum(1) for part in counts)), np.nan_to_num(f1(*counts)).mean(1)
    return {"micro_f1": micro, "macro_f1": macro, "exact_match": ratio(rest[:, 0], rest[:, 1])}


def f1_over(probabilities: np.ndarray, gold: np.ndarray, thresholds: Sequence[float]) -> list[float]:
    """The F1 of a label at each threshold, from its probabilities (E,) and whether it is right (E,), as 0 and 1."""
    found = probabilities[:, None] >= np.array(thresholds)
    return np.nan_to_num(f1(found[gold == 1].sum(0), found.sum(0), gold.sum())).tolist()


def _best_threshold(probabilities: np.ndarray, gold: np.ndarray) -> float:
    """The threshold of the largest F1; one half for a label with less than `_FEWEST` examples with it, or without it."""
    if min(gold.sum(), (1 - gold).sum()) < _FEWEST:
        return 0.5
    precision, recall, thresholds = precision_recall_curve(gold, probabilities)
    best = int(np.nan_to_num(f1(precision * recall, precision, recall))[:-1].argmax())
    below = thresholds[best - 1] if best else 0.0
    return round(float(np.clip((thresholds[best] + below) / 2, 0.01, 0.99)), 6)


def _flag(where: str, row: dict[str, Any], column: str) -> bool:
    """Whether a row has the label of a column."""
    cell = str(cell_of(where, row, column)).strip().lower()
    if cell not in _FLAGS:
        raise InputError(f"{where}: column {column!r} holds {cell!r}; write 1 where a text has this label, else 0")
    return _FLAGS[cell]


TASK = Multilabel()
