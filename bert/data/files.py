"""The documents of one file: plain text, JSON lines, tables or parquet, optionally compressed, in constant memory."""

from __future__ import annotations

import gzip
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, BinaryIO, cast

from bert.data.rows import Rows, json_rows, table_rows
from bert.errors import InputError, did_you_mean, first_line, option

if TYPE_CHECKING:
    from io import BufferedReader

LAYOUTS = ("auto", "blank-lines", "lines", "file")
TEXTS = {".txt": "txt", ".text": "txt"}
JSONS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
COMPRESSIONS = (".gz", ".zst")
_SURROGATES = re.compile("[\ud800-\udfff]")
_CHUNK = 1 << 20  # bytes read at once; the layout of a file is chosen from the first chunk
_ZSTD_AT_ONCE = 1 << 10  # compressed bytes, which may expand by a factor of up to 32,768
_MOST_WINDOW = 1 << 27  # bytes of history that zstd keeps: the limit of its own command

Advance = Callable[[int], None]
Notes = Callable[[str], None]


def known_suffixes() -> str:
    """The supported suffixes, for messages."""
    return f"{', '.join(READERS)}, each text format also with {' or '.join(COMPRESSIONS)}"


def suffixes(path: Path) -> str:
    """The supported end of a file name, such as `.jsonl.gz`; empty if it is not supported."""
    form, compression = parted_suffixes(path)
    return form + compression if form in (_TEXT_READERS if compression else READERS) else ""


def parted_suffixes(path: str | Path) -> tuple[str, str]:
    """The suffix of a file name and that of a compression after it, in lower case; empty if there is none."""
    name = Path(path).name.lower()
    compression = next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")
    return Path(name.removesuffix(compression)).suffix, compression


def read_file(
    path: Path, layout: str, text_field: str, note_once: Callable[[str, str], None], advance: Advance
) -> Iterator[str]:
    """The documents of a file, not stripped, including empty ones. A file with an unknown suffix is plain text.

    `note_once(layout, line)` is called if a layout was chosen by line length, `advance` with the bytes read since its last
    call. Raises InputError with file and line if the file cannot be read.
    """
    read = READERS[parted_suffixes(path)[0]] if suffixes(path) else _read_text
    return read(_File(path, layout, text_field, note_once, advance))


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, with their newline, decompressed by its suffix. `-` is standard input, unbuffered."""
    if str(path) == "-":
        buffer = cast("BufferedReader", sys.stdin.buffer)
        chunks = iter(lambda: buffer.read1(_CHUNK), b"")
        return _lines(_whole_lines(Path("standard input"), chunks))
    return _lines(_text_blocks(path, lambda _: None))


def _byte_chunks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Decompressed bytes of a file. Raises EOFError and the like for a compressed file that ends early."""
    if path.name.lower().endswith(".zst"):
        import zstandard

        # not zstandard.open, which reads a truncated file without an error
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW)
        frame, started = decompressor.decompressobj(), False
        texts, waiting = [], 0
        while chunk := file.read(_ZSTD_AT_ONCE):
            while chunk:
                if frame.eof:
                    frame = decompressor.decompressobj()
                texts.append(frame.decompress(chunk))
                started, waiting = True, waiting + len(texts[-1])
                chunk = frame.unused_data if frame.eof else b""
            if waiting >= _CHUNK:
                yield b"".join(texts)
                texts, waiting = [], 0
        if not started or not frame.eof:
            raise EOFError("ended before the end-of-frame marker was reached")
        yield b"".join(texts)
    else:
        stream = gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else file
        while chunk := stream.read(_CHUNK):
            yield chunk


