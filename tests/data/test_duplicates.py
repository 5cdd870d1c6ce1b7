"""Near duplicates: the shingles are what they are called, pairs are found as often as the theory of bands says, and the rest stays."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.data.duplicates import SHINGLE, NearDuplicates, Seen, hash_shingles
from bert.data.rng import random_bits, uniform
from bert.errors import InputError

datasketch = pytest.importorskip("datasketch", reason="needs datasketch: pip install 'bert-kit[dedup]'")


def flat(documents):
    return np.concatenate([np.asarray(d, np.uint16) for d in documents]), np.array([len(d) for d in documents])


def shingles(document):
    return {tuple(document[i : i + SHINGLE]) for i in range(max(1, len(document) - SHINGLE + 1))}


def jaccard(a, b):
    a, b = shingles(a), shingles(b)
    return len(a & b) / len(a | b)


def random_document(length, *key):
    return (random_bits(*key, np.arange(length)) % np.uint64(8000)).astype(int).tolist()


def changed(document, share, *key):
    """The document with about `share` of its tokens changed."""
    change = uniform(*key, 2, np.arange(len(document))) < share
    return np.where(change, random_document(len(document), *key, 1), document).tolist()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=2, max_size=8))
def test_hashes_agree_where_shingles_do(documents):
    hashes = hash_shingles(*flat(documents)).tolist()
    named = {}
    place = 0
    for document in documents:
        for i in range(max(1, len(document) - SHINGLE + 1)):
            named.setdefault(tuple(document[i : i + SHINGLE]), set()).add(hashes[place])
            place += 1
    assert place == len(hashes)
    assert all(len(found) == 1 for found in named.values())
    assert len(set.union(*named.values())) == len(named)


def test_the_bands_at_0_8_are_those_of_the_docstring():
    near = NearDuplicates(0.8)
    assert (near.bands, near.values_per_band) == (9, 13)


def test_pairs_are_found_as_often_as_bands_of_a_sketch_agree():
    """120 pairs of each similarity: the theory gives each its probability, and their sum has a spread of its own."""
    near = NearDuplicates(0.8)
    for share in (0.004, 0.02, 0.04, 0.08, 0.3):
        ones = [random_document(200, 7, number, int(1000 * share)) for number in range(120)]
        others = [changed(one, share, 8, number) for number, one in enumerate(ones)]
        similar = np.array([jaccard(one, other) for one, other in zip(ones, others)])
        expected = 1 - (1 - similar**13) ** 9
        found = near.new(*flat([text for pair in zip(ones, others) for text in pair])) == 0
        assert not found[::2].any()
        assert abs(found[1::2].sum() - expected.sum()) <= 5 * np.sqrt((expected * (1 - expected)).sum()) + 1


def test_a_copy_with_few_changed_words_goes_and_distinct_texts_stay():
    ours = [random_document(200 + 40 * i, 1, i) for i in range(30)]
    copies = [[*document[:50], 9000, *document[51:]] for document in ours]
    assert min(jaccard(a, b) for a, b in zip(ours, copies)) > 0.93
    new = NearDuplicates(0.8).new(*flat([*ours, *copies]))
    assert new[:30].all()
    assert new[30:].sum() <= 3


def test_a_document_goes_where_one_that_was_kept_agrees_in_a_band_however_they_are_batched():
    chain = [random_document(100, 3)]
    for step in range(24):  # each like the one before, the last unlike the first
        chain.append([*chain[-1][: step * 4], *random_document(4, 4, step), *chain[-1][step * 4 + 4 :]])
    near = NearDuplicates(0.6)
    keys = [set(row) for row in near._keys(*flat(chain)).tolist()]
    kept: list[int] = []
    for number in range(len(chain)):
        if all(keys[number].isdisjoint(keys[earlier]) for earlier in kept):
            kept.append(number)
    assert all(not keys[number].isdisjoint(keys[number + 1]) for number in range(24))  # what goes is not remembered
    assert 2 <= len(kept) <= 12
    assert np.flatnonzero(NearDuplicates(0.6).new(*flat(chain))).tolist() == kept
    assert np.flatnonzero([near.new(*flat([document]))[0] for document in chain]).tolist() == kept


def test_short_documents_are_compared_whole():
    new = NearDuplicates(0.8).new(*flat([[1, 2], [1, 2], [1, 2, 3], [2, 1], [5], [5, 0]]))
    assert new.tolist() == [True, False, True, True, True, True]


def test_a_long_document_is_sketched_in_parts_as_the_library_sketches_it_whole():
    document = random_document(20_000, 5)
    near = NearDuplicates(0.8)
    hashes = hash_shingles(*flat([document]))
    whole = datasketch.MinHash(num_perm=128, hashfunc=int)
    whole.update_batch(hashes.tolist())
    bands = whole.hashvalues[: 9 * 13].reshape(9, 13)
    assert near._keys(*flat([document]))[0].tolist() == [int(random_bits(band, *bands[band])[0]) for band in range(9)]


def test_numbers_are_known_in_the_small_set_and_past_it(monkeypatch):
    numbers = np.random.default_rng(0).integers(0, 2**64, 3000, dtype=np.uint64).tolist()
    monkeypatch.setattr(Seen, "limit", 1000)
    seen = Seen()
    assert [seen.add(number) for number in [*numbers, *numbers, 0, 2**64 - 1, 0]] == (
        [True] * 3000 + [False] * 3000 + [True, True, False]
    )
    assert len(seen.sorted) >= 3000
    assert all(number in seen for number in numbers)
    assert 12345 not in seen


@pytest.mark.parametrize("threshold", [0.0, 0.99, -1.0, float("nan")])
def test_a_threshold_that_sketches_cannot_tell_is_refused(threshold):
    with pytest.raises(InputError, match=r"`jaccard` is .*: give a similarity from 0\.1 to 0\.95"):
        NearDuplicates(threshold)


def test_the_ends_of_the_range_have_bands():
    assert all(NearDuplicates(threshold).bands >= 2 for threshold in (0.1, 0.95))


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(
        InputError, match=r"near duplicates need the package datasketch: pip install 'bert-kit\[dedup\]'"
    ):
        NearDuplicates(0.8)
