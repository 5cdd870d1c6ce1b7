"""Batch number → tensors: independent of the worker, the rank, the number of devices, the history and the clock.

Sequence n is a function of its number n. Its source is a token store (`Source`), or one of several (`Mixture`): drawn from (seed, sequence
length, n) by weight, each source counting its own sequences. Sequence n is then the sequence of its source whose number is the count of
earlier sequences drawn from that source, so each sequence of a source occurs once in an epoch of that source, whatever the others do.
For example, if sequences 0 to 4 are drawn from sources a, b, a, a, b, they are sequences 0, 1 and 2 of a and 0 and 1 of b.

Batch n is sequences n·R … (n + 1)·R − 1 of the run; with phases, sequences are counted from the start of the phase. It is split into
micro-batches: micro-batch m of rank r is the (m · ranks + r)-th group of `micro_batch_size` sequences, so the same sequences with the
same masks are seen however a batch is split over devices and time.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import gcd
from typing import TypedDict

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bert.data.packing import SequenceIndex, gather
from bert.data.rng import Stream, uniform
from bert.data.store import TokenStore
from bert.pretraining.config import MaskingConfig
from bert.pretraining.masking import IGNORED, MaskedSequences, Vocabulary, mask_sequences, masked_counts
from bert.pretraining.phases import Plan
from bert.signals import NUMBERS
from bert.training.step import StepBatch

_BLOCK = 65_536  # sequences whose sources are drawn and counted together
_COUNTED_AT_ONCE = 1_024  # sequences read at a time by `token_counts`


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens that packing inserts into sequences."""

    cls: int
    sep: int
    pad: int


@dataclass(frozen=True)
class Source:
    """The sequences of a token store."""

    store: TokenStore
    index: SequenceIndex

    @property
    def sequence_length(self) -> int:
        """Positions per sequence."""
        return self.index.sequence_length

    @property
    def sequences_in_epoch(self) -> int:
        """Number of sequences in the first epoch; later epochs differ by a few."""
        return self.index.sequences_in_epoch(0)

    @property
    def tokens(self) -> int:
        """Tokens in an epoch, without special tokens."""
        return int(self.index.documents.lengths.sum())

    def read(self, first: int, count: int, ids: SpecialIds) -> tuple[np.ndarray, np.ndarray]:
        """Sequences first … first + count − 1: input_ids and document_ids, each (count, sequence_length)."""
        sequences = self.index.sequences(first, count)
        input_ids, document_ids = gather(self.store.values, sequences, self.sequence_length, ids.cls, ids.sep, ids.pad)
        return self.store.checked(input_ids), document_ids

    def locate(self, sequence: int) -> str:
        """The location of sequence number `sequence`, as text."""
        epoch, window, index = self.index.locate(sequence)
        return f"epoch {epoch}, window {window}, index {index}"

    def source_of(self, sequence: int) -> int:
        """The index of the only source: 0."""
        return 0


