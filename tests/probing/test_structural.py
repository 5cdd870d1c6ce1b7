"""The structural probe against definitions, independent implementations and closed forms."""

import gzip
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from bert.errors import InputError
from bert.probing import structural as probe
from bert.probing.structural import (
    Trees,
    evaluate_depths,
    evaluate_distances,
    fit_structural,
    tree_depths,
    tree_distances,
)


def random_heads(draw: np.random.Generator, n: int) -> np.ndarray:
    """The heads of a random tree over n words, in any order; -1 for the root."""
    order = draw.permutation(n)
    heads = np.full(n, -1)
    for place in range(1, n):
        heads[order[place]] = order[draw.integers(place)]
    return heads


def random_trees(lengths: list[int], seed: int = 0, width: int = 6, marks: float = 0.2) -> Trees:
    """Sentences of random vectors, trees and punctuation marks."""
    draw = np.random.default_rng(seed)
    starts = accumulate(lengths, initial=0)
    parts = [np.where((heads := random_heads(draw, n)) < 0, -1, heads + start) for n, start in zip(lengths, starts)]
    owners, total = np.repeat(np.arange(len(lengths)) + 7, lengths), sum(lengths)
    return Trees(draw.normal(size=(total, width)), owners, np.concatenate(parts), draw.random(total) < marks)


def adjacency(heads: np.ndarray) -> np.ndarray:
    """(n, n) the edges of a tree, both ways."""
    edges = np.zeros((len(heads), len(heads)))
    for word, head in enumerate(heads):
        if head >= 0:
            edges[word, head] = edges[head, word] = 1
    return edges


# ── trees ──


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_distances_and_depths_are_shortest_paths_in_the_graph_of_the_tree(seed: int, n: int) -> None:
    heads = random_heads(np.random.default_rng(seed), n)
    paths = shortest_path(adjacency(heads), unweighted=True)
    np.testing.assert_array_equal(tree_distances(heads), paths)
    np.testing.assert_array_equal(tree_depths(heads), paths[int(np.flatnonzero(heads < 0)[0])])


def test_several_roots_hang_from_one_node_outside_the_sentence() -> None:
    heads = np.array([-1, 0, -1])
    with_node = shortest_path(adjacency(np.array([3, 0, 3, -1])), unweighted=True)
    np.testing.assert_array_equal(tree_distances(heads), with_node[:3, :3])
    assert tree_depths(heads).tolist() == [0, 1, 0]


@pytest.mark.parametrize("heads", [[0], [1, 0], [-1, 2, 3, 1]])
def test_a_cycle_is_an_input_error(heads: list[int]) -> None:
    for function in (tree_distances, tree_depths):
        with pytest.raises(InputError, match="cycle"):
            function(np.array(heads))


# ── evaluation ──


def independent_distances(distances: list[np.ndarray], trees: Trees) -> tuple[float, float]:
    """UUAS and DSpr. as Hewitt and Manning 2019 describe them, word by word: no function of the package."""
    hits = total = 0
    by_length: dict[int, list[float]] = {}
    for owner, predicted in zip(dict.fromkeys(trees.owners.tolist()), distances):
        words = np.flatnonzero(trees.owners == owner)
        edges = adjacency(np.array([-1 if head < 0 else head - words[0] for head in trees.heads[words]]))
        kept = [word for word in range(len(words)) if not trees.punctuation[words[word]]]
        if len(kept) > 1:
            spanning = minimum_spanning_tree(predicted[kept][:, kept]).toarray()
            chosen = {frozenset((kept[i], kept[j])) for i, j in zip(*np.nonzero(spanning))}
            gold = {frozenset((i, j)) for i in kept for j in kept if edges[i, j]}
            hits, total = hits + len(chosen & gold), total + len(gold)
        paths = shortest_path(edges, unweighted=True)
        if 5 <= len(words) <= 50:
            rows = [spearmanr(mine, theirs).statistic for mine, theirs in zip(predicted, paths)]
            by_length.setdefault(len(words), []).extend(rows)
    return hits / total, float(np.mean([np.mean(rows) for rows in by_length.values()]))


