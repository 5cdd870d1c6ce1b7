"""Packing: sequences hold every token once, never more than they can, and are nearly full; sequence numbers find the same sequences
always."""

import json
import stat
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import PurePath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.data import packing
from bert.data.corpus import find_corpus
from bert.data.encoding import document_encoder
from bert.data.files import read_lines
from bert.data.packing import Documents, SequenceIndex, best_fit, cut, gather, pack, split_validation
from bert.data.rng import permutation, random_bits, uniform
from bert.data.store import STORE_FILES
from bert.data.tokenizer import Tokenizer
from bert.errors import InputError
from bert.files import matches
from bert.training.folder import OURS

CLS, SEP, PAD = 2, 3, 0


def documents_of(lengths):
    lengths = np.asarray(lengths, np.int64)
    return Documents(np.cumsum(lengths) - lengths, lengths)


def index_of(lengths, sequence_length=16, window=5, seed=0, folder=None):
    return SequenceIndex(documents_of(lengths), sequence_length, window, seed, folder)


def test_worked_example_of_the_docstring():
    sequences = pack(documents_of([9, 3, 1]), sequence_length=8)
    sizes = sorted(
        tuple(sorted(sequences.lengths[sequences.first[r] : sequences.first[r + 1]] + 2)) for r in range(len(sequences))
    )
    assert sizes == [(3, 5), (5,), (8,)]


@given(st.lists(st.integers(1, 14), min_size=1, max_size=60), st.integers(14, 40))
def test_best_fit_never_overfills_and_uses_consecutive_sequences(sizes, capacity):
    sequences = best_fit(np.array(sizes), capacity)
    loads = np.bincount(sequences, weights=sizes)
    assert loads.max() <= capacity
    assert (loads > 0).all()


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40))
def test_best_fit_is_the_textbook_algorithm(sizes):
    """Largest first, each into the fullest sequence that holds it; compared by the loads of the sequences."""
    room: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [sequence for sequence, left in enumerate(room) if left >= size]
        if fitting:
            room[min(fitting, key=lambda sequence: room[sequence])] -= size
        else:
            room.append(12 - size)
    loads = np.bincount(best_fit(np.array(sizes), 12), weights=sizes)
    assert sorted(loads) == sorted(12 - left for left in room)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30), st.integers(1, 20))
def test_cut_covers_each_document_once_in_order(lengths, room):
    documents = documents_of(lengths)
    chunks = cut(documents, room)
    covered = [start + i for start, length in zip(chunks.starts, chunks.lengths) for i in range(length)]
    assert covered == list(range(sum(lengths)))
    assert chunks.lengths.max(initial=1) <= room
    assert chunks.lengths.min(initial=1) >= 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(8, 32), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_holds_every_token_exactly_once(lengths, sequence_length, window, seed):
    index = index_of(lengths, sequence_length, window, seed)
    values = np.arange(10, 10 + sum(lengths))
    for epoch in range(2):
        first = sum(index.sequences_in_epoch(e) for e in range(epoch))
        sequences = index.sequences(first, index.sequences_in_epoch(epoch))
        input_ids, document_ids = gather(values, sequences, sequence_length, CLS, SEP, PAD)
        tokens = input_ids[input_ids >= 10]
        assert sorted(tokens) == list(values)
        assert ((document_ids > 0) == (input_ids != PAD)).all()


def test_gathered_sequence_is_cls_chunk_sep_for_each_chunk():
    values = np.arange(100, 200)
    index = index_of([4, 3, 5], sequence_length=8, window=3)
    input_ids, document_ids = gather(values, index.sequences(0, index.sequences_in_epoch(0)), 8, CLS, SEP, PAD)
    for ids, chunks in zip(input_ids, document_ids):
        for chunk in range(1, chunks.max() + 1):
            inside = ids[chunks == chunk]
            assert inside[0] == CLS
            assert inside[-1] == SEP
            assert (np.diff(inside[1:-1]) == 1).all()
        assert (np.diff(chunks[chunks > 0]) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(8, 32), st.integers(0, 3))
