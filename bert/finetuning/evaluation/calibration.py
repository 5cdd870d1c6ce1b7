"""Are probabilities what they say? Calibration errors, and the temperature and thresholds that are fitted to a dev set.

A temperature T divides the logits (Guo et al. 2017, "On Calibration of Modern Neural Networks"). As T, the thresholds and the best
checkpoint are all chosen on the dev set, what they achieve is measured on each half of it after fitting to the other half.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from bert.finetuning.evaluation.scored import Scored
from bert.finetuning.metrics import goodness
from bert.finetuning.tasks.task import Task

BINS = 15
_SIMULATED = 100
_FEWEST_ERRORS = 20  # without errors the best temperature is 0, which makes every probability 1
_MOST_POINTS = 100  # of a curve


@dataclass(frozen=True)
class Calibration:
    """How far confidence, the probability of the predicted class, is from accuracy, over M decisions."""

    ece: float
    """expected calibration error: mean distance of confidence and accuracy over 15 bins of equal width (Naeini et al. 2015)"""
    expected_ece: float
    """the ECE of a model with these confidences that is calibrated perfectly: the mean of 100 simulations"""
    nll: float
    """negative log-likelihood of the right class, in nats"""
    brier: float
    """mean squared distance of the probabilities from 1 for the right class and 0 for the others, summed over classes"""
    bins: list[tuple[float, float, int]]
    """mean confidence, accuracy and number of decisions of each bin that is not empty"""
    risk_coverage: list[tuple[float, float]]
    """share of the most confident decisions, and the share of errors among these"""


def calibration(logits: np.ndarray, right: np.ndarray, seed: int = 0) -> Calibration | None:
    """The calibration of logits (M, C) with right classes (M,); none if there are none."""
    if not len(logits):
        return None
    logs = log_softmax(logits, axis=1)
    of_right, confidence = logs[np.arange(len(right)), right], np.exp(logs.max(1))
    correct = logs.argmax(1) == right
    brier = (np.exp(2 * logs).sum(1) - 2 * np.exp(of_right) + 1).mean()
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts, sums = np.bincount(place, minlength=BINS), np.bincount(place, confidence, BINS)
    hits = np.bincount(place, correct, BINS)
    draw = np.random.default_rng(seed)
    drawn = [np.bincount(place, draw.random(len(place)) < confidence, BINS) for _ in range(_SIMULATED)]
    ece, expected = (float(np.abs(sums - found).sum(-1).mean() / len(place)) for found in (hits, np.array(drawn)))
    bins = [(float(sums[i] / counts[i]), float(hits[i] / counts[i]), int(counts[i])) for i in counts.nonzero()[0]]
    errors = np.cumsum(~correct[np.argsort(-confidence, kind="stable")])
    ends = np.unique(np.linspace(1, len(place), min(len(place), _MOST_POINTS)).astype(int))
    curve = [(float(end / len(place)), float(errors[end - 1] / end)) for end in ends]
    return Calibration(ece, expected, float(-of_right.mean()), float(brier), bins, curve)


def fit_temperature(logits: np.ndarray, right: np.ndarray) -> float:
    """The temperature from e⁻³ to e³ with the largest likelihood of the right classes (M,); 1 if there are no logits (M, C)."""
    if not len(logits):
        return 1.0

    def loss(log_temperature: float) -> float:
        logs = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -float(logs[np.arange(len(right)), right].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-6}).x))


@dataclass(frozen=True)
class Tuned:
    """What is fitted to a dev set, and what it achieves on the half that it was not fitted to."""

    temperature: float
    """1 if none is better there"""
    task: Task
    """with thresholds, if these are better there"""
    report: dict[str, Any]
    """for metrics.json"""


def tune(scored: Scored, seed: int = 0) -> Tuned:
    """Fit a temperature and the thresholds of the task to a dev set with its scores at a temperature of 1."""
    logits, right, example = scored.choices()
    count, before = len(scored.sizes), calibration(logits, right)
    if count < 2 or before is None:
        return Tuned(1.0, scored.task, {})
    in_first = np.random.default_rng(seed).permutation(count) < count // 2
    halves = in_first[example], ~in_first[example]
    temperatures = np.array([fit_temperature(logits[here], right[here]) for here in halves])
    divisors = temperatures[in_first.astype(int)]  # of each example, fitted to the other half
    after = calibration(logits / divisors[example][:, None], right)
    assert after is not None
    helps = after.nll < before.nll and (logits.argmax(1) != right).sum() >= _FEWEST_ERRORS
    # rounded, as the last bits of scores depend on the number of threads
    temperature = round(fit_temperature(logits, right), 4) if helps else 1.0
    report: dict[str, Any] = {"temperature": temperature, "before": asdict(before), "after": asdict(after)}

    scores, gold = scored.scores / temperature, scored.right.view(len(scored.scores), -1)
    task = scored.task.tuned(scores, gold)
    if task is not scored.task:  # it predicts labels of texts: an example is one row of scores
        decided = scored.decided.clone()
        for half in map(torch.from_numpy, (in_first, ~in_first)):
            decided[half] = scored.task.tuned(scores[~half], gold[~half]).decide(scores[half], [1] * count)
        crossed, plain = scored.measured(decided), scored.measured(scored.decided)
        if goodness(crossed, task.scales) <= goodness(plain, task.scales):
            task = scored.task
        report["thresholds"] = {"fitted": task is not scored.task, "without": plain, "cross_fitted": crossed}
    return Tuned(temperature, task, report)
