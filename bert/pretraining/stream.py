"""Batch number → tensors, and nothing else: not the worker, the rank, the number of devices, the history or the clock.

Batch n is sequences n·R … (n + 1)·R − 1 of the run; with phases, sequences are counted from the beginning of the phase. It is dealt out
in micro-batches: micro-batch m of rank r is the (m · ranks + r)-th run of `micro_batch_size` sequences, so any split of a batch over
devices and time sees the same sequences with the same masks.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from math import gcd
from typing import Protocol, TypedDict

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bert.pretraining.config import MaskingConfig
from bert.pretraining.masking import IGNORED, MaskedSequences, Vocabulary, mask_sequences, masked_counts
from bert.pretraining.phases import Plan
from bert.signals import NUMBERS
from bert.training.step import StepBatch

_COUNTED_AT_ONCE = 1_024  # sequences


class MicroBatch(TypedDict):
    """What one forward pass of one device sees: B sequences of T positions, K of them masked at most."""

    input_ids: torch.Tensor  # (B, T) int64, corrupted
    document_ids: torch.Tensor  # (B, T) int64, chunks of a sequence from 1; 0 is padding
    masked_positions: torch.Tensor  # (B, K) int64, indices into each sequence; 0 where not in use
    labels: torch.Tensor  # (B, K) int64, original ids; −100 where not in use
    documents: int  # of this micro-batch, the padding of a sequence counted as one


@dataclass(frozen=True)
class GlobalBatch:
    """All sequences of a step, over all ranks, before masking."""

    input_ids: np.ndarray
    """(R, T)"""
    document_ids: np.ndarray
    """(R, T)"""
    masked_tokens: int
    """how many of them are masked"""
    tokens: int
    """padding not counted"""


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokens that packing puts into sequences."""

    cls: int
    sep: int
    pad: int


class Sequences(Protocol):
    """Sequences of one length by their numbers: a `sources.Source` or a `sources.Mixture`."""

    @property
    def sequence_length(self) -> int:
        """Positions of a sequence."""

    @property
    def sequences_in_epoch(self) -> int:
        """Sequences until one comes again."""

    @property
    def tokens(self) -> int:
        """Tokens of an epoch, without special tokens."""

    def read(self, first: int, count: int, ids: SpecialIds) -> tuple[np.ndarray, np.ndarray]:
        """Sequences first … first + count − 1: input_ids and document_ids, each (count, sequence_length)."""

    def locate(self, sequence: int) -> str:
        """Where sequence `sequence` lies, in words."""

    def source_of(self, sequence: int) -> int:
        """The number of the source that sequence `sequence` comes from."""


class BatchStream:
    """The batches of a run, through all its phases."""

    def __init__(
        self,
        sequences: Mapping[int, Sequences],
        plan: Plan,
        special_ids: SpecialIds,
        vocabulary: Vocabulary,
        masking: MaskingConfig,
        last_sequence: int | None = None,
    ) -> None:
        """`sequences` by their length. Those from `last_sequence` on (None: never) are padding through and through."""
        self.plan, self.last_sequence = plan, last_sequence
        self.special_ids, self.vocabulary = special_ids, vocabulary
        self._sequences, self._masking = sequences, masking
        self._cached: tuple[int, GlobalBatch] | None = None

    def dealt(self, most: int) -> "BatchStream":
        """The same batches for one process, in micro-batches of at most `most` sequences."""
        phases = (replace(p, micro_batch_size=gcd(p.batch_size, most), ranks=1) for p in self.plan.phases)
        settings = self.special_ids, self.vocabulary, self._masking, self.last_sequence
        return BatchStream(self._sequences, Plan(tuple(phases)), *settings)

    def sequences_at(self, step: int) -> Sequences:
        """Where the sequences of `step` come from."""
        return self._sequences[self.plan.at(step).sequence_length]

    def batch(self, step: int) -> GlobalBatch:
        """Batch `step` before masking."""
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
        if self._masking.whole_words:  # how many masked tokens fit follows from the words
            masked = int((self._mask(step, input_ids, 0).labels != IGNORED).sum())
        else:
            masked = int(masked_counts(self.vocabulary.maskable[input_ids], phase.mask_rate).sum())
        return GlobalBatch(input_ids, document_ids, masked, int((document_ids > 0).sum()))

    def _mask(self, step: int, input_ids: np.ndarray, offset: int) -> MaskedSequences:
        """Sequences of `step`, from the one at `offset` on, masked by their numbers in the run."""
        phase = self.plan.at(step)
        numbers = phase.first_sequence_of(step) + offset + np.arange(len(input_ids))
        masking = replace(self._masking, rate=phase.mask_rate)
        return mask_sequences(input_ids, numbers, phase.mask_seed, masking, self.vocabulary)

    def token_counts(self, tokens: int) -> np.ndarray:
        """(V,) how often each token comes in the first `tokens` positions of the first phase, or in an epoch, if that is less; 0 where
        it is never masked."""
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
        """Those of one rank in one step."""
        return [self.micro_batch(step, micro, rank) for micro in range(self.plan.at(step).accumulation)]


def count_masked(batch: GlobalBatch) -> dict[str, int]:
    """What masked language modeling divides by."""
    return {"loss": batch.masked_tokens}


class _Steps(Dataset):
    """Item n: what a rank reads in step n."""

    def __init__(self, stream: BatchStream, rank: int, counts: Callable[[GlobalBatch], dict[str, int]]) -> None:
        self.stream, self.rank, self.counts = stream, rank, counts

    def __getitem__(self, step: int) -> StepBatch:
        batch = self.stream.batch(step)
        return StepBatch(self.stream.micro_batches(step, self.rank), self.counts(batch), batch.tokens)


def _leave_signals_to_the_run(worker: int) -> None:
    """A signal for the whole group of processes, as Ctrl-C is, ends the run after its step: until then it needs its workers."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


class StepLoader:
    """What one rank reads, step by step: from step `first_step()` on, to step `steps` or for ever.

    Where to begin is asked when iteration starts, so a resumed run needs no replay. `counts` is that of the objective. `waited` counts
    the seconds that the training loop waited for data; `on_first_request` is called before the first batch is made.
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
        self.stream, self.counts, self.rank, self.first_step, self.steps = stream, counts, rank, first_step, steps
        self.workers, self.pin_memory, self.on_first_request = workers, pin_memory, on_first_request
        self.waited = 0.0

    def __iter__(self) -> Iterator[StepBatch]:
        self.on_first_request()
        begun = time.perf_counter()
        first = self.first_step()
        loader = DataLoader(
            _Steps(self.stream, self.rank, self.counts),
            batch_size=None,
            sampler=count(first) if self.steps is None else range(first, self.steps),
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            worker_init_fn=_leave_signals_to_the_run,
        )
        for batch in loader:
            self.waited += time.perf_counter() - begun
            yield batch
            begun = time.perf_counter()
