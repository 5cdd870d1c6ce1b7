"""Online code lengths against closed forms."""

import numpy as np
import pytest
from scipy.stats import entropy

from bert.errors import InputError
from bert.probing import mdl


def units(n: int, classes: int, size: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random vectors, unequally frequent labels that are a linear function of them, and groups of 10."""
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(n, size)).astype(np.float16)
    scores = vectors.astype(np.float64) @ draw.normal(size=(size, classes)) - 3 * np.arange(classes)
    return vectors, scores.argmax(axis=1), np.arange(n) // 10


@pytest.mark.parametrize(("n", "classes"), [(3_000, 2), (4_000, 5)])
def test_permuted_labels_cost_their_entropy_and_up_to_5_percent_more(n: int, classes: int) -> None:
    vectors, labels, groups = units(n, classes)
    shuffled = np.random.default_rng(1).permutation(labels)
    found = mdl.code_length(vectors, shuffled, groups, classes)
    assert found.marginal_bits == pytest.approx(n * entropy(np.bincount(labels), base=2))
    assert 1 <= found.bits / found.marginal_bits <= 1.05


def test_labels_that_are_a_linear_function_of_the_vectors_cost_far_less() -> None:
    vectors, labels, groups = units(4_000, 5)
    found = mdl.code_length(vectors, labels, groups, 5)
    assert found.bits < 0.35 * found.marginal_bits
    assert found.compression == found.uniform_bits / found.bits > 3


def test_the_first_block_and_the_uniform_code_are_exact() -> None:
    vectors, labels, groups = units(2_000, 3)
    found = mdl.code_length(vectors, labels, groups, 3)
    assert found.uniform_bits == 2_000 * np.log2(3)
    assert found.blocks[0] == (2, 2 * np.log2(3))
    ends = np.cumsum([size for size, _ in found.blocks])
    assert ends.tolist() == [2, 4, 8, 16, 32, 64, 125, 250, 500, 1_000, 2_000]
    assert sum(bits for _, bits in found.blocks) == found.bits


def test_without_probes_the_code_is_that_of_the_shares_of_the_labels_so_far() -> None:
    vectors, labels, groups = units(1_000, 3)
    found = mdl.code_length(vectors, labels, groups, 3, grid=())
    order = mdl.in_random_order(groups, 0)
    coded, first = [np.log2(3)], 1
    for end in (2, 4, 8, 16, 32, 63, 125, 250, 500, 1_000):
        counts = np.bincount(labels[order[:first]], minlength=3) + 0.5
        coded += (-np.log2(counts / counts.sum())[labels[order[first:end]]]).tolist()
        first = end
    assert found.bits == pytest.approx(sum(coded))
    assert found.of_units[order] == pytest.approx(np.array(coded))


def test_the_bits_of_units_are_those_of_their_blocks() -> None:
    vectors, labels, groups = units(1_000, 3)
    found = mdl.code_length(vectors, labels, groups, 3)
    ends = np.cumsum([size for size, _ in found.blocks])
    parts = np.split(found.of_units[mdl.in_random_order(groups, 0)], ends[:-1])
    assert [part.sum() for part in parts] == pytest.approx([bits for _, bits in found.blocks])
    assert (found.of_units > 0).all()


def test_the_mixture_costs_little_more_than_its_best_model_alone() -> None:
    vectors, labels, groups = units(1_500, 3)
    alone = [mdl.code_length(vectors, labels, groups, 3, grid=(c,)).bits for c in mdl.WEAK]
    mixed = mdl.code_length(vectors, labels, groups, 3).bits
    switches = -len(mdl.PORTIONS) * np.log2(1 - mdl.SWITCH)
    assert mixed <= min(alone) + np.log2(len(mdl.WEAK) + 1) + switches + 1


def test_no_block_is_coded_by_what_follows_it() -> None:
    vectors, labels, groups = units(1_000, 3)
    order = mdl.in_random_order(groups, 0)
    other = labels.copy()
    other[order[500:]] = (labels[order[500:]] + 1) % 3
    one, two = (mdl.code_length(vectors, given, groups, 3) for given in (labels, other))
    assert one.blocks[:-1] == two.blocks[:-1]
    assert one.blocks[-1] != two.blocks[-1]


def test_groups_stay_together_in_an_order_of_the_seed() -> None:
    _, _, groups = units(100, 3)
    order = mdl.in_random_order(groups, 0)
    assert sorted(order.tolist()) == list(range(100))
    assert (np.diff(groups[order]) != 0).sum() == 9
    assert (order != mdl.in_random_order(groups, 1)).any()


@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_few_units_have_a_finite_code(n: int) -> None:
    vectors, labels, groups = units(n, 20)
    assert np.isfinite(mdl.code_length(vectors, labels, groups, 20).bits)


def test_one_class_and_invalid_seeds_are_input_errors() -> None:
    vectors, labels, groups = units(20, 2)
    with pytest.raises(InputError, match="one class"):
        mdl.code_length(vectors, labels * 0, groups, 1)
    with pytest.raises(InputError, match="seed is -1"):
        mdl.code_length(vectors, labels, groups, 2, seed=-1)
