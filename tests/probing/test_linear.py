"""Linear probes against scikit-learn, definitions and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bert.errors import InputError
from bert.probing import linear


def blobs(n: int, classes: int, layers: int = 1, size: int = 12, noise: float = 2.0, seed: int = 0) -> tuple:
    """Correlated vectors (layers, n, size) in fp16 with a center for each class, and labels; the last layer is the clearest."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    spread = draw.normal(size=(size, size)) * np.geomspace(0.2, 2, size)
    centers = draw.normal(size=(classes, size))
    vectors = [
        centers[labels] * (number + 1) / layers + noise * draw.normal(size=(n, size)) @ spread / 4
        for number in range(layers)
    ]
    return (np.stack(vectors) * 3 + 5).astype(np.float16), labels


def halves(n: int, *arguments: object, **more: object) -> tuple:
    """Train vectors, train labels, dev vectors, dev labels, in random order."""
    vectors, labels = blobs(n, *arguments, **more)
    order = np.random.default_rng(1).permutation(n)
    train, dev = order[: n // 2], order[n // 2 :]
    return vectors[:, train], labels[train], vectors[:, dev], labels[dev]


def of_scikit_learn(train: np.ndarray, labels: np.ndarray, dev: np.ndarray, c: float) -> np.ndarray:
    scaler = StandardScaler().fit(train.astype(np.float64))
    model = LogisticRegression(C=c, tol=1e-6, max_iter=5_000)
    model.fit(scaler.transform(train.astype(np.float64)), labels)
    return model.predict_log_proba(scaler.transform(dev.astype(np.float64)))


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 8), st.sampled_from([1e-3, 1e-2, 0.1, 1.0, 10.0]), st.floats(1, 20), st.integers(0, 99))
def test_a_probe_is_the_logistic_regression_of_scikit_learn(classes: int, c: float, noise: float, seed: int) -> None:
    train, labels, dev, dev_labels = halves(400, classes, noise=noise, seed=seed)
    ours = linear.fit(train[0], labels, dev[0], dev_labels, classes, c).dev
    theirs = linear.Predictions.of(of_scikit_learn(train[0], labels, dev[0], c), dev_labels)
    assert ours.mean_nll == pytest.approx(theirs.mean_nll, abs=0.01)
    assert np.sum(ours.labels != theirs.labels) <= 6  # of 200: units between two classes


def test_two_thousand_dev_units_have_the_accuracy_of_scikit_learn() -> None:
    train, labels, dev, dev_labels = halves(4_000, 5, noise=15.0)
    ours = linear.fit(train[0], labels, dev[0], dev_labels, 5, 0.1).dev
    theirs = linear.Predictions.of(of_scikit_learn(train[0], labels, dev[0], 0.1), dev_labels)
    assert 0.3 < theirs.accuracy < 0.95
    assert ours.accuracy == pytest.approx(theirs.accuracy, abs=0.003)


def test_each_layer_has_the_c_with_the_lowest_nll_on_dev() -> None:
    train, labels, dev, dev_labels = halves(160, 4, layers=3, size=40, noise=20.0)
    found = linear.fit_layers(train, labels, dev, dev_labels, 4)
    for layer, fitted in enumerate(found):
        nll = {
            c: -of_scikit_learn(train[layer], labels, dev[layer], c)[range(80), dev_labels].mean() for c in linear.GRID
        }
        assert fitted.probe.c == min(nll, key=lambda c: nll[c])
        assert fitted.dev.mean_nll == pytest.approx(min(nll.values()), abs=0.01)
    assert linear.GRID[0] < found[0].probe.c < linear.GRID[-1]


def test_the_path_is_what_is_fitted_with_each_c_alone() -> None:
    train, labels, dev, dev_labels = halves(600, 3)
    for one in linear.path(train[0], labels, dev[0], dev_labels, 3, (1.0, 0.01)):
        alone = linear.fit(train[0], labels, dev[0], dev_labels, 3, one.probe.c).dev
        assert one.dev.mean_nll == pytest.approx(alone.mean_nll, abs=0.01)


