"""Examples → batches: the examples of a step, distributed over ranks and padded to their longest sequence.

The order is a function of (seed, epoch). An epoch is shuffled and cut into large parts, and each part is sorted by length, so that the
sequences of a batch have similar lengths and need little padding. A part is at most a quarter of an epoch: if all of it were sorted, the
same examples would meet in a batch in every epoch. The batches of an epoch have equal sizes, to within one example.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, groupby
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from bert.data.rng import Stream, permutation, random_bits
from bert.finetuning.windows import Window
from bert.inference.batching import Encoded, padded_batch
from bert.training.step import StepBatch

_BATCHES_IN_A_PART, _PARTS = 32, 4  # the most, and the fewest in an epoch
_TOKENS_AT_ONCE = 4096  # of a micro-batch; or as many sequences as the step has examples


@dataclass(frozen=True, slots=True)
class Item:
    """An example as the model sees it."""

    windows: list[Window]
    labels: tuple[float, ...]
    """its labels as numbers (`Task.numbers`)"""


class TaskBatch(TypedDict):
    """The E examples of a rank in one step, in R sequences of T tokens."""

    input_ids: Tensor
    """(R, T)"""
    attention_mask: Tensor
    """(R, T): 0 at padding"""
    token_type_ids: Tensor | None
    """(R, T)"""
    example_ids: Tensor
    """(R,): the example of each sequence, 0 to E − 1, ascending"""
    word_positions: Tensor
    """(W,): positions in the flattened (R · T,) at which the words of the examples, in order, are labeled; empty for texts"""
    sizes: list[int]
    """the number of labeled units of each example: its words, or 1 for a text"""
    labels: Tensor
    """(L,): the labels of the examples, concatenated; empty for a rank without examples"""
    at_once: int
    """the number of sequences that go through the model at once, up to twice as many if it saves computing"""


def count_labels(items: Sequence[Item]) -> dict[str, int]:
    """The denominator of a single loss term: the number of labels."""
    return {"loss": sum(len(item.labels) for item in items)}


def collate(items: Sequence[Item], pad_id: int, at_once: int | None = None) -> TaskBatch:
    """The windows of `items` as sequences of one length."""
    rows = [(number, window) for number, item in enumerate(items) for window in item.windows]
    inputs = [Encoded(window.ids, window.token_types) for _, window in rows]
    batch = padded_batch(inputs, [*range(len(rows))], pad_id, torch.device("cpu"))
    width = batch.input_ids.shape[1]
    words: list[tuple[int, int, int]] = []  # example, word, position at which it is labeled
    for row, (number, window) in enumerate(rows):
        words += [(number, word, row * width + start) for word, start in zip(window.words, window.starts)]
    return TaskBatch(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        token_type_ids=batch.token_type_ids,
        example_ids=torch.tensor([number for number, _ in rows]),
        word_positions=torch.tensor([position for _, _, position in sorted(words)], dtype=torch.long),
        sizes=[sum(len(window.words) for window in item.windows) or 1 for item in items],
        labels=torch.tensor([label for item in items for label in item.labels]),
        at_once=at_once or len(rows),
    )


@dataclass(eq=False)
class Batches:
    """The endless batches of a training set (`shuffled`), or those of a dev set, once."""

    items: Sequence[Item]
    batch_size: int
    pad_id: int
    seed: int = 0
    shuffled: bool = True
    counts: Callable[[Sequence[Item]], dict[str, int]] = count_labels
    """the examples of a global batch → the denominator of each loss term, by name (`Task.counts`)"""
    collate: Callable[[Sequence[Item], int, int], TaskBatch] = collate
    """examples, padding id and `at_once` → a micro-batch (`Task.collate`)"""

    def __post_init__(self) -> None:
        self.in_epoch = -(-len(self.items) // self.batch_size)
        self._lengths = np.array([max(len(window.ids) for window in item.windows) for item in self.items])
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def numbers(self, step: int) -> np.ndarray:
        """The numbers of the examples of a step, over all ranks."""
        epoch, index = divmod(step, self.in_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._order(epoch)
        return self._epoch[1][index]

    def _order(self, epoch: int) -> list[np.ndarray]:
        total, size = len(self.items), self.batch_size
        if not self.shuffled:
            order = np.argsort(self._lengths, kind="stable")
            return [order[begin : begin + size] for begin in range(0, total, size)]
        order = permutation(total, self.seed, Stream.EXAMPLE_ORDER, epoch)
        ends = np.arange(self.in_epoch + 1) * total // self.in_epoch  # of the batches
        together = max(1, min(_BATCHES_IN_A_PART, self.in_epoch // _PARTS))
        batches: list[np.ndarray] = []
        for first in range(0, self.in_epoch, together):
            begin, *cuts, end = ends[first : first + together + 1]
            part = order[begin:end]
            # Ties of length are broken at random, so that texts of many windows do not all end up in one batch.
            part = part[np.lexsort((random_bits(self.seed, Stream.LENGTH_TIES, epoch, part), self._lengths[part]))]
            batches += np.split(part, np.array(cuts, int) - begin)
        return [batches[number] for number in permutation(len(batches), self.seed, Stream.BATCH_ORDER, epoch)]

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> StepBatch:
        """The batch of rank `rank` of `ranks` in a step. A rank without examples processes a dummy example without labels."""
        everything = [self.items[number] for number in self.numbers(step)]
        mine = everything[rank::ranks]
        longest = max(len(window.ids) for item in everything for window in item.windows)
        at_once = max(len(mine), _TOKENS_AT_ONCE // longest)
        ends = accumulate(len(item.windows) for item in mine or everything[:1])
        parts = groupby(zip(ends, mine or everything), lambda one: (one[0] - 1) // at_once)
        batches = [self.collate([item for _, item in part], self.pad_id, at_once) for _, part in parts]
        if not mine:
            batches[0]["labels"] = batches[0]["labels"][:0]
        tokens = sum(len(window.ids) for item in everything for window in item.windows)
        return StepBatch(batches, self.counts(everything), tokens)


@dataclass(frozen=True)
class BatchLoader:
    """The batches of one rank from step `first_step()` to `steps`, or without end. `on_first_request` is called before the first."""

    batches: Batches
    rank: int = 0
    ranks: int = 1
    steps: int | None = None
    first_step: Callable[[], int] = lambda: 0
    on_first_request: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[StepBatch]:
        self.on_first_request()
        first = self.first_step()
        for step in count(first) if self.steps is None else range(first, self.steps):
            yield self.batches.batch(step, self.rank, self.ranks)
