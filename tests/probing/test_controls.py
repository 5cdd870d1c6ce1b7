"""Controls against closed forms, direct enumeration and the bootstrap of scipy."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from bert.probing import controls, linear


def words(n: int, types: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Word types, each at least once, and labels that depend on them in most cases."""
    draw = np.random.default_rng(seed)
    of = draw.permutation(np.arange(n) % types)
    labels = np.where(draw.random(n) < 0.8, of % classes, draw.integers(0, classes, n))
    return of, labels


# ── control tasks ──


def test_a_word_type_has_one_control_label_in_train_and_dev() -> None:
    types, labels = words(500, 40, 5)
    train, dev = controls.control_labels([types[:300], types[300:]], labels[:300], seed=3)
    assert len(set(zip(types, np.concatenate((train, dev))))) == len(set(types))


def test_control_labels_of_train_do_not_depend_on_dev_and_change_with_the_seed() -> None:
    types, labels = words(300, 40, 5)
    one, _ = controls.control_labels([types, []], labels, seed=0)
    other, _ = controls.control_labels([types, ["new", "types"]], labels, seed=0)
    assert (one == other).all()
    assert (one != controls.control_labels([types, []], labels, seed=1)[0]).any()


def test_control_labels_have_the_distribution_of_the_labels() -> None:
    labels = np.repeat([0, 1, 2], [700, 250, 50])
    drawn, _ = controls.control_labels([range(20_000), []], np.resize(labels, 20_000), seed=0)
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, [0.7, 0.25, 0.05], atol=0.012)


@pytest.mark.parametrize("classes", [2, 6])
def test_one_hot_vectors_of_word_types_have_no_selectivity(classes: int) -> None:
    """They can only memorize types: the control task is as easy as a task in which each type has one label."""
    types = np.random.default_rng(0).permutation(np.arange(4_000) % 50)
    labels = np.random.default_rng(1).integers(0, classes, 50)[types]
    vectors = np.eye(50, dtype=np.float16)[None, types]
    control, asked = controls.control_labels([types[:3_000], types[3_000:]], labels[:3_000], seed=0)
    real = linear.fit_layers(vectors[:, :3_000], labels[:3_000], vectors[:, 3_000:], labels[3_000:], classes)[0]
    other = linear.fit_layers(vectors[:, :3_000], control, vectors[:, 3_000:], asked, classes)[0]
    assert real.dev.accuracy - other.dev.accuracy == pytest.approx(0, abs=0.01)


@given(st.integers(0, 20))
def test_permuted_labels_are_the_same_labels_in_another_order(seed: int) -> None:
    _, labels = words(200, 20, 4)
    found = controls.permuted(labels, seed)
    assert Counter(found.tolist()) == Counter(labels.tolist())
    assert (found != labels).any()


# ── without vectors ──


def test_the_majority_has_the_share_and_the_entropy_of_the_labels() -> None:
    labels = np.repeat([0, 1, 2], [20, 50, 30])
    found = controls.majority(labels, labels, 3)
    assert set(found.labels) == {1}
    assert found.accuracy == 0.5
    assert found.mean_nll == pytest.approx(-sum(p * np.log(p) for p in (0.2, 0.5, 0.3)))


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(5, 8))
def test_shares_sum_to_1_and_no_class_has_none(labels: list[int], classes: int) -> None:
    found = controls.shares(np.array(labels, dtype=int), classes)
    assert found.sum() == pytest.approx(1)
    assert (found > 0).all()


@pytest.mark.parametrize("classes", [3, 5])
def test_the_majority_is_the_probe_that_ignores_its_vectors(classes: int) -> None:
    labels, dev = np.repeat([0, 1, 2], [20, 50, 30]), np.array([0, 1, 1, 2, classes - 1])
    zeros = np.zeros((100, 4), np.float16)
    probe = linear.fit(zeros, labels, zeros[:5], dev, classes, 1.0).dev
    np.testing.assert_allclose(controls.majority(labels, dev, classes).nll, probe.nll, atol=1e-3)


def test_the_majority_per_type_is_that_of_direct_enumeration() -> None:
    types, labels = words(400, 30, 4)
    asked = [*types[200:], 99]  # a new type
    gold = np.append(labels[200:], 0)
    found = controls.per_type_majority(types[:200], labels[:200], asked, gold, 4)
    overall = Counter(labels[:200].tolist())
    for one, predicted, nll, label in zip(asked, found.labels, found.nll, gold):
        own = Counter(labels[:200][types[:200] == one].tolist())
        assert predicted == max(range(4), key=lambda label: (own[label], overall[label]))
        expected = (own[label] + overall[label] / 200) / (own.total() + 1)
        assert nll == pytest.approx(-np.log(expected))


def test_a_bag_of_words_knows_the_words_of_a_text_and_the_characters_of_a_chinese_one() -> None:
    train = ["a red fish", "a blue bird", "红色的鱼", "蓝色的鸟"] * 5
    labels = np.array(["fish", "bird"] * 10)
    assert controls.bag_of_words(train, labels, ["blue fish fish", "bird", "鱼", "鸟"]).tolist() == ["fish", "bird"] * 2
    assert controls.bag_of_words(["?", "!", "-"], np.array(["b", "b", "a"]), ["?", "."]).tolist() == ["b", "b"]


# ── intervals ──


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 50))
def test_an_interval_is_the_bootstrap_of_scipy_over_groups(seed: int) -> None:
    draw = np.random.default_rng(seed)
    groups = np.sort(draw.integers(0, 150, 1_500))
    correct = draw.random(1_500) < draw.random(150)[groups]  # sentences are easy or hard
    sums, sizes = (np.bincount(groups, weights=weights) for weights in (correct, np.ones(1_500)))
    present = sizes > 0
    found = bootstrap(
        (sums[present], sizes[present]),
        lambda right, units, axis=-1: right.sum(axis=axis) / units.sum(axis=axis),
        n_resamples=1_000,
        paired=True,
        vectorized=True,
        method="percentile",
        rng=0,
    ).confidence_interval
    assert controls.interval(correct, groups) == pytest.approx((found.low, found.high), abs=0.012)
    assert found.high - found.low > 0.05


def test_an_interval_is_deterministic_and_wider_for_groups_of_equal_units() -> None:
    correct = np.repeat(np.random.default_rng(0).random(100) < 0.7, 10)
    by_group = controls.interval(correct, np.repeat(np.arange(100), 10))
    by_unit = controls.interval(correct, np.arange(1_000))
    assert by_group == controls.interval(correct, np.repeat(np.arange(100), 10))
    assert by_group[0] < by_unit[0] < correct.mean() < by_unit[1] < by_group[1]
    assert by_group[1] - by_group[0] == pytest.approx(np.sqrt(10) * (by_unit[1] - by_unit[0]), rel=0.2)


def test_an_interval_of_one_group_is_a_point() -> None:
    assert controls.interval(np.array([True, False]), np.zeros(2, int)) == (0.5, 0.5)
