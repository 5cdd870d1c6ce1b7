"""The token store: it holds what the tokenizer gives, it is whole or not there, and bad ones are refused."""

import errno
import gzip
import json
import os
import pickle
import resource
import shutil
import weakref
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.data import prepare as preparing
from bert.data.corpus import find_corpus
from bert.data.packing import Documents, SequenceIndex
from bert.data.prepare import prepare, write_store
from bert.data.store import TokenStore, open_store
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import train_tokenizer
from bert.errors import InputError
from bert.pretraining.stream import Source, SpecialIds

DATA = Path(__file__).parents[3] / "shared" / "data"
TEXTS = [f"Document {i} of many: the quick brown fox, an apple and {'word ' * (i % 30)}苹果." for i in range(300)]
TOKENIZER = train_tokenizer(TEXTS, "wordpiece", 128)
OTHER = train_tokenizer(TEXTS, "bpe", 300)


def write_corpus(path: Path, texts: list[str] = TEXTS) -> Path:
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return path


def refused(call, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def small_batches(monkeypatch) -> None:
    monkeypatch.setattr(preparing, "_BATCH_DOCUMENTS", 7)
    monkeypatch.setattr(preparing, "_BATCH_TOKENS", 500)


# ── what is in it ──


@pytest.mark.parametrize("tokenizer", [TOKENIZER, OTHER])
def test_each_document_has_the_ids_of_the_tokenizer_in_our_reader_and_in_datasets(tmp_path, monkeypatch, tokenizer):
    small_batches(monkeypatch)  # many record batches: the flat view goes across them
    write_store(TEXTS, tokenizer, tmp_path / "store", {})
    ours, theirs = open_store(tmp_path / "store", tokenizer), datasets.load_from_disk(str(tmp_path / "store"))
    assert theirs.data.num_rows == len(theirs) == len(ours) == len(TEXTS)
    assert len(theirs.data.column("input_ids").chunks) > 5
    assert theirs.features["input_ids"].feature.dtype == "uint16"
    for i, text in enumerate(TEXTS):
        assert ours.document(i).tolist() == tokenizer.encode(text)[1:-1] == theirs[i]["input_ids"]
    np.testing.assert_array_equal(ours.hashes, np.array(theirs["hash"][:], dtype=np.uint64))
    assert len(set(ours.hashes.tolist())) == len(TEXTS)
    assert ours.num_tokens == sum(map(len, theirs["input_ids"]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=12))
def test_any_texts_come_back_in_order_without_duplicates_and_empty_ones(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("any")
    summary = write_store([*TEXTS[:40], *texts], TOKENIZER, folder / "store", {})
    kept = []
    for text in dict.fromkeys([*TEXTS[:40], *texts]):
        ids = TOKENIZER.encode_documents([text])[0].tolist()
        kept += [ids] if ids else []
    store = open_store(folder / "store")
    assert [store.document(i).tolist() for i in range(len(store))] == kept
    assert summary.documents + summary.duplicates + summary.empty == 40 + len(texts)
    shutil.rmtree(folder)


def test_counts_say_what_was_written(tmp_path):
    texts = [*TEXTS, *TEXTS[:30], "\u200b", "😀 apple 😀"]
    summary = write_store(texts, TOKENIZER, tmp_path / "store", {"content": "x"})
    kept = [*TEXTS, "😀 apple 😀"]
    ids = [TOKENIZER.encode(text)[1:-1] for text in kept]
    assert (summary.documents, summary.duplicates, summary.empty) == (301, 30, 1)
    assert summary.tokens == sum(map(len, ids))
    assert summary.unknown == sum(row.count(1) for row in ids) == 2
    assert summary.characters == sum(map(len, [*kept, "\u200b"]))
    assert summary.bytes == sum(len(text.encode()) for text in [*kept, "\u200b"])
    info = open_store(tmp_path / "store").info
    assert (info["documents"], info["tokens"], info["duplicates"]) == (301, summary.tokens, 30)
    assert (info["tokenizer"], info["dtype"], info["fingerprint"]) == (TOKENIZER.hash, "uint16", {"content": "x"})


def test_duplicates_are_found_across_batches(tmp_path, monkeypatch):
    small_batches(monkeypatch)
    assert write_store(TEXTS * 3, TOKENIZER, tmp_path / "store", {}).duplicates == 2 * len(TEXTS)


def test_near_duplicates_are_left_out_and_counted_apart(tmp_path, monkeypatch):
    pytest.importorskip("datasketch", reason="needs datasketch: pip install 'bert-kit[dedup]'")
    small_batches(monkeypatch)
    words = [f"{first}{second}" for first in "abcdefgh" for second in "ijklmnop"]
    texts = [" ".join(words[(i * 7 + j * (2 * i + 3)) % 64] for j in range(120)) for i in range(20)]
    copies = [f"{text} {i}" for i, text in enumerate(texts)]
    summary = write_store([*texts, "\u200b", *copies, *texts], TOKENIZER, tmp_path / "store", {}, jaccard=0.8)
    found = (summary.documents, summary.near_duplicates, summary.duplicates, summary.empty)
    assert found == (20, 20, 20, 1)
    store, plain = open_store(tmp_path / "store"), tmp_path / "plain"
    assert [store.document(i).tolist() for i in range(20)] == [TOKENIZER.encode(text)[1:-1] for text in texts]
    assert store.info["near_duplicates"] == 20
    expected = write_store([*texts, "\u200b"], TOKENIZER, plain, {})
    np.testing.assert_array_equal(store.hashes, open_store(plain).hashes)
    for name in ("tokens", "unknown", "characters", "bytes"):
        assert getattr(summary, name) == getattr(expected, name)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, OTHER])
