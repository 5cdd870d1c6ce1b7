"""Masking: exact numbers of targets, never a special token, the shares that were asked for, whole words whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.data.rng import random_bits
from bert.pretraining.config import MaskingConfig
from bert.pretraining.masking import IGNORED, Vocabulary, mask_sequences, masked_counts, most_masked

SPECIALS = 5  # [PAD] [UNK] [CLS] [SEP] [MASK]
MASK = 4
SIZE = 1000
WORD_STARTS = np.arange(SIZE) % 3 != 0  # every third piece continues a word
REPLACEMENTS = np.arange(SPECIALS, 900)  # the rest stands for unused entries
VOCABULARY = Vocabulary(MASK, np.arange(SIZE) >= SPECIALS, REPLACEMENTS, WORD_STARTS)


def sequences_of(sequence_count, length, seed=0):
    """[CLS] tokens [SEP] tokens [SEP] padding, some [UNK] among them."""
    ids = (random_bits(seed, np.arange(sequence_count)[:, None], np.arange(length)) % np.uint64(900 - SPECIALS)).astype(
        np.int64
    ) + SPECIALS
    ids[:, 0], ids[:, length // 2], ids[:, -4] = 2, 3, 3
    ids[:, -3:] = 0
    ids[::3, 2] = 1
    return ids


def masked(ids, **settings_):
    seed = settings_.pop("seed", 0)
    numbers = settings_.pop("numbers", np.arange(len(ids)))
    return mask_sequences(ids, numbers, seed, MaskingConfig(**settings_), VOCABULARY)


def test_worked_example_of_the_docstring():
    sequence = np.array([[2, 10, 11, 12, 13, 14, 15, 16, 17, 3]])
    result = masked(sequence, rate=0.25)
    assert result.positions.shape == (1, 2)
    assert (result.labels != IGNORED).all()
    keys = random_bits(0, 11, 0, np.arange(1, 9))
    assert sorted(result.positions[0]) == sorted(1 + np.argsort(keys)[:2])


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(8, 60), st.booleans(), st.integers(0, 5))
def test_every_sequence_has_exactly_its_targets_and_none_is_special(rate, length, whole_words, seed):
    ids = sequences_of(7, length, seed)
    result = masked(ids, rate=rate, whole_words=whole_words, seed=seed)
    used = result.labels != IGNORED
    maskable = VOCABULARY.maskable[ids].sum(1)
    allowed = np.minimum(most_masked(rate, length), np.maximum(1, np.rint(rate * maskable)))
    assert result.positions.shape == result.labels.shape == (7, most_masked(rate, length))
    if whole_words:
        assert (used.sum(1) <= allowed).all()
        assert (used.sum(1) >= 1).all()
    else:
        assert (used.sum(1) == allowed).all()
        assert (used.sum(1) == masked_counts(VOCABULARY.maskable[ids], rate)).all()
    for sequence in range(7):
        positions = result.positions[sequence][used[sequence]]
        assert len(set(positions)) == len(positions)
        assert (ids[sequence, positions] == result.labels[sequence][used[sequence]]).all()
        assert (ids[sequence, positions] >= SPECIALS).all()
        untouched = np.setdiff1d(np.arange(length), positions)
        assert (result.input_ids[sequence, untouched] == ids[sequence, untouched]).all()
    assert (result.positions[~used] == 0).all()


def test_shares_of_mask_random_and_kept():
    ids = sequences_of(4000, 128)
    result = masked(ids, rate=0.2)
    used = result.labels != IGNORED
    now = np.take_along_axis(result.input_ids, result.positions, 1)[used]
    before = result.labels[used]
    count = len(now)
    for share, expected in (((now == MASK).mean(), 0.8), ((now == before).mean(), 0.1 + 0.1 / len(REPLACEMENTS))):
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / count)
    replaced = now[(now != MASK) & (now != before)]
    assert np.isin(replaced, REPLACEMENTS).all()
    assert len(np.unique(replaced)) > 0.99 * len(REPLACEMENTS)  # drawn from all of them


def test_all_mask():
    result = masked(sequences_of(50, 64), rate=0.3, mask_share=1.0, random_share=0.0)
    used = result.labels != IGNORED
    assert (np.take_along_axis(result.input_ids, result.positions, 1)[used] == MASK).all()


def test_positions_are_chosen_evenly():
    ids = np.full((20_000, 12), 10)
    result = masked(ids, rate=0.25)
    share = np.bincount(result.positions.ravel(), minlength=12) / len(ids)
    assert np.abs(share - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / len(ids))


def test_a_sequence_is_masked_by_its_number_alone():
    ids = sequences_of(10, 40)
    whole = masked(ids)
    shuffled = np.array([7, 2, 5])
    part = masked(ids[shuffled], numbers=shuffled)
    assert (part.input_ids == whole.input_ids[shuffled]).all()
    assert (part.labels == whole.labels[shuffled]).all()
    assert (masked(ids, numbers=np.arange(10) + 1000).positions != whole.positions).any()
    assert (masked(ids, seed=1).positions != whole.positions).any()


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(8, 130), st.integers(0, 1000))
def test_the_targets_of_a_sequence_are_its_maskable_positions_with_the_smallest_draws(rate, length, seed):
    ids = np.where(
        random_bits(seed, 1, np.arange(5)[:, None], np.arange(length)) % np.uint64(3) == 0, 0, sequences_of(5, length)
    )
    numbers = np.arange(5) + 10 * seed
    result = masked(ids, rate=rate, seed=seed, numbers=numbers)
    for sequence, number in enumerate(numbers):
        maskable = [place for place in range(length) if ids[sequence, place] >= SPECIALS]
        count = min(most_masked(rate, length), max(1, round(rate * len(maskable)))) if maskable else 0
        smallest = sorted(maskable, key=lambda place: int(random_bits(seed, 11, number, place)[0]))[:count]
        assert result.positions[sequence].tolist() == sorted(smallest) + [0] * (most_masked(rate, length) - count)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100), st.floats(0.1, 0.6))
def test_whole_words_are_hidden_whole(seed, rate):
    ids = sequences_of(5, 50, seed)
    result = masked(ids, rate=rate, whole_words=True, seed=seed)
    maskable = VOCABULARY.maskable[ids]
    for sequence in range(5):
        hidden = set(result.positions[sequence][result.labels[sequence] != IGNORED].tolist())
        words = []
        for place in np.flatnonzero(maskable[sequence]):
            if WORD_STARTS[ids[sequence, place]] or not words or words[-1][-1] != place - 1:
                words.append([place])
            else:
                words[-1].append(place)
        budget = min(most_masked(rate, 50), max(1, round(rate * maskable[sequence].sum())))
        if min(len(word) for word in words) <= budget:
            assert all(hidden.isdisjoint(word) or hidden >= set(word) for word in words)


def test_a_word_longer_than_the_budget_is_cut_rather_than_left_without_target():
    ids = np.array([[2, 10, 12, 15, 18, 21, 24, 27, 30, 3]])  # one word: all pieces but the first continue it
    result = masked(ids, rate=0.25, whole_words=True)
    assert result.positions[0].tolist() == [1, 2]


def test_a_sequence_of_padding_has_no_targets():
    result = masked(np.zeros((2, 16), np.int64))
    assert (result.labels == IGNORED).all()
    assert (result.positions == 0).all()


@pytest.mark.parametrize("whole_words", [False, True])
def test_unused_most_masked_point_at_place_0(whole_words):
    ids = np.zeros((1, 100), np.int64)
    ids[0, :5] = [2, 10, 11, 12, 3]
    result = masked(ids, rate=0.5, whole_words=whole_words)
    used = result.labels != IGNORED
    assert used.sum() == (
        1 if whole_words else 2
    )  # round(0.5 · 3) is 2 of 50 most_masked; the words have 1 and 2 pieces, and 1 came first
    assert (result.positions[~used] == 0).all()


def test_a_sequence_that_begins_inside_a_word_has_a_word_of_its_own_there():
    """Sequences of running text have no [CLS]: what stands at their end is no neighbour of what stands at their beginning."""
    sequence = np.array([[12, 15, 10, 11, 13, 14]])  # ##a ##b, c, d, e, f
    words = [{0, 1}, {2}, {3}, {4}, {5}]
    for seed in range(30):
        result = masked(sequence, rate=0.34, whole_words=True, seed=seed)  # two positions
        positions = set(result.positions[result.labels != IGNORED].tolist())
        assert len(positions) == 2
        assert all(word <= positions or not word & positions for word in words)