def _text_blocks(path: Path, advance: Advance) -> Iterator[str]:
    """The text of a file in blocks of about 1 MB that end at a line end; newlines are `\\n`, without BOM."""
    import zstandard

    def chunks(file: BinaryIO) -> Iterator[bytes]:
        before = 0
        for chunk in _byte_chunks(path, file):
            advance(file.tell() - before)
            before = file.tell()
            yield chunk

    try:
        with path.open("rb") as file:
            yield from _whole_lines(path, chunks(file))
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise InputError(f"{path}: truncated or damaged ({error}); download or compress the file again") from None
    except FileNotFoundError:
        siblings: list[str] = []
        with suppress(OSError):
            siblings = [other.name for other in path.parent.iterdir()]
        near = get_close_matches(path.name, siblings, n=1)
        meant = f" Did you mean `{near[0]}`?" if near else ""
        raise InputError(f"{path}: no such file: give another path.{meant}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _whole_lines(path: Path, chunks: Iterator[bytes]) -> Iterator[str]:
    lines_before = 0
    rest: list[bytes] = []  # of an unfinished line, joined only once
    for chunk in chunks:
        cut = chunk.rfind(b"\n") + 1
        if cut:
            block = b"".join([*rest, chunk[:cut]])
            yield _decode(path, block, lines_before)
            lines_before += block.count(b"\n")
            rest = []
        rest.append(chunk[cut:])
    if any(rest):
        yield _decode(path, b"".join(rest), lines_before)


def _decode(path: Path, block: bytes, lines_before: int) -> str:
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        line = lines_before + block.count(b"\n", 0, error.start) + 1
        what, fix = f"not UTF-8 (byte 0x{block[error.start]:02x})", f"iconv -f ITS_ENCODING -t UTF-8 {path.name}"
        raise InputError(f"{path}, line {line}: {what}; convert the file: {fix}") from None
    return unify(text.removeprefix("\ufeff") if lines_before == 0 else text)


def _lines(blocks: Iterator[str]) -> Iterator[str]:
    """Lines with their newline. Not str.splitlines, which also splits at U+2028 and form feeds."""
    for block in blocks:
        start = 0
        while (end := block.find("\n", start) + 1) > 0:
            yield block[start:end]
            start = end
        if start < len(block):
            yield block[start:]


@dataclass(frozen=True)
class _File:
    """A file of a corpus, with the arguments of `read_file`."""

    path: Path
    layout: str
    text_field: str
    note_once: Callable[[str, str], None]
    advance: Advance

    def blocks(self) -> Iterator[str]:
        """The decompressed text of the file."""
        return _text_blocks(self.path, self.advance)


def _read_text(file: _File) -> Iterator[str]:
    blocks, layout = file.blocks(), file.layout
    head = next(blocks, "")
    if layout == "auto":
        layout, why = _choose_layout(head)
        if why:
            taken = {"lines": "one document per line", "file": "a single document"}[layout]
            file.note_once(
                layout, f"{file.path}: no blank line, {why}: read as {taken} (set the layout to change this)"
            )
    blocks = chain([head], blocks)
    if layout == "file":
        yield "".join(blocks)
    elif layout == "lines":
        yield from _lines(blocks)
    else:
        paragraph: list[str] = []
        for line in _lines(blocks):
            if line.isspace():
                yield "".join(paragraph)
                paragraph.clear()
            else:
                paragraph.append(line)
        yield "".join(paragraph)


def _choose_layout(head: str) -> tuple[str, str]:
    """The layout of a text file from its first megabyte, and the reason if its lines had to be measured.

    With a blank line between two others, documents are separated by blank lines. Otherwise a text is hard-wrapped, and the
    file one document, if its longest line has 30 to 120 characters and most lines are at least three quarters as long, do
    not end like a sentence and are not repeated. Anything else is one document per line.
    """
    lines = [line.rstrip() for line in head.strip().split("\n")]
    if "" in lines:
        return "blank-lines", ""
    lengths = [len(line) for line in lines]
    longest = max(lengths)
    filled = sum(length >= 0.75 * longest for length in lengths)
    sentences = sum(line.endswith((".", "!", "?", '"', "”", "。", "！", "？", "…")) for line in lines)
    half = len(lines) / 2
    wrapped = 30 <= longest <= 120 and filled > half and sentences < half and len(set(lines)) > half
    if len(lines) >= 4 and wrapped:
        return "file", f"hard-wrapped at {longest} characters"
    return "lines", f"median line length {median(lengths):.0f} characters" if len(lines) > 1 else ""


def _read_json(file: _File) -> Iterator[str]:
    return _texts(json_rows(file.path, _lines(file.blocks()), f"{{{file.text_field!r}: ...}}"), file.text_field)


def _read_table(file: _File, delimiter: str) -> Iterator[str]:
    header, rows = table_rows(file.path, _lines(file.blocks()), delimiter)
    if header and file.text_field not in header:
        raise missing_field(f"{file.path}, line 1", file.text_field, header)
    yield from _texts(rows, file.text_field)


def _texts(rows: Rows, text_field: str) -> Iterator[str]:
    for where, row in rows:
        if text_field not in row:
            raise missing_field(where, text_field, list(row))
        text = row[text_field]
        if text is not None and not isinstance(text, str):
            raise _no_text(where, text_field, type(text).__name__)
        if text is not None:
            yield unify(text)


def _read_parquet(file: _File) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    path, text_field = file.path, file.text_field
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if text_field not in names:
                raise missing_field(str(path), text_field, names)
            if names.count(text_field) > 1:
                raise InputError(f"{path}: has {names.count(text_field)} columns {text_field!r}: rename all but one")
            kind = table.schema_arrow.field(text_field).type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise _no_text(str(path), text_field, str(kind))
            size, rows = path.stat().st_size, max(1, table.metadata.num_rows)
            for batch in table.iter_batches(batch_size=1024, columns=[text_field]):
                for text in batch.column(0).to_pylist():
                    if text is not None:
                        yield unify(text)
                file.advance(size * batch.num_rows // rows)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        what = f"not a readable parquet file ({first_line(error)})"
        raise InputError(f"{path}: {what}; download or write it again") from None


_TEXT_READERS: dict[str, Callable[[_File], Iterator[str]]] = {
    **dict.fromkeys(TEXTS, _read_text),
    **dict.fromkeys(JSONS, _read_json),
    ".csv": partial(_read_table, delimiter=","),
    ".tsv": partial(_read_table, delimiter="\t"),
}
"""suffix → reader of a format that may be compressed"""
READERS = {**_TEXT_READERS, ".parquet": _read_parquet}
"""suffix → reader"""


def missing_field(where: str, text_field: str, names: list[str]) -> InputError:
    """The error for a row or header without the text field; it lists the fields."""
    what = f"no field {text_field!r}; there are: {', '.join(names) or 'none'}"
    return InputError(f"{where}: {what}. Name one by {option('text_field')}.{did_you_mean(text_field, names)}")


def _no_text(where: str, text_field: str, held: str) -> InputError:
    return InputError(f"{where}: field {text_field!r} holds {held}, not text; name another by {option('text_field')}")


def unify(text: str) -> str:
    """Newlines as `\\n`, and no lone surrogates, which JSON can carry but UTF-8 cannot."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)
