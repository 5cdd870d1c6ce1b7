"""Intervals and tests against scipy, enumeration, closed forms, and what must not change them."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bert.finetuning.evaluation import statistics
from bert.finetuning.evaluation.statistics import (
    Measure,
    Spread,
    intervals,
    mcnemar,
    multi_bootstrap,
    randomization_test,
    t_interval,
)


def mean(values: np.ndarray, name: str = "mean") -> Measure:
    """The weighted mean of values (E,), nan without weight."""

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return {name: weights @ values / weights.sum(1)}

    return measure


def f1(gold: np.ndarray, predicted: np.ndarray) -> Measure:
    """F1 of class 1, nan if there is none."""

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return {"f1": 2 * (weights @ (gold * predicted)) / (weights @ (gold + predicted))}

    return measure


def recall(gold: np.ndarray, predicted: np.ndarray) -> Measure:
    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return {"recall": weights @ (gold * predicted) / (weights @ gold)}

    return measure


GOLD = np.random.default_rng(1).integers(0, 2, 60)
PREDICTED = np.where(np.random.default_rng(2).random(60) < 0.8, GOLD, 1 - GOLD)
SECOND = np.where(np.random.default_rng(3).random(60) < 0.6, GOLD, 1 - GOLD)
ALONE = np.arange(60)


# ── intervals ──


@pytest.mark.parametrize("chunk", [1_000_000, 1_500])
def test_an_interval_is_that_of_scipy_with_the_same_resamples(monkeypatch, chunk):
    monkeypatch.setattr(statistics, "_CHUNK", chunk)
    skewed = np.random.default_rng(5).exponential(size=60)
    f1_score = lambda a, b, axis=-1: 2 * (a * b).sum(axis) / (a + b).sum(axis)  # noqa: E731
    for measure, data, statistic in (
        (mean(skewed, "score"), (skewed,), np.mean),
        (f1(GOLD, PREDICTED), (GOLD, PREDICTED), f1_score),
    ):
        options = {"n_resamples": 999, "method": "BCa", "paired": True, "confidence_level": 0.9}
        theirs = stats.bootstrap(data, statistic, rng=np.random.default_rng(4), **options).confidence_interval
        [ours] = intervals(measure, ALONE, level=0.9, resamples=999, seed=4).values()
        assert ours == pytest.approx(tuple(theirs), abs=1e-12)


def test_a_group_is_resampled_as_a_whole():
    """The interval of groups of values is that of the means of the groups, when all have the same size."""
    values = np.random.default_rng(0).normal(size=40)
    groups = np.repeat([f"text {number:02}" for number in range(40)], 3)
    spread = np.tile([-1.0, 0.0, 1.0], 40)
    expected = intervals(mean(values), np.arange(40))["mean"]
    assert intervals(mean(np.repeat(values, 3) + spread), groups)["mean"] == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30).flatmap(lambda n: st.tuples(*[st.lists(st.booleans(), min_size=n, max_size=n)] * 2)))
def test_an_interval_contains_the_value_and_is_made_of_values(pairs):
    gold, predicted = (np.array(side, int) for side in pairs)
    for measure in (f1(gold, predicted), recall(gold, predicted), mean((gold == predicted).astype(float))):
        [(name, (value,))] = measure(np.ones((1, len(gold)))).items()
        low, high = intervals(measure, np.arange(len(gold)), resamples=200)[name]
        assert (np.isnan(low) and np.isnan(high)) or 0 <= low <= value <= high <= 1


def test_the_order_of_examples_changes_only_the_noise_of_resampling():
    order = np.random.default_rng(0).permutation(60)
    [first] = intervals(f1(GOLD, PREDICTED), ALONE, resamples=20_000).values()
    [second] = intervals(f1(GOLD[order], PREDICTED[order]), ALONE, resamples=20_000).values()
    assert first != second
    assert first == pytest.approx(second, abs=0.006)


def test_blocks_give_the_acceleration_of_the_jackknife(monkeypatch):
    skewed = np.random.default_rng(0).exponential(size=600)
    [exact] = intervals(mean(skewed), np.arange(600)).values()
    monkeypatch.setattr(statistics, "_JACKKNIFE_BLOCKS", 200)
    [blocks] = intervals(mean(skewed), np.arange(600)).values()
    assert exact != blocks
    assert blocks == pytest.approx(exact, abs=0.1 * (exact[1] - exact[0]))


def test_a_share_of_0_or_1_has_the_exact_interval_of_its_trials(monkeypatch):
    """20 of 20: (alpha / 2) ** (1 / 20) to 1. Recall of a class counts the examples of the class alone."""
    monkeypatch.setattr(statistics, "_CHUNK", 20_000)
    ones = np.ones(20)
    assert intervals(mean(ones), np.arange(20))["mean"] == pytest.approx((0.025 ** (1 / 20), 1))
    assert intervals(mean(1 - ones), np.arange(20))["mean"] == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert intervals(mean(ones), np.repeat(np.arange(5), 4))["mean"] == pytest.approx((0.025 ** (1 / 5), 1))
    gold = np.repeat([1, 0], [25, 475])
    assert intervals(recall(gold, gold), np.arange(500))["recall"] == pytest.approx((0.025 ** (1 / 25), 1))
    assert intervals(recall(gold, 0 * gold), np.arange(500))["recall"] == pytest.approx((0, 1 - 0.025 ** (1 / 25)))


def test_a_metric_that_no_resample_reaches_has_an_interval_up_to_its_value():
    """The share of the examples that are drawn at all: 1, but near 1 - 1/e in resamples, which BCa takes for a large bias."""
    low, high = intervals(lambda weights: {"drawn": (weights > 0).mean(1)}, ALONE)["drawn"]
    assert 0.7 < low < high == 1


@pytest.mark.filterwarnings("error")
def test_nothing_is_claimed_where_nothing_is_known():
    one_group, undefined = np.zeros(60, int), np.zeros(60, int)
    rare = np.repeat([1, 0], [2, 58])
    assert np.isnan(intervals(f1(GOLD, PREDICTED), one_group)["f1"]).all()
    assert np.isnan(intervals(f1(undefined, undefined), ALONE)["f1"]).all()
    assert np.isnan(intervals(recall(rare, np.repeat([1, 0], [1, 59])), ALONE)["recall"]).all()


def test_a_seed_determines_the_interval():
    first, again, other = (intervals(f1(GOLD, PREDICTED), ALONE, seed=seed)["f1"] for seed in (0, 0, 1))
    assert first == again != other


def test_an_interval_of_accuracy_covers_the_population_as_often_as_it_says():
    draws = np.random.default_rng(0).random((300, 200)) < 0.9
    found = [intervals(mean(draw.astype(float)), np.arange(200), resamples=400)["mean"] for draw in draws]
    assert np.mean([low <= 0.9 <= high for low, high in found]) == pytest.approx(0.95, abs=0.025)


# ── several seeds ──


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=9).filter(lambda values: np.std(values) > 1e-6))
def test_the_t_interval_is_that_of_scipy(values):
    spread = t_interval(values, 0.9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (spread.low, spread.high) == pytest.approx(tuple(expected))
    assert (spread.mean, spread.sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))


def test_one_value_has_no_spread_and_no_value_no_mean():
    spread = t_interval([0.5])
    assert spread.mean == 0.5
    assert np.isnan([spread.sd, spread.low, spread.high]).all()
    assert t_interval([0.5, 0.5]) == Spread(0.5, 0, 0.5, 0.5)
    for value in (0.1, 59 / 80, 1 / 3):  # rounding does not make a spread of what is equal
        assert t_interval([value] * 3) == Spread(value, 0, value, value)
    with pytest.raises(ValueError, match="values is empty"):
        t_interval([])


# ── two models on the same examples ──


def both(first: np.ndarray, second: np.ndarray, gold: np.ndarray) -> Measure:
    """The measure of F1 of two models."""
    return f1(np.concatenate([gold, gold]), np.concatenate([first, second]))


def enumerated(first: np.ndarray, second: np.ndarray, gold: np.ndarray, groups: np.ndarray) -> float:
    """The share of all swaps of groups with at least the difference of F1 that is observed."""

    def difference(swap: np.ndarray) -> float:
        one, other = np.where(swap, second, first), np.where(swap, first, second)
        return 2 * (gold * one).sum() / (gold + one).sum() - 2 * (gold * other).sum() / (gold + other).sum()

    observed = difference(np.zeros(len(gold), bool))
    swaps = [np.array(swap)[groups] for swap in product([False, True], repeat=groups.max() + 1)]
    return float(np.mean([abs(difference(swap)) >= abs(observed) - 1e-9 for swap in swaps]))


@pytest.mark.parametrize("groups", [np.arange(10), np.repeat(np.arange(5), 2)])
def test_the_randomization_test_estimates_the_share_of_all_swaps(groups):
    gold = np.array([1, 1, 1, 1, 0, 0, 1, 1, 0, 1])
    first, second = np.array([1, 1, 1, 0, 0, 0, 1, 1, 0, 1]), np.array([1, 0, 1, 0, 1, 0, 0, 1, 1, 0])
    expected = enumerated(first, second, gold, groups)
    [(difference, p)] = randomization_test(both(first, second, gold), groups, 20_000).values()
    assert difference == pytest.approx(12 / 13 - 6 / 12)
    assert p == pytest.approx(expected, abs=4 * (expected / 20_000) ** 0.5)


def test_the_randomization_test_is_that_of_scipy_for_means():
    first, second = np.random.default_rng(0).normal(size=(2, 12)) + [[0.8], [0]]
    options = {"permutation_type": "samples", "n_resamples": np.inf}  # all swaps
    theirs = stats.permutation_test((first, second), lambda a, b: a.mean() - b.mean(), **options)
    [(difference, p)] = randomization_test(mean(np.concatenate([first, second])), np.arange(12)).values()
    assert difference == pytest.approx(theirs.statistic)
    assert p == pytest.approx(theirs.pvalue, abs=0.01)


def test_differences_that_are_equal_but_for_rounding_are_equally_extreme():
    """Five differences of 0.1 with any signs: no sum is nearer to 0 than 0.1."""
    first, second = np.array([0.3, 0.2, 0.4, 0.7, 0.1]), np.array([0.2, 0.1, 0.3, 0.8, 0.2])
    assert randomization_test(mean(np.concatenate([first, second])), np.arange(5))["mean"][1] == 1


def test_swapping_the_models_negates_the_difference_and_keeps_p(monkeypatch):
    monkeypatch.setattr(statistics, "_CHUNK", 7_000)
    [one] = randomization_test(both(PREDICTED, SECOND, GOLD), ALONE).values()
    [other] = randomization_test(both(SECOND, PREDICTED, GOLD), ALONE).values()
    assert other == (-one[0], one[1])
    assert one[1] < 0.05


def test_equal_models_have_p_1_and_undefined_metrics_none():
    assert randomization_test(both(PREDICTED, PREDICTED, GOLD), ALONE)["f1"] == (0, 1)
    nothing = np.zeros(60, int)
    assert np.isnan(randomization_test(both(nothing, nothing, nothing), ALONE)["f1"]).all()


def test_undefined_rounds_count_against_a_difference():
    """One mention of 60, found by the first model only: with every swap the side without it is undefined or has F1 0."""
    gold = np.repeat([1, 0], [1, 59])
    assert randomization_test(both(gold, np.zeros(60, int), gold), ALONE)["f1"] == (1, 1)


def test_the_smallest_p_is_that_of_no_round_as_extreme():
    right = np.concatenate([np.ones(60), np.zeros(60)])
    assert randomization_test(mean(right), ALONE, rounds=999)["mean"] == (1, 1 / 1000)


def test_mcnemar_is_the_exact_test_with_half_of_the_weight_of_the_observed_split():
    for only_first, only_second in product(range(12), repeat=2):
        pairs, fewer = only_first + only_second, min(only_first, only_second)
        exact = stats.binomtest(only_first, pairs).pvalue if pairs else 1.0
        observed = stats.binom.pmf(fewer, pairs, 0.5)
        expected = exact - observed if only_first != only_second else 1.0
        assert mcnemar(only_first, only_second) == pytest.approx(expected)


def test_mcnemar_gives_the_published_value():
    """Airway hyper-responsiveness before and after transplantation: 1 and 7 (Fagerland, Lydersen and Laake 2013)."""
    assert mcnemar(1, 7) == pytest.approx(0.0391, abs=5e-5)


# ── two recipes ──


def recipe_runs(rng, seeds, examples, between_seeds, between_examples=0.0, easy=None) -> list[Measure]:
    """Accuracy of runs on examples of different difficulty, where each seed is better or worse on all of them."""
    easy = np.zeros(examples) if easy is None else easy
    easy = easy + rng.normal(0, 1, examples) * between_examples
    logits = 1 + easy + rng.normal(0, between_seeds, (seeds, 1)) + rng.normal(0, 0.5, (seeds, examples))
    return [mean((row > 0).astype(float)) for row in logits]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("between_seeds", "between_examples"), [(0.5, 0), (0, 0), (0.1, 0.7)])
def test_two_groups_of_runs_of_one_recipe_differ_as_rarely_as_promised(seeds, between_seeds, between_examples):
    trials, rejected = 300, 0
    for trial in range(trials):
        rng = np.random.default_rng([trial, seeds])
        easy = rng.normal(0, 2, 150)
        sides = [recipe_runs(rng, seeds, 150, between_seeds, between_examples, easy) for _ in range(2)]
        rejected += multi_bootstrap(*sides, np.arange(150), resamples=100)["mean"].p < 0.05
    assert rejected / trials <= 0.085  # 0.05 and almost three standard errors


def test_without_noise_of_examples_two_recipes_are_compared_as_by_welch():
    """Where each example moves by the same amount from seed to seed, and the same for both, the examples add no variance."""
    rng = np.random.default_rng(0)
    easy = rng.normal(size=50)
    scores = [rng.normal(0.1, 0.1, 4), rng.normal(0, 0.3, 3)]
    runs = [[mean(easy + score) for score in side] for side in scores]
    found = multi_bootstrap(*runs, np.arange(50), level=0.9)["mean"]
    welch = stats.ttest_ind(*scores, equal_var=False)
    assert (found.p, found.low, found.high) == pytest.approx((welch.pvalue, *welch.confidence_interval(0.9)))


def test_without_noise_of_seeds_two_recipes_are_compared_as_by_a_paired_t_test():
    first, second = np.random.default_rng(0).normal(size=(2, 200)) + [[0.2], [0]]
    found = multi_bootstrap([mean(first)] * 3, [mean(second)] * 2, np.arange(200), resamples=20_000)["mean"]
    paired = stats.ttest_rel(first, second)
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert (found.p, found.low, found.high) == pytest.approx((paired.pvalue, *paired.confidence_interval()), rel=0.05)


def test_the_variance_of_a_comparison_is_that_of_a_two_way_layout():
    """For means: between seeds that of the scores, between examples the covariances of two runs over the examples, which share no
    noise: those within the first recipe, within the second, less twice those of one run of each."""
    rng = np.random.default_rng(0)
    examples = rng.normal(size=(2, 1, 300)) + rng.normal(size=300)
    first, second = examples[0] + rng.normal(0, 3, (3, 300)), examples[1] + rng.normal(0, 3, (4, 300))
    covariance = np.cov(np.concatenate([first, second])) / 300
    other = ~np.eye(7, dtype=bool)
    within = [covariance[side, side][other[side, side]].mean() for side in (slice(3), slice(3, 7))]
    parts = [first.mean(1).var(ddof=1) / 3, second.mean(1).var(ddof=1) / 4, sum(within) - 2 * covariance[:3, 3:].mean()]
    degrees = sum(parts) ** 2 / sum(part**2 / n for part, n in zip(parts, (2, 3, 299)))
    found = multi_bootstrap(
        *([mean(run) for run in runs] for runs in (first, second)), np.arange(300), resamples=20_000
    )
    half = stats.t.ppf(0.975, degrees) * sum(parts) ** 0.5
    assert parts[2] > 0.3 * sum(parts)
    assert (found["mean"].high - found["mean"].low) / 2 == pytest.approx(half, rel=0.03)


def test_noise_of_examples_that_cancels_takes_nothing_from_the_variance():
    """Each mean over the runs is the same for all examples, so that the estimate between examples is below 0."""
    noise = np.random.default_rng(0).normal(size=(2, 50))
    runs = [[mean(some), mean(center - some)] for some, center in zip(noise, (0.1, 0.2))]
    scores = [[float(some.mean()), float(center - some.mean())] for some, center in zip(noise, (0.1, 0.2))]
    found = multi_bootstrap(*runs, np.arange(50))["mean"]
    assert found.p == pytest.approx(stats.ttest_ind(*scores, equal_var=False).pvalue)


def test_swapping_the_recipes_negates_the_difference_and_the_interval():
    rng = np.random.default_rng(0)
    first, second = recipe_runs(rng, 3, 80, 0.3), recipe_runs(rng, 4, 80, 0.5)
    one, other = (
        multi_bootstrap(first, second, np.arange(80))["mean"],
        multi_bootstrap(second, first, np.arange(80))["mean"],
    )
    assert (other.difference, other.low, other.high, other.p) == pytest.approx(
        (-one.difference, -one.high, -one.low, one.p)
    )


@pytest.mark.filterwarnings("error")
def test_recipes_need_two_runs_each_and_something_that_varies():
    runs = recipe_runs(np.random.default_rng(0), 3, 50, 0.3)
    with pytest.raises(ValueError, match="first has 3 runs and second 1; each must have at least two"):
        multi_bootstrap(runs, runs[:1], np.arange(50))
    for one, other, groups in ((runs, runs, np.zeros(50)), (runs[:1] * 2, runs[:1] * 2, np.arange(50))):
        found = multi_bootstrap(one, other, groups)["mean"]
        assert found.difference == 0
        assert np.isnan([found.low, found.high, found.p]).all()
