"""Writing a token store: documents are tokenised in batches, without those that came before, and the folder appears whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from bert.data.duplicates import NearDuplicates, Seen
from bert.data.encoding import document_encoder
from bert.data.store import ARROW, FORMAT, INFO, STORE_FILES, hash_bytes, holds_store, json_text
from bert.data.tokenizer import Tokenizer
from bert.errors import InputError, option
from bert.files import completed, owned, put_files, replaced_folder

_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 8192, 4_000_000  # tokenised at once: enough for every core
_BATCH_TOKENS = 4_000_000  # in a record batch
_TOO_FEW_TOKENS = 256


@dataclass
class StoreSummary:
    """What was written into a store."""

    documents: int = 0
    tokens: int = 0
    duplicates: int = 0
    """documents that were skipped because the same text came before"""
    near_duplicates: int = 0
    """documents that were skipped because nearly the same text came before; 0 where none were looked for"""
    empty: int = 0
    """documents that were skipped because no token came of them"""
    unknown: int = 0
    """tokens that are [UNK]"""
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
    """Tokenise documents into a store at `folder`, which appears whole or not at all.

    Memory is bounded, but for the 8 bytes by which a document is known again (about 80 with `jaccard`).
    Exact duplicates are skipped, and with `jaccard` documents whose similarity to an earlier one is about that or
    more, see `bert.data.duplicates`. `progress` is called with the documents and tokens so far. A store that is there
    already is replaced. Raises InputError where the disk has no room, where `folder` holds something else, and where so
    little text is left without duplicates that there is nothing to train on; then, and when interrupted, nothing is
    left.
    """
    folder = Path(folder).expanduser()
    near = None if jaccard is None else NearDuplicates(jaccard)
    if completed(folder).exists() and not _is_ours(folder):
        raise InputError(f"{folder}: holds something that is not a token store; give another {option('out')}")
    try:
        with owned(folder), replaced_folder(folder, STORE_FILES) as fresh:
            summary = _write_documents(fresh / ARROW, _read(documents), tokenizer, progress, near)
            _describe(fresh, summary, tokenizer, fingerprint)
            return summary
    except OSError as error:
        fix = f"free the disk or give another {option('out')}"
        raise InputError(f"{folder}: the store cannot be written ({error.strerror or error}); {fix}") from None


def _read(documents: Iterable[str]) -> Iterator[str]:
    """The documents; what the disk they come from does wrong is not put down to the one that is written."""
    try:
        yield from documents
    except OSError as error:
        raise InputError(f"{error.filename or 'the text'}: cannot be read ({error.strerror or error})") from error


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty or a store and nothing else. `datasets` writes folders that lack only `store.json`."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else ["a file"]
    if any(not any(fnmatchcase(name, ours) for ours in STORE_FILES) for name in names):
        return False
    return not names or (INFO in names and (ARROW in names or holds_store(folder)))


class StoreWriter:
    """Collects documents into record batches of some million tokens, and writes them to a stream of Arrow."""

    def __init__(self, stream: Any, schema: Any) -> None:
        self.stream, self.schema = stream, schema
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(self, values: np.ndarray, lengths: np.ndarray, hashes: np.ndarray) -> None:
        """Add documents: their flat ids, and for each the number of ids and the hash of the text."""
        self._parts.append((values, lengths, hashes))
        self._waiting += len(values)
        if self._waiting >= _BATCH_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        import pyarrow as pa

        if self._waiting:
            values, lengths, hashes = map(np.concatenate, zip(*self._parts))
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            documents = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
            self.stream.write_batch(pa.record_batch([documents, pa.array(hashes)], schema=self.schema))
            self._parts, self._waiting = [], 0


def _write_documents(
    path: Path,
    documents: Iterable[str],
    tokenizer: Tokenizer,
    progress: Callable[[int, int], None] | None,
    near: NearDuplicates | None,
) -> StoreSummary:
    """Write the Arrow file of a store, without duplicates and documents without tokens."""
    from pyarrow.ipc import new_stream

    summary, started = StoreSummary(), time.monotonic()
    encode, schema = document_encoder(tokenizer), _features(tokenizer.dtype).arrow_schema
    with path.open("wb") as file, new_stream(file, schema) as stream:
        writer = StoreWriter(stream, schema)
        for texts, hashes in _distinct_batches(documents, summary):
            values, lengths = encode(texts)
            new, kept = np.ones(len(texts), bool), lengths > 0
            if near is not None:
                new[kept] = near.new(values, lengths[kept])
                values = values[np.repeat(new, lengths)]
            summary.empty += int((~kept).sum())
            summary.near_duplicates += int((~new).sum())
            for text in (text for text, is_new in zip(texts, new.tolist()) if is_new):
                summary.characters += len(text)
                summary.bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
            kept &= new
            writer.add(values, lengths[kept], hashes[kept])
            summary.documents += int(kept.sum())
            summary.tokens += len(values)
            summary.unknown += int((values == tokenizer.unk_id).sum())
            if progress is not None:
                progress(summary.documents, summary.tokens)
        _check_size(summary, near is not None)
        writer.flush()
    summary.seconds = time.monotonic() - started
    return summary


def _check_size(summary: StoreSummary, near: bool) -> None:
    """InputError where there is too little text to train on."""
    if summary.documents >= 2 or summary.tokens >= _TOO_FEW_TOKENS:
        return
    skipped = summary.duplicates + summary.near_duplicates
    left = f"{summary.tokens} tokens are all"
    if skipped:
        more = f" and {summary.near_duplicates:,} near ones" if near else ""
        read = summary.documents + skipped + summary.empty
        left = f"{summary.duplicates:,} of its {read:,} documents are exact duplicates{more}, {left[:-3]}left"
    raise InputError(f"the corpus is too small: {left}; give more text, or check {option('layout')}")


def _describe(folder: Path, summary: StoreSummary, tokenizer: Tokenizer, fingerprint: dict[str, Any]) -> None:
    """Write the JSON files beside the Arrow file: two for `datasets.load_from_disk`, and our own."""
    import datasets

    counts = {name: value for name, value in vars(summary).items() if name != "seconds"}
    dtype, size = np.dtype(tokenizer.dtype).name, (folder / ARROW).stat().st_size
    state = dict.fromkeys(("_format_columns", "_format_type", "_split")) | {"_format_kwargs": {}}
    state |= {"_data_files": [{"filename": ARROW}], "_output_all_columns": False}
    state |= {"_fingerprint": f"{fingerprint.get('content', '')}-{tokenizer.hash[:16]}"}
    info = {"format": FORMAT, **counts, "dtype": dtype, "file_bytes": size, "tokenizer": tokenizer.hash}
    info |= {"vocab_size": tokenizer.vocab_size, "fingerprint": fingerprint}
    dataset = asdict(datasets.DatasetInfo(features=_features(tokenizer.dtype)))
    contents = {"dataset_info.json": dataset, "state.json": state, INFO: info}
    put_files(folder, {name: json_text(content) for name, content in contents.items()})


def _features(dtype: type[np.uint16] | type[np.uint32]) -> Any:
    """The columns, as `datasets` describes them."""
    from datasets import Features, Sequence, Value

    return Features({"input_ids": Sequence(Value(np.dtype(dtype).name)), "hash": Value("uint64")})


def _distinct_batches(documents: Iterable[str], summary: StoreSummary) -> Iterator[tuple[list[str], np.ndarray]]:
    """Documents without exact duplicates, which are counted, with their hashes, in batches."""
    seen = Seen()
    texts: list[str] = []
    hashes: list[int] = []
    waiting = 0
    for document in documents:
        digest = hash_bytes(document.encode("utf-8", "replace"))
        if not seen.add(digest):
            summary.duplicates += 1
            continue
        texts.append(document)
        hashes.append(digest)
        waiting += len(document)
        if waiting >= _BATCH_CHARACTERS or len(texts) >= _BATCH_DOCUMENTS:
            yield texts, np.array(hashes, dtype=np.uint64)
            texts, hashes, waiting = [], [], 0
    if texts:
        yield texts, np.array(hashes, dtype=np.uint64)
