"""Cosines, centroids, clusters and maps against scikit-learn, direct enumeration and what they must keep."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from bert.probing import geometry


def blobs(
    each: int = 12, groups: int = 3, size: int = 8, spread: float = 0.3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors in some directions, of any length."""
    draw = np.random.default_rng(seed)
    centres = np.linalg.qr(draw.normal(size=(size, size)))[0][:groups]
    labels = np.repeat(np.arange(groups), each)
    vectors = centres[labels] + spread * draw.normal(size=(len(labels), size)) / np.sqrt(size)
    return vectors * draw.uniform(0.5, 3, size=(len(labels), 1)), labels


def test_cosines_are_those_of_scikit_learn() -> None:
    vectors = blobs()[0]
    np.testing.assert_allclose(geometry.cosines(vectors), cosine_similarity(vectors), atol=1e-12)
    assert geometry.cosines(np.zeros((2, 3))).tolist() == [[0, 0], [0, 0]]


@given(st.integers(2, 9), st.integers(0, 5))
def test_the_mean_cosine_is_that_over_all_pairs(n: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(n, 4)) + 0.5
    pairs = [
        vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])
        for i in range(n)
        for j in range(i)
    ]
    assert geometry.mean_cosine(vectors) == pytest.approx(np.mean(pairs))
    assert np.isnan(geometry.mean_cosine(vectors[:1]))


def test_the_nearest_centroid_is_that_of_scikit_learn_where_the_two_are_the_same() -> None:
    """Centroids of one length: then the least distance is the greatest cosine."""
    train, labels = blobs(spread=0.8)
    test = blobs(spread=0.8, seed=1)[0]
    by_cosine = cosine_similarity(
        test, np.stack([geometry.unit(train)[labels == label].mean(0) for label in range(3)])
    ).argmax(1)
    assert geometry.nearest_centroid(train, labels, test).tolist() == by_cosine.tolist()
    theirs = NearestCentroid().fit(geometry.unit(train), labels)
    theirs.centroids_ = geometry.unit(theirs.centroids_)
    assert theirs.predict(geometry.unit(test)).tolist() == by_cosine.tolist()


def test_leaving_one_out_is_training_without_it() -> None:
    vectors, labels = blobs(each=7, spread=2.0)
    alone = []
    for place in range(len(vectors)):
        others = np.arange(len(vectors)) != place
        answer = geometry.nearest_centroid(vectors[others], labels[others], vectors[place : place + 1])
        alone.append(answer[0] == labels[place])
    assert 0 < np.mean(alone) < 1
    assert geometry.leave_one_out(vectors, labels) == pytest.approx(np.mean(alone))


def test_where_all_centroids_are_as_near_the_most_frequent_label_is_taken() -> None:
    vectors = np.random.default_rng(0).normal(size=5)[None].repeat(9, 0) + 1e-8 * np.arange(9)[:, None]
    labels = np.array([0, 0, 1, 1, 1, 1, 2, 2, 2])
    assert geometry.nearest_centroid(vectors, labels, vectors).tolist() == [1] * 9
    assert geometry.leave_one_out(vectors, np.array([0, 1, 1, 1, 1, 1, 1, 1, 1])) == pytest.approx(8 / 9)
    assert geometry.leave_one_out(vectors[:8], np.array([0, 1] * 4)) == 0.5  # chance, not 0


def test_differences_as_small_as_those_of_a_fresh_encoder_count() -> None:
    base, aside = np.random.default_rng(0).normal(size=(2, 32))
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
    vectors = (base + 1e-3 * np.where(labels == 0, 1, -1)[:, None] * aside).astype(np.float32)
    assert geometry.mean_cosine(vectors) > 1 - 1e-5
    assert geometry.nearest_centroid(vectors, labels, vectors).tolist() == labels.tolist()
    assert geometry.leave_one_out(vectors, labels) == 1


def test_a_sense_of_one_row_is_missed_when_it_is_left_out() -> None:
    vectors = np.array([[1.0, 0], [1, 0.1], [0, 1]])
    assert geometry.leave_one_out(vectors, np.array([0, 0, 1])) == pytest.approx(2 / 3)


def test_the_number_of_clusters_is_that_of_the_groups() -> None:
    for groups in (2, 3, 5):
        vectors, labels = blobs(groups=groups)
        found = geometry.cluster(vectors, None, seed=0)
        assert len(set(zip(found.tolist(), labels.tolist()))) == groups == len(set(found.tolist()))
    assert len(set(geometry.cluster(vectors, 3, seed=0).tolist())) == 3
    assert geometry.cluster(np.ones((5, 3)), None, 0).tolist() == [0] * 5
    assert geometry.cluster(np.ones((1, 3)), 4, 0).tolist() == [0]


def test_the_silhouette_is_that_of_scikit_learn() -> None:
    vectors, labels = blobs(spread=0.9)
    assert geometry.silhouette(vectors, labels) == pytest.approx(silhouette_score(vectors, labels, metric="cosine"))
    assert geometry.silhouette(vectors, np.zeros(len(labels), int)) is None
    assert geometry.silhouette(vectors[:3], np.arange(3)) is None
    many, of = blobs(each=650, spread=2.0)  # as many as `words` compares: exact, no sample
    assert geometry.silhouette(many, of) == pytest.approx(silhouette_score(many, of, metric="cosine"))