def test_no_more_documents_are_held_than_a_batch_or_two(tmp_path, monkeypatch, tokenizer):
    class Text(str):
        """A text whose life can be watched."""

    small_batches(monkeypatch)
    alive: weakref.WeakSet[Text] = weakref.WeakSet()
    most = 0

    def documents():
        nonlocal most
        for text in TEXTS:
            watched = Text(text)
            alive.add(watched)
            most = max(most, len(alive))
            yield watched

    assert write_store(documents(), tokenizer, tmp_path / "store", {}).documents == len(TEXTS)
    assert 7 <= most <= 2 * 7 + 2


def test_a_large_vocabulary_is_stored_as_uint32(tmp_path, monkeypatch):
    monkeypatch.setattr(Tokenizer, "dtype", np.uint32)
    write_store(TEXTS, TOKENIZER, tmp_path / "store", {})
    store = open_store(tmp_path / "store")
    assert store.values.dtype == np.uint32
    assert store.document(7).tolist() == TOKENIZER.encode(TEXTS[7])[1:-1]


def test_opening_copies_no_token_and_a_worker_opens_it_anew(tmp_path):
    write_store(TEXTS, TOKENIZER, tmp_path / "store", {})
    store = open_store(tmp_path / "store")
    base = store.values
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    assert np.shares_memory(store.document(3), store.values)
    assert not store.values.flags.writeable
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    np.testing.assert_array_equal(pickle.loads(pickled).document(3), store.document(3))


def test_a_store_of_arrays_is_the_same_kind_of_thing():
    store = TokenStore.from_arrays(np.arange(10, dtype=np.uint16), np.array([0, 3, 3, 9]))
    assert [store.document(i).tolist() for i in range(len(store))] == [[0, 1, 2], [], [3, 4, 5, 6, 7, 8]]
    assert store.num_tokens == 9
    assert store.hashes.dtype == np.uint64
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.hashes, store.hashes)
    for offsets in ([0], [0, 11], [-1, 3], [3, 2], [[0, 1]]):
        assert refused(TokenStore.from_arrays, np.arange(10), np.array(offsets)).startswith("offsets: must rise from 0")


# ── whole or not at all ──


def test_an_error_or_an_interrupt_leaves_nothing_and_the_store_before_stays(tmp_path, monkeypatch):
    small_batches(monkeypatch)

    def broken(error):
        yield from TEXTS[:100]
        raise error

    for error in (KeyboardInterrupt(), InputError("bad line"), MemoryError()):
        with pytest.raises(type(error)):
            write_store(broken(error), TOKENIZER, tmp_path / "deep" / "store", {})
        assert names(tmp_path) == []
    write_store(TEXTS, TOKENIZER, tmp_path / "store", {})
    with pytest.raises(KeyboardInterrupt):
        write_store(broken(KeyboardInterrupt()), TOKENIZER, tmp_path / "store", {})
    assert names(tmp_path) == ["store"]
    assert len(open_store(tmp_path / "store")) == len(TEXTS)


