"""How certain a score is: bootstrap intervals, the spread over seeds, tests of two models on the same examples and of two recipes.

A `Measure` computes the metrics of weighted examples; the functions here choose the weights. The unit of resampling is a group of
examples, such as the sentences of a document. Examples that are independent of one another are groups of one.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats
from scipy.special import ndtr, ndtri

Measure = Callable[[np.ndarray], dict[str, np.ndarray]]
"""weights (B, E), how often each of E examples counts → metric name → (B,) its value for each row of weights, nan if undefined"""

Runs = Sequence[Measure]
"""the runs of a recipe, which differ in their seed, each on the same examples"""

_CHUNK = 1_000_000  # weights at a time: 8 MB of float64, of which a measure needs a few copies
_JACKKNIFE_BLOCKS = 1000
_UNDEFINED = 0.1  # largest share of the resamples in which a metric may be undefined
_ROUNDING = 1e-9  # values that differ by less are equal


@dataclass(frozen=True)
class Spread:
    """Values of several seeds."""

    mean: float
    sd: float
    """standard deviation of one value, with n - 1; nan for a single value"""
    low: float
    """bounds of the interval of the mean; nan for a single value"""
    high: float


@dataclass(frozen=True)
class Comparison:
    """The mean of the first recipe minus that of the second, its interval, and the p-value of no difference."""

    difference: float
    low: float
    high: float
    p: float


def intervals(
    measure: Measure,
    groups: np.ndarray,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    shares: Callable[[str], bool] = lambda name: True,
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of all metrics, bias-corrected and accelerated (BCa; Efron 1987), which contain the value of the metric.

    `groups` (E,) numbers the group of each example. Resamples in which a metric is undefined are left out. The acceleration is that
    of the jackknife over groups, or over 1,000 random blocks of groups if there are more.

    A metric that is a share, by its name (`shares`), and 0 or 1 in all resamples has the exact interval of a share (Clopper and Pearson
    1934), whose trials are the groups that have this value by themselves: for 20 correct texts of 20, accuracy is between 0.832 and 1. The
    interval is (nan, nan) for any other constant, such as F1 of a single document, and for a metric that is undefined, or so in a tenth
    of the resamples.

    The bootstrap cannot see what the sample does not contain: for a class with hardly any correct prediction, and for macro-F1 with
    such a class, the interval is too narrow.
    """
    count, index = _numbered(groups)
    values = {name: float(value[0]) for name, value in measure(np.ones((1, len(index)))).items()}
    rng = np.random.default_rng(seed)
    resampled = _measured(measure, index, resamples, partial(_resamples, rng, count))
    blocks = min(count, _JACKKNIFE_BLOCKS)
    block = rng.permutation(count) % blocks
    left_out = _measured(measure, index, blocks, lambda rows, start: 1 - np.eye(rows, blocks, start)[:, block])
    found = {name: _bca(value, resampled[name], left_out[name], level) for name, value in values.items()}
    constant = [name for name, value in values.items() if value in (0, 1) and np.isnan(found[name][0]) and shares(name)]
    if constant:
        alone = _measured(measure, index, count, lambda rows, start: np.eye(rows, count, start))
        for name in constant:
            if trials := int((alone[name] == values[name]).sum()):
                interval = stats.binomtest(round(values[name]) * trials, trials).proportion_ci(level)
                found[name] = float(interval.low), float(interval.high)
    return found


def t_interval(values: Sequence[float], level: float = 0.95) -> Spread:
    """Mean, standard deviation and t interval of the mean, such as of the scores of several seeds. Raises ValueError without values."""
    if not len(values):
        raise ValueError("values is empty; give at least one")
    # exact: equal values have a spread of 0, and their mean is shown like each of them
    mean, n = float(statistics.mean(values)), len(values)
    sd = float(statistics.stdev(values)) if n > 1 else np.nan
    half = float(stats.t.isf((1 - level) / 2, n - 1)) * sd / n**0.5
    return Spread(mean, sd, mean - half, mean + half)