def test_sense_scores_are_means_over_pairs() -> None:
    vectors, senses = blobs(each=5, spread=1.0)
    scores = geometry.sense_scores(vectors, senses, senses)
    cosines = cosine_similarity(vectors)
    pairs = [(i, j) for i in range(len(senses)) for j in range(i)]
    same = [cosines[i, j] for i, j in pairs if senses[i] == senses[j]]
    other = [cosines[i, j] for i, j in pairs if senses[i] != senses[j]]
    assert (scores.within, scores.between) == (pytest.approx(np.mean(same)), pytest.approx(np.mean(other)))
    assert scores.adjusted_rand == 1.0
    other_clusters = np.arange(len(senses)) % 4
    rand = geometry.sense_scores(vectors, other_clusters, senses).adjusted_rand
    assert rand == pytest.approx(adjusted_rand_score(senses, other_clusters))
    assert rand < 0.1  # and not 0.6, as the index that is not adjusted for chance
    assert geometry.sense_scores(vectors[:2], np.zeros(2, int), np.arange(2)).within is None


def test_clusters_keep_their_numbers_from_layer_to_layer() -> None:
    reference = np.array([0, 0, 1, 1, 2, 2])
    assert geometry.match_clusters(np.array([2, 2, 0, 0, 1, 1]), reference).tolist() == reference.tolist()
    assert geometry.match_clusters(np.array([1, 1, 1, 0, 0, 0]), reference)[[0, 1]].tolist() == [0, 0]
    assert len(set(geometry.match_clusters(np.array([0, 1, 2, 3, 4, 5]), reference).tolist())) == 6


# ── maps ──


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(3, 20))
def test_no_turn_or_mirror_brings_a_map_nearer_to_the_one_above(seed: int, n: int) -> None:
    draw = np.random.default_rng(seed)
    layers = [draw.normal(size=(n, 6)) for _ in range(3)]
    made = geometry.maps(layers)
    for below, above in pairwise(made):
        distance = ((below - above) ** 2).sum()
        for angle in np.linspace(0, 2 * np.pi, 37):
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            for mirror in (np.eye(2), np.diag([1, -1])):
                assert ((below @ turn @ mirror - above) ** 2).sum() >= distance - 1e-9


def test_a_map_holds_the_distances_of_what_lies_in_a_plane() -> None:
    draw = np.random.default_rng(0)
    plane = draw.normal(size=(9, 2)) @ draw.normal(size=(2, 7))
    directions = geometry.unit(plane)
    (made,) = geometry.maps([plane])
    theirs = np.linalg.norm(directions[:, None] - directions[None], axis=-1)
    ours = np.linalg.norm(made[:, None] - made[None], axis=-1)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_maps_of_all_layers_have_the_scale_of_their_directions() -> None:
    """So that marks which are far apart have different vectors, in any layer, and a layer with less spread looks it."""
    draw = np.random.default_rng(0)
    base = 3 * draw.normal(size=9)
    layers = [base + spread * draw.normal(size=(30, 9)) for spread in (0.1, 1.0, 3.0)]
    sizes = []
    for vectors, flat in zip(layers, geometry.maps(layers), strict=True):
        directions = geometry.unit(vectors)
        theirs = np.linalg.norm(directions[:, None] - directions[None], axis=-1)
        assert (np.linalg.norm(flat[:, None] - flat[None], axis=-1) <= theirs + 1e-9).all()
        sizes.append((flat**2).sum())
        share = PCA(2).fit(directions).explained_variance_ratio_.sum()
        assert geometry.share_of_variance(vectors, flat) == pytest.approx(share)
    assert sizes[0] < 0.1 * sizes[1] < sizes[2]
    assert np.isnan(geometry.share_of_variance(np.ones((4, 3)), np.zeros((4, 2))))


def test_layers_without_differences_are_a_point_and_do_not_turn_the_others() -> None:
    draw = np.random.default_rng(0)
    some, same = draw.normal(size=(8, 5)), np.ones((8, 5))
    below, middle, above = geometry.maps([some, same, some])
    assert not middle.any()
    np.testing.assert_allclose(below, above, atol=1e-9)
    assert [one.shape for one in geometry.maps([np.ones((1, 5))])] == [(1, 2)]


def test_plain_centroids_are_pulled_by_long_vectors_and_others_are_not() -> None:
    train = np.array([[10.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.2]])
    labels = np.array(["a", "a", "a", "b"])  # plain mean of a: mostly the first; of directions: mostly the others
    asked = np.array([[1.0, 0.5]])
    assert geometry.nearest_centroid(train, labels, asked, plain=True).tolist() == ["a"]
    assert geometry.nearest_centroid(train, labels, asked).tolist() == ["b"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_b_cubed_is_the_mean_over_items_of_shared_labels(items: list[tuple[int, int]]) -> None:
    """By its definition, item by item (Bagga and Baldwin 1998; Amigó et al. 2009)."""
    precision = [np.mean([b == own for a, b in items if a == cluster]) for cluster, own in items]
    recall = [np.mean([a == cluster for a, b in items if b == own]) for cluster, own in items]
    expected = 2 * np.mean(precision) * np.mean(recall) / (np.mean(precision) + np.mean(recall))
    clusters, labels = map(np.array, zip(*items))
    assert geometry.b_cubed(clusters, labels) == pytest.approx(expected)
    found = geometry.Agreement.of(clusters, labels)
    assert found.one_cluster == pytest.approx(geometry.b_cubed(labels * 0, labels))
    assert geometry.b_cubed(labels, labels) == pytest.approx(1)
    assert found.clusters == len(set(clusters.tolist()))


def test_the_nearest_neighbor_is_that_of_scikit_learn() -> None:
    train, labels = blobs(spread=1.5)
    test = blobs(spread=1.5, seed=1)[0]
    theirs = KNeighborsClassifier(1, metric="cosine").fit(train, labels).predict(test)
    assert geometry.nearest_neighbor(train, labels, test).tolist() == theirs.tolist()
    assert (theirs != blobs()[1]).any()
