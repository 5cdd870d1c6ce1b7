"""Batches: every example once an epoch, whatever the ranks; what is padded changes nothing that is asked."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from bert.finetuning.batches import Batches, BatchLoader, Item, collate, count_labels
from bert.finetuning.windows import Window

PAD = 0


def text(length, label, windows=1):
    return Item([Window([2, *range(5, 3 + length), 3]) for _ in range(windows)], (label,))


ITEMS = [text(3 + number * 7 % 40, number % 3, 1 + (number % 5 == 0)) for number in range(101)]


def make(items=ITEMS, size=8, seed=0, **kwargs):
    return Batches(items, size, PAD, seed, **kwargs)


def test_an_epoch_has_every_example_once_and_its_order_follows_from_seed_and_epoch():
    batches = make()
    assert batches.in_epoch == 13
    epochs = [[batches.numbers(epoch * 13 + step).tolist() for step in range(13)] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(number for batch in epoch for number in batch) == list(range(101))
        assert {len(batch) for batch in epoch} == {7, 8}
    assert epochs[0] != epochs[1]
    assert epochs[1] == [make().numbers(13 + step).tolist() for step in range(13)]
    assert epochs[0] != [make(seed=1).numbers(step).tolist() for step in range(13)]


def test_rows_of_a_batch_are_of_like_length():
    def padding(batches):
        rows = [batches.batch(step).micro_batches[0] for step in range(batches.in_epoch)]
        return 1 - sum(int(b["attention_mask"].sum()) for b in rows) / sum(b["input_ids"].numel() for b in rows)

    items = [text(3 + int(n), 0) for n in np.random.default_rng(0).integers(1, 60, 1000)]
    assert padding(make(items)) < 0.1
    assert padding(make(items, shuffled=False)) < 0.05


@pytest.mark.parametrize(("total", "size"), [(100, 32), (101, 8), (1000, 32), (5, 8), (64, 1)])
def test_batches_of_an_epoch_have_equal_sizes_and_examples_meet_others_in_the_next(total, size):
    batches = make([text(3 + number, 0) for number in range(total)], size)
    steps = range(3 * batches.in_epoch)
    sizes = [len(batches.numbers(step)) for step in steps]
    assert batches.in_epoch == -(-total // size)
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    if 1 < size < total:
        pairs = [{(a, b) for a in batches.numbers(step) for b in batches.numbers(step) if a < b} for step in steps]
        epochs = [set().union(*pairs[begin : begin + batches.in_epoch]) for begin in steps[:: batches.in_epoch]]
        again = np.mean([len(one & other) / len(other) for one, other in pairwise(epochs)])
        assert again < 0.4  # sorted as a whole, all pairs would meet again


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_ranks_share_a_batch_and_agree_on_its_targets(ranks):
    batches = make()
    for step in range(batches.in_epoch):
        whole = batches.batch(step)
        shares = [batches.batch(step, rank, ranks) for rank in range(ranks)]
        asked = [label for share in shares for label in share.micro_batches[0]["labels"].tolist()]
        assert sorted(asked) == sorted(whole.micro_batches[0]["labels"].tolist())
        for share in shares:
            assert share.counts == whole.counts == {"loss": len(asked)}
            assert share.tokens == whole.tokens == int(whole.micro_batches[0]["attention_mask"].sum())


def test_the_windows_of_an_example_stand_together():
    batch = collate([text(5, 1, windows=3), text(9, 2)], PAD)
    assert batch["example_ids"].tolist() == [0, 0, 0, 1]
    assert batch["labels"].tolist() == [1, 2]
    assert batch["input_ids"].shape == (4, 9)
    assert batch["attention_mask"].sum(1).tolist() == [5, 5, 5, 9]
    assert batch["token_type_ids"] is None


def test_tags_come_in_the_order_of_the_words_beside_the_places_that_decide_them():
    windows = [Window([2, 5, 6, 7, 3], None, (0, 2), (1, 3)), Window([2, 6, 7, 8, 3], None, (1, 3), (1, 3))]
    items = [Item(windows, (4, 1, 3, 2)), Item([Window([2, 9, 3], None, (0,), (1,))], (7,))]
    batch = collate(items, PAD)
    assert batch["labels"].tolist() == [4, 1, 3, 2, 7]
    assert batch["sizes"] == [4, 1]
    assert count_labels(items) == {"loss": 5}
    assert batch["word_positions"].tolist() == [1, 5 + 1, 3, 5 + 3, 10 + 1]  # rows of 5 places
    assert batch["input_ids"].flatten()[batch["word_positions"]].tolist() == [5, 6, 7, 8, 9]


def test_labels_may_be_numbers_and_several_of_a_text():
    windows = [Window([2, 5, 3])]
    items = [[Item(windows, (0.5,)), Item(windows, (-2.0,))], [Item(windows, (1, 0, 1)), Item(windows, (0, 0, 0))]]
    numbers, several = (collate(some, PAD) for some in items)
    assert numbers["labels"].tolist() == [0.5, -2.0]
    assert several["labels"].tolist() == [1, 0, 1, 0, 0, 0]
    assert numbers["sizes"] == several["sizes"] == [1, 1]
    assert [*map(count_labels, items)] == [{"loss": 2}, {"loss": 6}]


def test_a_dev_set_is_gone_through_once():
    batches = make(shuffled=False)
    started = []
    loader = BatchLoader(batches, steps=batches.in_epoch, on_first_request=lambda: started.append(True))
    rows = list(loader)
    assert len(rows) == 13
    assert started == [True]
    assert torch.cat([row.micro_batches[0]["labels"] for row in rows]).bincount().tolist() == [34, 34, 33]
