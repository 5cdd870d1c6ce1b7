"""Similarity of representations: CKA between layers, anisotropy, self-similarity of words, and words that moved between two models.

Arrays in, numbers out. Vectors may be fp16 and memory-mapped: they are read in chunks, and sums are fp64.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from bert.errors import InputError
from bert.probing.geometry import Labels, Vectors, unit


def _chunks(n: int) -> Iterator[slice]:
    """So few rows that they fit into memory in fp64."""
    return (slice(start, start + 1_024) for start in range(0, n, 1_024))


# ── CKA ──


def cka(a: Vectors, b: Vectors) -> Vectors:
    """(L1, L2) debiased linear CKA between all layers of two models, `a` (L1, N, D1) and `b` (L2, N, D2), on the same N inputs.

    Centered kernel alignment (Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited") with the unbiased
    estimator of HSIC (Song et al. 2012; Nguyen et al. 2021): 1 for layers that differ by a rotation, a scale and a shift; 0 on average
    for independent ones, also where D is not small against N and the biased estimator is near 1 (Murphy et al. 2024). An estimate can be
    below 0. It is nan for a layer without variance. Report N with it. Time is proportional to L1 · L2 · N · D1 · D2: of very many inputs,
    a random sample of some thousand is enough.

    Raises InputError if the numbers of inputs differ or are below 4.
    """
    if wrong := [one.shape for one in (a, b) if one.ndim != 3]:
        raise InputError(f"vectors have the shape {wrong[0]}; must be (L, N, D), layers first")
    n = a.shape[1]
    if n != b.shape[1] or n < 4:
        raise InputError(f"the models have {n:,} and {b.shape[1]:,} inputs; must be the same inputs, 4 or more")
    joint = np.stack([_hsic(layer, b) for layer in a])
    own = [np.concatenate([_hsic(layer, layer[None]) for layer in layers]) for layers in (a, b)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return joint / np.sqrt(np.outer(*own))


def _hsic(x: Vectors, others: Vectors) -> Vectors:
    """(L,) the unbiased HSIC of a layer X (N, D1) with each of L others Y (L, N, D2), linear kernels, times N (N - 3).

    Song et al. 2012 define it by the Gram matrices K and L of X and Y with zero diagonals: tr(KL) + 1ᵀK1 1ᵀL1 / ((N - 1) (N - 2)) -
    2 1ᵀKL1 / (N - 2). It does not change when X and Y are centered. Then row i of K sums to -‖xᵢ‖², and with k and l the squared norms
    it is ‖XᵀY‖² - N / (N - 2) k·l + Σk Σl / ((N - 1) (N - 2)): nothing of size N × N is needed.
    """
    n, mean, means = len(x), x.mean(axis=0, dtype=np.float64), others.mean(axis=1, keepdims=True, dtype=np.float64)
    cross = np.zeros((len(others), x.shape[1], others.shape[2]))  # (L, D1, D2)
    k_l, k_sum, l_sum = np.zeros(len(others)), 0.0, np.zeros(len(others))
    for rows in _chunks(n):
        one, other = (x[rows] - mean).astype(np.float32), (others[:, rows] - means).astype(np.float32)
        cross += one.T @ other
        k, l_ = ((part**2).sum(axis=-1, dtype=np.float64) for part in (one, other))  # (rows,), (L, rows)
        k_l, k_sum, l_sum = k_l + l_ @ k, k_sum + k.sum(), l_sum + l_.sum(axis=1)
    return (cross**2).sum(axis=(1, 2)) - n / (n - 2) * k_l + k_sum * l_sum / ((n - 1) * (n - 2))


# ── anisotropy and self-similarity ──


@dataclass(frozen=True)
class SelfSimilarity:
    """How similar the vectors of a word are in different contexts, in one layer."""

    types: np.ndarray
    """(T,) the word types that occur twice or more"""
    cosines: Vectors
    """(T,) the mean cosine of two occurrences of each type"""
    anisotropy: float
    """the mean cosine of two vectors of any types"""
    adjusted: float
    """the mean over types minus the anisotropy: near 0 if an occurrence is no nearer to another one than to any word"""


def anisotropy(vectors: Vectors, standardize: bool = False) -> float:
    """The mean cosine over all pairs of two of the vectors (N, D) (Ethayarajh 2019).

    `standardize`: dimensions have mean 0 and standard deviation 1, so that a few of large scale do not determine the cosine (Timkey and
    van Schijndel 2021). Raises InputError for fewer than two vectors.

    It is `bert.probing.geometry.mean_cosine` in chunks.
    """
    return self_similarity(vectors, np.zeros(len(vectors), np.int64), standardize).anisotropy


def self_similarity(vectors: Vectors, types: np.ndarray, standardize: bool = False) -> SelfSimilarity:
    """The self-similarity of each word type (N,) of the vectors (N, D), beside the anisotropy of all (Ethayarajh 2019).

    Means are over all pairs, not over a sample. `standardize` as in `anisotropy`. Raises InputError if no type occurs twice.
    """
    names, index, counts = np.unique(types, return_inverse=True, return_counts=True)
    if not (often := counts > 1).any():
        raise InputError("no word occurs twice; must be at least one, since a cosine is of two occurrences")
    sums = _direction_sums(vectors, index, len(names), standardize)
    sums, pooled = np.vstack((sums[often], sums.sum(axis=0))), np.append(counts[often], len(vectors))
    # The squared length of a sum of unit vectors is the sum of all their cosines, those of a vector and itself included.
    cosines = ((sums**2).sum(axis=1) - pooled) / (pooled * (pooled - 1.0))
    return SelfSimilarity(names[often], cosines[:-1], float(cosines[-1]), float(cosines[:-1].mean() - cosines[-1]))


def _direction_sums(vectors: Vectors, index: Labels, count: int, standardize: bool = False) -> Vectors:
    """(count, D) the sums of the unit vectors of each type; `index` (N,) is the type of each vector."""
    scaler = StandardScaler(with_mean=standardize, with_std=standardize)
    for rows in _chunks(len(vectors)):
        scaler.partial_fit(vectors[rows].astype(np.float64))
    sums = np.zeros((count, vectors.shape[1]))
    for rows in _chunks(len(vectors)):
        of = index[rows]
        members = csr_array((np.ones(len(of)), (of, np.arange(len(of)))), shape=(count, len(of)))
        sums += members @ unit(scaler.transform(vectors[rows].astype(np.float64)))
    return sums


# ── words that moved ──


@dataclass(frozen=True)
class Moved:
    """A word type and how much its neighbors differ between two models."""

    type: str
    count: int
    """occurrences"""
    distance: float
    """from 0 to 2: the cosine distance between its similarities to its neighbors in one model and in the other"""
    before: tuple[str, ...]
    """the 5 nearest types in the first model"""
    after: tuple[str, ...]
    """the 5 nearest types in the second model"""


def moved(a: Vectors, b: Vectors, types: np.ndarray, top: int = 20) -> list[Moved]:
    """The `top` word types that moved most between two models, or one before and after fine-tuning, the most moved first.

    `a` (N, D1) and `b` (N, D2) are vectors of the same N words in the same contexts. Spaces of two models share no axes, so that a type is
    described within each: by the cosines of its mean vector to the union of its 25 nearest types in both (second-order similarity; the
    local neighborhood measure of Hamilton, Leskovec and Jurafsky 2016, "Cultural Shift or Linguistic Drift?"). Means are over unit
    vectors; the mean over types is subtracted, since what all types share says nothing about one of them.

    Raises InputError for fewer than three types.
    """
    names, index, counts = np.unique(types, return_inverse=True, return_counts=True)
    if len(names) < 3:
        raise InputError(f"types has {len(names)} different words; must be three or more")
    means = [_direction_sums(vectors, index, len(names)) / counts[:, None] for vectors in (a, b)]
    spaces = [unit(space - space.mean(axis=0)) for space in means]  # (T, D1), (T, D2)
    search = NearestNeighbors(n_neighbors=min(25, len(names) - 1), algorithm="brute")
    nearest = [search.fit(space).kneighbors(return_distance=False) for space in spaces]  # (T, k); no type is its own
    distances = np.empty(len(names))
    for word in range(len(names)):
        both = np.union1d(nearest[0][word], nearest[1][word])
        first, second = (unit(space[both] @ space[word]) for space in spaces)
        distances[word] = 1 - first @ second
    found = []
    for word in np.argsort(-distances, kind="stable")[:top]:
        before, after = (tuple(map(str, names[side[word, :5]])) for side in nearest)
        found.append(Moved(str(names[word]), int(counts[word]), float(distances[word]), before, after))
    return found
