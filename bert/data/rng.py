"""Counter-based random numbers: a pure function of a key, the same on every machine and in every version.

A key is a seed, a stream (the purpose of the numbers), and counters such as an epoch or the number of a sequence:
`random_bits(seed, Stream.SEQUENCE_ORDER, epoch, numbers)`. Each part of the key is a step of SplitMix64 (Steele, Lea and Flood
2014). Parts may be arrays, which broadcast against each other.
"""

from enum import IntEnum, unique

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)


@unique
class Stream(IntEnum):
    """Purposes of random numbers, independent of each other. A changed value changes every batch."""

    DOCUMENT_ORDER = 1
    SEQUENCE_ORDER = 2
    VALIDATION_SPLIT = 3
    MASKED_POSITIONS = 11
    MASK_KIND = 12
    MASK_REPLACEMENT = 13
    PRETRAINING_DROPOUT = 21
    SOURCE = 31
    """the corpus of a mixture that a sequence is from"""
    PHASE_MASKS = 32
    """the seed of the masks of a phase"""
    EXAMPLE_ORDER = 41
    BATCH_ORDER = 42
    LENGTH_TIES = 43
    FINETUNING_DROPOUT = 44
    FOLDS = 45
    BENCH_MIXTURE = 51


def random_bits(*key: int | np.ndarray) -> np.ndarray:
    """Uniform 64-bit numbers (uint64, broadcast shape of the key's parts), independent for different keys."""
    state: np.ndarray = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for part in key:
            counter = np.asarray(part).astype(np.uint64)  # negative numbers wrap, as in C
            state = state + (counter + np.uint64(1)) * _GOLDEN  # a new array; the rest is in place
            state ^= state >> np.uint64(30)
            state *= _MULTIPLIER_1
            state ^= state >> np.uint64(27)
            state *= _MULTIPLIER_2
            state ^= state >> np.uint64(31)
    return state


def uniform(*key: int | np.ndarray) -> np.ndarray:
    """Uniform float64 numbers in [0, 1) for a key."""
    return (random_bits(*key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(count: int, *key: int) -> np.ndarray:
    """A random order of 0 … count − 1 (int64) for a key."""
    return np.argsort(random_bits(*key, np.arange(count)), kind="stable")
