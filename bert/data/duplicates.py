"""Duplicates among documents: equal texts, and nearly equal texts.

Two documents are near duplicates if the Jaccard similarity |A ∩ B| / |A ∪ B| (Broder 1997) of the sets of their shingles, runs
of five tokens, reaches a threshold. It is estimated by MinHash sketches of 128 values, split into bands: documents that agree
in a whole band count as near duplicates. At a threshold of 0.8 there are 9 bands of 13 values: of pairs with similarity s,
1 − (1 − s¹³)⁹ are found, 1 % at 0.6, 40 % at 0.8, 93 % at 0.9.

Lee et al. 2022 deduplicate with runs of five words and 0.8; tokens also work for languages without spaces.
"""

from __future__ import annotations

import numpy as np

from bert.data.rng import random_bits
from bert.errors import InputError, option

SHINGLE = 5  # tokens
_VALUES = 128  # of a sketch
_AT_ONCE = 8192  # shingles, whose 128 hashes each fit into the cache


class Seen:
    """A set of 64-bit numbers that takes 8 bytes per number once it is large: new ones are in a Python set until there are `limit`
    of them, then they are merged into one sorted array. A merge copies the array: 16 bytes per number meanwhile and, for a
    hundred million, about 5 µs per new number."""

    limit = 1_000_000

    def __init__(self) -> None:
        self.recent: set[int] = set()
        self.sorted = np.empty(0, np.uint64)

    def __contains__(self, number: int) -> bool:
        if number in self.recent:
            return True
        place = int(self.sorted.searchsorted(np.uint64(number)))
        return place < len(self.sorted) and int(self.sorted[place]) == number

    def add(self, number: int) -> bool:
        """Whether the number is new."""
        if number in self:
            return False
        self.recent.add(number)
        if len(self.recent) >= self.limit:
            new = np.sort(np.fromiter(self.recent, dtype=np.uint64, count=len(self.recent)))
            self.sorted = np.sort(np.concatenate((self.sorted, new)), kind="stable")  # a merge of sorted parts
            self.recent = set()
        return True


class NearDuplicates:
    """Finds documents that are nearly equal to an earlier one, with 8 bytes per band and document, 72 at 0.8.

    (`MinHashLSH`, whose choice of bands is used, keeps bands in Python sets, a few kilobytes per document.)
    """

    def __init__(self, threshold: float) -> None:
        """`threshold`: Jaccard similarity from 0.1 to 0.95. Raises InputError for another one, and without `datasketch`."""
        if not 0.1 <= threshold <= 0.95:
            raise InputError(f"{option('jaccard')} is {threshold}: give a similarity from 0.1 to 0.95")
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError:
            raise InputError("near duplicates need the package datasketch: pip install 'bert-kit[dedup]'") from None
        lsh = MinHashLSH(threshold=threshold, num_perm=_VALUES)
        self.bands, self.values_per_band = lsh.b, lsh.r
        self._empty = MinHash(num_perm=_VALUES, hashfunc=int)  # shingles are hashed already
        self._seen = Seen()

    def new(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """(N,) bool: which documents are not near duplicates of an earlier one, from flat ids and the number of ids of each."""
        answer = np.ones(len(lengths), bool)
        for number, keys in enumerate(self._keys(values, lengths).tolist()):
            answer[number] = not any(key in self._seen for key in keys)
            if answer[number]:
                for key in keys:
                    self._seen.add(key)
        return answer

    def _keys(self, values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """One number per band (N, bands), equal if the bands of two sketches are."""
        hashes = hash_shingles(values, lengths)
        counts = np.maximum(lengths - SHINGLE + 1, 1)
        sketches = np.empty((len(lengths), _VALUES), np.uint32)
        for number, (end, count) in enumerate(zip(np.cumsum(counts).tolist(), counts.tolist())):
            sketch = self._empty.copy()
            for first in range(end - count, end, _AT_ONCE):
                sketch.update_batch(hashes[first : min(end, first + _AT_ONCE)].tolist())
            sketches[number] = sketch.hashvalues
        used = sketches[:, : self.bands * self.values_per_band].reshape(len(lengths), self.bands, self.values_per_band)
        return random_bits(np.arange(self.bands), *np.moveaxis(used, 2, 0))


def hash_shingles(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """32-bit hashes of the shingles of all documents, in order.

    A document of n tokens has n − 4 shingles; one of fewer than five tokens is one shingle.
    """
    padded = np.concatenate((values.astype(np.int64) + 1, np.zeros(SHINGLE - 1, np.int64)))
    counts = np.maximum(lengths - SHINGLE + 1, 1)
    starts = np.cumsum(lengths) - lengths
    ends = np.cumsum(counts)
    places = np.repeat(starts - (ends - counts), counts) + np.arange(int(counts.sum()))
    # number of tokens of a shingle: after a short document the next one begins
    left = np.repeat(np.minimum(lengths, SHINGLE), counts)
    parts = (np.where(part < left, padded[places + part], 0) for part in range(SHINGLE))
    return random_bits(*parts) >> np.uint64(32)
