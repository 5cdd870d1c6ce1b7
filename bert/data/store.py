"""The token store: documents as token ids on disk, written once, memory-mapped for ever after.

A folder of one Arrow file that `datasets.load_from_disk` reads (`input_ids` without special tokens and a `hash` of the
text, one row a document) beside `store.json`, which says what is in it.
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bert.data.duplicates import NearDuplicates, Seen
from bert.data.encoding import document_encoder
from bert.data.tokenizer import Tokenizer
from bert.errors import InputError
from bert.files import completed, owned, replaced, replaced_folder
from bert.untrusted import read_json

FORMAT = 1
_INFO, _ARROW = "store.json", "data-00000-of-00001.arrow"
_KINDS = {"documents": int, "tokens": int, "dtype": str, "file_bytes": int, "tokenizer": str, "fingerprint": dict}
_KINDS |= {"vocab_size": int, "bytes": int}  # which may be absent
_DTYPES = ("uint16", "uint32")
_ROW_COUNTS = f"rows-{'?' * 16}-*.npy*"  # which packing keeps beside a store
STORE_FILES = (_INFO, _ARROW, "dataset_info.json", "state.json", f".{Path(_INFO).stem}.partial.json", _ROW_COUNTS)
_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 8192, 4_000_000  # tokenised at once: enough for every core
_BATCH_TOKENS = 4_000_000  # in a record batch
_TOO_FEW_TOKENS = 256


@dataclass(frozen=True)
class TokenStore:
    """Token ids of N documents in one flat array, without special tokens. `open_store` maps it from disk."""

    values: np.ndarray
    """flat uint16 or uint32; between documents it may hold bytes of the file format: reach it by starts and lengths"""
    starts: np.ndarray
    """(N,) int64: where in `values` each document begins"""
    lengths: np.ndarray
    """(N,) int64: the tokens of each document, none 0"""
    hashes: np.ndarray
    """(N,) uint64: the first 8 bytes of the blake2b of each document's text"""
    info: dict[str, Any] = field(default_factory=dict)
    """what `store.json` says"""
    folder: Path | None = None
    """where it was opened, if it was"""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.lengths.sum())

    def document(self, index: int) -> np.ndarray:
        """The ids of a document: a view, no copy."""
        start = int(self.starts[index])
        return self.checked(self.values[start : start + int(self.lengths[index])])

    def checked(self, ids: np.ndarray) -> np.ndarray:
        """`ids`, read from the store. InputError where one is beyond the vocabulary that the store names: whoever reads ids passes
        them through here, so that a large store is opened without reading all of it."""
        size = self.info.get("vocab_size")
        if size is not None and (highest := int(ids.max(initial=0))) >= size:
            where, what = self.folder or "the tokenised text", f"holds token id {highest}"
            raise InputError(f"{where}: {what} and its vocabulary has {size} entries; run `bert prepare` again")
        return ids

    @classmethod
    def from_arrays(
        cls, values: np.ndarray, offsets: np.ndarray, hashes: np.ndarray | None = None, vocab_size: int | None = None
    ) -> TokenStore:
        """A store in memory: document i is values[offsets[i] : offsets[i + 1]]; without `hashes` those of the ids. Where a
        `vocab_size` is given, ids from there on are refused when they are read.

        Raises InputError where the offsets do not rise from 0 or more to at most len(values).
        """
        if (kinds := f"{values.dtype.kind}{offsets.dtype.kind}").strip("iu"):
            raise InputError(
                f"values and offsets: must be whole numbers, not of NumPy's kinds {kinds}; repair the file"
            )
        offsets = np.asarray(offsets, dtype=np.int64)
        lengths = np.diff(offsets)
        if offsets.ndim != 1 or len(offsets) < 2 or offsets[0] < 0 or offsets[-1] > len(values) or (lengths < 0).any():
            raise InputError(
                f"offsets: must rise from 0 to at most {len(values)}, the number of values; repair the file"
            )
        if hashes is None:
            documents = (values[start:end] for start, end in pairwise(offsets))
            hashes = np.array([_hash(document.tobytes()) for document in documents], dtype=np.uint64)
        info = {"documents": len(lengths), "tokens": int(lengths.sum()), "dtype": str(values.dtype)}
        info |= {"vocab_size": vocab_size}
        return cls(values, offsets[:-1].copy(), lengths, np.asarray(hashes, dtype=np.uint64), info)

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker process opens the folder again instead of getting a copy of all tokens
        if self.folder is not None:
            return open_store, (self.folder,)
        return TokenStore, (self.values, self.starts, self.lengths, self.hashes, self.info)


