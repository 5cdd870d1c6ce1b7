"""Labels that are likely wrong: confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in
Dataset Labels") over probabilities from models that have not seen the examples (`bert.finetuning.folds`). Plain NumPy.

A class is confident for an example if its probability is at least the mean probability that the examples with this label give to it. The
confident joint counts examples by label and confident class; those off its diagonal are suspect. N is the number of labels, C of classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

_EQUAL = 1e-6  # differences that count as none, as in cleanlab


class Suspect(NamedTuple):
    """A label that is likely wrong."""

    example: int
    """its number among the training examples"""
    where: str
    """file and line"""
    text: str
    given: str
    """the label in the file; of a tagger the spans in a part of the sentence, O for none"""
    suggested: str
    """the label that the model gives"""
    score: float
    """quality of the given label, from 0 to 1: the lowest is the most suspect"""
    start: int | None = None
    end: int | None = None
    """tagger: the part is `text[start:end]`"""


def confident_errors(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(N,) bool: the examples off the diagonal of the confident joint whose given label is not the most probable one, from class ids (N,)
    and probabilities (N, C). As in cleanlab, the most probable class of all counts where several are confident."""
    there = labels[:, None] == np.arange(probabilities.shape[1])  # (N, C)
    means = (probabilities * there).sum(0) / there.sum(0).clip(1)
    thresholds = np.where(there.any(0), means.clip(2 * _EQUAL), 2.0)  # no probability reaches 2
    confident = probabilities >= thresholds - _EQUAL
    guess = np.where(confident.sum(1) > 1, probabilities.argmax(1), confident.argmax(1))
    return confident.any(1) & (guess != labels) & ((probabilities + _EQUAL * there).argmax(1) != labels)


def quality(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(N,): the normalized margin, the probability of the given label minus that of the best other one, scaled to 0 to 1."""
    rows, others = np.arange(len(labels)), probabilities.copy()
    others[rows, labels] = -1.0
    return (probabilities[rows, labels] - others.max(1) + 1) / 2


def wrong_labels(rows: list[Any], labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]) -> list[Suspect]:
    """The suspect labels of texts, from class ids (N,), probabilities (N, C) and the names of the classes."""
    scores, best = quality(labels, probabilities), probabilities.argmax(1)
    found = np.flatnonzero(confident_errors(labels, probabilities)).tolist()
    return [_suspect(n, rows[n], names[labels[n]], names[best[n]], scores[n]) for n in found]


def wrong_values(rows: list[Any], values: np.ndarray, predicted: np.ndarray) -> list[Suspect]:
    """The numbers (N,) that are more than three robust standard deviations (1.4826 · the median absolute residual; Leys et al. 2013) from
    the predicted ones. The score is exp(−|residual| / that deviation)."""
    far = np.abs(predicted - values)
    far /= max(1.4826 * np.median(far), np.finfo(float).tiny)
    found = np.flatnonzero(far > 3).tolist()
    return [_suspect(n, rows[n], f"{values[n]:g}", f"{predicted[n]:.4g}", np.exp(-far[n])) for n in found]


def _suspect(n: int, one: Any, given: str, suggested: str, score: float) -> Suspect:
    return Suspect(n, one.where, f"{one.text} / {one.pair}" if one.pair else one.text, given, suggested, float(score))