@dataclass
class Mixture:
    """Sequences of several sources with the same sequence length, drawn by weight."""

    sources: Sequence[Source]
    weights: Sequence[float]
    """positive; any sum"""
    seed: int
    _before: list[np.ndarray] = field(default_factory=list, repr=False)  # sequences of each source before each block
    _blocks: dict[int, np.ndarray] = field(default_factory=dict, repr=False)  # the blocks requested last

    def __post_init__(self) -> None:
        self._before.append(np.zeros(len(self.sources), np.int64))

    @property
    def sequence_length(self) -> int:
        """Positions per sequence."""
        return self.sources[0].sequence_length

    @property
    def sequences_in_epoch(self) -> int:
        """Number of sequences in the first epochs of all sources together."""
        return sum(source.sequences_in_epoch for source in self.sources)

    @property
    def tokens(self) -> int:
        """Tokens in one epoch of every source."""
        return sum(source.tokens for source in self.sources)

    def owners(self, first: int, count: int) -> np.ndarray:
        """The source indices (count,) of sequences first … first + count − 1."""
        blocks, end = range(first // _BLOCK, (first + count - 1) // _BLOCK + 1), first + count
        parts = [self._block(block)[max(0, first - block * _BLOCK) : end - block * _BLOCK] for block in blocks]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def counts_before(self, sequence: int) -> np.ndarray:
        """The number of sequences before `sequence` that come from each source, (S,)."""
        block, place = divmod(sequence, _BLOCK)
        while len(self._before) <= block:
            self._before.append(self._before[-1] + self._counts(self._block(len(self._before) - 1)))
        return self._before[block] + self._counts(self._block(block)[:place])

    def read(self, first: int, count: int, ids: SpecialIds) -> tuple[np.ndarray, np.ndarray]:
        """Sequences first … first + count − 1: input_ids and document_ids, each (count, sequence_length)."""
        owners, before = self.owners(first, count), self.counts_before(first)
        input_ids, document_ids = np.empty((2, count, self.sequence_length), np.int64)
        for number, source in enumerate(self.sources):
            mine = np.flatnonzero(owners == number)
            if len(mine):
                input_ids[mine], document_ids[mine] = source.read(int(before[number]), len(mine), ids)
        return input_ids, document_ids

    def locate(self, sequence: int) -> str:
        """The location of sequence number `sequence` in its source, as text."""
        owner = self.source_of(sequence)
        return self.sources[owner].locate(int(self.counts_before(sequence)[owner]))

    def source_of(self, sequence: int) -> int:
        """The index of the source of sequence number `sequence`."""
        return int(self.owners(sequence, 1)[0])

    def _block(self, block: int) -> np.ndarray:
        if block not in self._blocks:
            if len(self._blocks) > 1:  # a batch needs one block or two
                self._blocks.pop(next(iter(self._blocks)))
            sequences = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
            ends = np.cumsum(np.asarray(self.weights, np.float64))
            drawn = uniform(self.seed, Stream.SOURCE, self.sequence_length, sequences)
            self._blocks[block] = np.searchsorted(ends[:-1] / ends[-1], drawn, side="right")
        return self._blocks[block]

    def _counts(self, owners: np.ndarray) -> np.ndarray:
        return np.bincount(owners, minlength=len(self.sources))


Sequences = Source | Mixture


class MicroBatch(TypedDict):
    """The input of one forward pass on one device: B sequences of T positions, at most K of them masked."""

    input_ids: torch.Tensor  # (B, T) int64, after masking
    document_ids: torch.Tensor  # (B, T) int64, numbers of the chunks of a sequence, from 1; 0 is padding
    masked_positions: torch.Tensor  # (B, K) int64, indices into each sequence; 0 if unused
    labels: torch.Tensor  # (B, K) int64, original ids; −100 if unused
    documents: int  # number of chunks in this micro-batch; the padding of a sequence counts as one


@dataclass(frozen=True)
class GlobalBatch:
    """All sequences of a step, over all ranks, before masking."""

    input_ids: np.ndarray
    """(R, T)"""
    document_ids: np.ndarray
    """(R, T)"""
    masked_tokens: int
    """number of tokens that masking selects"""
    tokens: int
    """number of tokens without padding"""


class BatchStream:
    """The batches of a run, over all its phases."""

    def __init__(
        self,
        sequences: Mapping[int, Sequences],
        plan: Plan,
        special_ids: SpecialIds,
        vocabulary: Vocabulary,
        masking: MaskingConfig,
        last_sequence: int | None = None,
    ) -> None:
        """`sequences` maps sequence lengths to sequences. From number `last_sequence` on (None: never), sequences are all padding."""
        self.plan, self.last_sequence = plan, last_sequence
        self.special_ids, self.vocabulary = special_ids, vocabulary
        self._sequences, self._masking = sequences, masking
        self._cached: tuple[int, GlobalBatch] | None = None

    def dealt(self, most: int) -> "BatchStream":
        """The same batches for a single process, in micro-batches of at most `most` sequences."""
        phases = (replace(p, micro_batch_size=gcd(p.batch_size, most), ranks=1) for p in self.plan.phases)
        settings = self.special_ids, self.vocabulary, self._masking, self.last_sequence
        return BatchStream(self._sequences, Plan(tuple(phases)), *settings)

    def sequences_at(self, step: int) -> Sequences:
        """The sequences that `step` reads from."""
        return self._sequences[self.plan.at(step).sequence_length]

    @property
    def steps(self) -> int:
        """Number of steps in a stream with a last sequence; the last batch is filled with padding."""
        assert self.last_sequence is not None
        return -(-self.last_sequence // self.plan.at(0).batch_size)

    def batch(self, step: int) -> GlobalBatch:
        """Batch number `step` before masking."""
        if self._cached is None or self._cached[0] != step:
            self._cached = step, self._read(step)
        return self._cached[1]

    def _read(self, step: int) -> GlobalBatch:
        phase = self.plan.at(step)
        first, shape = phase.first_sequence_of(step), (phase.batch_size, phase.sequence_length)
        count = shape[0] if self.last_sequence is None else max(0, min(shape[0], self.last_sequence - first))
        input_ids = np.full(shape, self.special_ids.pad, np.int64)
        document_ids = np.zeros(shape, np.int64)
        if count:
            input_ids[:count], document_ids[:count] = self.sequences_at(step).read(first, count, self.special_ids)
        if self._masking.whole_words:  # how many tokens are masked depends on the words
            masked = int((self._mask(step, input_ids, 0).labels != IGNORED).sum())
        else:
            masked = int(masked_counts(self.vocabulary.maskable[input_ids], phase.mask_rate).sum())
        return GlobalBatch(input_ids, document_ids, masked, int((document_ids > 0).sum()))

    def _mask(self, step: int, input_ids: np.ndarray, offset: int) -> MaskedSequences:
        """Mask sequences of `step`, the first of which is at `offset` in the batch, by their numbers in the run."""
        phase = self.plan.at(step)
        numbers = phase.first_sequence_of(step) + offset + np.arange(len(input_ids))
        masking = replace(self._masking, rate=phase.mask_rate)
        return mask_sequences(input_ids, numbers, phase.mask_seed, masking, self.vocabulary)

    def token_counts(self, tokens: int) -> np.ndarray:
        """How often each token occurs, (V,), in the first `tokens` positions of the first phase, at most one epoch; 0 for tokens that
        are never masked."""
        sequences = self.sequences_at(0)
        number = min(-(-tokens // sequences.sequence_length), sequences.sequences_in_epoch)
        counts = np.zeros(len(self.vocabulary.maskable), np.int64)
        for first in range(0, number, _COUNTED_AT_ONCE):
            ids, _ = sequences.read(first, min(_COUNTED_AT_ONCE, number - first), self.special_ids)
            counts += np.bincount(ids.reshape(-1), minlength=len(counts))
        return counts * self.vocabulary.maskable

    def micro_batch(self, step: int, micro: int = 0, rank: int = 0) -> MicroBatch:
        """Micro-batch `micro` of rank `rank` in step `step`, masked."""
        batch, phase = self.batch(step), self.plan.at(step)
        first = (micro * phase.ranks + rank) * phase.micro_batch_size
        mine = slice(first, first + phase.micro_batch_size)
        masked = self._mask(step, batch.input_ids[mine], first)
        documents = batch.document_ids[mine].copy()
        return MicroBatch(
            input_ids=torch.from_numpy(masked.input_ids),
            document_ids=torch.from_numpy(documents),
            masked_positions=torch.from_numpy(masked.positions),
            labels=torch.from_numpy(masked.labels),
            documents=phase.micro_batch_size + int(np.count_nonzero(np.diff(documents, axis=1))),
        )

    def micro_batches(self, step: int, rank: int = 0) -> list[MicroBatch]:
        """All micro-batches of rank `rank` in step `step`."""
        return [self.micro_batch(step, micro, rank) for micro in range(self.plan.at(step).accumulation)]


def model_inputs(batch: MicroBatch) -> dict[str, torch.Tensor]:
    """A micro-batch as the arguments of `MaskedLM.forward`."""
    names = ("input_ids", "document_ids", "masked_positions", "labels")
    return {name: batch[name] for name in names}  # type: ignore[literal-required]


def count_masked(batch: GlobalBatch) -> dict[str, int]:
    """The divisor of the loss in masked language modeling."""
    return {"loss": batch.masked_tokens}


class _Steps(Dataset):
    """Item n is what a rank reads in step n."""

    def __init__(self, stream: BatchStream, rank: int, counts: Callable[[GlobalBatch], dict[str, int]]) -> None:
        self.stream, self.rank, self.counts = stream, rank, counts

    def __getitem__(self, step: int) -> StepBatch:
        batch = self.stream.batch(step)
        return StepBatch(self.stream.micro_batches(step, self.rank), self.counts(batch), batch.tokens)


def _leave_signals_to_the_run(worker: int) -> None:
    """A signal to the whole process group, such as Ctrl-C, ends the run after its step: until then it needs its workers."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


class StepLoader:
    """The batches of one rank, step by step: from step `first_step()` to step `steps`, or without end.

    `first_step` is called when iteration starts, so a resumed run need not replay earlier steps. `counts` is that of the objective.
    `on_first_request` is called before the first batch is made. `waited` is the time in seconds that the training loop waited for data.
    """

    def __init__(
        self,
        stream: BatchStream,
        counts: Callable[[GlobalBatch], dict[str, int]] = count_masked,
        rank: int = 0,
        first_step: Callable[[], int] = lambda: 0,
        steps: int | None = None,
        workers: int = 0,
        pin_memory: bool = False,
        on_first_request: Callable[[], None] = lambda: None,
    ) -> None:
        self.first_step, self.steps, self.on_first_request = first_step, steps, on_first_request
        self.waited = 0.0
        self._dataset = _Steps(stream, rank, counts)
        self._workers, self._pin_memory = workers, pin_memory

    def __iter__(self) -> Iterator[StepBatch]:
        self.on_first_request()
        begun = time.perf_counter()
        first = self.first_step()
        loader = DataLoader(
            self._dataset,
            batch_size=None,
            sampler=count(first) if self.steps is None else range(first, self.steps),
            num_workers=self._workers,
            pin_memory=self._pin_memory,
            worker_init_fn=_leave_signals_to_the_run,
        )
        for batch in loader:
            self.waited += time.perf_counter() - begun
            yield batch
            begun = time.perf_counter()
