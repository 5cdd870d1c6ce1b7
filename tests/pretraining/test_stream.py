"""The stream: a batch is a function of its number, whoever asks, in whatever order, for whatever share of it."""

from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.errors import InputError
from bert.pretraining.config import MaskingConfig
from bert.pretraining.masking import NO_TARGET
from bert.pretraining.stream import Split, StepLoader, split_batch

from .synthetic import LENGTH, SEQUENCES, VALUES, make_stream


def whole_batch(step, stream=None):
    return (stream or make_stream()).micro_batch(step, Split(SEQUENCES, SEQUENCES))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.sampled_from([(1, 12), (1, 4), (2, 6), (2, 3), (3, 2), (4, 3), (12, 1)]), st.booleans())
def test_every_split_of_a_batch_sees_the_same_sequences_and_masks(step, split, whole_words):
    ranks, micro_sequences = split
    dealt = split_batch(SEQUENCES, micro_sequences, ranks)
    whole = whole_batch(step, make_stream(whole_words=whole_words))
    parts = [
        make_stream(whole_words=whole_words).micro_batch(step, dealt, rank, micro)
        for micro in range(dealt.accumulation)
        for rank in range(ranks)
    ]
    for name in ("input_ids", "document_ids"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])
    assert torch.equal(torch.cat([part["labels"] for part in parts]), whole["labels"])
    assert {part["global_targets"] for part in parts} == {int((whole["labels"] != NO_TARGET).sum())}
    assert {part["global_tokens"] for part in parts} == {int((whole["document_ids"] > 0).sum())}
    for part in parts:
        assert part["documents"] == sum(len(list(groupby(sequence))) for sequence in part["document_ids"].tolist())


def test_order_of_asking_does_not_matter():
    one, other = make_stream(), make_stream()
    forward = [whole_batch(step, one) for step in range(12)]
    backward = [whole_batch(step, other) for step in reversed(range(12))][::-1]
    for a, b in zip(forward, backward):
        assert all(torch.equal(a[name], b[name]) for name in ("input_ids", "targets", "labels"))


def test_targets_are_flat_positions_of_the_micro_batch_and_labels_their_originals():
    stream = make_stream()
    clean, _, _, _ = stream.batch(3)
    batch = stream.micro_batch(3, Split(SEQUENCES, 4), micro=1)
    used = batch["labels"] != NO_TARGET
    originals = torch.from_numpy(clean[4:8]).flatten()
    assert torch.equal(originals[batch["targets"][used]], batch["labels"][used])
    assert (batch["targets"][~used] == 0).all()
    slots = round(MaskingConfig().rate * LENGTH)
    sequence_of_slot = torch.arange(4).repeat_interleave(slots)
    assert torch.equal(batch["targets"][used] // LENGTH, sequence_of_slot[used])


@pytest.mark.parametrize("positions", [LENGTH, 5 * LENGTH + 1, 10**9])
def test_tokens_are_counted_as_they_come_in_the_first_sequences_or_in_an_epoch(positions):
    stream = make_stream()
    sequences = min(-(-positions // LENGTH), stream.sequences.sequences_in_epoch)
    ids = np.concatenate([stream.batch(step)[0] for step in range(-(-sequences // SEQUENCES))])[:sequences]
    counts = stream.token_counts(positions)
    assert counts.tolist() == [
        int((ids == number).sum()) if maskable else 0 for number, maskable in enumerate(stream.vocabulary.maskable)
    ]
    assert counts.sum() > 0


def test_sequences_of_an_epoch_come_once_each():
    stream = make_stream()
    sequences = stream.sequences.sequences_in_epoch
    tokens = []
    for step in range(-(-sequences // SEQUENCES)):
        input_ids, _, _, _ = stream.batch(step)
        tokens.append(input_ids[: sequences - step * SEQUENCES])
    tokens = np.concatenate(tokens)
    assert sorted(tokens[tokens >= 5]) == sorted(VALUES)


def test_seed_changes_sequences_and_masks():
    assert not torch.equal(whole_batch(0)["input_ids"], whole_batch(0, make_stream(seed=1))["input_ids"])


def test_sequences_behind_the_last_are_padding_without_targets():
    stream = make_stream(last_sequence=15)
    batch = stream.micro_batch(1, Split(SEQUENCES, SEQUENCES))
    assert (batch["document_ids"][3:] == 0).all()
    assert (batch["labels"].view(SEQUENCES, -1)[3:] == NO_TARGET).all()
    assert (batch["document_ids"][:3] > 0).any()
    assert stream.micro_batch(2, Split(SEQUENCES, SEQUENCES))["global_targets"] == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_a_rank_its_micro_batches_from_any_step_on(workers):
    split = Split(SEQUENCES, 3, ranks=2)
    loader = StepLoader(make_stream(), split, rank=1, first_step=lambda: 5, steps=7, workers=workers)
    got = list(loader)
    assert len(got) == 4  # two steps of two micro-batches
    for number, batch in enumerate(got):
        step, micro = divmod(5 * 2 + number, 2)
        expected = make_stream().micro_batch(step, split, 1, micro)
        assert torch.equal(batch["input_ids"], expected["input_ids"])
        assert batch["global_targets"] == expected["global_targets"]


def test_the_first_request_is_announced_once_before_the_first_batch():
    events = []
    loader = StepLoader(
        make_stream(), Split(SEQUENCES, SEQUENCES), steps=2, on_first_request=lambda: events.append("start")
    )
    for _ in loader:
        events.append("batch")
    assert events == ["start", "batch", "batch"]
    assert loader.waited > 0


@pytest.mark.parametrize(
    ("sequences", "micro", "ranks", "message"),
    [
        (32, None, 3, "data.batch_size 32 does not divide over 3 devices: give a multiple of 3"),
        (
            32,
            5,
            2,
            "data.batch_size 32 over 2 devices is 16 sequences each, which data.micro_batch_size 5 does not divide: give a divisor of 16",
        ),
        (
            32,
            64,
            1,
            "data.batch_size 32 over 1 device is 32 sequences each, which data.micro_batch_size 64 does not divide: give a divisor of 32",
        ),
    ],
)
def test_batches_that_do_not_divide_are_refused(sequences, micro, ranks, message):
    with pytest.raises(InputError) as error:
        split_batch(sequences, micro, ranks)
    assert str(error.value) == message
