"""The token store: documents as token ids on disk, written once, then memory-mapped.

A folder with one Arrow file that `datasets.load_from_disk` reads (one row per document: `input_ids` without special tokens
and a `hash` of the text) and `store.json`, which describes it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bert.data.tokenizer import Tokenizer
from bert.errors import InputError, first_line
from bert.files import completed, replace_text
from bert.untrusted import read_json

FORMAT = 1
INFO, ARROW = "store.json", "data-00000-of-00001.arrow"
_KINDS = {"documents": int, "tokens": int, "dtype": str, "file_bytes": int, "tokenizer": str, "fingerprint": dict}
_OPTIONAL = {"vocab_size": int, "bytes": int}
_DTYPES = ("uint16", "uint32")
_COUNTS = [f"{name}-{'?' * 16}-*.npy*" for name in ("sequences", "rows")]  # of packing; the second in older stores
STORE_FILES = (INFO, ARROW, "dataset_info.json", "state.json", f".{Path(INFO).stem}.partial.json", *_COUNTS)
"""patterns of what a store folder holds; nothing else in it is touched"""


@dataclass(frozen=True)
class TokenStore:
    """Token ids of N documents in one flat array, without special tokens. `open_store` maps it from disk."""

    values: np.ndarray
    """flat uint16 or uint32; between documents it may hold bytes of the file format: index it by starts and lengths"""
    starts: np.ndarray
    """(N,) int64: index in `values` at which each document begins"""
    lengths: np.ndarray
    """(N,) int64: the number of tokens of each document, none 0"""
    hashes: np.ndarray
    """(N,) uint64: the first 8 bytes of the blake2b of each document's text"""
    info: dict[str, Any] = field(default_factory=dict)
    """content of `store.json`"""
    folder: Path | None = None
    """where it was opened, if from disk"""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all documents."""
        return int(self.lengths.sum())

    def document(self, index: int) -> np.ndarray:
        """The ids of a document: a view, no copy."""
        start = int(self.starts[index])
        return self.checked(self.values[start : start + int(self.lengths[index])])

    def checked(self, ids: np.ndarray) -> np.ndarray:
        """`ids`, read from the store. Raises InputError if one is outside the vocabulary that the store names. All ids that are
        read pass through here, so that a large store can be opened without reading all of it."""
        size = self.info.get("vocab_size")
        if size is not None and (highest := int(ids.max(initial=0))) >= size:
            what = f"holds token id {highest} and its vocabulary has {size} entries"
            raise InputError(f"{self.folder or 'the tokenized text'}: {what}; prepare the text again")
        return ids

    @classmethod
    def from_arrays(
        cls, values: np.ndarray, offsets: np.ndarray, hashes: np.ndarray | None = None, vocab_size: int | None = None
    ) -> TokenStore:
        """A store in memory: document i is values[offsets[i] : offsets[i + 1]]; `hashes` are by default those of the ids. Ids
        from `vocab_size` on are refused when they are read.

        Raises InputError if the offsets do not increase from 0 or more to at most len(values).
        """
        if (kinds := f"{values.dtype.kind}{offsets.dtype.kind}").strip("iu"):
            raise InputError(f"values and offsets: must be whole numbers, not of NumPy's kinds {kinds}")
        offsets = np.asarray(offsets, dtype=np.int64)
        lengths = np.diff(offsets)
        if offsets.ndim != 1 or len(offsets) < 2 or offsets[0] < 0 or offsets[-1] > len(values) or (lengths < 0).any():
            raise InputError(f"offsets: must rise from 0 to at most {len(values)}, the number of values")
        if hashes is None:
            documents = (values[start:end] for start, end in pairwise(offsets))
            hashes = np.array([hash_bytes(document.tobytes()) for document in documents], dtype=np.uint64)
        counts = {"documents": len(lengths), "tokens": int(lengths.sum())}
        info = counts | {"dtype": str(values.dtype), "vocab_size": vocab_size}
        return cls(values, offsets[:-1].copy(), lengths, np.asarray(hashes, dtype=np.uint64), info)

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker process opens the folder again instead of getting a copy of all tokens
        if self.folder is not None:
            return open_store, (self.folder,)
        return TokenStore, (self.values, self.starts, self.lengths, self.hashes, self.info)


def open_store(folder: str | Path, tokenizer: Tokenizer | None = None) -> TokenStore:
    """Map a store into memory, in milliseconds and without copying tokens.

    Raises InputError if there is none or it is unfinished, damaged, of another format, or made with another tokenizer than
    the given one.
    """
    import pyarrow
    import pyarrow.ipc

    folder = Path(folder).expanduser()
    info = read_info(folder)
    if tokenizer is not None and info["tokenizer"] != tokenizer.hash:
        both = f"another tokenizer ({info['tokenizer'][:8]}) than the one given ({tokenizer.hash[:8]})"
        raise InputError(f"{folder}: made with {both}; prepare the text again with this tokenizer")
    if tokenizer is not None and info.setdefault("vocab_size", tokenizer.vocab_size) != tokenizer.vocab_size:
        raise _damaged(folder, f"vocab_size is {info['vocab_size']}, its tokenizer has {tokenizer.vocab_size} entries")
    path = folder / ARROW
    size = path.stat().st_size if path.is_file() else None
    if size != info["file_bytes"]:
        what = "is missing" if size is None else f"has {size:,} of {info['file_bytes']:,} bytes"
        raise InputError(f"{folder}: {ARROW} {what}; prepare the text again")
    dtype = np.dtype(info["dtype"])
    try:
        batches = list(_record_batches(path, dtype))
    except (pyarrow.ArrowException, OSError, ValueError, StopIteration, struct.error) as error:
        raise _damaged(folder, first_line(error) if str(error) else "cut off", ARROW) from None
    lengths = np.concatenate([np.zeros(0, np.int64), *(batch[1] for batch in batches)])
    counts = len(lengths), int(lengths.sum())
    if counts != (info["documents"], info["tokens"]) or not lengths.all():
        there = f"{counts[0]:,} documents of {counts[1]:,} tokens, {np.count_nonzero(lengths == 0)} of them empty"
        said = f"{info['documents']:,} of {info['tokens']:,}"
        raise _damaged(folder, f"it holds {there}, and {INFO} says {said}", ARROW)
    # the whole file as one array of ids: each buffer of Arrow begins at a multiple of their size
    values = np.memmap(path, dtype=dtype, mode="r", shape=(info["file_bytes"] // dtype.itemsize,)).view(np.ndarray)
    starts, hashes = (np.concatenate([batch[column] for batch in batches]) for column in (0, 2))
    return TokenStore(values, starts, lengths, hashes, info, folder)


def _record_batches(path: Path, dtype: np.dtype) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(starts, lengths, hashes) of the documents of each record batch. Raises ValueError and the like for other files."""
    import pyarrow
    import pyarrow.ipc

    with pyarrow.memory_map(str(path)) as source:
        base = source.read_buffer().address
        source.seek(0)
        messages = pyarrow.ipc.MessageReader.open_stream(source)
        schema = pyarrow.ipc.read_schema(messages.read_next_message())
        expected = {"input_ids": pyarrow.list_(pyarrow.from_numpy_dtype(dtype)), "hash": pyarrow.uint64()}
        if (found := dict(zip(schema.names, schema.types))) != expected or len(schema) != len(expected):
            raise ValueError(f"its columns are {', '.join(f'{name} {kind}' for name, kind in found.items())}")
        for message in messages:
            if _is_compressed(message.metadata.to_pybytes()):  # checked before it is unpacked, to any size
                raise ValueError("it is compressed")
            batch = pyarrow.ipc.read_record_batch(message, schema)
            batch.validate(full=True)  # lengths of buffers, offsets that increase within them
            documents, keys = batch.column("input_ids"), batch.column("hash")
            begin, remainder = divmod(documents.values.buffers()[1].address - base, dtype.itemsize)
            offsets = documents.offsets.to_numpy().astype(np.int64)
            if remainder or documents.null_count or documents.values.null_count or keys.null_count:
                raise ValueError("it has empty cells, or ids that are not aligned")
            yield begin + offsets[:-1], np.diff(offsets), keys.to_numpy().copy()


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message of Arrow, a flatbuffer, has compressed buffers: field 3 of a RecordBatch, which is field 2 of a Message."""
    (table,) = struct.unpack_from("<I", metadata)
    for number in (2, 3):
        fields_at = table - struct.unpack_from("<i", metadata, table)[0]
        size, _, *offsets = struct.unpack_from(f"<{3 + number}H", metadata + bytes(16), fields_at)
        if size <= 4 + 2 * number or not offsets[number]:
            return number == 2  # not a batch, which is not read either
        table += offsets[number]
        table += struct.unpack_from("<I", metadata, table)[0]
    return True


def document_hash(text: str) -> int:
    """The hash that identifies a document in a store."""
    return hash_bytes(text.encode("utf-8", "replace"))


def hash_bytes(text: bytes) -> int:
    """The first 8 bytes of a blake2b as a number."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def holds_store(folder: str | Path) -> bool:
    """Whether a folder is a token store, possibly damaged, rather than text: its store.json has a `format`."""
    folder = Path(folder).expanduser()
    with suppress(OSError, ValueError):
        info = read_json(completed(folder) / INFO)
        return isinstance(info, dict) and "format" in info
    return (folder / ARROW).is_file() and (folder / INFO).is_file()


