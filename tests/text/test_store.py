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
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.errors import InputError
from bert.text import store as store_module
from bert.text.corpus import read_documents
from bert.text.prepare import prepare
from bert.text.store import TokenStore, open_store, write_store
from bert.text.tokenizer import Tokenizer
from bert.text.vocabulary import train_tokenizer

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
    monkeypatch.setattr(store_module, "_BATCH_DOCUMENTS", 7)
    monkeypatch.setattr(store_module, "_BATCH_TOKENS", 500)


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
    pytest.importorskip("datasketch", reason="needs datasketch: pip install 'bert[dedup]'")
    small_batches(monkeypatch)
    words = [f"{first}{second}" for first in "abcdefgh" for second in "ijklmnop"]
    texts = [" ".join(words[(i * 7 + j * (2 * i + 3)) % 64] for j in range(120)) for i in range(20)]
    copies = [f"{text} {i}" for i, text in enumerate(texts)]
    summary = write_store([*texts, "\u200b", *copies, *texts], TOKENIZER, tmp_path / "store", {}, near=0.8)
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
    (tmp_path / ".store.partial").mkdir()
    (tmp_path / ".store.partial" / "data").write_text("half")
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
    fix = "free the disk or give another --out"
    assert message == f"{tmp_path}/store: the store cannot be written (File too large); {fix}"
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
        f"{tmp_path}: holds something that is not a token store; give another --out"
    )
    assert names(tmp_path) == ["thesis.tex"]


# ── stores that are refused ──


def test_bad_stores_are_refused(tmp_path):
    folder, again = tmp_path / "store", "run `bert prepare` again"
    assert refused(open_store, folder) == (
        f"{folder}: no such folder; make it by `bert prepare CORPUS --tokenizer DIR --out {folder}`"
    )
    write_store(TEXTS, TOKENIZER, folder, {})
    assert refused(open_store, folder, OTHER) == (
        f"{folder}: made by another tokenizer ({TOKENIZER.hash[:8]}) than the one given ({OTHER.hash[:8]}); "
        "run `bert prepare` again with this tokenizer"
    )
    info, arrow = folder / "store.json", folder / "data-00000-of-00001.arrow"
    right, content = info.read_text(), arrow.read_bytes()

    info.write_text(json.dumps({**json.loads(right), "format": 99}))
    assert refused(open_store, folder) == f"{folder}: a store of format 99, this version reads 1; {again}"
    for damaged in ("{", "[]", '{"format": 1}'):
        info.write_text(damaged)
        assert refused(open_store, folder) == f"{folder}: store.json is damaged; {again}"
    info.unlink()
    assert refused(open_store, folder) == f"{folder}: no store.json, so this is no store or an unfinished one; {again}"

    info.write_text(right)
    arrow.write_bytes(content[:-1000])
    there = f"has {len(content) - 1000:,} of {len(content):,} bytes"
    assert refused(open_store, folder) == f"{folder}: {arrow.name} {there}; {again}"
    arrow.write_bytes(b"\x00" + os.urandom(len(content) - 1))
    assert refused(open_store, folder).startswith(f"{folder}: {arrow.name} is damaged (")
    arrow.unlink()
    assert refused(open_store, folder) == f"{folder}: {arrow.name} is missing; {again}"


# ── the verb ──


def test_prepare_reuses_a_store_and_writes_it_again_when_something_changed(tmp_path):
    corpus, out = write_corpus(tmp_path / "a.txt"), tmp_path / "store"
    said: list[str] = []
    store = prepare(corpus, TOKENIZER, out, say=said.append)
    tokens = store.num_tokens
    assert len(store) == len(TEXTS)
    assert said[-1].startswith(f"{out}: 300 documents, {tokens:,} tokens, 0 exact duplicates skipped, 0.00% [UNK], ")
    assert said[-1].endswith(" tokens/s")

    def again(tokenizer=TOKENIZER, **options) -> tuple[str, bool]:
        said.clear()
        before = (out / "data-00000-of-00001.arrow").stat().st_ino if out.exists() else 0
        prepare(corpus, tokenizer, out, say=said.append, **options)
        return said[0], (out / "data-00000-of-00001.arrow").stat().st_ino != before

    reused = f"{out}: reused, corpus and tokenizer are unchanged (300 documents, {tokens:,} tokens)"
    assert again() == (reused, False)
    os.utime(corpus, ns=(10**18, 10**18))
    assert again() == (reused, False)
    assert json.loads((out / "store.json").read_text())["fingerprint"]["files"][0]["mtime_ns"] == 10**18

    changed = "the corpus or how it is read has changed: writing the store again"
    near = again(near=0.8)
    assert near == (f"{out}: {changed}", True)
    assert json.loads((out / "store.json").read_text())["fingerprint"]["near"] == 0.8
    assert again(near=0.8)[1] is False
    assert again(near=0.7)[1] is True
    assert again() == (f"{out}: {changed}", True)
    assert again(layout="file") == (f"{out}: {changed}", True)
    write_corpus(corpus, TEXTS[:-1])
    assert again() == (f"{out}: {changed}", True)
    hashes = f"({TOKENIZER.hash[:8]} to {OTHER.hash[:8]})"
    assert again(OTHER) == (f"{out}: the tokenizer has changed {hashes}: writing the store again", True)
    (out / "store.json").unlink()
    unfinished = "no store.json, so this is no store or an unfinished one: writing the store again"
    assert again(OTHER) == (f"{out}: {unfinished}", True)
    (out / "data-00000-of-00001.arrow").write_bytes(b"short")
    message, rewritten = again(OTHER)
    assert rewritten
    assert message.startswith(f"{out}: data-00000-of-00001.arrow has 5 of ")
    assert names(tmp_path) == ["a.txt", "store"]