def test_what_a_killed_run_left_is_cleared(tmp_path):
    half = tmp_path / ".store.new-abcdefgh"
    (half / "fresh").mkdir(parents=True)
    (half / "owner").write_text("process 1 on another (bert prepare)")
    (half / "fresh" / "data").write_text("half")
    (tmp_path / ".store.lock").write_text("process 1 on another (bert prepare)")
    write_store(TEXTS, TOKENIZER, tmp_path / "store", {})
    assert names(tmp_path) == ["store"]
    assert names(tmp_path / "store") == ["data-00000-of-00001.arrow", "dataset_info.json", "state.json", "store.json"]


def test_a_disk_without_room_is_one_line_and_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # a file may not grow past 4 KB: the write fails
    try:
        message = refused(write_store, TEXTS, TOKENIZER, tmp_path / "store", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    fix = "free the disk or give another `out`"
    assert message == f"{tmp_path}/store: cannot be written (File too large); {fix}"
    assert names(tmp_path) == []


def test_a_disk_that_cannot_be_read_is_not_taken_for_one_that_is_full(tmp_path):
    def documents():
        yield TEXTS[0]
        raise OSError(errno.EIO, os.strerror(errno.EIO), "corpus.txt")

    message = refused(write_store, documents(), TOKENIZER, tmp_path / "store", {})
    assert message == "corpus.txt: cannot be read (Input/output error)"
    assert names(tmp_path) == []


def test_a_folder_with_other_things_is_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    assert refused(write_store, TEXTS, TOKENIZER, tmp_path, {}) == (
        f"{tmp_path}: holds something that is not a token store; give another `out`"
    )
    assert names(tmp_path) == ["thesis.tex"]


def test_a_file_of_the_users_that_is_called_store_json_makes_no_store_of_a_folder(tmp_path):
    (tmp_path / "store.json").write_text('{"my": "shop data"}')
    assert refused(write_store, TEXTS, TOKENIZER, tmp_path, {}) == (
        f"{tmp_path}: holds something that is not a token store; give another `out`"
    )
    assert (tmp_path / "store.json").read_text() == '{"my": "shop data"}'


# ── stores that are refused ──


def test_bad_stores_are_refused(tmp_path):
    folder, again = tmp_path / "store", "prepare the text again"
    assert refused(open_store, folder) == f"{folder}: no such folder; prepare a text first"
    write_store(TEXTS, TOKENIZER, folder, {})
    assert refused(open_store, folder, OTHER) == (
        f"{folder}: made with another tokenizer ({TOKENIZER.hash[:8]}) than the one given ({OTHER.hash[:8]}); "
        "prepare the text again with this tokenizer"
    )
    info, arrow = folder / "store.json", folder / "data-00000-of-00001.arrow"
    right, content = info.read_text(), arrow.read_bytes()

    info.write_text(json.dumps({**json.loads(right), "format": 99}))
    assert refused(open_store, folder) == f"{folder}: a store of format 99, this version reads 1; {again}"
    for damaged in ("{", "[]", '{"format": 1}'):
        info.write_text(damaged)
        assert refused(open_store, folder) == f"{folder}: store.json is damaged; {again}"
    info.unlink()
    assert refused(open_store, folder) == f"{folder}: no store.json: not a store, or an unfinished one; {again}"

    info.write_text(right)
    arrow.write_bytes(content[:-1000])
    there = f"has {len(content) - 1000:,} of {len(content):,} bytes"
    assert refused(open_store, folder) == f"{folder}: {arrow.name} {there}; {again}"
    arrow.write_bytes(b"\x00" + os.urandom(len(content) - 1))
    assert refused(open_store, folder).startswith(f"{folder}: {arrow.name} is damaged (")
    arrow.unlink()
    assert refused(open_store, folder) == f"{folder}: {arrow.name} is missing; {again}"


def arrow_store(
    folder: Path, ids=((1, 2), (3, 4)), kind=pa.uint16(), name="input_ids", options=None, schema=(), order=None, **info
):
    """A store by hand, with two documents of the ids 1 2 and 3 4 where nothing else is asked for."""
    table = pa.table(
        {name: pa.array(ids, pa.list_(kind)), "hash": pa.array(range(len(ids)), pa.uint64()), **dict(schema)}
    )
    folder.mkdir()
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file:
        table = table.select(order or table.column_names)
        with pa.ipc.new_stream(file, table.schema, options=options) as writer:
            writer.write_table(table)
    given = {
        "format": 1, "documents": 2, "tokens": 4, "dtype": "uint16", "vocab_size": 9, "tokenizer": "t", "fingerprint": {},
        "file_bytes": (folder / "data-00000-of-00001.arrow").stat().st_size,
    }  # fmt: skip
    (folder / "store.json").write_text(json.dumps(given | info))
    return folder


def test_the_order_of_the_columns_is_no_matter(tmp_path):
    store = open_store(arrow_store(tmp_path / "store", order=["hash", "input_ids"]))
    assert [store.document(index).tolist() for index in range(2)] == [[1, 2], [3, 4]]
    assert store.hashes.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"dtype": "object"}, "store.json is damaged (dtype is 'object')"),
        ({"dtype": "V0"}, "store.json is damaged (dtype is 'V0')"),
        ({"dtype": ["uint16"]}, "store.json is damaged (dtype is \"['uint16']\")"),
        ({"tokenizer": 5}, "store.json is damaged (tokenizer is '5')"),
        ({"file_bytes": "9"}, "store.json is damaged (file_bytes is '9')"),
        ({"tokens": -4}, "store.json is damaged (tokens is '-4')"),
        ({"documents": True}, "store.json is damaged (documents is 'True')"),
        ({"vocab_size": 2.5}, "store.json is damaged (vocab_size is '2.5')"),
        ({"bytes": "9"}, "store.json is damaged (bytes is '9')"),
        ({"fingerprint": []}, "store.json is damaged (fingerprint is '[]')"),
        ({"dtype": "uint32"}, "its columns are input_ids list<item: uint16>, hash uint64"),
        ({"kind": pa.int64()}, "its columns are input_ids list<item: int64>, hash uint64"),
        ({"kind": pa.string(), "ids": [["a"], ["b"]]}, "its columns are input_ids list<item: string>, hash uint64"),
        ({"name": "text"}, "its columns are text list<item: uint16>, hash uint64"),
        ({"schema": {"more": pa.array([1, 2])}}, "its columns are input_ids list<item: uint16>, hash uint64, more int64"),
        ({"options": pa.ipc.IpcWriteOptions(compression="lz4")}, "it is compressed"),
        ({"options": pa.ipc.IpcWriteOptions(compression="zstd")}, "it is compressed"),
        ({"ids": []}, "it holds 0 documents of 0 tokens, 0 of them empty, and store.json says 2 of 4"),
        ({"documents": 3}, "it holds 2 documents of 4 tokens, 0 of them empty, and store.json says 3 of 4"),
        ({"ids": [[1, 2, 3, 4], []]}, "it holds 2 documents of 4 tokens, 1 of them empty, and store.json says 2 of 4"),
        ({"ids": [[1, 2, 3, 4], None]}, "it has empty cells"),
        ({"ids": [[1, 2, 3], [None]]}, "it has empty cells"),
    ],
)  # fmt: skip
def test_a_store_that_says_something_else_than_its_file_holds_is_refused_in_one_line(tmp_path, what, message):
    found = refused(open_store, arrow_store(tmp_path / "store", **what))
    assert message in found
    assert found.startswith(f"{tmp_path}/store: ")
    assert found.endswith("; prepare the text again")


