"""Examples → batches: which examples a step has, dealt out over ranks, padded to their longest row.

The order is a function of (seed, epoch). An epoch is shuffled, cut into large parts, and each part is sorted by length, so
that a batch holds rows of about one length and little is padded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from bert.data.rng import Stream, permutation, random_bits
from bert.finetuning.windows import Window
from bert.model.heads import IGNORED
from bert.training.step import StepBatch

_BATCHES_IN_A_PART = 32


@dataclass(frozen=True, slots=True)
class Item:
    """An example as the model reads it."""

    windows: list[Window]
    labels: tuple[int, ...]
    """classify: its class; tag: the class of each word"""


class TaskBatch(TypedDict):
    """One step's examples of a rank: E of them in R rows of T places."""

    input_ids: Tensor
    """(R, T)"""
    attention_mask: Tensor
    """(R, T): 0 where there is padding"""
    token_type_ids: Tensor | None
    """(R, T)"""
    example_ids: Tensor
    """(R,): the example of each row, 0 to E − 1, ascending"""
    word_ids: Tensor | None
    """(R, T), tagging: the number of the word that is decided at a place, -1 where none is"""
    labels: Tensor
    """(E,) or, tagging, (R, T); -100 where nothing is asked"""
    global_targets: int
    """labels of the step over all ranks"""
    global_tokens: int
    """tokens of the step over all ranks, padding not counted"""


class Batches:
    """The batches of a training set without end (`shuffled`), or those of a dev set, once."""

    def __init__(
        self, items: Sequence[Item], batch_size: int, tagging: bool, pad_id: int, seed: int = 0, shuffled: bool = True
    ) -> None:
        self.items, self.batch_size, self.tagging, self.pad_id = items, batch_size, tagging, pad_id
        self.seed, self.shuffled = seed, shuffled
        self.in_epoch = -(-len(items) // batch_size)
        self._lengths = np.array([max(len(window.ids) for window in item.windows) for item in items])
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def numbers(self, step: int) -> np.ndarray:
        """The examples of step `step`, over all ranks."""
        epoch, place = divmod(step, self.in_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._order(epoch)
        return self._epoch[1][place]

    def _order(self, epoch: int) -> list[np.ndarray]:
        count, size = len(self.items), self.batch_size
        if not self.shuffled:
            order = np.argsort(self._lengths, kind="stable")
            return [order[begin : begin + size] for begin in range(0, count, size)]
        order = permutation(count, self.seed, Stream.EXAMPLE_ORDER, epoch)
        batches: list[np.ndarray] = []
        for begin in range(0, count, size * _BATCHES_IN_A_PART):
            part = order[begin : begin + size * _BATCHES_IN_A_PART]
            # Among rows of one length chance decides, so that the texts of many windows do not all meet in one batch.
            part = part[np.lexsort((random_bits(self.seed, Stream.LENGTH_TIES, epoch, part), self._lengths[part]))]
            batches += [part[at : at + size] for at in range(0, len(part), size)]
        return [batches[number] for number in permutation(len(batches), self.seed, Stream.BATCH_ORDER, epoch)]

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> TaskBatch:
        """What rank `rank` of `ranks` has of step `step`. One that gets no example reads one without asking anything."""
        numbers = self.numbers(step)
        mine = numbers[rank::ranks]
        everything = [self.items[number] for number in numbers]
        batch = collate([self.items[n] for n in mine] or everything[:1], self.tagging, self.pad_id)
        if not len(mine):
            batch["labels"].fill_(IGNORED)
            if batch["word_ids"] is not None:
                batch["word_ids"].fill_(-1)
        batch["global_targets"] = sum(len(item.labels) for item in everything)
        batch["global_tokens"] = sum(len(window.ids) for item in everything for window in item.windows)
        return batch


def collate(items: Sequence[Item], tagging: bool, pad_id: int) -> TaskBatch:
    """The windows of `items` as rows of one length."""
    rows = [(number, item, window) for number, item in enumerate(items) for window in item.windows]
    shape = len(rows), max(len(window.ids) for _, _, window in rows)
    input_ids = torch.full(shape, pad_id)
    mask, types = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    word_ids, labels = torch.full(shape, -1), torch.full(shape, IGNORED)
    for row, (_, item, window) in enumerate(rows):
        length = len(window.ids)
        input_ids[row, :length] = torch.tensor(window.ids)
        mask[row, :length] = 1
        if window.token_types is not None:
            types[row, :length] = torch.tensor(window.token_types)
        if window.words:
            places = torch.tensor(window.places)
            word_ids[row, places] = torch.tensor(window.words)
            labels[row, places] = torch.tensor([item.labels[word] for word in window.words])
    return TaskBatch(
        input_ids=input_ids,
        attention_mask=mask,
        token_type_ids=types if any(window.token_types is not None for _, _, window in rows) else None,
        example_ids=torch.tensor([number for number, _, _ in rows]),
        word_ids=word_ids if tagging else None,
        labels=labels if tagging else torch.tensor([item.labels[0] for item in items]),
        global_targets=sum(len(item.labels) for item in items),
        global_tokens=sum(len(window.ids) for _, _, window in rows),
    )


class BatchLoader:
    """The batches of one rank from step 0 to `steps`, or for ever. `on_first_request` is called before the first."""

    def __init__(
        self,
        batches: Batches,
        rank: int = 0,
        ranks: int = 1,
        steps: int | None = None,
        on_first_request: Callable[[], None] = lambda: None,
    ) -> None:
        self.batches, self.rank, self.ranks, self.steps = batches, rank, ranks, steps
        self.on_first_request = on_first_request

    def __iter__(self) -> Iterator[StepBatch]:
        self.on_first_request()
        step = 0
        while self.steps is None or step < self.steps:
            batch = self.batches.batch(step, self.rank, self.ranks)
            yield StepBatch([batch], {"loss": batch["global_targets"]}, batch["global_tokens"])
            step += 1


def in_order(batch: TaskBatch, values: Tensor) -> list[list[int]]:
    """Tagging: what `values` (R, T) holds at the words of each example, in the order of the words."""
    assert batch["word_ids"] is not None
    rows, places = (batch["word_ids"] >= 0).nonzero(as_tuple=True)
    examples = batch["example_ids"][rows].tolist()
    words = batch["word_ids"][rows, places].tolist()
    count = int(batch["example_ids"][-1]) + 1
    found: list[list[int]] = [[] for _ in range(count)]
    for example, _, value in sorted(zip(examples, words, values[rows, places].tolist())):
        found[example].append(value)
    return found