def independent_depths(depths: np.ndarray, trees: Trees) -> tuple[float, float]:
    """Root accuracy and NSpr. as Hewitt and Manning 2019 describe them."""
    hits: list[bool] = []
    by_length: dict[int, list[float]] = {}
    for owner in dict.fromkeys(trees.owners.tolist()):
        words = np.flatnonzero(trees.owners == owner).tolist()
        kept = [word for word in words if not trees.punctuation[word]] or words
        root = next(word for word in words if trees.heads[word] < 0)
        hits.append(min(kept, key=lambda word: depths[word]) == root)
        heads = np.array([max(-1, trees.heads[word] - words[0]) for word in words])
        gold = shortest_path(adjacency(heads), unweighted=True)[root - words[0]]
        if 5 <= len(words) <= 50:
            by_length.setdefault(len(words), []).append(spearmanr(depths[words], gold).statistic)
    return float(np.mean(hits)), float(np.mean([np.mean(rows) for rows in by_length.values()]))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.2, 0.8]))
def test_scores_are_those_of_an_independent_implementation(seed: int, marks: float) -> None:
    lengths = [1, 2, 4, 5, 5, 7, 9, 9, 51, *np.random.default_rng(seed).integers(1, 12, 4).tolist()]
    trees = random_trees(lengths, seed, marks=marks)
    distances = [cdist(trees.vectors[one], trees.vectors[one], "sqeuclidean") for one in trees.sentences]
    uuas, dspr, edges, _ = evaluate_distances(distances, trees)
    assert (uuas, dspr) == pytest.approx(independent_distances(distances, trees), nan_ok=True)
    depths = (trees.vectors**2).sum(axis=1)
    root, nspr, roots, _ = evaluate_depths(depths, trees)
    assert (root, nspr) == pytest.approx(independent_depths(depths, trees))
    assert (uuas, root) == pytest.approx((np.nanmean(edges), np.mean(roots)))
    assert (len(edges), len(roots)) == (len(trees.owners), len(lengths))
    free = ~trees.punctuation
    np.testing.assert_array_equal(np.isfinite(edges), free & (trees.heads >= 0) & free[trees.heads])


def gold_distances(trees: Trees) -> list[np.ndarray]:
    return [tree_distances(trees.heads_of(sentence)) for sentence in trees.sentences]


def test_gold_distances_and_depths_score_one() -> None:
    trees = random_trees([5, 6, 7, 8, 30], marks=0)
    depths = np.concatenate([tree_depths(trees.heads_of(sentence)) for sentence in trees.sentences])
    scores = *evaluate_distances(gold_distances(trees), trees)[:2], *evaluate_depths(depths, trees)[:2]
    assert scores == pytest.approx((1, 1, 1, 1))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_scores_depend_on_the_order_of_distances_alone(seed: int) -> None:
    trees = random_trees([3, 8, 12], seed)
    distances = [cdist(trees.vectors[one], trees.vectors[one]) for one in trees.sentences]
    one, other = (evaluate_distances(given, trees) for given in (distances, [np.exp(d) - 1 for d in distances]))
    np.testing.assert_array_equal(one[2], other[2])
    assert one[1] == pytest.approx(other[1])


def test_distances_of_zero_are_edges() -> None:
    """Two equal words have equal vectors in layer 0."""
    trees = Trees(np.zeros((3, 1)), np.zeros(3, int), np.array([-1, 0, 1]), np.zeros(3, bool))
    nearest = np.array([[0, 0, 5.0], [0, 0, 0], [5, 0, 0]])
    assert evaluate_distances([nearest], trees)[0] == 1


def test_constant_predictions_correlate_zero_and_no_edge_is_nan() -> None:
    trees = random_trees([6, 7], marks=0)
    assert evaluate_distances([np.zeros((6, 6)), np.zeros((7, 7))], trees)[1] == 0
    assert evaluate_depths(np.zeros(13), trees)[1] == 0
    for lengths, marks in (([1, 1], 0), ([3, 4], 1)):
        uuas, dspr, *_ = evaluate_distances([np.zeros((n, n)) for n in lengths], random_trees(lengths, marks=marks))
        assert np.isnan([uuas, dspr]).all()