def test_a_store_made_by_hand_as_it_should_be_is_opened(tmp_path):
    store = open_store(arrow_store(tmp_path / "store"))
    assert [store.document(i).tolist() for i in range(2)] == [[1, 2], [3, 4]]


def test_offsets_that_fall_or_leave_the_file_are_refused_before_an_id_is_read(tmp_path):
    folder = arrow_store(tmp_path / "store")
    arrow = folder / "data-00000-of-00001.arrow"
    content = arrow.read_bytes()
    place = content.index(np.array([0, 2, 4], np.int32).tobytes())
    for offsets in ([0, -1000, 4], [0, 3, 2], [0, 2, 2**30], [-8, 2, 4]):
        arrow.write_bytes(content[:place] + np.array(offsets, np.int32).tobytes() + content[place + 12 :])
        assert "arrow is damaged (" in refused(open_store, folder)


def test_a_file_with_any_flipped_byte_of_its_structure_is_opened_or_refused_in_one_line(tmp_path):
    folder = arrow_store(tmp_path / "store")
    arrow = folder / "data-00000-of-00001.arrow"
    content = arrow.read_bytes()
    outcomes = set()
    for place in range(0, len(content), 3):
        for flip in (0xFF, 0x01):
            arrow.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
            outcomes.add("opened")
            try:
                store = open_store(folder)
                [store.document(i).tolist() for i in range(len(store))]
            except InputError as error:
                outcomes.add("refused" if "\n" not in str(error) else str(error))
    assert outcomes == {"opened", "refused"}


