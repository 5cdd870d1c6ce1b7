"""Batch number → tensors, and nothing else: not the worker, the rank, the number of devices, the history or the clock.

Batch n is sequences n·R … (n + 1)·R − 1 of the run; with phases, sequences are counted from the beginning of the phase. It is dealt out in
micro-batches: micro-batch m of rank r is the (m · ranks + r)-th run of `micro_batch_size` sequences, so any split of a batch over devices and
time sees the same sequences with the same masks.
"""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bert.errors import InputError
from bert.pretraining.config import MaskingConfig
from bert.pretraining.masking import NO_TARGET, Vocabulary, mask_sequences, target_counts
from bert.pretraining.phases import Phase, Phased
from bert.signals import NUMBERS

_SEQUENCES_AT_ONCE = 1_024  # that are counted


class MicroBatch(TypedDict):
    """What one forward pass of one device sees: B sequences of T positions with K slots each."""

    input_ids: torch.Tensor  # (B, T) int64, corrupted
    document_ids: torch.Tensor  # (B, T) int64, chunks of a sequence from 1; 0 is padding
    targets: torch.Tensor  # (B · K,) int64, flat positions in (B, T); 0 where the slot is not in use
    labels: torch.Tensor  # (B · K,) int64, original ids; −100 where the slot is not in use
    documents: int  # of this micro-batch, the padding of a sequence counted as one
    global_targets: int  # targets of the whole batch: over all ranks and micro-batches
    global_tokens: int  # tokens of the whole batch, padding not counted


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


@dataclass(frozen=True)
class Split:
    """How a batch of `batch_size` is dealt out."""

    batch_size: int
    micro_batch_size: int
    ranks: int = 1

    @property
    def accumulation(self) -> int:
        """Micro-batches of one rank in one step."""
        return self.batch_size // (self.micro_batch_size * self.ranks)

    def describe(self) -> str:
        """In words."""
        return f"{self.batch_size} sequences a step = {self.ranks} × {self.accumulation} × {self.micro_batch_size}"


def split_batch(batch_size: int, micro_batch_size: int | None, ranks: int, where: str = "") -> Split:
    """The split of a batch over `ranks` devices; InputError where it does not divide, beginning with `where` that is."""
    if batch_size % ranks:
        raise InputError(
            f"{where}data.batch_size {batch_size} does not divide over {ranks} devices: give a multiple of {ranks}"
        )
    per_rank = batch_size // ranks
    micro = micro_batch_size or per_rank
    if per_rank % micro:
        raise InputError(
            f"{where}data.batch_size {batch_size} over {ranks} device{'s' * (ranks > 1)} is {per_rank} sequences each, which"
            f" data.micro_batch_size {micro} does not divide: give a divisor of {per_rank}"
        )
    return Split(batch_size, micro, ranks)


