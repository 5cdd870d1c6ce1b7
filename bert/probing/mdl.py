"""Minimum description length of labels given vectors, by online coding.

    units in random order → blocks that double → each block coded by a probe trained on the blocks before it → bits

Voita & Titov 2020, "Information-Theoretic Probing with Minimum Description Length".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log, log2

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import entropy

from bert.errors import check_seed
from bert.probing.linear import GRID, Labels, Vectors, check_units, path

PORTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1)
WEAK = GRID[:4]  # larger C take most of the time, and blocks are rarely coded best by them
SWITCH = 0.1  # probability that another model is the best one from the next block on


@dataclass(frozen=True)
class CodeLength:
    """The length of the code of n labels of K classes, in bits."""

    bits: float
    """given the vectors"""
    uniform_bits: float
    """n · log2 K: all classes are equally probable"""
    marginal_bits: float
    """n · H: the distribution of the labels is known, and nothing else"""
    blocks: tuple[tuple[int, float], ...]
    """number of units and bits of each block"""
    of_units: NDArray[np.float64]
    """(N,) bits of each unit, in the order of the vectors"""

    @property
    def compression(self) -> float:
        """Uniform bits / bits: 1 if the vectors say nothing, higher if labels are easy to extract from them."""
        return self.uniform_bits / self.bits


def code_length(
    vectors: Vectors,
    labels: Labels,
    groups: Labels,
    classes: int,
    seed: int = 0,
    grid: Sequence[float] = WEAK,
    device: str | torch.device = "cpu",
) -> CodeLength:
    """The online code length of `labels` (N,), numbers of `classes` classes, given `vectors` (N, D) of one layer.

    Sentences, the `groups` (N,) of units, are put in random order by `seed`. The first 0.1 % of the units cost log2 K bits each. Each of
    the blocks up to 0.2, 0.4, 0.8, 1.6, 3.2, 6.25, 12.5, 25, 50, 100 % is coded by models of the units before it: linear probes with each
    C of `grid`, and the shares of the classes (Krichevsky & Trofimov 1981). No C is chosen by what it is tested on: the code is the
    mixture of the models, weighted by the code length of each so far, and after each block a tenth of the weight is shared equally, since
    more units allow another C (Herbster & Warmuth 1998, "Tracking the Best Expert").

    Raises InputError for invalid seeds, for fewer than two classes, for no units, and for vectors that are not finite.
    """
    check_seed(seed)
    check_units(labels, classes)
    order = in_random_order(groups, seed)
    vectors, labels = vectors[order], labels[order]
    ends = np.unique(np.ceil(np.array(PORTIONS) * len(labels)).astype(int))
    blocks, of_units = [(int(ends[0]), ends[0] * log2(classes))], [np.full(ends[0], log2(classes))]
    weights = np.full(len(grid) + 1, -log(len(grid) + 1))  # of the models, as logarithms
    for first, end in pairwise(ends.tolist()):
        known, block = (vectors[:first], labels[:first]), (vectors[first:end], labels[first:end])
        nll = [_nll_of_shares(labels[:first], labels[first:end], classes)]
        nll += [one.dev.nll for one in path(*known, *block, classes, grid, device)]
        after = weights[:, None] - np.cumsum(nll, axis=1)  # of the models, after each unit of the block
        coded = -logsumexp(after, axis=0) / log(2)  # bits up to each unit
        blocks.append((end - first, float(coded[-1])))
        of_units.append(np.diff(coded, prepend=0))
        weights = after[:, -1]
        weights = np.logaddexp(weights - logsumexp(weights) + log(1 - SWITCH), log(SWITCH / len(weights)))
    uniform, marginal = log2(classes), entropy(np.bincount(labels), base=2)
    bits = float(sum(bits for _, bits in blocks))
    each = np.empty(len(labels))
    each[order] = np.concatenate(of_units)
    return CodeLength(bits, len(labels) * uniform, float(len(labels) * marginal), tuple(blocks), each)


def in_random_order(groups: Labels, seed: int) -> NDArray[np.integer]:
    """(N,): the indices of units by group, such as their sentence, groups in random order."""
    _, of = np.unique(groups, return_inverse=True)
    return np.random.default_rng(seed).permutation(of.max() + 1)[of].argsort(kind="stable")


def _nll_of_shares(known: Labels, block: Labels, classes: int) -> NDArray[np.float64]:
    """(n,): the NLL of the units of a block by the shares of the classes in the units before it, half a unit added to each."""
    counts = np.bincount(known, minlength=classes) + 0.5
    return -np.log(counts / counts.sum())[block]