def test_the_gradients_are_those_of_finite_differences() -> None:
    train, labels, *_ = halves(60, 3, layers=3, size=4)
    units = linear._prepare(train, labels, 3, "cpu")
    draw = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (3,), (3,)]
    parts = [torch.randn(shape, generator=draw) for shape in shapes]

    def nll(flat: np.ndarray) -> float:
        moved = [one.view(shape) for one, shape in zip(torch.from_numpy(flat).float().split([12, 3, 3]), shapes)]
        return linear._nll(units, tuple(moved))[0]

    flat = torch.cat([part.flatten() for part in parts]).double().numpy()
    exact = torch.cat([one.flatten() for one in linear._nll(units, tuple(parts))[1]]).numpy()
    np.testing.assert_allclose(exact, approx_fprime(flat, nll, 1e-2), atol=0.05)


def test_units_read_in_chunks_are_those_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels, dev, dev_labels = halves(300, 4)
    whole = linear.fit(train[0], labels, dev[0], dev_labels, 4, 0.1).dev
    monkeypatch.setattr(linear, "CHUNK", 12 * 7)
    np.testing.assert_allclose(linear.fit(train[0], labels, dev[0], dev_labels, 4, 0.1).dev.nll, whole.nll, atol=1e-3)


def test_vectors_of_a_read_only_file_are_read_as_they_are(tmp_path) -> None:
    train, labels, dev, dev_labels = halves(300, 4)
    np.save(tmp_path / "train.npy", train)
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    plain, from_file = (linear.fit_layers(one, labels, dev, dev_labels, 4) for one in (train, mapped))
    np.testing.assert_array_equal(plain[0].dev.nll, from_file[0].dev.nll)


@given(st.floats(-1_000, 1_000), st.floats(1e-2, 100))
@settings(max_examples=10, deadline=None)
def test_a_constant_dimension_and_the_scale_of_the_others_change_nothing(constant: float, scale: float) -> None:
    train, labels, dev, dev_labels = (one.astype(np.float32) if one.ndim > 2 else one for one in halves(200, 3))
    plain = linear.fit(train[0], labels, dev[0], dev_labels, 3, 0.1)
    more = [np.pad(one[0] * scale, ((0, 0), (0, 1)), constant_values=constant) for one in (train, dev)]
    more[1][:, -1] += 1  # a new value of a dimension that was constant in train
    other = linear.fit(more[0], labels, more[1], dev_labels, 3, 0.1)
    assert other.probe.scale[0, -1] == 0
    np.testing.assert_allclose(other.dev.nll, plain.dev.nll, atol=0.01)