def randomization_test(
    measure: Measure, groups: np.ndarray, rounds: int = 10_000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Whether two models differ on these examples: metric → (first minus second, two-sided p), by paired approximate randomization
    (Noreen 1989; Yeh 2000).

    `measure` takes weights (B, 2E) of the E examples with the predictions of the first model, followed by the same examples with those
    of the second. In each round the predictions for each group, `groups` (E,), are swapped with probability 1/2. p = (1 + rounds with
    at least this difference) / (1 + rounds), where a round in which the metric is undefined counts; (nan, nan) if the difference is.
    """
    count, index = _numbered(groups)
    rng = np.random.default_rng(seed)

    def differences(swapped: np.ndarray) -> dict[str, np.ndarray]:
        weights = np.concatenate([1 - swapped, swapped], axis=1)
        second = measure(1 - weights)
        return {name: first - second[name] for name, first in measure(weights).items()}

    observed = differences(np.zeros((1, len(index))))
    drawn = _measured(differences, index, rounds, lambda rows, _: rng.integers(0, 2, (rows, count), np.int8))
    tests = {}
    for name, (value,) in observed.items():
        smaller = (abs(drawn[name]) < abs(value) - _ROUNDING).sum()
        tests[name] = float(value), float((1 + rounds - smaller) / (1 + rounds)) if np.isfinite(value) else np.nan
    return tests


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided mid-p value of the exact McNemar test (Fagerland, Lydersen and Laake 2013) that two models have the same accuracy,
    given the numbers of examples that only the first and only the second one gets right."""
    fewer, pairs = min(only_first, only_second), only_first + only_second
    return float(2 * stats.binom.cdf(fewer, pairs, 0.5) - stats.binom.pmf(fewer, pairs, 0.5))


def multi_bootstrap(
    first: Runs, second: Runs, groups: np.ndarray, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, Comparison]:
    """Whether two recipes differ, for new seeds and new examples: a multi-bootstrap (Sellam et al. 2022) that is valid for few seeds.

    `groups` (E,) numbers the group of each example; seeds of the two recipes are independent. Sellam et al. resample seeds and examples
    together: with n seeds this takes (n - 1) / n of the variance between seeds, and counts the interaction of seeds and examples up
    to three times (McCullagh 2000). Here the variance of the difference is the sum of two unbiased estimates: between seeds, that of
    their scores, which includes the interaction; between examples, that of the bootstrap over groups, less the interaction. The
    interval and p are of a t distribution with the degrees of freedom of Welch and Satterthwaite.

    `low`, `high` and `p` are nan if nothing varies, for a single group, and, like `difference`, for a metric that is undefined in a
    run. Raises ValueError for fewer than two runs of a recipe.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"first has {len(first)} runs and second {len(second)}; each must have at least two")
    count, index = _numbered(groups)

    def runs(weights: np.ndarray) -> dict[str, np.ndarray]:  # (B, runs)
        measured = [measure(weights) for measure in (*first, *second)]
        return {name: np.stack([one[name] for one in measured], axis=1) for name in measured[0]}

    resampled = _measured(runs, index, resamples, partial(_resamples, np.random.default_rng(seed), count))
    scores = runs(np.ones((1, len(index))))
    return {name: _compared(value[0], resampled[name], len(first), count, level) for name, value in scores.items()}


def _compared(scores: np.ndarray, resampled: np.ndarray, first: int, groups: int, level: float) -> Comparison:
    """The comparison, given the scores (runs,) and those in resamples of the examples (B, runs); `first` runs are of the first recipe."""
    difference = float(scores[:first].mean() - scores[first:].mean())
    if groups < 2 or np.isnan(difference):
        return Comparison(difference, np.nan, np.nan, np.nan)
    resampled = resampled[np.isfinite(resampled).all(axis=1)]
    between_examples = (resampled[:, :first].mean(axis=1) - resampled[:, first:].mean(axis=1)).var(ddof=1)
    variances, freedom = [], [groups - 1]
    for side in (slice(first), slice(first, None)):
        n = len(scores[side])
        variances.append(scores[side].var(ddof=1) / n)
        freedom.append(n - 1)
        deviations = resampled[:, side] - resampled[:, side].mean(axis=1, keepdims=True)
        between_examples -= deviations.var(axis=0, ddof=1).sum() / (n * (n - 1))  # interaction, counted between seeds
    parts = np.array([max(0.0, between_examples), *variances])
    if (variance := parts.sum()) < _ROUNDING**2:
        return Comparison(difference, np.nan, np.nan, np.nan)
    t = stats.t(variance**2 / (parts**2 / freedom).sum(), scale=variance**0.5)
    half = float(t.isf((1 - level) / 2))
    return Comparison(difference, difference - half, difference + half, float(2 * t.sf(abs(difference))))


def _bca(value: float, resampled: np.ndarray, left_out: np.ndarray, level: float) -> tuple[float, float]:
    """The BCa interval of a metric, or (nan, nan), from its value, those of the resamples (B,) and of the jackknife (blocks,)."""
    finite = resampled[np.isfinite(resampled)]
    if np.isnan(value) or len(finite) < (1 - _UNDEFINED) * len(resampled) or np.ptp(finite) < _ROUNDING:
        return np.nan, np.nan
    below = ((finite < value).mean() + (finite <= value).mean()) / 2
    bias = ndtri(np.clip(below, 0.5 / len(finite), 1 - 0.5 / len(finite)))
    deviations = np.nanmean(left_out) - left_out[np.isfinite(left_out)]
    squares = (deviations**2).sum()
    acceleration = (deviations**3).sum() / (6 * squares**1.5) if squares > 0 else 0.0
    normal = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(finite, ndtr(bias + normal / (1 - acceleration * normal)))
    return min(float(low), value), max(float(high), value)


def _numbered(groups: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of groups, and that of the group of each example (E,), from 0."""
    names, index = np.unique(groups, return_inverse=True)
    return len(names), index


def _measured(
    measure: Measure, index: np.ndarray, rows: int, weights: Callable[[int, int], np.ndarray]
) -> dict[str, np.ndarray]:
    """The metrics of many rows of weights, a few rows at a time: `weights(b, start)` is (b, groups), `index` (E,) gives each example's."""
    step = max(1, _CHUNK // len(index))
    chunks = (weights(min(step, rows - start), start) for start in range(0, rows, step))
    parts = [measure(chunk[:, index].astype(float)) for chunk in chunks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _resamples(rng: np.random.Generator, groups: int, rows: int, start: int) -> np.ndarray:
    """(rows, groups): how often each group is drawn, with replacement."""
    cells = rng.integers(0, groups, (rows, groups)) + groups * np.arange(rows)[:, None]
    return np.bincount(cells.ravel(), minlength=cells.size).reshape(cells.shape)
