"""A stratified sample: no group is lost, each has its share, and no period of the items is seen in it."""

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bert.report.strata import numbered, stratified


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=300), st.integers(8, 60), st.integers(0, 3))
def test_a_sample_has_every_group_its_size_and_order_and_depends_on_its_seed_alone(
    groups: list[str], most: int, seed: int
) -> None:
    taken = stratified(groups, most, seed)
    assert len(taken) == min(most, len(groups))
    assert taken == sorted(set(taken)) == stratified(groups, most, seed)
    assert {groups[index] for index in taken} == set(groups)


@example([10, 10, 10, 10, 10, 71], 0)
@given(st.lists(st.integers(10, 200), min_size=2, max_size=6), st.integers(0, 3))
def test_each_group_has_its_share(sizes: list[int], seed: int) -> None:
    groups = [f"g{group}" for group, size in enumerate(sizes) for _ in range(size)]
    most = max(10, len(groups) // 3)
    counts = Counter(groups[index] for index in stratified(groups, most, seed))
    # Webster's method: one share, by which each size, multiplied and rounded, gives the count of its group
    found = [(counts[f"g{group}"], size) for group, size in enumerate(sizes)]
    least = max((count - 0.5) / size for count, size in found if count > 1)
    assert least <= min((count + 0.5) / size for count, size in found)


def test_a_group_at_every_seventh_place_is_drawn_and_the_sample_has_no_period() -> None:
    groups = ["rare" if index % 7 == 3 else "usual" for index in range(1400)]
    taken = stratified(groups, 200)
    assert Counter(groups[index] for index in taken)["rare"] == pytest.approx(200 / 7, abs=1)
    usual = [index for index in taken if groups[index] == "usual"]
    assert max(Counter(index % 10 for index in usual).values()) < 40
    assert taken != stratified(groups, 200, seed=1)


def test_of_more_groups_than_fit_the_largest_are_drawn() -> None:
    groups = [f"g{n}" for n in range(30) for _ in range(1 + (n % 3 == 0))]
    assert {groups[index] for index in stratified(groups, 10)} == {f"g{n}" for n in range(0, 30, 3)}
    assert stratified([], 10) == []


def test_groups_are_numbered_in_order_of_appearance() -> None:
    assert numbered(["b", "a", "b", "c", "a"]).tolist() == [0, 1, 0, 2, 1]
