"""Packing: documents are split into chunks, chunks are packed into sequences of a fixed length, sequences are numbered.

A chunk of n tokens takes n + 2 positions of a sequence, including its [CLS] and [SEP]. Packing is best-fit decreasing
(Johnson 1973) within a window, a number of consecutive documents in the order of the epoch, so that a sequence is a pure
function of (lengths, seed, epoch, window) and sequence 12,345 can be made without the ones before it.

Example: sequences of 8 positions, documents of 9, 3 and 1 tokens. The first is split into chunks of 6 and 3 tokens, which
take 8 and 5 positions; the others take 5 and 3. Best fit puts 8 alone, 5 and 3 together, and 5 alone: three sequences, 21 of
24 positions in use.
"""

import contextlib
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bert.data.rng import Stream, permutation, random_bits
from bert.errors import InputError

_ALGORITHM = 1  # increase it if other chunks share a sequence: cached sequence counts are then made again
WORTH_A_FILE = 100_000  # documents from which on counting the sequences of an epoch takes longer than reading a file
SPECIALS_PER_CHUNK = 2  # [CLS] before it and [SEP] after it


@dataclass(frozen=True)
class Documents:
    """Documents as slices of the flat token array of a store: starts and lengths, both (N,) int64."""

    starts: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, indices: np.ndarray) -> "Documents":
        """The documents at `indices`, in that order."""
        return Documents(self.starts[indices], self.lengths[indices])


@dataclass(frozen=True)
class PackedSequences:
    """Packed sequences: sequence r holds the chunks `first[r]:first[r + 1]` of (starts, lengths), in this order."""

    first: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, counts: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> "PackedSequences":
        """Sequences of `counts` chunks each, one after the other."""
        return cls(np.concatenate(([0], np.cumsum(counts))), starts, lengths)

    def __len__(self) -> int:
        return len(self.first) - 1


