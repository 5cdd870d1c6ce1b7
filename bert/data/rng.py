"""Random numbers that are a function of where they are used: no state, no history, the same on every machine and version.

A draw is a chain of SplitMix64 steps (Steele, Lea and Flood 2014), one for each part of the key: `draw(seed, ROW_ORDER, epoch, numbers)`.
The parts may be arrays, which broadcast against each other.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)


def draw(*key: int | np.ndarray) -> np.ndarray:
    """Uniform 64-bit numbers (uint64, broadcast shape of the key's parts), independent for different keys."""
    state: np.ndarray = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for part in key:
            counter = np.asarray(part).astype(np.uint64)  # negative numbers wrap, as C does
            state = state + (counter + np.uint64(1)) * _GOLDEN  # a new array: from here on in place
            state ^= state >> np.uint64(30)
            state *= _MULTIPLIER_1
            state ^= state >> np.uint64(27)
            state *= _MULTIPLIER_2
            state ^= state >> np.uint64(31)
    return state


def uniform(*key: int | np.ndarray) -> np.ndarray:
    """Uniform float64 numbers in [0, 1) for the same keys."""
    return (draw(*key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(count: int, *key: int) -> np.ndarray:
    """An order of 0 … count − 1 (int64) drawn from the key."""
    return np.argsort(draw(*key, np.arange(count)), kind="stable")
