"""Geometry of the vectors of occurrences: cosines, clusters, separation of senses, and aligned 2-D maps of all layers.

Arrays in, numbers out: vectors are (n, D), labels (n,). Clustering is done by scikit-learn.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, pairwise_distances_argmin, silhouette_score, v_measure_score
from sklearn.metrics.cluster import contingency_matrix

MOST_CLUSTERS = 6
ROUNDING = 1e-9
"""cosines that differ by less are equal; those of a randomly initialized encoder differ by 1e-7 or less"""

Vectors = NDArray[np.floating]
Labels = NDArray[np.integer]


@dataclass(frozen=True)
class Agreement:
    """How well clusters that were found without labels agree with labels, each from 0 to 1."""

    clusters: int
    adjusted_rand: float
    """1 is identity, 0 chance, and less is possible (Hubert and Arabie 1985)"""
    v_measure: float
    """the harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg 2007)"""
    b_cubed: float
    """the harmonic mean of the precision and recall of the cluster of each item, averaged over items (Bagga and Baldwin 1998)"""
    one_cluster: float
    """the `b_cubed` of a single cluster, which is not 0"""

    @classmethod
    def of(cls, clusters: Labels, labels: Labels) -> "Agreement":
        """Of n items."""
        return cls(
            len(np.unique(clusters)),
            float(adjusted_rand_score(labels, clusters)),
            float(v_measure_score(labels, clusters)),
            b_cubed(clusters, labels),
            b_cubed(np.zeros_like(clusters), labels),
        )


@dataclass(frozen=True)
class SenseScores:
    """How well the vectors of a layer separate the given senses. None if there are too few rows."""

    silhouette: float | None
    """mean over occurrences, from -1 to 1, by cosine distance (Rousseeuw 1987)"""
    adjusted_rand: float
    """agreement of the clusters with the senses: 1 is identity, 0 chance (Hubert and Arabie 1985)"""
    accuracy: float
    """share of occurrences that are nearest to the centroid of their own sense, each left out of that centroid"""
    within: float | None
    """mean cosine of two occurrences of one sense"""
    between: float | None
    """mean cosine of two occurrences of two senses"""


def unit(vectors: Vectors) -> Vectors:
    """The vectors scaled to length 1; zero vectors are unchanged."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def cosines(vectors: Vectors) -> Vectors:
    """(n, n): the cosines between all vectors."""
    directions = unit(vectors)
    return np.clip(directions @ directions.T, -1, 1)


def mean_cosine(vectors: Vectors) -> float:
    """The mean cosine over all pairs of two vectors; nan for fewer than two.

    For vectors of random tokens this is the anisotropy of a layer, the baseline of its cosines (Ethayarajh 2019).
    """
    n = len(vectors)
    total = unit(vectors).sum(axis=0)
    return float((total @ total - n) / (n * (n - 1))) if n > 1 else float("nan")


# ── centroids ──


def nearest_centroid(train: Vectors, labels: Labels, test: Vectors, plain: bool = False) -> Labels:
    """For each test vector the label whose centroid has the largest cosine with it; centroids are means of unit vectors.

    `plain`: centroids are means of the vectors themselves, in which longer ones have more weight (Loureiro et al. 2021). Ties, as in a
    layer in which all vectors are equal, go to the label with the most train vectors.
    """
    names, sizes = np.unique(labels, return_counts=True)
    directions = train.astype(np.float64) if plain else unit(train.astype(np.float64))
    centroids = unit(np.stack([directions[labels == name].mean(axis=0) for name in names]))
    near = unit(test.astype(np.float64)) @ centroids.T
    return names[_greatest(near, np.broadcast_to(sizes, near.shape))]


def leave_one_out(vectors: Vectors, labels: Labels) -> float:
    """The accuracy of `nearest_centroid` with each vector left out of its own centroid. The vector of a label with one is wrong.

    Ties go to the label with the most vectors, including the one left out: without it, its own label would always be the smaller of two
    equal ones, and vectors that are all equal would score 0 instead of chance.
    """
    directions = unit(vectors.astype(np.float64))
    names, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(names), vectors.shape[1]))
    np.add.at(sums, index, directions)
    near = directions @ unit(sums).T  # (n, labels)
    rows = np.arange(len(vectors))
    near[rows, index] = (directions * unit(sums[index] - directions)).sum(axis=1)
    alone = rows[sizes[index] == 1]
    near[alone, index[alone]] = -np.inf
    return float((_greatest(near, np.broadcast_to(sizes, near.shape)) == index).mean())


def _greatest(near: Vectors, sizes: Labels) -> Labels:
    """The column of the largest number of each row; of those within a rounding error of it, the one with the largest size."""
    return np.where(near >= near.max(axis=1, keepdims=True) - ROUNDING, sizes, -1).argmax(axis=1)


