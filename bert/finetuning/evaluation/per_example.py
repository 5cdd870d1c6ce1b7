"""The metrics of weighted examples, from which intervals, tests and slices of a score are computed.

A sample of examples, drawn with replacement, is a row of weights: how often each example counts. Most metrics are functions of counts
that add up over examples, so that those of many samples are one matrix product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.sparse import csr_array, vstack
from scipy.stats import rankdata

Values = dict[str, np.ndarray]
"""metric → (B,) its value in each of B samples, nan where it is undefined"""
Totals = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""correct, predicted and gold labels (B, K), and further counts (B, X)"""


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """The quotient, nan where the denominator is 0."""
    return np.divide(top, bottom, out=np.full(np.broadcast_shapes(top.shape, bottom.shape), np.nan), where=bottom != 0)


def f1(correct: np.ndarray, predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """The harmonic mean of precision and recall."""
    return ratio(2 * correct, predicted + gold)


@dataclass(frozen=True)
class Counts:
    """Metrics of E examples that depend on counts of correct, predicted and gold labels (or spans of a type)."""

    names: tuple[str, ...]
    """the K labels, or types of spans"""
    counts: csr_array
    """(E, 3K + X): for each label the numbers of correct, predicted and gold ones, then what else `formula` needs"""
    formula: Callable[[Totals], Values]

    @classmethod
    def of_classes(cls, names: Sequence[str], decided: np.ndarray, right: np.ndarray, sizes: Sequence[int],
                   formula: Callable[[Totals], Values]) -> "Counts":  # fmt: skip
        """Of class ids (N,), predicted and gold, of examples with `sizes` of them each."""
        width, example = len(names), np.repeat(np.arange(len(sizes)), sizes)
        is_right = decided == right
        columns = np.concatenate([decided[is_right], width + decided, 2 * width + right])
        rows = np.concatenate([example[is_right], example, example])
        shape = len(sizes), 3 * width
        return cls(tuple(names), csr_array((np.ones(len(rows)), (rows, columns)), shape=shape), formula)

    def metrics(self, weights: np.ndarray) -> Values:
        """The metrics of samples, from their weights (B, E)."""
        return self.formula(self._totals(weights))

    def labels(self, weights: np.ndarray) -> Values:
        """Precision, recall and F1 of each label: (B, K)."""
        correct, predicted, gold, _ = self._totals(weights)
        shares = ratio(correct, predicted), ratio(correct, gold), f1(correct, predicted, gold)
        return dict(zip(("precision", "recall", "f1"), shares))

    def support(self) -> np.ndarray:
        """(3, K): the numbers of correct, predicted and gold labels."""
        return np.array([part[0] for part in self._totals(np.ones((1, self.counts.shape[0])))[:3]], int)

    def chosen(self, which: np.ndarray) -> Self:
        """Those of the given examples."""
        return replace(self, counts=self.counts[which])

    def joined(self, other: Self) -> Self:
        """Those of two models, one after the other."""
        return replace(self, counts=vstack([self.counts, other.counts], format="csr"))

    def _totals(self, weights: np.ndarray) -> Totals:
        totals, width = np.asarray(weights @ self.counts), len(self.names)
        correct, predicted, gold = (totals[:, part * width : (part + 1) * width] for part in range(3))
        return correct, predicted, gold, totals[:, 3 * width :]


@dataclass(frozen=True)
class Numbers:
    """Metrics of E predicted numbers."""

    decided: np.ndarray
    """(E,)"""
    right: np.ndarray
    """(E,)"""

    def metrics(self, weights: np.ndarray) -> Values:
        """Root mean squared error and the correlations of Pearson and Spearman, from weights (B, E)."""
        error = np.sqrt(ratio(weights @ (self.decided - self.right) ** 2, weights.sum(1)))
        return {
            "rmse": error,
            "pearson": _correlation(self.decided[None], self.right[None], weights),
            "spearman": _correlation(_ranks(self.decided, weights), _ranks(self.right, weights), weights),
        }

    def chosen(self, which: np.ndarray) -> "Numbers":
        """Those of the given examples."""
        return Numbers(self.decided[which], self.right[which])

    def joined(self, other: "Numbers") -> "Numbers":
        """Those of two models, one after the other."""
        return Numbers(np.concatenate([self.decided, other.decided]), np.concatenate([self.right, other.right]))


PerExample = Counts | Numbers


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B, E): the mean rank of each value in a sample in which it occurs as often as its weight says."""
    dense = rankdata(values, "dense") - 1
    of_value = csr_array((np.ones(len(dense)), (np.arange(len(dense)), dense)))
    occurrences = np.asarray(weights @ of_value)  # (B, different values)
    return (occurrences.cumsum(1) - occurrences / 2)[:, dense]


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,): weighted Pearson correlation of (B or 1, E) values, nan if one of them is constant."""
    total = weights.sum(1, keepdims=True)
    x, y = (side - ratio((weights * side).sum(1, keepdims=True), total) for side in (x, y))
    spread = np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1))
    return ratio((weights * x * y).sum(1), np.where(spread > 1e-12 * total[:, 0], spread, 0.0))