def cut(documents: Documents, room: int) -> Documents:
    """Split every document into chunks of `room` tokens and a shorter rest. Empty documents vanish."""
    counts = -(-documents.lengths // room)
    place = _ranges(counts)  # index of a chunk in its document
    starts = np.repeat(documents.starts, counts) + place * room
    lengths = np.minimum(np.repeat(documents.lengths, counts) - place * room, room)
    return Documents(starts, lengths)


def best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Best-fit decreasing: the sequence (N,) of each item, every sequence holding at most `capacity`.

    Largest first, each item goes to the fullest sequence with enough room. Sequences are indexed by the room that is left,
    and the smallest sufficient room is found in a bit set: constant time per item, whatever its size.
    """
    sequence_of = np.empty(len(sizes), np.int64)
    full = sizes == capacity  # most chunks of long documents: one sequence each, without a search
    count = int(full.sum())
    sequence_of[full] = np.arange(count)
    order = np.argsort(-sizes, kind="stable")[count:]
    sequences_with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r is set where a sequence with r positions left is open
    for item, size in zip(order.tolist(), sizes[order].tolist()):
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            sequence = sequences_with_room[room].pop()
            if not sequences_with_room[room]:
                rooms ^= 1 << room
        else:
            sequence, room = count, capacity
            count += 1
        sequence_of[item] = sequence
        rest = room - size
        if rest:
            sequences_with_room[rest].append(sequence)
            rooms |= 1 << rest
    return sequence_of


def pack(documents: Documents, sequence_length: int) -> PackedSequences:
    """Split the documents and pack the chunks into sequences of `sequence_length` positions, in no particular order."""
    chunks = cut(documents, sequence_length - SPECIALS_PER_CHUNK)
    sequence_of = best_fit(chunks.lengths + SPECIALS_PER_CHUNK, sequence_length)
    order = np.argsort(sequence_of, kind="stable")
    return PackedSequences.of(np.bincount(sequence_of), chunks.starts[order], chunks.lengths[order])


def take_sequences(sequences: PackedSequences, indices: np.ndarray) -> PackedSequences:
    """The sequences at `indices`, in that order."""
    counts = np.diff(sequences.first)[indices]
    chunks = np.repeat(sequences.first[indices], counts) + _ranges(counts)
    return PackedSequences.of(counts, sequences.starts[chunks], sequences.lengths[chunks])


def join_sequences(parts: list[PackedSequences]) -> PackedSequences:
    """The sequences of all parts, one part after the other."""
    columns = zip(*((np.diff(part.first), part.starts, part.lengths) for part in parts))
    return PackedSequences.of(*map(np.concatenate, columns))


def gather(
    values: np.ndarray, sequences: PackedSequences, sequence_length: int, cls_id: int, sep_id: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences as arrays: (input_ids, document_ids), each (R, sequence_length) int64; document_ids numbers the chunks of a
    sequence from 1, 0 is padding."""
    count, chunks = len(sequences), len(sequences.starts)
    chunks_per_sequence = np.diff(sequences.first)
    chunk_ends = np.concatenate(([0], np.cumsum(sequences.lengths + SPECIALS_PER_CHUNK)))
    # The flat positions of all sequences are a chain of segments: for each sequence, its chunks and then its padding.
    chunk = np.arange(chunks) + np.repeat(np.arange(count), chunks_per_sequence)  # index of the segment of a chunk
    padding = sequences.first[1:] + np.arange(count)
    sizes, numbers, starts = (np.zeros(chunks + count, np.int64) for _ in range(3))
    sizes[chunk] = sequences.lengths + SPECIALS_PER_CHUNK
    sizes[padding] = sequence_length - np.diff(chunk_ends[sequences.first])
    numbers[chunk] = _ranges(chunks_per_sequence) + 1
    starts[chunk] = sequences.starts
    begins = np.cumsum(sizes) - sizes
    document_ids = np.repeat(numbers, sizes)
    # The index in `values` of the token of each position. At a [CLS] or [SEP] it is a neighbor of the chunk, overwritten below.
    source = np.repeat(starts - 1 - begins, sizes)
    source += np.arange(count * sequence_length)
    input_ids = values.take(source, mode="clip").astype(np.int64)
    input_ids[document_ids == 0] = pad_id
    input_ids[begins[chunk]] = cls_id
    input_ids[begins[chunk] + sizes[chunk] - 1] = sep_id
    return input_ids.reshape(count, sequence_length), document_ids.reshape(count, sequence_length)


def split_validation(
    documents: Documents, hashes: np.ndarray, share: float, room: int
) -> tuple[Documents, Documents, str]:
    """Split into (training, validation, message) by hash, so that a document stays in its split when the corpus grows.

    If the validation split would have fewer than 20 documents, or the other one none, chunks of `room` tokens take the place
    of documents: the last 2 % by the same hash (or `share`, if that is more) are held out. The message says so, and is empty
    otherwise.
    """
    if share == 0:
        return documents, documents.take(np.arange(0)), ""
    threshold = np.uint64(min(share, 1.0) * float(2**64 - 2**11))
    held_out = random_bits(hashes, Stream.VALIDATION_SPLIT) < threshold
    documents_left_out = int(held_out.sum())
    if 20 <= documents_left_out < len(documents):
        return documents.take(np.flatnonzero(~held_out)), documents.take(np.flatnonzero(held_out)), ""
    chunks = cut(documents, room)
    counts = -(-documents.lengths // room)
    keys = random_bits(np.repeat(hashes, counts), Stream.VALIDATION_SPLIT, _ranges(counts))
    number = max(1, round(max(share, 0.02) * len(chunks)))
    order = np.argsort(keys, kind="stable")
    training, validation = (chunks.take(np.sort(part)) for part in (order[:-number], order[-number:]))
    few = f"{documents_left_out} of {len(documents)} documents would be validation text, too few to measure on"
    return training, validation, f"{few}: {number} of {len(chunks)} chunks of up to {room} tokens are used instead"


@dataclass
class SequenceIndex:
    """Locates sequence n: its epoch, its window and its index there; and packs the sequences of that window.

    The number of sequences of each window follows from lengths, seed and epoch; it is computed once per epoch and, for large
    corpora, cached in `folder`.
    """

    documents: Documents
    sequence_length: int
    window_documents: int
    seed: int
    folder: Path | None = None
    # epoch → number of sequences up to the end of each window
    _ends: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _epoch_starts: list[int] = field(default_factory=lambda: [0], repr=False)
    _orders: dict[int, np.ndarray] = field(default_factory=dict, repr=False)  # of the epoch last asked for
    _windows: dict[tuple[int, int], PackedSequences] = field(default_factory=dict, repr=False)

    def sequences_in_epoch(self, epoch: int) -> int:
        """Number of sequences of an epoch. Epochs differ by a few sequences, because their windows hold different documents."""
        return int(self._window_ends(epoch)[-1])

    def sequences(self, first: int, count: int) -> PackedSequences:
        """Sequences first … first + count − 1 of the run, across windows and epochs."""
        parts = []
        while count > 0:
            epoch, window, place = self.locate(first)
            sequences = self._window(epoch, window)
            taken = min(count, len(sequences) - place)
            parts.append(take_sequences(sequences, np.arange(place, place + taken)))
            first, count = first + taken, count - taken
        return join_sequences(parts)

    def locate(self, sequence: int) -> tuple[int, int, int]:
        """(epoch, window, index in the window) of sequence `sequence` of the run."""
        while self._epoch_starts[-1] <= sequence:
            self._epoch_starts.append(self._epoch_starts[-1] + self.sequences_in_epoch(len(self._epoch_starts) - 1))
        epoch = int(np.searchsorted(self._epoch_starts, sequence, side="right")) - 1
        place = sequence - self._epoch_starts[epoch]
        ends = self._window_ends(epoch)
        window = int(np.searchsorted(ends, place, side="right"))
        return epoch, window, place - (int(ends[window - 1]) if window else 0)

    def _window(self, epoch: int, window: int) -> PackedSequences:
        if (epoch, window) not in self._windows:
            if len(self._windows) > 1:  # a batch touches one window or two
                self._windows.pop(next(iter(self._windows)))
            sequences = self._pack_window(self._order(epoch), window)
            if len(sequences) != np.diff(self._window_ends(epoch), prepend=0)[window]:
                raise InputError(f"{self.folder}: its sequences-*.npy do not belong to this text: remove them")
            shuffled = permutation(len(sequences), self.seed, Stream.SEQUENCE_ORDER, epoch, window)
            self._windows[epoch, window] = take_sequences(sequences, shuffled)
        return self._windows[epoch, window]

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = permutation(len(self.documents), self.seed, Stream.DOCUMENT_ORDER, epoch)
        return self._orders[epoch]

    def _pack_window(self, order: np.ndarray, window: int) -> PackedSequences:
        members = order[window * self.window_documents : (window + 1) * self.window_documents]
        return pack(self.documents.take(members), self.sequence_length)

    def _window_ends(self, epoch: int) -> np.ndarray:
        if epoch not in self._ends:
            if len(self._ends) > 2:  # a batch touches two epochs at most, unless they are tiny
                self._ends.pop(next(iter(self._ends)))
            large = self.folder is not None and len(self.documents) >= WORTH_A_FILE
            file = self.folder / f"sequences-{self._key():016x}-{epoch}.npy" if self.folder and large else None
            windows = -(-len(self.documents) // self.window_documents)
            if (kept := _read(file, windows)) is not None:
                self._ends[epoch] = kept
            else:
                order = self._order(epoch)
                self._ends[epoch] = np.cumsum([len(self._pack_window(order, window)) for window in range(windows)])
                if file:
                    _write(file, self._ends[epoch])
        return self._ends[epoch]

    def _key(self) -> int:
        """All that the number of sequences depends on, as one number."""
        bits = random_bits(self.documents.lengths, np.arange(len(self.documents)))
        lengths = np.bitwise_xor.reduce(bits, initial=np.uint64(0))
        shape = self.sequence_length, self.window_documents, self.seed, len(self.documents)
        return int(random_bits(_ALGORITHM, *shape, lengths)[0])


def _ranges(counts: np.ndarray) -> np.ndarray:
    """0 … n − 1 for each n of counts, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _read(file: Path | None, windows: int) -> np.ndarray | None:
    """The cached sequence counts, which increase from window to window; None if there are none, or they cannot be read."""
    if file is None:
        return None
    try:
        ends = np.lib.format.open_memmap(file, mode="r")  # allocates no memory and unpickles nothing
    except Exception:  # NumPy raises many types for a damaged header
        return None
    if ends.dtype != np.int64 or ends.shape != (windows,) or not (np.diff(ends, prepend=0) > 0).all():
        return None
    return np.array(ends)


def _write(file: Path, array: np.ndarray) -> None:
    """Write an array atomically; several processes may do so at once. A cache: errors are ignored."""
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as stream:  # with the rights of the umask: others use the store too
            np.save(stream, array)
        partial.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