def test_a_class_without_train_units_has_the_probability_of_laplace() -> None:
    train, labels, dev, dev_labels = halves(400, 3)
    unseen = np.where(np.arange(len(dev_labels)) < 5, 3, dev_labels)  # 3 occurs in dev only
    found = linear.fit(train[0], labels, dev[0], unseen, 5, 0.1)
    np.testing.assert_allclose(found.dev.nll[:5], np.log(200 + 5))
    assert not found.dev.correct[:5].any()
    every = np.exp(found.probe.log_probabilities(dev[0]))
    np.testing.assert_allclose(every.sum(axis=1), 1, rtol=1e-5)
    three = linear.fit(train[0], labels, dev[0], dev_labels, 3, 0.1).probe.log_probabilities(dev[0])
    np.testing.assert_allclose(every[:, :3], np.exp(three) * (1 - 2 / 205), rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_units_than_classes_are_enough(n: int) -> None:
    train, labels, dev, dev_labels = halves(80, 8)
    found = linear.fit_layers(train[:, :n], labels[:n], dev, dev_labels, 8)[0]
    assert np.isfinite(found.dev.nll).all()
    assert set(found.dev.labels) <= set(labels[:n])


def test_random_labels_get_little_more_than_the_nll_of_the_shares() -> None:
    train, labels, dev, dev_labels = halves(2_000, 4)
    shuffled = np.random.default_rng(0).permutation(labels)
    found = linear.fit_layers(train, shuffled, dev, dev_labels, 4)[0].dev
    assert found.mean_nll == pytest.approx(np.log(4), abs=0.02)


# ── the learned mix ──


def test_the_mix_finds_the_layer_that_knows_the_labels_and_is_as_good_as_it() -> None:
    train, labels, dev, dev_labels = halves(800, 4, layers=3)
    draw = np.random.default_rng(0)
    for noise in (train, dev):
        noise[[0, 2]] = draw.normal(size=noise[[0, 2]].shape)
    found = linear.fit_mix(train, labels, dev, dev_labels, 4, 0.1)
    alone = linear.fit(train[1], labels, dev[1], dev_labels, 4, 0.1)
    assert found.probe.mix.sum() == pytest.approx(1)
    assert found.probe.mix[1] > 0.9
    assert found.dev.mean_nll == pytest.approx(alone.dev.mean_nll, abs=0.05)


def test_a_mix_of_equal_layers_is_the_probe_on_one_of_them() -> None:
    train, labels, dev, dev_labels = halves(400, 3)
    equal, asked = (np.repeat(one, 3, axis=0) for one in (train, dev))
    found = linear.fit_mix(equal, labels, asked, dev_labels, 3, 0.1)
    np.testing.assert_allclose(found.probe.mix, 1 / 3, atol=1e-3)
    alone = linear.fit(train[0], labels, dev[0], dev_labels, 3, 0.1)
    np.testing.assert_allclose(found.dev.nll, alone.dev.nll, atol=0.03)


def test_the_probe_of_a_mix_is_trained_on_all_units_after_its_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels, dev, dev_labels = halves(2_000, 4, layers=3, noise=10.0)
    whole = linear.fit_mix(train, labels, dev, dev_labels, 4, 0.1)
    monkeypatch.setattr(linear, "SAMPLE_OF_MIX", 250)
    sampled = linear.fit_mix(train, labels, dev, dev_labels, 4, 0.1)
    only = linear.fit_mix(train[:, ::4], labels[::4], dev, dev_labels, 4, 0.1)
    assert sampled.dev.mean_nll == pytest.approx(whole.dev.mean_nll, abs=0.02)
    assert sampled.dev.mean_nll < only.dev.mean_nll


# ── bad input ──


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 2])
def test_vectors_that_are_not_finite_are_an_input_error(bad: float, side: int) -> None:
    data = list(halves(40, 2))
    data[side][0, 7, 3] = bad
    with pytest.raises(InputError, match="not finite"):
        linear.fit_layers(*data, 2)


def test_one_class_and_no_units_are_input_errors() -> None:
    train, labels, dev, dev_labels = halves(40, 2)
    with pytest.raises(InputError, match="one class; a probe needs two or more"):
        linear.fit_layers(train, labels * 0, dev, dev_labels * 0, 1)
    with pytest.raises(InputError, match="no units to train on"):
        linear.fit_layers(train[:, :0], labels[:0], dev, dev_labels, 2)


def test_a_class_that_samples_lack_is_learned_from_all_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """C and the mix are chosen on samples, in which the last class of all does not occur."""
    train, labels, dev, dev_labels = halves(800, 3, layers=2)
    rare = np.flatnonzero(labels == 2)
    labels[rare], dev_labels[dev_labels == 2] = 1, 1
    labels[rare[rare % 2 == 1][:12]] = 2  # every second unit is in a sample of half of them
    assert 2 not in labels[::2]
    whole = linear.fit_layers(train, labels, dev, dev_labels, 3), linear.fit_mix(train, labels, dev, dev_labels, 3, 0.1)
    monkeypatch.setattr(linear, "SAMPLE_OF_C", 200)
    monkeypatch.setattr(linear, "SAMPLE_OF_MIX", 200)
    some = linear.fit_layers(train, labels, dev, dev_labels, 3), linear.fit_mix(train, labels, dev, dev_labels, 3, 0.1)
    for one, other in zip((*whole[0], whole[1]), (*some[0], some[1]), strict=True):
        assert np.isfinite(other.dev.nll).all()
        assert other.dev.mean_nll < one.dev.mean_nll + 0.1
        assert other.dev.accuracy == pytest.approx(one.dev.accuracy, abs=0.03)


def test_labels_and_vectors_of_other_lengths_are_refused() -> None:
    x, y = np.zeros((1, 4, 2), np.float16), np.array([0, 1, 0, 1])
    for train, labels, dev, dev_labels in (
        (x, y[:3], x, y),
        (x, y, x, y[:3]),
        (x[0], y, x, y),
        (x, y, x[:, :0], y[:0]),
    ):
        with pytest.raises(InputError, match="must be one of each unit"):
            linear.fit_layers(train, labels, dev, dev_labels, 2)