def test_prepare_says_how_many_near_duplicates_it_left_out(tmp_path):
    said: list[str] = []
    corpus = write_corpus(tmp_path / "a.txt")
    prepare(corpus, TOKENIZER, tmp_path / "store", near=0.5, say=said.append)
    info = json.loads((tmp_path / "store" / "store.json").read_text())
    assert info["near_duplicates"] > 100  # the texts differ in a number and in how often they say "word"
    assert f" 0 exact duplicates and {info['near_duplicates']} near ones skipped, " in said[-1]


def test_prepare_takes_a_tokenizer_folder(tmp_path):
    TOKENIZER.save(tmp_path / "tokenizer")
    store = prepare(write_corpus(tmp_path / "a.txt"), tmp_path / "tokenizer", tmp_path / "store", say=lambda line: None)
    assert store.info["tokenizer"] == TOKENIZER.hash


def test_prepare_warns_of_a_tokenizer_of_another_language(tmp_path):
    said: list[str] = []
    corpus = write_corpus(tmp_path / "a.txt", [f"съешь ещё этих булок {i}" for i in range(100)])
    prepare(corpus, TOKENIZER, tmp_path / "store", say=said.append)
    assert said[-1].startswith("warning: ")
    assert said[-1].endswith("[UNK]; train a tokenizer for this language: bert tokenizer CORPUS --out DIR")


@pytest.mark.parametrize("separator", ["\n", "\n\n"])
def test_a_corpus_of_one_repeated_line_is_refused(tmp_path, separator):
    line = "The same line comes again and again, and it could be of any length."
    (tmp_path / "a.txt").write_text(separator.join([line] * 1000))
    tokens = len(TOKENIZER.encode(line)) - 2
    message = refused(prepare, tmp_path / "a.txt", TOKENIZER, tmp_path / "store", say=lambda line: None)
    assert message == (
        f"the corpus is too small: 999 of its 1,000 documents are exact duplicates, {tokens} tokens are left; "
        "give more text, or check --layout"
    )
    assert names(tmp_path) == ["a.txt"]


def test_a_bad_file_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    small_batches(monkeypatch)
    texts = tmp_path / "texts"
    texts.mkdir()
    write_corpus(texts / "a.txt")
    (texts / "b.txt").write_bytes(b"ok\n\xff\n")
    (texts / "c.txt.gz").write_bytes(gzip.compress(b"x" * 1000)[:-4])
    for bad in ("b.txt:2: not UTF-8 (byte 0xff)", "c.txt.gz: truncated or damaged ("):
        assert refused(prepare, texts, TOKENIZER, tmp_path / "out", say=lambda line: None).startswith(f"{texts}/{bad}")
        assert names(tmp_path) == ["texts"]
        (texts / "b.txt").unlink(missing_ok=True)


@pytest.mark.data
@pytest.mark.parametrize("language", ["enwiki", "zh"])
def test_real_text_comes_back_as_the_tokenizer_cuts_it(tmp_path, language):
    path = DATA / language / "valid.txt.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    documents = list(read_documents(path))
    tokenizer = train_tokenizer(documents, "wordpiece", 3000, sample_characters=200_000)
    store = prepare(path, tokenizer, tmp_path / "store", say=lambda line: None)
    assert len(store) == len(documents)
    for i in range(0, len(documents), 10):
        assert store.document(i).tolist() == tokenizer.encode(documents[i])[1:-1]
    theirs = datasets.load_from_disk(str(tmp_path / "store")).with_format("numpy")
    np.testing.assert_array_equal(theirs[50]["input_ids"], store.document(50))
