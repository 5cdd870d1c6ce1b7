"""Which of many items are drawn: a stratified sample."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def numbered(groups: Sequence[Hashable]) -> NDArray[np.integer]:
    """The number of the group of each item; groups are numbered in order of appearance."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    return np.array([numbers[name] for name in groups], np.int64)


def stratified(groups: Sequence[Hashable], most: int, seed: int = 0) -> list[int]:
    """At most `most` indices of items, drawn by `seed`, in order: as many of each group as is its share, and at least one.

    If there are more groups than that, one item of each of the largest.
    """
    of = numbered(groups)
    sizes = np.bincount(of)
    by_group = np.lexsort((np.random.default_rng(seed).random(len(of)), of))  # in random order within each
    rank = np.argsort(by_group) - (np.cumsum(sizes) - sizes)[of]  # of an item in its group, from 0
    turn = np.where(rank == 0, -sizes[of], (rank + 0.5) / sizes[of])
    return sorted(np.argsort(turn, kind="stable")[:most].tolist())
