"""Where sequences come from: one store, or a mixture of several by weight. Either way sequence n is a function of its number.

In a mixture the source of sequence n is drawn from (seed, sequence length, n), and each source counts its own sequences: sequence n is
the sequence of its source whose number is how many sequences before n went there. So every sequence of a source comes once an epoch of
that source, whatever the others do.

A worked example. Sources a and b, and draws that give sequences 0 to 4 to a, b, a, a, b: those are sequences 0, 1 and 2 of a and 0 and
1 of b.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bert.data.packing import SequenceIndex, gather
from bert.data.rng import Stream, uniform
from bert.data.store import TokenStore
from bert.pretraining.stream import SpecialIds

_BLOCK = 65_536  # sequences whose sources are drawn and counted together


@dataclass(frozen=True)
class Source:
    """The sequences of a store."""

    store: TokenStore
    index: SequenceIndex

    @property
    def sequence_length(self) -> int:
        """Positions of a sequence."""
        return self.index.sequence_length

    @property
    def sequences_in_epoch(self) -> int:
        """Sequences of the first epoch; the others differ by a few."""
        return self.index.sequences_in_epoch(0)

    @property
    def tokens(self) -> int:
        """Tokens of an epoch, without special tokens."""
        return int(self.index.documents.lengths.sum())

    def read(self, first: int, count: int, ids: SpecialIds) -> tuple[np.ndarray, np.ndarray]:
        """Sequences first … first + count − 1: input_ids and document_ids, each (count, sequence_length)."""
        sequences = self.index.sequences(first, count)
        input_ids, document_ids = gather(self.store.values, sequences, self.sequence_length, ids.cls, ids.sep, ids.pad)
        return self.store.checked(input_ids), document_ids

    def locate(self, sequence: int) -> str:
        """Where sequence `sequence` lies, in words."""
        epoch, window, place = self.index.locate(sequence)
        return f"epoch {epoch}, window {window}, place {place}"

    def source_of(self, sequence: int) -> int:
        """0: there is but one."""
        return 0


@dataclass
class Mixture:
    """Sequences of several sources of one sequence length, by weight."""

    sources: Sequence[Source]
    weights: Sequence[float]
    """positive, of any sum"""
    seed: int
    _before: list[np.ndarray] = field(default_factory=list, repr=False)  # sequences of each source before each block
    _blocks: dict[int, np.ndarray] = field(default_factory=dict, repr=False)  # of the blocks last asked for

    def __post_init__(self) -> None:
        self._before.append(np.zeros(len(self.sources), np.int64))

    @property
    def sequence_length(self) -> int:
        """Positions of a sequence."""
        return self.sources[0].sequence_length

    @property
    def sequences_in_epoch(self) -> int:
        """Sequences that the sources have together in their first epochs."""
        return sum(source.sequences_in_epoch for source in self.sources)

    @property
    def tokens(self) -> int:
        """Tokens that the sources have together in an epoch of each."""
        return sum(source.tokens for source in self.sources)

    def owners(self, first: int, count: int) -> np.ndarray:
        """The source (count,) of sequences first … first + count − 1, as its number."""
        blocks = range(first // _BLOCK, (first + count - 1) // _BLOCK + 1)
        parts = [
            self._block(block)[max(0, first - block * _BLOCK) : first + count - block * _BLOCK] for block in blocks
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def counts_before(self, sequence: int) -> np.ndarray:
        """How many of the sequences before `sequence` went to each source (S,)."""
        block, place = divmod(sequence, _BLOCK)
        while len(self._before) <= block:
            self._before.append(self._before[-1] + self._counts(self._block(len(self._before) - 1)))
        return self._before[block] + self._counts(self._block(block)[:place])

    def read(self, first: int, count: int, ids: SpecialIds) -> tuple[np.ndarray, np.ndarray]:
        """Sequences first … first + count − 1: input_ids and document_ids, each (count, sequence_length)."""
        owners, before = self.owners(first, count), self.counts_before(first)
        input_ids = np.empty((count, self.sequence_length), np.int64)
        document_ids = np.empty((count, self.sequence_length), np.int64)
        for number, source in enumerate(self.sources):
            mine = np.flatnonzero(owners == number)
            if len(mine):
                input_ids[mine], document_ids[mine] = source.read(int(before[number]), len(mine), ids)
        return input_ids, document_ids

    def locate(self, sequence: int) -> str:
        """Where sequence `sequence` lies, in words."""
        owner = self.source_of(sequence)
        return self.sources[owner].locate(int(self.counts_before(sequence)[owner]))

    def source_of(self, sequence: int) -> int:
        """The number of the source that sequence `sequence` comes from."""
        return int(self.owners(sequence, 1)[0])

    def _block(self, block: int) -> np.ndarray:
        if block not in self._blocks:
            if len(self._blocks) > 1:  # a batch touches one block or two
                self._blocks.pop(next(iter(self._blocks)))
            sequences = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
            ends = np.cumsum(np.asarray(self.weights, np.float64))
            drawn = uniform(self.seed, Stream.SOURCE, self.sequence_length, sequences)
            self._blocks[block] = np.searchsorted(ends[:-1] / ends[-1], drawn, side="right")
        return self._blocks[block]

    def _counts(self, owners: np.ndarray) -> np.ndarray:
        return np.bincount(owners, minlength=len(self.sources))