@dataclass(frozen=True)
class StoreSummary:
    """What was written into a store."""

    documents: int
    tokens: int
    duplicates: int
    """documents that were skipped because the same text came before"""
    near_duplicates: int
    """documents that were skipped because nearly the same text came before; 0 where none were looked for"""
    empty: int
    """documents that were skipped because no token came of them"""
    unknown: int
    """tokens that are [UNK]"""
    characters: int
    bytes: int
    """of the text of all documents but duplicates, in UTF-8"""
    seconds: float


def open_store(folder: str | Path, tokenizer: Tokenizer | None = None) -> TokenStore:
    """Map a store into memory, in milliseconds and without copying a token.

    Raises InputError where there is none, it is unfinished, damaged, of another format, or made by another tokenizer
    than the one given.
    """
    import pyarrow
    import pyarrow.ipc

    folder = Path(folder).expanduser()
    info = read_info(folder)
    if tokenizer is not None and info["tokenizer"] != tokenizer.hash:
        raise InputError(
            f"{folder}: made by another tokenizer ({info['tokenizer'][:8]}) than the one given ({tokenizer.hash[:8]}); "
            f"run `bert prepare` again with this tokenizer"
        )
    if tokenizer is not None and info.setdefault("vocab_size", tokenizer.vocab_size) != tokenizer.vocab_size:
        raise _damaged(folder, f"vocab_size is {info['vocab_size']}, its tokenizer has {tokenizer.vocab_size} entries")
    path = folder / _ARROW
    size = path.stat().st_size if path.is_file() else None
    if size != info["file_bytes"]:
        what = "is missing" if size is None else f"has {size:,} of {info['file_bytes']:,} bytes"
        raise InputError(f"{folder}: {_ARROW} {what}; run `bert prepare` again")
    dtype = np.dtype(info["dtype"])
    starts, lengths, hashes = [], [], []
    try:
        with pyarrow.memory_map(str(path)) as source:
            base = source.read_buffer().address
            source.seek(0)
            messages = pyarrow.ipc.MessageReader.open_stream(source)
            schema = pyarrow.ipc.read_schema(messages.read_next_message())
            expected = {"input_ids": pyarrow.list_(pyarrow.from_numpy_dtype(dtype)), "hash": pyarrow.uint64()}
            if (found := dict(zip(schema.names, schema.types))) != expected or len(schema) != len(expected):
                raise ValueError(f"its columns are {', '.join(f'{name} {kind}' for name, kind in found.items())}")
            for message in messages:
                if _is_compressed(message.metadata.to_pybytes()):  # asked before it is unpacked, to any size
                    raise ValueError("it is compressed")
                batch = pyarrow.ipc.read_record_batch(message, schema)
                batch.validate(full=True)  # buffers as long as the counts say, offsets that rise within them
                rows, keys = batch.column("input_ids"), batch.column("hash")
                begin, remainder = divmod(rows.values.buffers()[1].address - base, dtype.itemsize)
                offsets = rows.offsets.to_numpy().astype(np.int64)
                if remainder or rows.null_count or rows.values.null_count or keys.null_count:
                    raise ValueError("it has empty cells, or ids that are not aligned")
                starts.append(begin + offsets[:-1])
                lengths.append(np.diff(offsets))
                hashes.append(keys.to_numpy().copy())
    except (pyarrow.ArrowException, OSError, ValueError, StopIteration, struct.error) as error:
        raise _damaged(folder, (str(error).splitlines() or ["cut off"])[0], _ARROW) from None
    all_lengths = np.concatenate([np.zeros(0, np.int64), *lengths])
    counts = len(all_lengths), int(all_lengths.sum())
    if counts != (info["documents"], info["tokens"]) or not all_lengths.all():
        there = f"{counts[0]:,} documents of {counts[1]:,} tokens, {np.count_nonzero(all_lengths == 0)} of them empty"
        said = f"{info['documents']:,} of {info['tokens']:,}"
        raise _damaged(folder, f"it holds {there}, and {_INFO} says {said}", _ARROW)
    # the file itself as one array of ids: Arrow lays out the buffers so that each begins at a whole id
    values = np.memmap(path, dtype=dtype, mode="r", shape=(info["file_bytes"] // dtype.itemsize,)).view(np.ndarray)
    return TokenStore(values, np.concatenate(starts), all_lengths, np.concatenate(hashes), info, folder)


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message of Arrow, a flatbuffer, has compressed buffers: field 3 of a RecordBatch, which is field 2 of a Message."""
    (table,) = struct.unpack_from("<I", metadata)
    for number in (2, 3):
        fields_at = table - struct.unpack_from("<i", metadata, table)[0]
        size, _, *offsets = struct.unpack_from(f"<{3 + number}H", metadata + bytes(16), fields_at)
        if size <= 4 + 2 * number or not offsets[number]:
            return number == 2  # no batch at all, which is not read either
        table += offsets[number]
        table += struct.unpack_from("<I", metadata, table)[0]
    return True


def write_store(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    folder: str | Path,
    fingerprint: dict[str, Any],
    progress: Callable[[int, int], None] | None = None,
    near: float | None = None,
) -> StoreSummary:
    """Tokenise documents into a store at `folder`, which appears whole or not at all.

    Memory is bounded, but for the 8 bytes by which a document is known again (about 80 with `near`).
    Exact duplicates are skipped, and with `near` documents whose Jaccard similarity to an earlier one is about that or
    more, see `bert.data.duplicates`. `progress` is called with the documents and tokens so far. A store that is there
    already is replaced. Raises InputError where the disk has no room, where `folder` holds something else, and where so
    little text is left without duplicates that there is nothing to train on; then, and when interrupted, nothing is
    left behind.
    """
    folder = Path(folder).expanduser()
    near_duplicates = None if near is None else NearDuplicates(near)
    if completed(folder).exists() and not _is_ours(folder):
        raise InputError(f"{folder}: holds something that is not a token store; give another --out")
    try:
        with owned(folder), replaced_folder(folder, STORE_FILES) as fresh:
            return _write_files(_read(documents), tokenizer, fresh, fingerprint, progress, near_duplicates)
    except OSError as error:
        raise InputError(
            f"{folder}: the store cannot be written ({error.strerror or error}); free the disk or give another --out"
        ) from None


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
    return not names or (_INFO in names and (_ARROW in names or holds_store(folder)))


def document_hash(text: str) -> int:
    """The hash by which a store knows a document."""
    return _hash(text.encode("utf-8", "replace"))


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _write_files(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    folder: Path,
    fingerprint: dict[str, Any],
    progress: Callable[[int, int], None] | None,
    near_duplicates: NearDuplicates | None,
) -> StoreSummary:
    import datasets
    import pyarrow as pa
    from datasets.arrow_writer import ArrowWriter

    started = time.monotonic()
    count = dict.fromkeys([field.name for field in fields(StoreSummary) if field.name != "seconds"], 0)
    encode = document_encoder(tokenizer)
    values: list[np.ndarray] = []  # of the record batch that is being filled
    lengths: list[np.ndarray] = []
    hashes: list[np.ndarray] = []
    dtype = np.dtype(tokenizer.dtype)
    ids = datasets.Sequence(datasets.Value(dtype.name))
    features = datasets.Features({"input_ids": ids, "hash": datasets.Value("uint64")})

    with (folder / _ARROW).open("wb") as file:
        writer = ArrowWriter(features=features, stream=file)

        def write_batch() -> None:
            offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int32)
            rows = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values)))
            table = pa.Table.from_arrays([rows, pa.array(np.concatenate(hashes))], schema=features.arrow_schema)
            writer.write_table(table, writer_batch_size=table.num_rows)
            for part in (values, lengths, hashes):
                part.clear()

        for texts, batch_hashes in _distinct_batches(documents, count):
            batch_values, batch_lengths = encode(texts)
            kept = batch_lengths > 0
            count["empty"] += int((~kept).sum())
            if near_duplicates is not None:
                new = near_duplicates.new(batch_values, batch_lengths[kept])
                batch_values = batch_values[np.repeat(new, batch_lengths[kept])]
                for place in np.flatnonzero(kept)[~new].tolist():
                    count["near_duplicates"] += 1
                    count["characters"] -= len(texts[place])
                    count["bytes"] -= len(texts[place].encode("utf-8", "replace"))
                kept[kept] = new
            values.append(batch_values)
            lengths.append(batch_lengths[kept])
            hashes.append(batch_hashes[kept])
            count["documents"] += int(kept.sum())
            count["tokens"] += len(batch_values)
            count["unknown"] += int((batch_values == tokenizer.unk_id).sum())
            if sum(map(len, values)) >= _BATCH_TOKENS:
                write_batch()
            if progress is not None:
                progress(count["documents"], count["tokens"])
        if count["documents"] < 2 and count["tokens"] < _TOO_FEW_TOKENS:
            read = sum(count[what] for what in ("documents", "duplicates", "near_duplicates", "empty"))
            near = f" and {count['near_duplicates']:,} near ones" if near_duplicates is not None else ""
            twice = f"{count['duplicates']:,} of its {read:,} documents are exact duplicates{near}, "
            twice = twice if count["duplicates"] + count["near_duplicates"] else ""
            raise InputError(
                f"the corpus is too small: {twice}{count['tokens']} tokens are"
                f" {'left' if twice else 'all'}; give more text, or check --layout"
            )
        if sum(map(len, values)):
            write_batch()
        writer.finalize(close_stream=False)

    summary = StoreSummary(**count, seconds=time.monotonic() - started)
    info = asdict(summary)
    info.pop("seconds")
    _write_json(folder / "dataset_info.json", asdict(datasets.DatasetInfo(features=features)))
    _write_json(folder / "state.json", {
        "_data_files": [{"filename": _ARROW}],
        "_fingerprint": f"{fingerprint.get('content', '')}-{tokenizer.hash[:16]}",
        "_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False,
        "_split": None,
    })  # fmt: skip
    _write_json(folder / _INFO, {
        "format": FORMAT, **info, "dtype": dtype.name, "file_bytes": (folder / _ARROW).stat().st_size,
        "tokenizer": tokenizer.hash, "vocab_size": tokenizer.vocab_size, "fingerprint": fingerprint,
    })  # fmt: skip
    return summary


def _distinct_batches(documents: Iterable[str], count: dict[str, int]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Documents without exact duplicates, with their hashes, in batches; what was seen goes into `count`."""
    seen = Seen()
    texts: list[str] = []
    hashes: list[int] = []
    waiting = 0
    for document in documents:
        encoded = document.encode("utf-8", "replace")
        digest = _hash(encoded)
        if not seen.add(digest):
            count["duplicates"] += 1
            continue
        texts.append(document)
        hashes.append(digest)
        waiting += len(document)
        count["characters"] += len(document)
        count["bytes"] += len(encoded)
        if waiting >= _BATCH_CHARACTERS or len(texts) >= _BATCH_DOCUMENTS:
            yield texts, np.array(hashes, dtype=np.uint64)
            texts, hashes, waiting = [], [], 0
    if texts:
        yield texts, np.array(hashes, dtype=np.uint64)


def holds_store(folder: str | Path) -> bool:
    """Whether a folder is a token store, though it may be damaged, rather than text: its store.json has a `format`."""
    with suppress(OSError, ValueError):
        info = read_json(completed(Path(folder).expanduser()) / _INFO)
        return isinstance(info, dict) and "format" in info
    return (Path(folder).expanduser() / _ARROW).is_file() and (Path(folder).expanduser() / _INFO).is_file()


def read_info(folder: Path) -> dict[str, Any]:
    """What `store.json` of a finished store says. Raises InputError where there is none that this version reads."""
    if not completed(folder).is_dir():
        raise InputError(f"{folder}: no such folder; make it by `bert prepare CORPUS --tokenizer DIR --out {folder}`")
    if not (folder / _INFO).is_file():
        raise InputError(f"{folder}: no {_INFO}, so this is no store or an unfinished one; run `bert prepare` again")
    try:
        info = read_json(folder / _INFO)
        version = info["format"]
        wrong = [
            key for key in _KINDS if not _is_right(info, key) and (key in info or key not in ("vocab_size", "bytes"))
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(folder) from None
    if version != FORMAT:
        raise InputError(
            f"{folder}: a store of format {version}, this version reads {FORMAT}; run `bert prepare` again"
        )
    if wrong:
        raise _damaged(folder, f"{wrong[0]} is {str(info.get(wrong[0]))[:40]!r}" if wrong[0] in info else "")
    return dict(info)


def _is_right(info: dict[str, Any], key: str) -> bool:
    value, kind = info.get(key), _KINDS[key]
    if kind is int:
        return type(value) is int and 0 < value < 1 << 62
    return isinstance(value, kind) and (key != "dtype" or value in _DTYPES)


def _damaged(folder: Path, what: str = "", file: str = _INFO) -> InputError:
    return InputError(f"{folder}: {file} is damaged{f' ({what})' if what else ''}; run `bert prepare` again")


def replace_info(folder: Path, info: dict[str, Any]) -> None:
    """Write `store.json` of a store anew, where this user may."""
    with suppress(OSError), replaced(folder / _INFO) as partial:
        _write_json(partial, info)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