def test_gathered_sequences_are_what_a_loop_over_their_chunks_lays_down(lengths, sequence_length, seed):
    index = index_of(lengths, sequence_length, 9, seed)
    values = np.arange(10, 10 + sum(lengths)).astype(np.uint16)  # the last document ends where the array does
    sequences = index.sequences(0, index.sequences_in_epoch(0))
    input_ids, document_ids = gather(values, sequences, sequence_length, CLS, SEP, PAD)
    for sequence in range(len(sequences)):
        ids, numbers = [], []
        for number, chunk in enumerate(range(sequences.first[sequence], sequences.first[sequence + 1]), start=1):
            tokens = values[sequences.starts[chunk] : sequences.starts[chunk] + sequences.lengths[chunk]].tolist()
            ids += [CLS, *tokens, SEP]
            numbers += [number] * (len(tokens) + 2)
        padding = sequence_length - len(ids)
        assert input_ids[sequence].tolist() == ids + [PAD] * padding
        assert document_ids[sequence].tolist() == numbers + [0] * padding


def test_sequences_do_not_depend_on_how_they_are_asked_for():
    lengths = random_bits(1, np.arange(200)).astype(np.int64) % 50 + 1
    whole = index_of(lengths).sequences(0, 500)
    for first, count in ((0, 7), (123, 100), (400, 100)):  # 500 sequences are more than one epoch
        part = index_of(lengths).sequences(first, count)
        begin, end = whole.first[first], whole.first[first + count]
        assert (part.starts == whole.starts[begin:end]).all()
        assert (part.lengths == whole.lengths[begin:end]).all()


def test_seeds_and_epochs_differ_in_order():
    lengths = [5] * 60
    orders = []
    for seed in (0, 1):
        index = index_of(lengths, sequence_length=7, window=4, seed=seed)
        orders += [index.sequences(60 * epoch, 60).starts.tolist() for epoch in range(2)]
    assert len({tuple(order) for order in orders}) == 4


