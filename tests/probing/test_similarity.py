"""CKA, self-similarity and moved words against definitions and planted differences."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler

from bert.errors import InputError
from bert.probing.geometry import mean_cosine
from bert.probing.similarity import anisotropy, cka, moved, self_similarity


def random_rotation(draw: np.random.Generator, width: int) -> np.ndarray:
    return np.linalg.qr(draw.normal(size=(width, width)))[0]


# ── CKA ──


def unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012, equation 5, with (N, N) Gram matrices."""
    n = len(x)
    k, l_ = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l_, 0)
    third = 2 * k.sum(axis=0) @ l_.sum(axis=1) / (n - 2)
    return ((k * l_).sum() + k.sum() * l_.sum() / ((n - 1) * (n - 2)) - third) / (n * (n - 3))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(6, 40), st.floats(-3, 3))
def test_cka_is_that_of_the_definition_by_gram_matrices(seed: int, n: int, offset: float) -> None:
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=(n, 4))
    a = np.stack([shared @ draw.normal(size=(4, 9)) + draw.normal(size=(n, 9)) + offset for _ in range(2)])
    b = np.stack([shared @ draw.normal(size=(4, 5)) + draw.normal(size=(n, 5)) for _ in range(3)])
    expected = [
        [unbiased_hsic(x, y) / np.sqrt(unbiased_hsic(x, x) * unbiased_hsic(y, y)) for y in b]
        for x in a.astype(np.float64)
    ]
    np.testing.assert_allclose(cka(a, b), expected, rtol=1e-4, atol=1e-4)


def test_cka_of_a_layer_with_itself_is_one_and_of_independent_ones_zero() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 2_000, 300)), draw.normal(size=(2, 2_000, 200))
    np.testing.assert_allclose(np.diag(cka(a, a)), 1, atol=1e-6)
    np.testing.assert_allclose(cka(a, b), 0, atol=0.02)
    few = cka(a[:, :50], b[:, :50])  # the biased estimator is above 0.8 for so few inputs
    np.testing.assert_allclose(few, 0, atol=0.05)


def test_cka_does_not_change_with_rotation_scale_shift_and_half_precision() -> None:
    draw = np.random.default_rng(1)
    a = draw.normal(size=(2, 300, 20)) * np.linspace(0.1, 3, 20)
    b = a[:, :, :10] + draw.normal(size=(2, 300, 10))
    plain = cka(a, b)
    turned = 5 * a @ random_rotation(draw, 20) + 2
    np.testing.assert_allclose(cka(turned, b), plain, atol=1e-5)
    np.testing.assert_allclose(cka(b, turned), plain.T, atol=1e-5)
    np.testing.assert_allclose(np.diag(cka(a, turned)), 1, atol=1e-5)
    np.testing.assert_allclose(cka(a.astype(np.float16), b.astype(np.float16)), plain, atol=1e-3)


def test_cka_reads_a_memory_map_in_chunks(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    vectors = draw.normal(size=(2, 2_500, 8)).astype(np.float16)  # three chunks
    np.save(tmp_path / "a.npy", vectors)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    x, y = vectors.astype(np.float64)
    expected = unbiased_hsic(x, y) / np.sqrt(unbiased_hsic(x, x) * unbiased_hsic(y, y))
    assert cka(mapped, mapped)[0, 1] == pytest.approx(expected, abs=1e-5)


def test_cka_of_a_constant_layer_is_nan_and_of_other_inputs_an_input_error() -> None:
    draw = np.random.default_rng(3)
    a = np.stack([np.full((9, 4), 0.7), draw.normal(size=(9, 4))]).astype(np.float32)
    found = cka(a, a)
    assert np.isnan(found[0]).all()
    assert found[1, 1] == pytest.approx(1)
    for x, y in ((a, a[:, :8]), (a[:, :3], a[:, :3])):
        with pytest.raises(InputError, match="must be the same inputs, 4 or more"):
            cka(x, y)


# ── anisotropy and self-similarity ──


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 60), st.booleans())
def test_self_similarity_is_the_mean_over_all_pairs(seed: int, n: int, standardize: bool) -> None:
    draw = np.random.default_rng(seed)
    types = np.array(list("abcde"))[draw.integers(0, 5, n)]
    types[:2] = "a"
    vectors = (draw.normal(size=(n, 7)) * np.array([1, 1, 1, 1, 1, 1, 30]) + 1).astype(np.float16)
    plain = StandardScaler().fit_transform(vectors.astype(np.float64)) if standardize else vectors.astype(np.float64)
    near = cosine_similarity(plain)
    pairs = ~np.eye(n, dtype=bool)
    found = self_similarity(vectors, types, standardize)
    assert found.types.tolist() == [one for one in "abcde" if (types == one).sum() > 1]
    expected = [near[np.outer(types == one, types == one) & pairs].mean() for one in found.types]
    np.testing.assert_allclose(found.cosines, expected, atol=1e-9)
    assert found.anisotropy == pytest.approx(near[pairs].mean())
    assert found.adjusted == pytest.approx(np.mean(expected) - near[pairs].mean())
    assert anisotropy(vectors, standardize) == pytest.approx(mean_cosine(plain))