def test_an_id_beyond_the_vocabulary_is_refused_wherever_it_is_read(tmp_path):
    folder = arrow_store(tmp_path / "store", ids=[[1, 2], [3, 9]])
    store = open_store(folder)
    message = f"{folder}: holds token id 9 and its vocabulary has 9 entries; prepare the text again"
    assert store.document(0).tolist() == [1, 2]
    assert refused(store.document, 1) == message
    rows = Source(store, SequenceIndex(Documents(store.starts, store.lengths), 8, 2, seed=0))
    assert refused(rows.read, 0, 1, SpecialIds(0, 0, 0)) == message
    kept = TokenStore.from_arrays(np.array([1, 9]), np.array([0, 2]), vocab_size=9)
    assert refused(kept.document, 0).startswith("the tokenized text: holds token id 9 and its vocabulary has 9 entries")


def test_a_store_that_names_another_size_than_its_tokenizer_is_refused(tmp_path):
    write_store(TEXTS, TOKENIZER, tmp_path / "store", {})
    info = tmp_path / "store" / "store.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"vocab_size": 70_000}))
    message = f"store.json is damaged (vocab_size is 70000, its tokenizer has {TOKENIZER.vocab_size} entries)"
    assert message in refused(open_store, tmp_path / "store", TOKENIZER)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"format":' * 100_000, "9" * 10_000])
def test_a_store_json_that_no_parser_takes_is_one_line(tmp_path, content):
    folder = arrow_store(tmp_path / "store")
    (folder / "store.json").write_text(content)
    assert refused(open_store, folder) == f"{folder}: store.json is damaged; prepare the text again"


@pytest.mark.parametrize("known", [{"files": 5}, {"files": [1]}, {"files": [{"path": []}]}, {"hub": 5}, {"hub": [[]]}])
def test_a_fingerprint_of_another_shape_costs_reading_the_text_again(tmp_path, known):
    corpus = find_corpus(write_corpus(tmp_path / "a.txt"))
    assert corpus.fingerprint(known) == corpus.fingerprint()


