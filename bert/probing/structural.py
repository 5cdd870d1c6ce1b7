"""The structural probe (Hewitt and Manning 2019, "A Structural Probe for Finding Syntax in Word Representations").

A linear map B of the vectors h of words is trained so that ‖B(hᵢ − hⱼ)‖² is the number of edges between words i and j in the dependency
tree of their sentence; a second one so that ‖B hᵢ‖² is the depth of word i below the root. Arrays in, numbers out.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from torch import Tensor

from bert.errors import InputError, check_seed
from bert.probing.controls import interval
from bert.probing.geometry import Labels, Vectors, unit

BATCH_SENTENCES = 20  # as the authors, whose code is https://github.com/john-hewitt/structural-probes
MOST_EPOCHS, LEAST_STEPS, LEAST_RATE = 40, 200, 5e-6
"""`LEAST_STEPS`: of an epoch, so that few sentences are passed over several times; `LEAST_RATE` ends after three learning rates"""
MOST_WORDS = 128  # of a sentence that is trained on
LENGTHS = range(5, 51)
"""of the sentences whose correlations are averaged, in words"""


@dataclass(frozen=True)
class Trees:
    """The words of sentences, one after another, with vectors and dependency trees.

    Raises InputError if the lengths differ, if the words of a sentence are not consecutive, or if a head is in another sentence.
    """

    vectors: Vectors
    """(N, D), of one layer; may be fp16 and memory-mapped"""
    owners: Labels
    """(N,) the sentence of each word; equal numbers are consecutive"""
    heads: Labels
    """(N,) the index of the head of each word among the N words; -1 for a root"""
    punctuation: NDArray[np.bool_]
    """(N,) whether a word is a punctuation mark"""

    def __post_init__(self) -> None:
        if len({len(self.vectors), len(self.owners), len(self.heads), len(self.punctuation)}) > 1:
            raise InputError("vectors, owners, heads and punctuation differ in length; must have an item for each word")
        if len(self.sentences) > len(np.unique(self.owners)):
            raise InputError("owners has a sentence in two places; the words of a sentence must be consecutive")
        last = len(self.owners) - 1
        inside = (self.heads <= last) & (self.owners[np.minimum(self.heads, last)] == self.owners) | (self.heads < 0)
        if not inside.all():
            word = int(inside.argmin())
            raise InputError(f"heads[{word}] is {self.heads[word]}; must be the index of a word of its sentence, or -1")

    @cached_property
    def sentences(self) -> tuple[slice, ...]:
        """The words of each sentence."""
        bounds = [0, *(np.flatnonzero(np.diff(self.owners)) + 1).tolist(), len(self.owners)]
        return tuple(slice(start, end) for start, end in pairwise(bounds))

    @property
    def lengths(self) -> Labels:
        """(S,) the number of words of each sentence."""
        return np.array([sentence.stop - sentence.start for sentence in self.sentences])

    def heads_of(self, sentence: slice) -> Labels:
        """(n,) the heads of the n words of a sentence, as indices within the sentence; -1 for a root."""
        return np.maximum(self.heads[sentence] - sentence.start, -1)


# ── trees ──


def _ancestors(heads: Labels) -> NDArray[np.bool_]:
    """(n, n): whether word j is word i, its head, the head of its head, and so on."""
    found, above = np.eye(len(heads), dtype=bool), heads
    for _ in heads:
        words = np.flatnonzero(above >= 0)
        if not len(words):
            return found
        found[words, above[words]] = True
        above = np.where(above >= 0, heads[above], -1)
    raise InputError("heads have a cycle: a word is its own ancestor; must be a tree")


def tree_depths(heads: Labels) -> Labels:
    """(n,) the number of edges from each word to its root. `heads` (n,) are indices within the sentence, -1 for a root.

    Raises InputError for heads with a cycle.
    """
    return _ancestors(heads).sum(axis=1) - 1


def tree_distances(heads: Labels) -> Labels:
    """(n, n) the number of edges between two words. `heads` (n,) are indices within the sentence, -1 for a root.

    Several roots are children of one node outside the sentence. Raises InputError for heads with a cycle.
    """
    ancestors = _ancestors(heads).astype(np.float32)  # exact, and faster to multiply than integers
    sizes = ancestors.sum(axis=1)
    return (sizes[:, None] + sizes - 2 * ancestors @ ancestors.T).astype(
        np.int64
    )  # shared ancestors are on neither path


# ── evaluation ──


def evaluate_distances(
    distances: Iterable[Vectors], trees: Trees
) -> tuple[float, float, NDArray[np.float64], NDArray[np.float64]]:
    """The UUAS and DSpr. of predicted distances, (n, n) for each sentence of n words (Hewitt and Manning 2019); for each word whether the
    edge to its head was found, 1 or 0, nan for roots, punctuation marks and their children (N,); and its correlation (N,).

    UUAS: edges of the minimum spanning tree over the words of a sentence that are no punctuation marks, against the gold edges between
    such words; a share of all edges, so that long sentences have more weight. On UD-EWT dev (punctuation: UPOS is PUNCT) the chain
    |i - j| scores .431. The authors take the minimum spanning tree of gold distances, which is the same where no punctuation mark is a
    head. DSpr.: punctuation marks included. Constant distances correlate 0.
    """
    edges, correlations = np.full(len(trees.owners), np.nan), np.empty(len(trees.owners))
    for predicted, sentence in zip(distances, trees.sentences, strict=True):
        heads, kept = trees.heads_of(sentence), ~trees.punctuation[sentence]
        # A spanning tree depends on the order of the distances alone; 0 means that there is no edge.
        spanning = minimum_spanning_tree((predicted + 1.0) * np.outer(kept, kept)).toarray() > 0
        children = np.flatnonzero(kept & (heads >= 0) & kept[heads])
        edges[sentence][children] = (spanning | spanning.T)[children, heads[children]]
        correlations[sentence] = _spearman(predicted, tree_distances(heads))
    by_length = _mean_by_length(correlations, np.repeat(trees.lengths, trees.lengths))
    return _mean(edges[~np.isnan(edges)]), by_length, edges, correlations


def evaluate_depths(depths: Vectors, trees: Trees) -> tuple[float, float, NDArray[np.bool_], NDArray[np.float64]]:
    """The share of roots that are found and the NSpr. of predicted depths (N,) of words (Hewitt and Manning 2019); for each sentence
    whether its root was (S,), and its correlation (S,). NSpr. includes punctuation marks.

    A root that is a punctuation mark is found only in a sentence of nothing else. Constant depths correlate 0.
    """
    roots, correlations = np.empty(len(trees.lengths), bool), np.empty(len(trees.lengths))
    for number, sentence in enumerate(trees.sentences):
        heads, predicted, marks = trees.heads_of(sentence), depths[sentence], trees.punctuation[sentence]
        roots[number] = heads[np.where(marks & ~marks.all(), np.inf, predicted).argmin()] == -1
        correlations[number] = _spearman(predicted[None], tree_depths(heads)[None])[0]
    return _mean(roots), _mean_by_length(correlations, trees.lengths), roots, correlations


Metrics = dict[str, tuple[float, float, float]]
"""of each metric its value and the ends of its 95 % interval, by resampling sentences"""


def distance_metrics(distances: Iterable[Vectors], trees: Trees) -> Metrics:
    """`UUAS` and `DSpr.` of predicted distances, as in `evaluate_distances`."""
    uuas, dspr, edges, correlations = evaluate_distances(distances, trees)
    known, lengths = ~np.isnan(edges), np.repeat(trees.lengths, trees.lengths)
    of_edges = interval(edges[known] > 0, trees.owners[known])
    return {"UUAS": (uuas, *of_edges), "DSpr.": (dspr, *_interval_by_length(correlations, trees.owners, lengths))}


def depth_metrics(depths: Vectors, trees: Trees) -> Metrics:
    """`root accuracy` and `NSpr.` of predicted depths, as in `evaluate_depths`."""
    root, nspr, roots, correlations = evaluate_depths(depths, trees)
    sentences = np.arange(len(roots))
    by_length = _interval_by_length(correlations, sentences, trees.lengths)
    return {"root accuracy": (root, *interval(roots, sentences)), "NSpr.": (nspr, *by_length)}


def _interval_by_length(correlations: Vectors, groups: Labels, lengths: Labels) -> tuple[float, float]:
    counted = np.isin(lengths, LENGTHS)
    return interval(correlations[counted], groups[counted], lengths[counted])


def _spearman(a: NDArray, b: NDArray) -> Vectors:
    """(n,) the rank correlations between the rows of two (n, m) matrices; 0 for a constant row."""
    a, b = (unit(rankdata(one, axis=1) - (one.shape[1] + 1) / 2) for one in (a, b))
    return (a * b).sum(axis=1)


def _mean_by_length(correlations: Vectors, lengths: Labels) -> float:
    """The mean over lengths of the means over the correlations in sentences of a length; nan if no sentence has 5 to 50 words."""
    return _mean([_mean(correlations[lengths == length]) for length in LENGTHS if length in lengths])


def _mean(values: Sequence[float] | NDArray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


# ── training ──


@dataclass(frozen=True)
class StructuralProbe:
    """Two linear maps of vectors of D dimensions."""

    for_distances: Vectors
    """(D, R): squared distances of mapped words are those in the tree"""
    for_depths: Vectors
    """(D, R): squared norms of mapped words are their depths"""

    def metrics(self, trees: Trees) -> Metrics:
        """UUAS, DSpr., root accuracy and NSpr."""
        projected = (trees.vectors[sentence] @ self.for_distances for sentence in trees.sentences)
        depths = [((trees.vectors[sentence] @ self.for_depths) ** 2).sum(axis=1) for sentence in trees.sentences]
        distances = (cdist(words, words, "sqeuclidean") for words in projected)
        return distance_metrics(distances, trees) | depth_metrics(np.concatenate(depths), trees)


def fit_structural(
    train: Trees, dev: Trees, rank: int | None = None, seed: int = 0, device: torch.device | str = "cpu"
) -> StructuralProbe:
    """Train a distance probe and a depth probe on the vectors of `train`.

    `rank`: rows of B; default is 64, or D if that is less: the authors found little gain from more. `seed`: of B and of the order of
    batches. Adam begins at a learning rate of 0.001 and goes on at a tenth of it after each epoch without a lower loss on `dev`; it stops
    after the third such epoch, or after 40 epochs. Vectors are divided by one number, the root mean square of their entries around the
    mean, so that the learning rate fits any encoder. Sentences of more than 128 words are left out: memory grows with the square.

    Raises InputError without sentences in `train` or `dev`, for a rank that is not 1 to D, and for heads with a cycle.
    """
    check_seed(seed)
    width = train.vectors.shape[1]
    rank = min(64, width) if rank is None else rank
    if not 1 <= rank <= width:
        raise InputError(f"rank is {rank}; must be 1 to {width}, the size of the vectors")
    for name, trees in ("train", train), ("dev", dev):
        if not (trees.lengths <= MOST_WORDS).any():
            raise InputError(f"{name} has no sentence of at most {MOST_WORDS} words; must be one or more")
    how = train, dev, rank, seed, device
    return StructuralProbe(_fit(tree_distances, _distances, *how), _fit(tree_depths, _depths, *how))


def _distances(projected: Tensor) -> Tensor:
    """(B, T, T) squared distances between the projected words (B, T, R) of each sentence."""
    squares = _depths(projected)
    return squares[:, :, None] + squares[:, None] - 2 * projected @ projected.mT


def _depths(projected: Tensor) -> Tensor:
    """(B, T) squared norms of projected words (B, T, R)."""
    return projected.square().sum(dim=-1)


def _loss(predicted: Tensor, gold: Tensor) -> Tensor:
    """The mean absolute difference over the words, or pairs of words, of each sentence, summed over sentences of one length."""
    return (predicted - gold).abs().flatten(1).mean(dim=1).sum()


def _fit(
    gold: Callable, predict: Callable, train: Trees, dev: Trees, rank: int, seed: int, device: torch.device | str
) -> Vectors:
    """(D, R) the transpose of B that makes `predict` nearest to `gold`."""
    draw = np.random.default_rng(seed)
    sample = train.vectors[:: -(-len(train.vectors) // 10_000)]
    scale = float(np.sqrt(sample.var(axis=0, dtype=np.float64).mean())) or 1.0
    start = draw.uniform(-0.05, 0.05, (sample.shape[1], rank))  # as the authors
    matrix = torch.tensor(start, dtype=torch.float32, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([matrix], lr=1e-3)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    batches, held_out = _batches(train, gold, draw), _batches(dev, gold, draw)

    def loss_of(trees: Trees, some: Sequence[slice], target: Labels) -> Tensor:
        words = torch.from_numpy(np.stack([trees.vectors[sentence] for sentence in some]))  # (B, T, D)
        predicted = predict(words.to(device, torch.float32) / scale @ matrix)
        return _loss(predicted, torch.from_numpy(target).to(device))

    for _ in range(MOST_EPOCHS):
        for number in np.resize(draw.permutation(len(batches)), max(LEAST_STEPS, len(batches))):
            optimizer.zero_grad()
            (loss_of(train, *batches[number]) / BATCH_SENTENCES).backward()  # equal weight for each sentence
            optimizer.step()
        with torch.no_grad():
            schedule.step(sum(loss_of(dev, *batch).item() for batch in held_out))
        if schedule.get_last_lr()[0] < LEAST_RATE:
            break
    return matrix.detach().double().cpu().numpy() / scale


def _batches(trees: Trees, gold: Callable, draw: np.random.Generator) -> list[tuple[list[slice], Labels]]:
    """Sentences of equal length, which need no padding, and their gold distances or depths, one after another."""
    order = draw.permutation(np.flatnonzero(trees.lengths <= MOST_WORDS))
    batches = list[tuple[list[slice], Labels]]()
    for length in np.unique(trees.lengths[order]):
        same = order[trees.lengths[order] == length].tolist()
        for begin in range(0, len(same), BATCH_SENTENCES):
            some = [trees.sentences[place] for place in same[begin : begin + BATCH_SENTENCES]]
            batches.append((some, np.stack([gold(trees.heads_of(one)) for one in some]).astype(np.int16)))
    return batches