def test_all_sequences_of_a_window_come_from_its_documents():
    lengths = random_bits(2, np.arange(50)).astype(np.int64) % 30 + 1
    index = index_of(lengths, window=7)
    order = permutation(50, 0, 1, 0)
    starts_of = {int(start): number for number, start in enumerate(np.cumsum(lengths) - lengths)}
    sequence = 0
    for window in range(-(-50 // 7)):
        members = set(order[window * 7 : (window + 1) * 7].tolist())
        while sequence < index.sequences_in_epoch(0) and index.locate(sequence)[1] == window:
            sequences = index.sequences(sequence, 1)
            owners = {
                number
                for start in sequences.starts
                for begin, number in starts_of.items()
                if begin <= start < begin + lengths[number]
            }
            assert owners <= members
            sequence += 1


def test_sequence_counts_are_cached_and_keyed_by_what_they_depend_on(tmp_path, monkeypatch):
    index_of([5] * 30, folder=tmp_path).sequences_in_epoch(0)
    assert list(tmp_path.iterdir()) == []  # a small corpus is counted faster than a file is read
    monkeypatch.setattr(packing, "WORTH_A_FILE", 10)
    index_of([5] * 30, folder=tmp_path).sequences_in_epoch(0)
    assert len(list(tmp_path.glob("sequences-*.npy"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(SequenceIndex, "_pack_window", None)  # packing again would fail
        assert (
            index_of([5] * 30, folder=tmp_path).sequences_in_epoch(0) == 18
        )  # six windows of five documents, two a sequence
    index_of([5] * 29 + [6], folder=tmp_path).sequences_in_epoch(0)
    index_of([5] * 30, seed=1, folder=tmp_path).sequences_in_epoch(0)
    index_of([5] * 30, sequence_length=17, folder=tmp_path).sequences_in_epoch(0)
    assert len(list(tmp_path.glob("sequences-*.npy"))) == 4


def test_cached_sequence_counts_are_files_of_a_store_and_of_a_run(tmp_path, monkeypatch):
    """Else a store that has them could neither be written again nor be cleared away with its run."""
    monkeypatch.setattr(packing, "WORTH_A_FILE", 10)
    index_of([5] * 30, folder=tmp_path).sequences_in_epoch(0)
    (name,) = (file.name for file in tmp_path.glob("sequences-*.npy"))
    assert any(fnmatchcase(name, pattern) for pattern in STORE_FILES)
    assert any(matches(PurePath("store", name), pattern) for pattern in OURS)


def test_a_cache_of_another_text_is_noticed(tmp_path, monkeypatch):
    """More sequences in a window than it has: what an older version, or somebody's copy, may leave."""
    monkeypatch.setattr(packing, "WORTH_A_FILE", 10)
    index_of([5] * 30, folder=tmp_path).sequences_in_epoch(0)
    (file,) = tmp_path.glob("sequences-*.npy")
    np.save(file, np.load(file) + 2)
    with pytest.raises(InputError, match=r"its sequences-\*\.npy do not belong to this text: remove them"):
        index_of([5] * 30, folder=tmp_path).sequences(0, 20)


def test_a_cache_of_another_shape_or_type_or_order_is_counted_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "WORTH_A_FILE", 10)
    assert index_of([5] * 30, folder=tmp_path).sequences_in_epoch(0) == 18
    (file,) = tmp_path.iterdir()
    right = np.load(file)
    falling = right[::-1].copy()
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({2**45},)}}".ljust(117) + "\n"
    huge = b"\x93NUMPY\x01\x00v\x00" + header.encode()
    for wrong in (right[:-1], right.astype(np.float64), right[None], falling, right * 0, right.astype(object), -right):
        np.save(file, wrong, allow_pickle=True)
        assert index_of([5] * 30, folder=tmp_path).sequences_in_epoch(0) == 18
    file.write_bytes(huge)
    assert index_of([5] * 30, folder=tmp_path).sequences_in_epoch(0) == 18


def test_a_cache_with_fewer_sequences_than_a_window_has_is_noticed(tmp_path, monkeypatch):
    """They would never be trained on."""
    monkeypatch.setattr(packing, "WORTH_A_FILE", 10)
    index_of([5] * 30, folder=tmp_path).sequences_in_epoch(0)
    (file,) = tmp_path.glob("sequences-*.npy")
    np.save(file, np.arange(1, 7))
    with pytest.raises(InputError, match=r"its sequences-\*\.npy do not belong to this text: remove them"):
        index_of([5] * 30, folder=tmp_path).sequences(0, 6)


def test_a_folder_that_cannot_be_written_costs_the_cache_only(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "WORTH_A_FILE", 10)
    index = index_of([5] * 30, folder=tmp_path / "absent")
    assert index.sequences_in_epoch(0) == 18  # six windows of five documents, two of which fit a sequence


def test_a_cache_that_cannot_be_read_costs_the_cache_only_and_others_may_read_it(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "WORTH_A_FILE", 10)
    assert index_of([5] * 30, folder=tmp_path).sequences_in_epoch(0) == 18
    (file,) = tmp_path.iterdir()
    (tmp_path / "other").touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)
    file.write_bytes(b"")
    assert index_of([5] * 30, folder=tmp_path).sequences_in_epoch(0) == 18


def fill(index):
    """(share of the positions of an epoch that are in use, sequences, the fewest sequences that could hold them)."""
    room = index.sequence_length - 2
    used = int((index.documents.lengths + 2 * -(-index.documents.lengths // room)).sum())
    sequences = index.sequences_in_epoch(0)
    return used / (sequences * index.sequence_length), sequences, -(-used // index.sequence_length)


@pytest.mark.parametrize("sequence_length", [128, 512])
@pytest.mark.parametrize(
    ("median", "spread"), [(1500, 1.0), (25, 0.6), (200, 1.5)], ids=["articles", "sentences", "mixed"]
)
def test_sequences_are_hardly_more_than_any_packing_needs(sequence_length, median, spread):
    normal = np.sqrt(-2 * np.log(1 - uniform(3, np.arange(20_000)))) * np.cos(2 * np.pi * uniform(4, np.arange(20_000)))
    lengths = np.maximum(1, (median * np.exp(spread * normal)).astype(np.int64))
    share, sequences, fewest = fill(index_of(lengths, sequence_length, window=4096))
    windows = 5  # each may end in a sequence that is not full
    assert fewest <= sequences <= 1.006 * fewest + windows
    assert share >= 0.99


def tokenised(path, lines=False):
    """Lengths in tokens of the documents of `path`, or of the first cells of its lines, by the tokenizer of the measurement data."""
    tokenizer = Tokenizer.load(path.parents[1] / "enwiki" / "tokenizer-8192.json")
    encode = document_encoder(tokenizer.encode_documents, json.loads(tokenizer.backend.to_str()))
    sentences = (line.split("\t")[0] for line in islice(read_lines(path), 1, None))
    texts = iter(sentences if lines else find_corpus(path).documents())
    lengths = []
    while batch := list(islice(texts, 500)):
        lengths.append(encode(batch)[1])
    return np.concatenate(lengths)


@pytest.mark.data
def test_sequences_of_single_sentences_are_full(data):
    index = index_of(tokenised(data / "sst2" / "train_sentences.tsv.gz", lines=True), 128, window=4096)
    assert fill(index)[0] >= 0.993


@pytest.mark.data
@pytest.mark.slow
def test_sequences_of_english_wikipedia_are_full(data):
    lengths = tokenised(data / "enwiki" / "train.txt.gz")
    assert fill(index_of(lengths, 128, window=4096))[0] >= 0.995
    assert fill(index_of(lengths, 512, window=4096))[0] >= 0.99


def test_documents_of_the_validation_split_stay_validation_split_when_the_corpus_grows():
    hashes = random_bits(5, np.arange(10_000))
    documents = documents_of([10] * 10_000)
    _, few, message = split_validation(documents.take(np.arange(5000)), hashes[:5000], 0.01, 126)
    _, many, _ = split_validation(documents, hashes, 0.01, 126)
    assert message == ""
    assert set(few.starts) <= set(many.starts)
    assert 20 <= len(few) <= 100  # about 50
    assert len(few) < len(many)


def test_split_validation_parts_the_corpus():
    hashes = random_bits(6, np.arange(5000))
    kept, validation_split, _ = split_validation(documents_of([10] * 5000), hashes, 0.02, 126)
    assert sorted([*kept.starts, *validation_split.starts]) == list(range(0, 50_000, 10))


def test_few_documents_are_validation_split_by_chunks_with_a_message():
    kept, validation_split, message = split_validation(documents_of([10_000]), random_bits(7, np.arange(1)), 0.02, 100)
    assert len(validation_split) == 2  # 2 % of 100 chunks
    assert len(kept) == 98
    assert message.startswith("0 of 1 documents would be validation text")


def test_draws_are_uniform_and_independent_of_each_other():
    numbers = uniform(1, np.arange(100_000))
    assert abs(numbers.mean() - 0.5) < 0.005  # 5 standard errors are 0.0046
    assert abs(numbers.var() - 1 / 12) < 0.002
    for other in (uniform(1, np.arange(1, 100_001)), uniform(2, np.arange(100_000)), uniform(np.arange(100_000), 1)):
        assert abs(np.corrcoef(numbers, other)[0, 1]) < 0.016  # 5 / √n
    assert (random_bits(1, 2, 3) == random_bits(1, 2, 3)).all()
    assert random_bits(1, 2) != random_bits(2, 1)


def test_draws_are_the_same_for_ever():
    """Written down once: a run must be repeatable after an update of anything."""
    assert [int(x) for x in random_bits(0, np.arange(3))] == [
        12035550249420947055,
        12935080325729570654,
        7141179953334974231,
    ]
