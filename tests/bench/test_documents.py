"""Texts of a measurement: sequences without padding, mixtures by count, files of arrays, and the keys visible to a token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert.bench.documents import (
    full_sequences,
    mean_visible,
    mixture,
    packed,
    read_tokens,
    text_of_arrays,
    write_tokens,
)
from bert.errors import InputError

from .synthetic import LENGTH, LENGTHS, RECIPE, SIZE, TEXT, VALUES


def documents_of(text):
    return [text.store.document(number).tolist() for number in range(len(text.store))]


def test_full_sequences_are_full_of_running_tokens_of_the_text():
    sequences = full_sequences(TEXT, LENGTH, sequences=20)
    assert [len(sequence) for sequence in documents_of(sequences)] == [LENGTH - 2] * 20
    batch = packed(sequences, RECIPE).batch(0)
    assert (batch.document_ids == 1).all()  # one document a sequence and no padding
    running = " ".join(str(token) for sequence in documents_of(sequences) for token in sequence)
    whole = [" ".join(map(str, document)) for document in documents_of(TEXT) if len(document) > 12]
    # documents continue in the next sequence
    assert sum(document in running for document in whole) >= 5


def test_a_text_shorter_than_the_sequences_asked_for_is_repeated():
    sequences = full_sequences(TEXT, LENGTH, sequences=len(VALUES) // (LENGTH - 2) + 40)
    running = [token for sequence in documents_of(sequences) for token in sequence]
    assert running[len(VALUES) :] == running[: len(running) - len(VALUES)]


def test_a_mixture_has_as_many_documents_of_each_text_cut_to_a_sequence():
    low, high = (
        text_of_arrays(np.full(400, token, np.uint16), np.arange(0, 401, step), SIZE)
        for token, step in ((7, 40), (9, 5))
    )
    mixed = documents_of(mixture([low, high], 60, LENGTH))
    assert [document[0] for document in mixed] == [7, 9] * 30
    assert {len(document) for document in mixed[::2]} == {LENGTH - 2}
    assert {len(document) for document in mixed[1::2]} == {5}


@given(
    st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=4), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(2, 9)),
)
def test_visible_keys_are_what_counting_pairs_gives(sequences, window):
    width = max(sum(sequence) for sequence in sequences) + 2
    ids = np.zeros((len(sequences), width), np.int64)
    for sequence, sizes in enumerate(sequences):
        ids[sequence, : sum(sizes)] = np.repeat(np.arange(len(sizes)) + 1, sizes)
    place = np.arange(width)
    near = True if window is None else np.abs(place[:, None] - place) <= window // 2
    pairs = sum(((sequence[:, None] == sequence) & (sequence > 0) & near).sum() for sequence in ids)
    assert mean_visible(ids, window) == pytest.approx(pairs / (ids > 0).sum())


def test_a_file_of_arrays_gives_the_documents_back(tmp_path):
    file = tmp_path / "tokens.npz"
    write_tokens(file, TEXT, most_tokens=200)
    again = read_tokens(file)
    kept = int((np.cumsum(LENGTHS) <= 200).sum())
    assert documents_of(again) == documents_of(TEXT)[:kept]
    assert (again.special_ids, again.vocab_size) == (TEXT.special_ids, SIZE)
    assert np.array_equal(again.vocabulary.maskable, TEXT.vocabulary.maskable)


def test_what_is_no_file_of_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "half.npz", values=np.arange(4))
    (tmp_path / "none.npz").write_text("words")
    for name, message in (("half", "has no array offsets"), ("none", "not an .npz file"), ("gone", "no such file")):
        with pytest.raises(InputError, match=message):
            read_tokens(tmp_path / f"{name}.npz")
    with pytest.raises(InputError, match="values: token id 7; must be below 6"):
        text_of_arrays(np.array([7]), np.array([0, 1]), 6)


@pytest.mark.parametrize(
    ("values", "offsets", "specials", "message"),
    [
        ([7, -1], [0, 2], range(5), "values: token id -1; must be 0 or more"),
        ([7, 5], [], range(5), "offsets: 0 numbers"),
        ([7, 5], 2, range(5), "offsets: 1 numbers on 0 axes"),
        ([7, 5], [0, 2], range(4), "specials: 4 ids"),
        ([7, 5], [0, 2], [0, 1, 2, 3, 9], "specials: token id 9; must be below 9"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(values, offsets, specials, message):
    with pytest.raises(InputError, match=message):
        text_of_arrays(np.array(values), np.array(offsets, np.int64), 9, list(specials))