class BatchStream:
    """The batches of a run, or of one phase of it."""

    def __init__(
        self,
        sequences: Sequences,
        batch_size: int,
        special_ids: SpecialIds,
        vocabulary: Vocabulary,
        masking: MaskingConfig,
        seed: int,
        last_sequence: int | None = None,
        phase: Phase | None = None,
    ) -> None:
        """`batch_size` sequences a step: those of `phase`, or from sequence 0 on. Sequences from `last_sequence` on (None: never) are padding through and
        through."""
        self.sequences, self.batch_size, self.last_sequence = sequences, batch_size, last_sequence
        self.special_ids, self.vocabulary, self.masking = special_ids, vocabulary, masking
        self._phase = phase
        self.seed = seed  # of the masks
        self._cached: tuple[int, np.ndarray, np.ndarray, int, int] | None = None

    def first_sequence_of(self, step: int) -> int:
        """The first sequence of batch `step`."""
        return step * self.batch_size if self._phase is None else self._phase.first_sequence_of(step)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Batch `step` before masking: input_ids and document_ids (R, T), number of targets, number of tokens."""
        if self._cached is None or self._cached[0] != step:
            first, length = self.first_sequence_of(step), self.sequences.sequence_length
            count = (
                self.batch_size
                if self.last_sequence is None
                else max(0, min(self.batch_size, self.last_sequence - first))
            )
            input_ids = np.full((self.batch_size, length), self.special_ids.pad, np.int64)
            document_ids = np.zeros((self.batch_size, length), np.int64)
            if count:
                input_ids[:count], document_ids[:count] = self.sequences.read(first, count, self.special_ids)
            if self.masking.whole_words:  # how many targets fit follows from the words
                numbers = first + np.arange(self.batch_size)
                masked = mask_sequences(input_ids, numbers, self.seed, self.masking, self.vocabulary)
                targets = int((masked.labels != NO_TARGET).sum())
            else:
                targets = int(target_counts(self.vocabulary.maskable[input_ids], self.masking.rate).sum())
            self._cached = step, input_ids, document_ids, targets, int((document_ids > 0).sum())
        return self._cached[1:]

    def token_counts(self, tokens: int) -> np.ndarray:
        """(V,) how often each token comes in the first `tokens` positions or in an epoch, if that is less; 0 where it is never hidden."""
        sequences = min(-(-tokens // self.sequences.sequence_length), self.sequences.sequences_in_epoch)
        counts = np.zeros(len(self.vocabulary.maskable), np.int64)
        for first in range(0, sequences, _SEQUENCES_AT_ONCE):
            ids, _ = self.sequences.read(first, min(_SEQUENCES_AT_ONCE, sequences - first), self.special_ids)
            counts += np.bincount(ids.reshape(-1), minlength=len(counts))
        return counts * self.vocabulary.maskable

    def micro_batch(self, step: int, split: Split, rank: int = 0, micro: int = 0) -> MicroBatch:
        """Micro-batch `micro` of rank `rank` in step `step`, masked."""
        input_ids, document_ids, global_targets, global_tokens = self.batch(step)
        first = (micro * split.ranks + rank) * split.micro_batch_size
        mine = slice(first, first + split.micro_batch_size)
        numbers = self.first_sequence_of(step) + np.arange(mine.start, mine.stop)
        masked = mask_sequences(input_ids[mine], numbers, self.seed, self.masking, self.vocabulary)
        in_use = masked.labels != NO_TARGET
        sequence_starts = np.arange(split.micro_batch_size)[:, None] * self.sequences.sequence_length
        flat = np.where(in_use, masked.positions + sequence_starts, 0)
        return MicroBatch(
            input_ids=torch.from_numpy(masked.input_ids),
            document_ids=torch.from_numpy(document_ids[mine].copy()),
            targets=torch.from_numpy(flat.reshape(-1)),
            labels=torch.from_numpy(masked.labels.reshape(-1)),
            documents=split.micro_batch_size + int(np.count_nonzero(np.diff(document_ids[mine], axis=1))),
            global_targets=global_targets,
            global_tokens=global_tokens,
        )


class _MicroBatches(Dataset):
    """Item (step, micro): micro-batch `micro` of a rank in step `step`."""

    def __init__(self, stream: Phased[BatchStream], split: Phased[Split], rank: int) -> None:
        self.stream, self.split, self.rank = stream, split, rank

    def __getitem__(self, item: tuple[int, int]) -> MicroBatch:
        step, micro = item
        return self.stream.at(step).micro_batch(step, self.split.at(step), self.rank, micro)


class _From:
    """(step, micro) of every micro-batch of a rank from step `first` on, up to and without step `end` (None: for ever)."""

    def __init__(self, first: int, end: int | None, split: Phased[Split]) -> None:
        self.first, self.end, self.split = first, end, split

    def __iter__(self) -> Iterator[tuple[int, int]]:
        step = self.first
        while self.end is None or step < self.end:
            for micro in range(self.split.at(step).accumulation):
                yield step, micro
            step += 1


def _leave_signals_to_the_run(worker: int) -> None:
    """A signal for the whole group of processes, as Ctrl-C is, ends the run behind its step: until then it needs its workers."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


class StepLoader:
    """The micro-batches of one rank from step `first_step()` on, to step `steps` or for ever.

    Where to begin is asked when iteration starts, so a resumed run needs no replay. `waited` counts the seconds that the training loop
    waited for data; `on_first_request` is called before the first batch is made.
    """

    def __init__(
        self,
        stream: BatchStream | Phased[BatchStream],
        split: Split | Phased[Split],
        rank: int = 0,
        first_step: Callable[[], int] = lambda: 0,
        steps: int | None = None,
        workers: int = 0,
        pin_memory: bool = False,
        on_first_request: Callable[[], None] = lambda: None,
    ) -> None:
        self.stream, self.split = Phased.always(stream), Phased.always(split)
        self.rank, self.first_step, self.steps = rank, first_step, steps
        self.workers, self.pin_memory, self.on_first_request = workers, pin_memory, on_first_request
        self.waited = 0.0

    def __iter__(self) -> Iterator[MicroBatch]:
        self.on_first_request()
        begun = time.perf_counter()
        loader = DataLoader(
            _MicroBatches(self.stream, self.split, self.rank),
            batch_size=None,
            sampler=_From(self.first_step(), self.steps, self.split),
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            worker_init_fn=_leave_signals_to_the_run,
        )
        for batch in loader:
            self.waited += time.perf_counter() - begun
            yield batch
            begun = time.perf_counter()
