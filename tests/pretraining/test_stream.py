"""The stream: a batch is a function of its number, whoever asks, in whatever order, for whatever share of it."""

from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.errors import InputError
from bert.pretraining.config import MaskingConfig
from bert.pretraining.masking import IGNORED
from bert.pretraining.phases import divide
from bert.pretraining.stream import StepLoader, count_masked

from .synthetic import LENGTH, SEQUENCES, VALUES, make_stream


def whole_batch(step, stream=None):
    return (stream or make_stream()).micro_batch(step)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.sampled_from([(1, 12), (1, 4), (2, 6), (2, 3), (3, 2), (4, 3), (12, 1)]), st.booleans())
def test_every_split_of_a_batch_sees_the_same_sequences_and_masks(step, split, whole_words):
    ranks, micro_sequences = split
    whole = whole_batch(step, make_stream(whole_words=whole_words))
    dealt = make_stream(whole_words=whole_words, micro_batch_size=micro_sequences, ranks=ranks)
    accumulation = dealt.plan.at(step).accumulation
    parts = [dealt.micro_batch(step, micro, rank) for micro in range(accumulation) for rank in range(ranks)]
    for name in ("input_ids", "document_ids"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])
    assert torch.equal(torch.cat([part["labels"] for part in parts]), whole["labels"])
    assert dealt.batch(step).masked_tokens == int((whole["labels"] != IGNORED).sum())
    assert dealt.batch(step).tokens == int((whole["document_ids"] > 0).sum())
    for part in parts:
        assert part["documents"] == sum(len(list(groupby(sequence))) for sequence in part["document_ids"].tolist())


def test_order_of_asking_does_not_matter():
    one, other = make_stream(), make_stream()
    forward = [whole_batch(step, one) for step in range(12)]
    backward = [whole_batch(step, other) for step in reversed(range(12))][::-1]
    for a, b in zip(forward, backward):
        assert all(torch.equal(a[name], b[name]) for name in ("input_ids", "masked_positions", "labels"))


def test_masked_positions_are_indices_into_each_sequence_and_labels_their_originals():
    stream = make_stream(micro_batch_size=4)
    batch = stream.micro_batch(3, micro=1)
    positions, labels = batch["masked_positions"], batch["labels"]
    assert positions.shape == labels.shape == (4, round(MaskingConfig().rate * LENGTH))
    used = labels != IGNORED
    originals = torch.from_numpy(stream.batch(3).input_ids[4:8]).gather(1, positions)
    assert torch.equal(originals[used], labels[used])
    assert (positions[~used] == 0).all()
    assert all(len(set(each[asked].tolist())) == int(asked.sum()) for each, asked in zip(positions, used))


@pytest.mark.parametrize("positions", [LENGTH, 5 * LENGTH + 1, 10**9])
def test_tokens_are_counted_as_they_come_in_the_first_sequences_or_in_an_epoch(positions):
    stream = make_stream()
    sequences = min(-(-positions // LENGTH), stream.sequences_at(0).sequences_in_epoch)
    ids = np.concatenate([stream.batch(step).input_ids for step in range(-(-sequences // SEQUENCES))])[:sequences]
    counts = stream.token_counts(positions)
    assert counts.tolist() == [
        int((ids == number).sum()) if maskable else 0 for number, maskable in enumerate(stream.vocabulary.maskable)
    ]
    assert counts.sum() > 0


def test_sequences_of_an_epoch_come_once_each():
    stream = make_stream()
    sequences = stream.sequences_at(0).sequences_in_epoch
    tokens = []
    for step in range(-(-sequences // SEQUENCES)):
        input_ids = stream.batch(step).input_ids
        tokens.append(input_ids[: sequences - step * SEQUENCES])
    tokens = np.concatenate(tokens)
    assert sorted(tokens[tokens >= 5]) == sorted(VALUES)


def test_seed_changes_sequences_and_masks():
    assert not torch.equal(whole_batch(0)["input_ids"], whole_batch(0, make_stream(seed=1))["input_ids"])


def test_sequences_behind_the_last_are_padding_without_targets():
    stream = make_stream(last_sequence=15)
    batch = stream.micro_batch(1)
    assert (batch["document_ids"][3:] == 0).all()
    assert (batch["labels"][3:] == IGNORED).all()
    assert (batch["document_ids"][:3] > 0).any()
    assert stream.batch(2).masked_tokens == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_a_rank_its_micro_batches_from_any_step_on(workers):
    stream = make_stream(micro_batch_size=3, ranks=2)
    got = list(StepLoader(stream, rank=1, first_step=lambda: 5, steps=7, workers=workers))
    assert len(got) == 2
    for step, batch in enumerate(got, start=5):
        assert len(batch.micro_batches) == 2
        for micro, part in enumerate(batch.micro_batches):
            assert torch.equal(part["input_ids"], stream.micro_batch(step, micro, rank=1)["input_ids"])
        assert batch.counts == count_masked(make_stream().batch(step))
        assert batch.tokens == make_stream().batch(step).tokens


def test_the_first_request_is_announced_once_before_the_first_batch():
    events = []
    loader = StepLoader(make_stream(), steps=2, on_first_request=lambda: events.append("start"))
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
        divide(sequences, micro, ranks)
    assert str(error.value) == message