def test_a_folder_of_datasets_is_not_taken_for_a_store(tmp_path):
    datasets.Dataset.from_dict({"input_ids": [[1]], "hash": [2]}).save_to_disk(str(tmp_path / "mine"))
    before = {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    fix = "holds something that is not a token store; give another `out`"
    assert refused(write_store, TEXTS, TOKENIZER, tmp_path / "mine", {}) == f"{tmp_path}/mine: {fix}"
    assert {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before
    write_store(TEXTS, TOKENIZER, tmp_path / "store", {})
    (tmp_path / "store" / "rows-of-mine.csv").write_text("x")
    assert refused(write_store, TEXTS, TOKENIZER, tmp_path / "store", {}) == f"{tmp_path}/store: {fix}"


def test_the_second_writer_of_a_store_hears_in_one_line_who_writes_it(tmp_path):
    def documents():
        yield from TEXTS
        message = refused(write_store, TEXTS, TOKENIZER, tmp_path / "deep" / "store", {})
        assert message.startswith(f"{tmp_path}/deep/store: in use by process {os.getpid()} on ")
        assert message.endswith(": wait until it ends, or give another folder")

    assert write_store(documents(), TOKENIZER, tmp_path / "deep" / "store", {}).documents == len(TEXTS)
    assert names(tmp_path / "deep") == ["store"]


# ── the command ──


def test_prepare_reuses_a_store_and_writes_it_again_when_something_changed(tmp_path, said):
    corpus, out = write_corpus(tmp_path / "a.txt"), tmp_path / "store"
    store = prepare(corpus, TOKENIZER, out)
    tokens = store.num_tokens
    assert len(store) == len(TEXTS)
    assert said[-1].startswith(
        f"{out}: 300 documents, {tokens:,} tokens, 0 exact duplicates skipped, 0.00% [UNK] (0.00% of the characters), "
    )
    assert said[-1].endswith(" tokens/s")

    def again(tokenizer=TOKENIZER, **options) -> tuple[str, bool]:
        said.clear()
        before = (out / "data-00000-of-00001.arrow").stat().st_ino if out.exists() else 0
        prepare(corpus, tokenizer, out, **options)
        return said[0], (out / "data-00000-of-00001.arrow").stat().st_ino != before

    reused = f"{out}: reused, corpus and tokenizer are unchanged (300 documents, {tokens:,} tokens)"
    assert again() == (reused, False)
    os.utime(corpus, ns=(10**18, 10**18))
    assert again() == (reused, False)
    assert json.loads((out / "store.json").read_text())["fingerprint"]["files"][0]["mtime_ns"] == 10**18

    changed = "the corpus or how it is read has changed: writing the store again"
    near = again(jaccard=0.8)
    assert near == (f"{out}: {changed}", True)
    assert json.loads((out / "store.json").read_text())["fingerprint"]["near"] == 0.8
    assert again(jaccard=0.8)[1] is False
    assert again(jaccard=0.7)[1] is True
    assert again() == (f"{out}: {changed}", True)
    assert again(layout="file") == (f"{out}: {changed}", True)
    write_corpus(corpus, TEXTS[:-1])
    assert again() == (f"{out}: {changed}", True)
    hashes = f"({TOKENIZER.hash[:8]}) than the one given ({OTHER.hash[:8]})"
    assert again(OTHER) == (f"{out}: made with another tokenizer {hashes}: writing the store again", True)
    (out / "store.json").unlink()  # as `datasets` writes it: no marker of ours, so it is the user's
    assert refused(again, OTHER) == f"{out}: holds something that is not a token store; give another `out`"
    shutil.rmtree(out)
    again(OTHER)
    (out / "data-00000-of-00001.arrow").write_bytes(b"short")
    message, rewritten = again(OTHER)
    assert rewritten
    assert message.startswith(f"{out}: data-00000-of-00001.arrow has 5 of ")
    assert names(tmp_path) == ["a.txt", "store"]


def test_prepare_says_how_many_near_duplicates_it_left_out(tmp_path, said):
    corpus = write_corpus(tmp_path / "a.txt")
    prepare(corpus, TOKENIZER, tmp_path / "store", jaccard=0.5)
    info = json.loads((tmp_path / "store" / "store.json").read_text())
    assert info["near_duplicates"] > 100  # the texts differ in a number and in how often they say "word"
    assert f" 0 exact duplicates and {info['near_duplicates']} near ones skipped, " in said[-1]


def test_prepare_takes_a_tokenizer_folder(tmp_path):
    TOKENIZER.save(tmp_path / "tokenizer")
    store = prepare(write_corpus(tmp_path / "a.txt"), tmp_path / "tokenizer", tmp_path / "store")
    assert store.info["tokenizer"] == TOKENIZER.hash


def test_prepare_warns_of_a_tokenizer_of_another_language(tmp_path, said):
    corpus = write_corpus(tmp_path / "a.txt", [f"съешь ещё этих булок {i}" for i in range(100)])
    prepare(corpus, TOKENIZER, tmp_path / "store")
    assert said[-1].endswith("[UNK]; train a tokenizer on text in this language")


@pytest.mark.parametrize("accent", ["é", "e\u0301"])
def test_unknown_words_are_counted_by_their_characters_too(tmp_path, said, accent, monkeypatch):
    """One [UNK] stands for a whole word: a few tokens of the corpus, and many of its letters."""
    small_batches(monkeypatch)
    texts = [f"Document {i} of many: {'съ' * 20} the {'ж' * 10}{accent} quick {'apple ' * (i % 5)}" for i in range(50)]
    texts += ["the quick brown fox " * 3 + str(i) for i in range(50)]
    store = prepare(write_corpus(tmp_path / "a.txt", texts), TOKENIZER, tmp_path / "store")
    assert store.info["unknown"] == 100
    assert store.info["unknown_characters"] == 50 * (40 + 11)
    share = 50 * 51 / store.info["characters"]
    assert f" {100 / store.num_tokens:.2%} [UNK] ({share:.2%} of the characters), " in said[-2]
    assert said[-1].startswith(
        f"{100 / store.num_tokens:.1%} of the tokens, with {share:.1%} of the characters, are [UNK]"
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["the", "fox", "apple", "Document", "жж", "съ", "ab", ",", "苹果", "\u200b", "İ"])))
def test_the_characters_of_unknown_words_are_those_that_their_offsets_cover(words):
    text = " ".join(words).replace("\u200b", "").replace("İ", "I")
    values, lengths = TOKENIZER.encode_documents([text, "the fox"])
    widths = np.array([len((TOKENIZER.spelling(i) or (False, ""))[1]) for i in range(TOKENIZER.vocab_size)])
    places = np.flatnonzero(values == TOKENIZER.unk_id)
    ids, offsets = TOKENIZER.encode_with_offsets(text)
    covered = sum(end - start for i, (start, end) in zip(ids, offsets) if i == TOKENIZER.unk_id)
    assert preparing._in_unknown([text, "the fox"], values, lengths, places, widths) == covered


