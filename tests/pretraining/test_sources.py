"""Mixtures: each source has its share of the sequences and counts its own, whoever asks in whatever order."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.data.packing import Documents, SequenceIndex
from bert.data.store import TokenStore
from bert.pretraining.stream import Mixture, Source

from .synthetic import IDS

LENGTH = 16
STARTS = (100, 1000, 3000)  # token ids say which source a token is of


def make_source(number, documents):
    lengths = np.arange(documents) % 23 + 1
    values = STARTS[number] + np.arange(lengths.sum())
    store = TokenStore.from_arrays(values.astype(np.uint16), np.concatenate(([0], np.cumsum(lengths))))
    return Source(store, SequenceIndex(Documents(store.starts, store.lengths), LENGTH, 8, seed=3))


def make_mixture(weights=(2.0, 1.0, 0.5), seed=7):
    return Mixture([make_source(0, 40), make_source(1, 30), make_source(2, 10)], weights, seed)


def source_of(ids):
    """Which source each sequence (R, T) is of, by its tokens."""
    return np.searchsorted(STARTS, ids.max(axis=1), side="right") - 1


@pytest.mark.parametrize("weights", [(2.0, 1.0, 0.5), (0.9, 0.05, 0.05), (1e-3, 1e3, 1.0)])
def test_every_source_has_its_share(weights):
    """Within five standard deviations of a binomial, over 200,000 sequences."""
    count = 200_000
    mixture = make_mixture(weights)
    for number, weight in enumerate(weights):
        share = weight / sum(weights)
        bound = 5 * math.sqrt(count * share * (1 - share)) + 1
        assert abs(int((mixture.owners(0, count) == number).sum()) - share * count) < bound


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 150_000), st.integers(1, 300))
def test_sequences_before_a_sequence_are_counted_as_one_by_one(sequence, count):
    mixture = make_mixture()
    everything = make_mixture().owners(0, sequence + count)
    assert np.array_equal(mixture.owners(sequence, count), everything[sequence:])
    assert np.array_equal(mixture.counts_before(sequence), np.bincount(everything[:sequence], minlength=3))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 40)), min_size=2, max_size=5))
def test_a_sequence_is_the_same_whatever_was_asked_before(spans):
    mixture, ids = make_mixture(), make_mixture().read(0, 440, IDS)[0]
    for first, count in spans:
        assert np.array_equal(mixture.read(first, count, IDS)[0], ids[first : first + count])


def test_sequences_are_those_that_each_source_gives_alone_in_its_own_order():
    mixture = make_mixture()
    input_ids, document_ids = mixture.read(0, 300, IDS)
    owners = source_of(input_ids)
    assert np.array_equal(owners, mixture.owners(0, 300))
    for number, source in enumerate(mixture.sources):
        mine = owners == number
        alone = source.read(0, int(mine.sum()), IDS)
        assert np.array_equal(input_ids[mine], alone[0])
        assert np.array_equal(document_ids[mine], alone[1])


def test_sequences_of_each_source_come_once_in_its_epoch():
    mixture = make_mixture()
    input_ids, _ = mixture.read(0, 400, IDS)
    owners = source_of(input_ids)
    for number, source in enumerate(mixture.sources):
        epoch = input_ids[owners == number][: source.sequences_in_epoch]
        assert len(epoch) == source.sequences_in_epoch
        assert sorted(epoch[epoch >= STARTS[0]]) == list(STARTS[number] + np.arange(source.tokens))


def test_seed_and_sequence_length_decide_who_gives_a_sequence():
    owners = make_mixture().owners(0, 1000)
    assert (owners != make_mixture(seed=8).owners(0, 1000)).any()
    longer = make_mixture()
    for source in longer.sources:
        source.index.sequence_length = 24
    assert (owners != longer.owners(0, 1000)).any()


def test_a_mixture_says_where_a_sequence_lies():
    mixture = make_mixture()
    sequence = int(np.flatnonzero(mixture.owners(0, 100) == 1)[2])  # the third of the second source
    assert mixture.source_of(sequence) == 1
    assert mixture.locate(sequence) == mixture.sources[1].locate(2)
    assert mixture.sequences_in_epoch == sum(source.sequences_in_epoch for source in mixture.sources)
