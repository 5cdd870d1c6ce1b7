"""A corpus and a tokenizer become a token store, or the store that is already there is reused.

Documents are tokenized in batches, without duplicates, and the folder of the store appears complete or not at all.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np

from bert.data import store as stores
from bert.data.corpus import find_corpus
from bert.data.duplicates import NearDuplicates, Seen
from bert.data.encoding import document_encoder, grouped
from bert.data.store import ARROW, INFO, STORE_FILES, TokenStore, holds_store, open_store
from bert.data.tokenizer import Tokenizer
from bert.errors import InputError, accessing, option
from bert.files import clear_workshop, completed, owned, put_files, real_path, replaced_folder
from bert.terminal import progress_bar

logger = logging.getLogger(__name__)

Tokens = tuple[np.ndarray, np.ndarray, np.ndarray]
"""documents: their flat ids; the number of ids of each, and the hash of its text"""

_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 8192, 4_000_000  # tokenized at once: enough for all cores
_BATCH_TOKENS = 4_000_000  # in a record batch, except for the last one
_TOO_FEW_TOKENS = 256


def prepare(
    corpus: Sequence[str | Path] | str | Path,
    tokenizer: Tokenizer | str | Path,
    out: str | Path,
    layout: str = "auto",
    text_field: str = "text",
    jaccard: float | None = None,
    exclude: Sequence[str] = (),
) -> TokenStore:
    """The store of a corpus at `out`, written unless the existing one was made of the same corpus.

    Files and folders that match a pattern of `exclude` are left out, see `bert.data.corpus`. With `jaccard`, near duplicates of
    at least that similarity are skipped, see `bert.data.duplicates`. Raises InputError if the corpus, the tokenizer or the folder
    cannot be used.
    """
    tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.load(tokenizer)
    out = Path(out).expanduser()
    found = find_corpus(corpus, layout, text_field, exclude, out)
    store, why = None, ""
    if holds_store(out):
        try:
            store = open_store(out, tokenizer)
            why = "the corpus or how it is read has changed"
        except InputError as error:
            why = str(error).removeprefix(f"{out}: ").split(";")[0]
    known = {} if store is None else store.info["fingerprint"]
    fingerprint = found.fingerprint(known)
    if jaccard is not None:
        fingerprint |= {"near": jaccard, "content": f"{fingerprint['content']}-near-{jaccard}"}
    if store is not None and known.get("content") == fingerprint["content"]:
        clear_workshop(real_path(out), STORE_FILES)
        what = f"{len(store):,} documents, {store.num_tokens:,} tokens"
        logger.info(f"{out}: reused, corpus and tokenizer are unchanged ({what})")
        if known != fingerprint:  # files touched or moved: not read again next time
            with suppress(OSError):
                stores.write_info(out, store.info | {"fingerprint": fingerprint})
        return store
    if why:
        logger.info(f"{out}: {why}: writing the store again")
    with _progress(found.num_bytes) as (advance, progress):
        summary = write_store(found.documents(logger.info, advance), tokenizer, out, fingerprint, progress, jaccard)
    _log(out, summary, jaccard)
    for file in fingerprint["files"]:
        with suppress(OSError):
            if Path(file["path"]).stat().st_mtime_ns != file["mtime_ns"]:
                logger.warning(f"{file['path']}: changed while it was read; prepare it again, for its present text")
    return open_store(out, tokenizer)


def text_has_changed(store: TokenStore, corpus: Sequence[str], exclude: Sequence[str] = ()) -> bool:
    """Whether the text of `corpus` differs from that of `store`; false for a text that is missing or on the Hub."""
    known = store.info["fingerprint"]
    try:
        found = find_corpus(corpus, known.get("layout", "auto"), known.get("text_field", "text"), exclude)
        return not found.hub and found.fingerprint(known)["content"] != known.get("content")
    except (InputError, OSError):
        return False


def _log(out: Path, summary: StoreSummary, jaccard: float | None) -> None:
    unknown, letters = summary.unknown / summary.tokens, summary.unknown_characters / summary.characters
    also = "" if jaccard is None else f" and {summary.near_duplicates:,} near ones"
    shares = f"{unknown:.2%} [UNK] ({letters:.2%} of the characters)"
    skipped = f"{summary.duplicates:,} exact duplicates{also} skipped, {shares}"
    rate = f"{summary.tokens / max(summary.seconds, 1e-9):,.0f} tokens/s"
    logger.info(f"{out}: {summary.documents:,} documents, {summary.tokens:,} tokens, {skipped}, {rate}")
    if max(unknown, letters) > 0.01:
        what = f"{unknown:.1%} of the tokens, with {letters:.1%} of the characters, are [UNK]"
        logger.warning(f"{what}; train a tokenizer on text in this language")


@contextmanager
def _progress(num_bytes: int) -> Iterator[tuple[Callable[[float], None], Callable[[int, int], None]]]:
    """A progress bar on a terminal, otherwise a line every 15 s: yields `advance(bytes)` and `progress(documents, tokens)`."""
    started = last = time.monotonic()
    seen = 0.0

    def advance(read: float) -> None:
        nonlocal seen
        seen += read
        count(read)

    def progress(documents: int, tokens: int) -> None:
        nonlocal last
        now = time.monotonic()
        done = f"{documents:,} documents, {tokens:,} tokens, {tokens / (now - started):,.0f} tokens/s"
        describe(done)
        if now - last >= 15 and not sys.stderr.isatty():
            last = now
            logger.info(f"tokenizing: {f'{min(seen / num_bytes, 1):.0%}, ' if num_bytes else ''}{done}")

    with progress_bar("tokenizing", num_bytes or None) as (count, describe):
        yield advance, progress


@dataclass
class StoreSummary:
    """What was written to a store."""

    documents: int = 0
    tokens: int = 0
    duplicates: int = 0
    """documents skipped because of an earlier one with the same text"""
    near_duplicates: int = 0
    """documents skipped because of an earlier one with nearly the same text; 0 without such a search"""
    empty: int = 0
    """documents skipped because they have no tokens"""
    unknown: int = 0
    """tokens that are [UNK]"""
    unknown_characters: int = 0
    """characters in these, about: those of the texts with such tokens, without spaces and the characters of their other tokens"""
    characters: int = 0
    bytes: int = 0
    """of the text of all documents but duplicates, in UTF-8"""
    seconds: float = 0.0


def write_store(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    folder: str | Path,
    fingerprint: dict[str, Any],
    progress: Callable[[int, int], None] | None = None,
    jaccard: float | None = None,
) -> StoreSummary:
    """Tokenize documents into a store at `folder`, which appears complete or not at all.

    Memory is bounded, except for 8 bytes per document (about 80 with `jaccard`) to recognize duplicates. Exact duplicates
    are skipped, and with `jaccard` documents of about that similarity or more to an earlier one, see
    `bert.data.duplicates`. `progress` is called with the numbers of documents and tokens so far. An existing store is
    replaced. Raises InputError if the disk is full, if `folder` holds something else, and if too little text to train on is
    left without duplicates; then, and when interrupted, nothing is written.
    """
    folder = Path(folder).expanduser()
    near = None if jaccard is None else NearDuplicates(jaccard)
    if completed(folder).exists() and not _is_ours(folder):
        raise InputError(f"{folder}: holds something that is not a token store; give another {option('out')}")
    fix = f"free the disk or give another {option('out')}"
    with accessing(folder, "written", fix), owned(folder), replaced_folder(folder, STORE_FILES) as fresh:
        summary, started = StoreSummary(), time.monotonic()
        batches = _tokenized(_read(documents), tokenizer, summary, near, progress)
        _write_arrow(fresh / ARROW, batches, _features(tokenizer.dtype).arrow_schema)
        _check_size(summary, near is not None)
        summary.seconds = time.monotonic() - started
        _describe(fresh, summary, tokenizer, fingerprint)
        return summary


def _read(documents: Iterable[str]) -> Iterator[str]:
    """The documents. An OSError while reading them is not one of writing the store."""
    try:
        yield from documents
    except OSError as error:
        raise InputError(f"{error.filename or 'the text'}: cannot be read ({error.strerror or error})") from error


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty or only a store. Folders of `datasets` have the same files but `store.json`."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else ["a file"]
    if any(not any(fnmatchcase(name, ours) for ours in STORE_FILES) for name in names):
        return False
    return not names or (INFO in names and (ARROW in names or holds_store(folder)))


def _tokenized(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    summary: StoreSummary,
    near: NearDuplicates | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Tokens]:
    """Tokenize documents in batches, without duplicates and documents without tokens, and count them in `summary`."""
    widths = np.array([len((tokenizer.spelling(number) or ("", ""))[1]) for number in range(tokenizer.vocab_size)])
    encode = document_encoder(tokenizer.encode_documents, json.loads(tokenizer.backend.to_str()))
    for texts, hashes in _distinct_batches(documents, summary):
        values, lengths = encode(texts)
        new, kept = np.ones(len(texts), bool), lengths > 0
        if near is not None:
            new[kept] = near.new(values, lengths[kept])
            values = values[np.repeat(new, lengths)]
        summary.empty += int((~kept).sum())
        summary.near_duplicates += int((~new).sum())
        texts = [text for text, is_new in zip(texts, new.tolist()) if is_new]
        for text in texts:
            summary.characters += len(text)
            summary.bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        kept &= new
        summary.documents += int(kept.sum())
        summary.tokens += len(values)
        places = np.flatnonzero(values == tokenizer.unk_id)
        summary.unknown += len(places)
        summary.unknown_characters += _in_unknown(texts, values, lengths[new], places, widths)
        yield values, lengths[kept], hashes[kept]
        if progress is not None:
            progress(summary.documents, summary.tokens)


def _in_unknown(
    texts: Sequence[str], values: np.ndarray, lengths: np.ndarray, places: np.ndarray, widths: np.ndarray
) -> int:
    """The characters that the [UNK] at `places` stand for, about: those of a text, less spaces and the `widths` of its other tokens."""
    total, ends = 0, np.cumsum(lengths)
    for number in np.unique(np.searchsorted(ends, places, side="right")).tolist():
        ids, text = values[ends[number] - lengths[number] : ends[number]], normalize("NFC", texts[number])
        total += max(0, len("".join(text.split())) - int(widths[ids].sum()))
    return total


def _write_arrow(path: Path, batches: Iterable[Tokens], schema: Any) -> None:
    """Write the Arrow file of a store."""
    import pyarrow as pa
    import pyarrow.ipc

    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as stream:
        some = (batch for batch in batches if len(batch[0]))
        for parts in grouped(some, lambda batch: len(batch[0]), _BATCH_TOKENS):
            values, lengths, hashes = map(np.concatenate, zip(*parts))
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            documents = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
            stream.write_batch(pa.record_batch([documents, pa.array(hashes)], schema=schema))


def _check_size(summary: StoreSummary, near: bool) -> None:
    """Raises InputError if there is too little text to train on, or nothing in it is known."""
    if summary.unknown == summary.tokens > 0:
        raise InputError("every token of the corpus is [UNK]; train a tokenizer on text in this language")
    if summary.documents >= 2 or summary.tokens >= _TOO_FEW_TOKENS:
        return
    skipped = summary.duplicates + summary.near_duplicates
    left = f"it has only {summary.tokens} tokens"
    if skipped:
        more = f" and {summary.near_duplicates:,} near ones" if near else ""
        read = summary.documents + skipped + summary.empty
        left = f"{summary.duplicates:,} of its {read:,} documents are exact duplicates{more}, {summary.tokens} tokens are left"
    raise InputError(f"the corpus is too small: {left}; give more text, or check {option('layout')}")


def _describe(folder: Path, summary: StoreSummary, tokenizer: Tokenizer, fingerprint: dict[str, Any]) -> None:
    """Write the JSON files beside the Arrow file: two for `datasets.load_from_disk`, and `store.json`."""
    import datasets

    state = dict.fromkeys(("_format_columns", "_format_type", "_split")) | {"_format_kwargs": {}}
    state |= {"_data_files": [{"filename": ARROW}], "_output_all_columns": False}
    state |= {"_fingerprint": f"{fingerprint.get('content', '')}-{tokenizer.hash[:16]}"}
    dataset = asdict(datasets.DatasetInfo(features=_features(tokenizer.dtype)))
    put_files(folder, {"dataset_info.json": json.dumps(dataset), "state.json": json.dumps(state)})
    info = {name: value for name, value in vars(summary).items() if name != "seconds"}
    info |= {"dtype": np.dtype(tokenizer.dtype).name, "file_bytes": (folder / ARROW).stat().st_size}
    info |= {"tokenizer": tokenizer.hash, "vocab_size": tokenizer.vocab_size, "fingerprint": fingerprint}
    stores.write_info(folder, info)


def _features(dtype: type[np.uint16] | type[np.uint32]) -> Any:
    """The columns, as `datasets` describes them."""
    from datasets import Features, Sequence, Value

    return Features({"input_ids": Sequence(Value(np.dtype(dtype).name)), "hash": Value("uint64")})


def _distinct_batches(documents: Iterable[str], summary: StoreSummary) -> Iterator[tuple[list[str], np.ndarray]]:
    """Documents without exact duplicates, which are counted, and their hashes, in batches."""
    seen = Seen()

    def distinct() -> Iterator[tuple[str, int]]:
        for document in documents:
            if seen.add(digest := stores.document_hash(document)):
                yield document, digest
            else:
                summary.duplicates += 1

    least = _BATCH_CHARACTERS // _BATCH_DOCUMENTS  # that a document counts as
    for batch in grouped(distinct(), lambda one: len(one[0]) + least, _BATCH_CHARACTERS):
        texts, hashes = zip(*batch)
        yield list(texts), np.array(hashes, dtype=np.uint64)