def test_punctuation_marks_are_no_roots_and_have_no_edges() -> None:
    trees = Trees(np.zeros((4, 1)), np.zeros(4, int), np.array([1, -1, 1, 1]), np.array([False, False, False, True]))
    assert evaluate_depths(np.array([3.0, 1, 2, 0]), trees)[2].tolist() == [True]
    far = np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))
    far[3] = far[:, 3] = 0.1  # a mark near to all words would connect them
    np.testing.assert_array_equal(evaluate_distances([far], trees)[2], [1, np.nan, 1, np.nan])


def test_a_head_in_another_sentence_is_an_input_error() -> None:
    for heads in ([-1, 2, -1, 2], [-1, 0, -1, 4]):
        word = 1 if heads[1] == 2 else 3
        with pytest.raises(InputError, match=rf"heads\[{word}\] is {heads[word]}; must be the index"):
            Trees(np.zeros((4, 2)), np.array([0, 0, 1, 1]), np.array(heads), np.zeros(4, bool))


def test_lengths_that_differ_and_divided_sentences_are_input_errors() -> None:
    good = [np.zeros((3, 2)), np.array([4, 4, 2]), np.array([-1, 0, -1]), np.zeros(3, bool)]
    Trees(*good)
    for place in range(4):
        short = [values[:2] if place == number else values for number, values in enumerate(good)]
        with pytest.raises(InputError, match="differ in length"):
            Trees(*short)
    with pytest.raises(InputError, match="owners has a sentence in two places"):
        Trees(good[0], np.array([4, 2, 4]), np.array([-1, -1, -1]), good[3])


# ── training ──


def test_the_loss_is_that_of_the_paper() -> None:
    draw = np.random.default_rng(0)
    words, matrix = draw.normal(size=(3, 4, 5)), draw.normal(size=(5, 2))
    heads = [random_heads(draw, 4) for _ in range(3)]
    distances = depths = 0.0
    for sentence, tree in zip(words, heads):
        gold, deep = tree_distances(tree), tree_depths(tree)
        for i in range(4):
            depths += abs(np.sum((sentence[i] @ matrix) ** 2) - deep[i]) / 4
            for j in range(4):
                distances += abs(np.sum(((sentence[i] - sentence[j]) @ matrix) ** 2) - gold[i, j]) / 4**2
    projected = torch.tensor(words @ matrix)
    for predict, of, expected in (
        (probe._distances, tree_distances, distances),
        (probe._depths, tree_depths, depths),
    ):
        target = torch.tensor(np.stack([of(tree) for tree in heads]))
        assert probe._loss(predict(projected), target).item() == pytest.approx(expected)


def test_batches_have_sentences_of_one_length_and_each_sentence_once() -> None:
    trees = random_trees(np.random.default_rng(0).integers(1, 4, 100).tolist())
    batches = probe._batches(trees, tree_depths, np.random.default_rng(1))
    assert sorted((one.start, one.stop) for some, _ in batches for one in some) == [
        (one.start, one.stop) for one in trees.sentences
    ]
    for some, depths in batches:
        assert len(some) <= 20
        assert depths.tolist() == [tree_depths(trees.heads_of(one)).tolist() for one in some]


def embedded(count: int, seed: int, rotation: np.ndarray, hidden: Callable[[np.ndarray], np.ndarray]) -> Trees:
    """Sentences of 6 words whose vectors contain their trees, as `hidden` draws them (n, 6), among 4 dimensions of noise."""
    plain = random_trees([6] * count, seed, marks=0)
    signal = np.concatenate([hidden(plain.heads_of(sentence)) for sentence in plain.sentences])
    vectors = np.concatenate((signal, np.random.default_rng(seed).normal(size=(6 * count, 4))), axis=1) @ rotation
    return Trees(vectors.astype(np.float16), plain.owners, plain.heads, plain.punctuation)


def path_to_root(heads: np.ndarray) -> np.ndarray:
    """(n, n) with one dimension for the edge above each word: squared distances and norms are tree distances and depths."""
    paths = np.zeros((len(heads), len(heads)))
    for word in range(len(heads)):
        above = word
        while heads[above] >= 0:
            paths[word, above] = 1
            above = heads[above]
    return paths