# ── groups ──


def cluster(vectors: Vectors, clusters: int | None, seed: int) -> Labels:
    """k-means on the directions of the vectors; k is given, or the one from 2 to 6 with the best silhouette.

    Fewer than three distinct vectors are one cluster. A silhouette cannot distinguish one group from two: a single sense is split too,
    with a low silhouette.
    """
    directions = unit(vectors)
    distinct = len(np.unique(directions.round(5), axis=0))
    if distinct < 3 and clusters is None:
        return np.zeros(len(vectors), dtype=np.int64)
    candidates = range(2, min(MOST_CLUSTERS, distinct - 1) + 1) if clusters is None else [min(clusters, distinct)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = [KMeans(k, n_init=10, random_state=seed).fit_predict(directions).astype(np.int64) for k in candidates]
    scores = [silhouette(vectors, labels) for labels in found]
    return found[int(np.argmax([-np.inf if score is None else score for score in scores]))]


def silhouette(vectors: Vectors, labels: Labels) -> float | None:
    """The mean silhouette by cosine distance; none if there is one group, or only groups of one. It takes quadratic time."""
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    return float(silhouette_score(vectors, labels, metric="cosine"))


def b_cubed(clusters: Labels, labels: Labels) -> float:
    """The B-cubed F1 of the clusters of n items (Bagga and Baldwin 1998): an item's precision is the share of its cluster that has its
    label, its recall the share of its label that is in its cluster; F1 is of their means."""
    shared = contingency_matrix(labels, clusters).astype(np.float64)
    precision, recall = ((shared**2 / shared.sum(axis=axis, keepdims=True)).sum() / shared.sum() for axis in (0, 1))
    return float(2 * precision * recall / (precision + recall))


def nearest_neighbor(train: Vectors, labels: Labels, test: Vectors) -> Labels:
    """For each test vector the label of the train vector with the largest cosine."""
    return labels[pairwise_distances_argmin(unit(test), unit(train))]


def match_clusters(labels: Labels, reference: Labels) -> Labels:
    """The same clusters, renumbered to agree with `reference` as much as possible."""
    size = int(max(labels.max(initial=0), reference.max(initial=0))) + 1
    shared = np.zeros((size, size))
    np.add.at(shared, (labels, reference), 1)
    return linear_sum_assignment(-shared)[1][labels]


def sense_scores(vectors: Vectors, clusters: Labels, senses: Labels) -> SenseScores:
    """The agreement of the vectors, and of clusters found without the senses, with the senses."""
    near, same = cosines(vectors), senses[:, None] == senses  # (n, n)
    within = same & ~np.eye(len(senses), dtype=bool)
    return SenseScores(
        silhouette=silhouette(vectors, senses),
        adjusted_rand=float(adjusted_rand_score(senses, clusters)),
        accuracy=leave_one_out(vectors, senses),
        within=float(near[within].mean()) if within.any() else None,
        between=float(near[~same].mean()) if not same.all() else None,
    )


# ── maps ──


def maps(layers: Sequence[Vectors]) -> list[Vectors]:
    """(n, 2) for each layer: the first two principal components of its unit vectors, on the scale of these vectors.

    Two points are at most as far apart as their vectors, in every layer. Each layer is rotated or mirrored to match the layer above it
    (Procrustes), so that only real differences move. A layer in which all vectors are equal, such as the embeddings of one word, is a
    single point.
    """
    made: list[Vectors] = []
    above: Vectors | None = None
    for vectors in reversed(layers):
        flat = _plane(unit(vectors))
        if above is not None and flat.any() and above.any():
            flat = flat @ orthogonal_procrustes(flat, above)[0]
        above = flat if flat.any() else above
        made.append(flat)
    return made[::-1]


def _plane(directions: Vectors) -> Vectors:
    n = len(directions)
    spread = directions - directions.mean(axis=0)
    if n < 2 or (spread**2).sum() < 1e-6 * n:
        return np.zeros((n, 2))
    flat = np.zeros((n, 2))
    found = PCA(min(2, n, directions.shape[1]), svd_solver="full").fit_transform(spread)
    flat[:, : found.shape[1]] = found
    largest = np.abs(flat).argmax(axis=0)
    return flat * np.where(flat[largest, [0, 1]] < 0, -1, 1)  # the sign of a component is arbitrary


def share_of_variance(vectors: Vectors, flat: Vectors) -> float:
    """The share of the variance of the unit vectors that a map of them holds, from 0 to 1; nan for a map that is a single point."""
    directions = unit(vectors)
    return float((flat**2).sum() / ((directions - directions.mean(axis=0)) ** 2).sum()) if flat.any() else float("nan")