def read_info(folder: Path) -> dict[str, Any]:
    """The content of `store.json` of a finished store. Raises InputError if there is none that this version reads."""
    if not completed(folder).is_dir():
        raise InputError(f"{folder}: no such folder; prepare a text first")
    if not (folder / INFO).is_file():
        raise InputError(f"{folder}: no {INFO}: not a store, or an unfinished one; prepare the text again")
    try:
        info = read_json(folder / INFO)
        version = info["format"]
        wrong = [key for key in _KINDS | _OPTIONAL if not _is_right(info, key) and (key in info or key in _KINDS)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(folder) from None
    if version != FORMAT:
        raise InputError(f"{folder}: a store of format {version}, this version reads {FORMAT}; prepare the text again")
    if wrong:
        raise _damaged(folder, f"{wrong[0]} is {str(info.get(wrong[0]))[:40]!r}" if wrong[0] in info else "")
    return dict(info)


def _is_right(info: dict[str, Any], key: str) -> bool:
    value, kind = info.get(key), (_KINDS | _OPTIONAL)[key]
    if kind is int:
        return type(value) is int and 0 < value < 1 << 62
    return isinstance(value, kind) and (key != "dtype" or value in _DTYPES)


def _damaged(folder: Path, what: str = "", file: str = INFO) -> InputError:
    return InputError(f"{folder}: {file} is damaged{f' ({what})' if what else ''}; prepare the text again")


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write `store.json` atomically. Raises OSError."""
    replace_text(folder / INFO, json.dumps({"format": FORMAT, **info}, indent=2, ensure_ascii=False) + "\n")