def scored(train: Trees, dev: Trees, **how: int) -> probe.Metrics:
    return fit_structural(train, dev, **how).metrics(dev)


def test_trees_in_the_vectors_are_found_under_noise_and_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LEAST_STEPS", 50)
    monkeypatch.setattr(probe, "MOST_EPOCHS", 20)
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(10, 10)))[0]
    train, dev = (embedded(60, seed, rotation, path_to_root) for seed in (0, 1))
    scores = scored(train, dev)  # rank 10: D is less than 64
    assert min(scores["UUAS"][0], scores["root accuracy"][0]) > 0.95
    assert min(scores["DSpr."][0], scores["NSpr."][0]) > 0.9
    noise = scored(embedded(60, 0, rotation, lambda heads: np.ones((6, 6))), dev, rank=10)
    assert max(noise["UUAS"][0], noise["root accuracy"][0]) < 0.8


def test_a_probe_does_not_depend_on_the_scale_of_vectors_but_on_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LEAST_STEPS", 3)
    train, dev = random_trees([4, 6, 6] * 2), random_trees([5, 6, 7], 1)
    first, again, other = (scored(train, dev, rank=3, seed=seed) for seed in (0, 0, 1))
    scaled = [Trees(256 * trees.vectors, trees.owners, trees.heads, trees.punctuation) for trees in (train, dev)]
    large = scored(*scaled, rank=3, seed=0)
    assert first == again
    for metric in ("DSpr.", "NSpr."):
        assert large[metric] == pytest.approx(first[metric], abs=1e-3)
        low, high = first[metric][1:]
        assert low <= first[metric][0] <= high
    assert first["DSpr."] != other["DSpr."]


def test_bad_ranks_and_a_single_sentence_are_input_errors() -> None:
    trees = random_trees([4, 5])
    for rank in (0, 7):
        with pytest.raises(InputError, match=f"rank is {rank}; must be 1 to 6"):
            fit_structural(trees, trees, rank=rank)
    with pytest.raises(InputError, match="dev has no sentence of at most 128 words"):
        fit_structural(trees, random_trees([200]), rank=2)


def test_long_sentences_are_scored_and_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LEAST_STEPS", 1)
    seen: list[int] = []
    real = probe.tree_distances
    monkeypatch.setattr(probe, "tree_distances", lambda heads: (seen.append(len(heads)), real(heads))[1])
    train, dev = random_trees([128, 5, 129, 6]), random_trees([300])
    assert 0 <= fit_structural(train, train, rank=2).metrics(dev)["UUAS"][0] <= 1
    assert sorted(seen) == [5, 5, 6, 6, 128, 128, 300]


# ── real trees ──


def read_dev(data: Path) -> Trees:
    """UD-EWT dev without vectors."""
    owners, heads, marks = [], [], []
    start = sentence = 0
    with gzip.open(data / "ud-ewt" / "dev.conllu.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            cells = line.rstrip("\n").split("\t")
            if cells[0].isdigit():
                heads.append(int(cells[6]) - 1 + start if int(cells[6]) else -1)
                marks.append(cells[3] == "PUNCT")
                owners.append(sentence)
            elif cells == [""]:
                start, sentence = len(heads), sentence + 1
    return Trees(np.zeros((len(heads), 1)), np.array(owners), np.array(heads), np.array(marks))


@pytest.mark.slow
@pytest.mark.data
def test_the_chain_and_iid_vectors_on_ud_ewt_score_as_published(data: Path) -> None:
    trees = read_dev(data)
    positions = [np.arange(length)[:, None] for length in trees.lengths.tolist()]
    chain, _, edges, _ = evaluate_distances([cdist(place, place, "cityblock") for place in positions], trees)
    assert round(chain, 3) == 0.431
    assert np.isfinite(edges).sum() == 20_085
    draw = np.random.default_rng(0)
    vectors = [draw.normal(size=(length, 64)) for length in trees.lengths.tolist()]
    assert evaluate_distances([cdist(one, one, "sqeuclidean") for one in vectors], trees)[0] == pytest.approx(
        0.15, abs=0.03
    )
