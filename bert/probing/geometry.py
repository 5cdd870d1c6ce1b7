"""What the vectors of occurrences say: cosines, groups, how well senses part, and a map that turns little from layer to layer.

Arrays in, numbers out: vectors are (n, D), labels (n,). scikit-learn does the clustering; what stands here are definitions.
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
from sklearn.metrics import adjusted_rand_score, silhouette_score

MOST_CLUSTERS = 6
ROUNDING = (
    1e-9  # cosines that differ by less are the same; those of a randomly initialized encoder differ by 1e-7 and less
)
SILHOUETTE_SAMPLE = 1_000  # a silhouette looks at all pairs

Vectors = NDArray[np.floating]
Labels = NDArray[np.integer]


@dataclass(frozen=True)
class SenseScores:
    """How well the vectors of a layer part the given senses. None where there are too few rows to say."""

    silhouette: float | None
    """mean over occurrences, from -1 to 1, by cosine distance (Rousseeuw 1987)"""
    adjusted_rand: float
    """agreement of the clusters with the senses: 1 the same, 0 chance (Hubert and Arabie 1985)"""
    accuracy: float
    """share of occurrences whose own sense has the nearest centroid, each left out of the centroid of its sense"""
    within: float | None
    """mean cosine of two occurrences of one sense"""
    between: float | None
    """mean cosine of two occurrences of two senses"""


def unit(vectors: Vectors) -> Vectors:
    """Vectors of length 1; a vector of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def cosines(vectors: Vectors) -> Vectors:
    """(n, n) cosines between all vectors."""
    directions = unit(vectors)
    return np.clip(directions @ directions.T, -1, 1)


def mean_cosine(vectors: Vectors) -> float:
    """Mean cosine over all pairs of two different vectors; nan for fewer than two.

    For vectors of random tokens it is the anisotropy of a layer: what a cosine there begins at (Ethayarajh 2019).
    """
    n = len(vectors)
    total = unit(vectors).sum(axis=0)
    return float((total @ total - n) / (n * (n - 1))) if n > 1 else float("nan")


# ── centroids ──


def nearest_centroid(train: Vectors, labels: Labels, test: Vectors, plain: bool = False) -> Labels:
    """For each test vector the label whose centroid has the greatest cosine with it; centroids are of unit vectors.

    `plain`: centroids are of the vectors as they are, so that longer ones weigh more (Loureiro et al. 2021). Where several
    are as near, as when a layer's vectors are all alike, the label with most train vectors is taken.
    """
    names, sizes = np.unique(labels, return_counts=True)
    directions = train.astype(np.float64) if plain else unit(train.astype(np.float64))
    centroids = unit(np.stack([directions[labels == name].mean(axis=0) for name in names]))
    near = unit(test.astype(np.float64)) @ centroids.T
    return names[_greatest(near, np.broadcast_to(sizes, near.shape))]


def leave_one_out(vectors: Vectors, labels: Labels) -> float:
    """Accuracy of `nearest_centroid` where each vector is left out of its own centroid. A label of one vector is missed.

    Where several are as near, the label with most vectors is taken, the one left out counted: without it, its own label
    would always be the smaller of two equal ones, and vectors that are all alike would score 0 instead of chance.
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
    """The column of the greatest number of each row; of those within a rounding error of it, the one of the greatest size."""
    return np.where(near >= near.max(axis=1, keepdims=True) - ROUNDING, sizes, -1).argmax(axis=1)


# ── groups ──


def cluster(vectors: Vectors, clusters: int | None, seed: int) -> Labels:
    """k-means on the directions of the vectors; k is given, or the one from 2 to 6 with the best silhouette.

    Fewer than three distinct vectors are one cluster. A silhouette cannot tell one group from two: what is one sense is parted
    too, with a low silhouette.
    """
    directions = unit(vectors)
    distinct = len(np.unique(directions.round(5), axis=0))
    if distinct < 3 and clusters is None:
        return np.zeros(len(vectors), dtype=np.int64)
    candidates = range(2, min(MOST_CLUSTERS, distinct - 1) + 1) if clusters is None else [min(clusters, distinct)]
    best, best_score = np.zeros(len(vectors), dtype=np.int64), -np.inf
    for k in candidates:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = KMeans(k, n_init=10, random_state=seed).fit_predict(directions)
        score = silhouette(vectors, labels, seed)
        if score is None:
            score = -np.inf
        if k == candidates[0] or score > best_score:
            best, best_score = labels.astype(np.int64), score
    return best


def silhouette(vectors: Vectors, labels: Labels, seed: int) -> float | None:
    """Mean silhouette by cosine distance, over at most 1,000 vectors; none where there is one group, or only groups of one."""
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    sample = np.random.default_rng(seed).permutation(len(labels))[:SILHOUETTE_SAMPLE]
    if not 2 <= len(np.unique(labels[sample])) < len(sample):
        return None
    distances = np.clip(1 - cosines(vectors[sample]), 0, 2)
    np.fill_diagonal(distances, 0)
    return float(silhouette_score(distances, labels[sample], metric="precomputed"))


def match_clusters(labels: Labels, reference: Labels) -> Labels:
    """The same clusters, numbered so that as many as can be have the number that they have in `reference`."""
    size = int(max(labels.max(initial=0), reference.max(initial=0))) + 1
    shared = np.zeros((size, size))
    np.add.at(shared, (labels, reference), 1)
    return linear_sum_assignment(-shared)[1][labels]


def sense_scores(vectors: Vectors, clusters: Labels, senses: Labels, seed: int) -> SenseScores:
    """How the vectors, and the clusters made of them without looking at the senses, agree with the senses."""
    directions = unit(vectors)
    sums = np.stack([directions[senses == sense].sum(axis=0) for sense in np.unique(senses)])
    sizes = np.array([(senses == sense).sum() for sense in np.unique(senses)])
    n, same, total = len(senses), (sums * sums).sum(), sums.sum(axis=0)
    pairs_within, pairs_between = (sizes * (sizes - 1)).sum(), n * n - (sizes * sizes).sum()
    return SenseScores(
        silhouette=silhouette(vectors, senses, seed),
        adjusted_rand=float(adjusted_rand_score(senses, clusters)),
        accuracy=leave_one_out(vectors, senses),
        within=float((same - n) / pairs_within) if pairs_within else None,
        between=float((total @ total - same) / pairs_between) if pairs_between else None,
    )


# ── maps ──


def maps(layers: Sequence[Vectors]) -> list[Vectors]:
    """(n, 2) for each layer: the two directions in which its unit vectors differ most (PCA), of size 1 (root mean square).

    Each layer is turned or mirrored to lie as near as it can to the one above it, so that going through the layers shows what
    moves. A layer whose vectors are all alike, as the embeddings of one word are, is one point.
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
    flat *= np.where(flat[largest, [0, 1]] < 0, -1, 1)  # a direction has no sign of its own
    return flat / np.sqrt((flat**2).sum(axis=1).mean())