def test_a_dimension_of_large_scale_makes_vectors_anisotropic_until_they_are_standardized() -> None:
    vectors = np.random.default_rng(0).normal(size=(3_000, 50))  # several chunks
    vectors[:, 7] = 40 + 5 * vectors[:, 7]
    assert anisotropy(vectors) > 0.9
    assert anisotropy(vectors, standardize=True) == pytest.approx(0, abs=0.01)


def test_words_that_each_occur_once_are_an_input_error() -> None:
    with pytest.raises(InputError, match="no word occurs twice"):
        self_similarity(np.ones((3, 2)), np.arange(3))


# ── words that moved ──


@pytest.mark.parametrize("seed", range(5))
def test_planted_moves_are_found_across_a_rotation_a_shift_and_another_width(seed: int) -> None:
    draw = np.random.default_rng(seed)
    words = np.array([f"w{number:03}" for number in range(100)])
    index = np.concatenate((np.arange(100), draw.integers(0, 100, 900)))
    centers = draw.normal(size=(10, 24))[np.arange(100) % 10] + 0.3 * draw.normal(size=(100, 24))  # ten topics
    after = centers.copy()
    after[:4] = centers[[15, 26, 37, 48]]  # the first words of topics 0 to 3 go to topics 5 to 8
    noise = 0.2 * draw.normal(size=(2, 1_000, 24))
    basis = np.linalg.qr(draw.normal(size=(32, 24)))[0]
    a, b = centers[index] + noise[0], 3 * (after[index] + noise[1]) @ basis.T + draw.normal(size=32)
    found = moved(a, b, words[index], top=6)
    assert {one.type for one in found[:4]} == set(words[:4])
    assert found[3].distance > 2 * found[4].distance
    assert [one.distance for one in found] == sorted((one.distance for one in found), reverse=True)
    for one in found[:4]:
        topic = int(one.type[1:])
        assert {int(other[1:]) % 10 for other in one.before} == {topic}
        assert {int(other[1:]) % 10 for other in one.after} == {topic + 5}
        assert one.count == (index == topic).sum()


def test_the_distance_is_the_local_neighborhood_measure_word_by_word() -> None:
    draw = np.random.default_rng(6)
    types = np.concatenate((np.arange(60), draw.integers(0, 60, 120)))
    a, b = draw.normal(size=(180, 16)) + 1, draw.normal(size=(180, 12)) + 2
    near = []
    for vectors in (a, b):
        directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        means = np.stack([directions[types == word].mean(axis=0) for word in range(60)])
        near.append(cosine_similarity(means - means.mean(axis=0)))
    found = moved(a, b, types, top=60)
    for one in found:
        word = int(one.type)
        ranked = [[other for other in np.argsort(-side[word]).tolist() if other != word] for side in near]
        union = sorted({*ranked[0][:25], *ranked[1][:25]})
        first, second = (side[word][union] for side in near)
        cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        assert one.distance == pytest.approx(1 - cosine)
        assert [[int(name) for name in names] for names in (one.before, one.after)] == [side[:5] for side in ranked]


def test_nothing_moves_between_a_space_and_its_rotation() -> None:
    draw = np.random.default_rng(0)
    vectors, types = draw.normal(size=(200, 12)), draw.integers(0, 40, 200)
    found = moved(vectors, 7 * vectors @ random_rotation(draw, 12), types, top=100)
    assert len(found) == len(set(types.tolist()))
    assert max(one.distance for one in found) < 1e-6


def test_two_words_are_too_few_to_compare() -> None:
    with pytest.raises(InputError, match="must be three or more"):
        moved(np.ones((4, 2)), np.ones((4, 2)), np.array(["a", "b", "a", "b"]))


def test_one_layer_alone_is_refused_by_cka() -> None:
    one = np.zeros((10, 3))
    with pytest.raises(InputError, match=r"shape \(10, 3\); must be \(L, N, D\)"):
        cka(one, one)