def test_a_corpus_of_which_nothing_is_known_is_refused(tmp_path):
    corpus = write_corpus(tmp_path / "a.txt", [f"съешь {'ж' * i}" for i in range(1, 100)])
    message = refused(prepare, corpus, TOKENIZER, tmp_path / "store")
    assert message == "every token of the corpus is [UNK]; train a tokenizer on text in this language"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("separator", ["\n", "\n\n"])
def test_a_corpus_of_one_repeated_line_is_refused(tmp_path, separator):
    line = "The same line comes again and again, and it could be of any length."
    (tmp_path / "a.txt").write_text(separator.join([line] * 1000))
    tokens = len(TOKENIZER.encode(line)) - 2
    message = refused(prepare, tmp_path / "a.txt", TOKENIZER, tmp_path / "store")
    assert message == (
        f"the corpus is too small: 999 of its 1,000 documents are exact duplicates, {tokens} tokens are left; "
        "give more text, or check `layout`"
    )
    assert names(tmp_path) == ["a.txt"]


def test_a_bad_file_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    small_batches(monkeypatch)
    texts = tmp_path / "texts"
    texts.mkdir()
    write_corpus(texts / "a.txt")
    (texts / "b.txt").write_bytes(b"ok\n\xff\n")
    (texts / "c.txt.gz").write_bytes(gzip.compress(b"x" * 1000)[:-4])
    for bad in ("b.txt, line 2: not UTF-8 (byte 0xff)", "c.txt.gz: truncated or damaged ("):
        assert refused(prepare, texts, TOKENIZER, tmp_path / "out").startswith(f"{texts}/{bad}")
        assert names(tmp_path) == ["texts"]
        (texts / "b.txt").unlink(missing_ok=True)


@pytest.mark.data
@pytest.mark.parametrize("language", ["enwiki", "zh"])
def test_real_text_comes_back_as_the_tokenizer_cuts_it(tmp_path, language):
    path = DATA / language / "valid.txt.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    documents = list(find_corpus(path).documents())
    tokenizer = train_tokenizer(documents, "wordpiece", 3000, sample_characters=200_000)
    store = prepare(path, tokenizer, tmp_path / "store")
    assert len(store) == len(documents)
    for i in range(0, len(documents), 10):
        assert store.document(i).tolist() == tokenizer.encode(documents[i])[1:-1]
    theirs = datasets.load_from_disk(str(tmp_path / "store")).with_format("numpy")
    np.testing.assert_array_equal(theirs[50]["input_ids"], store.document(50))
