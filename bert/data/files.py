"""The documents of one file: plain text, JSON lines, tables or parquet, optionally compressed, in constant memory."""

from __future__ import annotations

import gzip
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from glob import glob
from io import BufferedReader
from itertools import chain
from pathlib import Path
from statistics import median
from typing import BinaryIO, cast

from bert.data.rows import Rows, json_rows, table_rows
from bert.errors import InputError, did_you_mean, first_line, option

_BLANK = re.compile(r"\n(?:[^\S\n]*\n)+")  # blank lines, and the line end before them
_LAYOUTS = {  # layout → how it is called, and what ends a document
    "blank-lines": ("documents between blank lines", _BLANK),
    "lines": ("one document per line", re.compile("\n")),
    "file": ("a single document", re.compile("\0")),  # which no text has
}
LAYOUTS = ("auto", *_LAYOUTS)
TABLES = {".tsv": "\t", ".csv": ",;"}  # suffix → possible delimiters
TEXTS = {".txt": "txt", ".text": "txt"}
JSONS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
COMPRESSIONS = (".gz", ".zst")
_SURROGATES = re.compile("[\ud800-\udfff]")
_CHUNK = 1 << 20  # bytes read at once; the layout of a file is chosen from the first chunk
_ZSTD_AT_ONCE = 1 << 10  # compressed bytes, which may expand by a factor of up to 32,768
_MOST_WINDOW = 1 << 27  # bytes of history that zstd keeps: the limit of its own command
_MOST_TEXT = 1 << 24  # characters, or bytes, of one document in a text file
_MOST_LINE = 1 << 28  # bytes of any other line
_MOST_LINES = 200  # in a document on average, if blank lines separate documents and lines are not wrapped
# ends of sentences; Thai and Lao have none, so that any of their letters may be one
_ENDS = {*'.!?…"”。！？｡۔؟।॥။።፧։។៕༎།܀߹᠃᠉᱾꯫᭞꧉᥄᥅᙮', *map(chr, range(0xE00, 0xF00))}
_CLOSERS = ")]}'’»›」』》）"  # after the end of a sentence
_BINARY = re.compile(  # how files begin that are not text
    rb"(?s)(?P<bzip2>BZh[1-9]1AY)|(?P<xz>\xfd7zXZ)|(?P<gzip>\x1f\x8b)|(?P<zstd>\x28\xb5\x2f\xfd)|(?P<lz4>\x04\x22\x4d\x18)|"
    rb"(?P<compress>\x1f\x9d)|(?P<lzma>]\0\0)|(?P<tar>.{257}ustar)|(?P<zip>PK[\x03\x05][\x04\x06])|(?P<_7z>7z\xbc\xaf)|"
    rb"(?P<rar>Rar!\x1a)|(?P<PDF>%PDF-)|(?P<parquet>PAR1)|(?P<Arrow>ARROW1\0)|(?P<Office>\xd0\xcf\x11\xe0)|(?P<SQLite>SQLite )"
)

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


@dataclass(frozen=True)
class File:
    """A file of a corpus, and how it is read."""

    path: Path
    layout: str
    text_field: str
    note_once: Callable[[str, str], None]
    """called with a kind of note and a line about what was decided, such as the layout"""
    advance: Advance
    """called with the bytes read since its last call"""

    def documents(self) -> Iterator[str]:
        """The documents, not stripped, including empty ones. A file with an unknown suffix is plain text.

        Raises InputError with file and line if the file cannot be read.
        """
        read = READERS[parted_suffixes(self.path)[0]] if suffixes(self.path) else _read_text
        return read(self)

    def blocks(self, most: int | None = None) -> Iterator[str]:
        """The decompressed text of the file. Lines of more than `most` bytes are cut, if it is given."""
        return _text_blocks(self.path, self.advance, most)


def read_lines(path: Path, exact: bool = False) -> Iterator[str]:
    """The lines of a text file, with their newline, decompressed by its suffix. `-` is standard input, unbuffered. With `exact`,
    characters are not counted differently than by others: a newline may be `\\r\\n`, and only the first BOM is left out."""
    if str(path) == "-":
        buffer = cast(BufferedReader, sys.stdin.buffer)
        return _lines(_whole_lines(Path("standard input"), iter(lambda: buffer.read1(_CHUNK), b""), exact=exact))
    return _lines(_text_blocks(path, lambda _: None, exact=exact))


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
        yield from iter(lambda: stream.read(_CHUNK), b"")


def _text_blocks(path: Path, advance: Advance, most: int | None = None, exact: bool = False) -> Iterator[str]:
    """The text of a file in blocks of about 1 MB that end at a line end; newlines are `\\n`, without BOM. Lines of more than `most`
    bytes are cut at a space or between characters; without it, those of more than 256 MiB are refused."""
    import zstandard

    before = 0
    try:
        with path.open("rb") as file:
            for block in _whole_lines(path, _byte_chunks(path, file), most, exact):
                if file.seekable():  # not a pipe
                    advance(file.tell() - before)
                    before = file.tell()
                yield block
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise InputError(f"{path}: truncated or damaged ({error}); download or compress the file again") from None
    except FileNotFoundError:
        near = get_close_matches(path.name, glob("*", root_dir=path.parent, include_hidden=True), n=1)
        meant = f" Did you mean `{near[0]}`?" if near else ""
        raise InputError(f"{path}: no such file: give another path.{meant}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); give a readable file") from None


def _whole_lines(path: Path, chunks: Iterator[bytes], most: int | None = None, exact: bool = False) -> Iterator[str]:
    lines_before = size = 0
    rest: list[bytes] = []  # of an unfinished line, joined only once
    for number, chunk in enumerate(chunks):
        if number == 0 and (found := _BINARY.match(chunk)):
            what, fix = f"{str(found.lastgroup).strip('_')} data, not text", "unpack it, or convert it to text"
            raise InputError(f"{path}: {what}; {fix} (.gz, .zst and .parquet are read if so named)")
        cut, size = chunk.rfind(b"\n") + 1, size + len(chunk)
        if not cut and size > (most or _MOST_LINE):
            if most is None:
                raise InputError(f"{path}, line {lines_before + 1}: longer than 256 MiB; is it of another format?")
            # after a space, or before the first byte of a character
            cut = max(map(chunk.rfind, (b" ", b"\r"))) + 1 or max(0, len(chunk.rstrip(bytes(range(0x80, 0xC0)))) - 1)
        if cut:
            block = b"".join([*rest, memoryview(chunk)[:cut]])
            rest, size = [], len(chunk) - cut
            yield _decode(path, block, lines_before, exact)
            lines_before += block.count(b"\n")
        rest.append(chunk[cut:])
    if any(rest):
        yield _decode(path, b"".join(rest), lines_before, exact)


def _decode(path: Path, block: bytes, lines_before: int, exact: bool = False) -> str:
    place = block.find(b"\0")
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        place = error.start
    if place >= 0:
        raise _not_utf8(path, block, place, lines_before)
    if exact:
        return text.removeprefix("\ufeff") if lines_before == 0 else text
    if "\r" in text and "\r" in (text := text.replace("\r\n", "\n")):
        # it ends the lines of an old Mac's file; elsewhere it must not change the number of lines
        text = text.replace("\r", " " if text.count("\n") >= text.count("\r") else "\n")
    return text if text.isascii() else text.replace("\ufeff", "")


def _not_utf8(path: Path, block: bytes, place: int, lines_before: int) -> InputError:
    line = lines_before + block.count(b"\n", 0, place) + 1
    # bytes that most letters have in UTF-16 and UTF-32, and text in UTF-8 has not
    odd = len(re.findall(rb"[\0-\x08\x0b\x0c\x0e-\x1f]", block)) * 8
    for encoding in ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE") if block[place] or odd > len(block) else ():
        text, fix = block.decode(encoding, "replace"), f"convert the file: iconv -f {encoding} -t UTF-8 {path.name}"
        if "\0" not in text and (text.isascii() or text.startswith("\ufeff") or " " in text or "\n" in text):
            return InputError(f"{path}: {encoding}, not UTF-8; {fix}")
    if block[place] == 0:
        return InputError(f"{path}, line {line}: a NUL byte, not text; remove it: tr -d '\\000' < {path.name}")
    fix = f"convert the file: iconv -f ITS_ENCODING -t UTF-8 {path.name}"
    return InputError(f"{path}, line {line}: not UTF-8 (byte 0x{block[place]:02x}); {fix}")


def _lines(blocks: Iterator[str]) -> Iterator[str]:
    """Lines with their newline. Not str.splitlines, which also splits at U+2028 and form feeds."""
    for block in blocks:
        start = 0
        while (end := block.find("\n", start) + 1) > 0:
            yield block[start:end]
            start = end
        if start < len(block):
            yield block[start:]


def _read_text(file: File) -> Iterator[str]:
    blocks, layout = file.blocks(_MOST_TEXT), file.layout
    head = next(blocks, "")
    if "</doc>\n" in head[: _CHUNK // 4]:
        file.note_once("</doc>", f"{file.path}: lines <doc …> and </doc> of an extractor are read as text; remove them")
    if layout == "auto":
        layout, why = _choose_layout(head)
        if why:
            taken = f"{why}: read as {_LAYOUTS[layout][0]} (set the layout to change this)"
            file.note_once(layout, f"{file.path}: {taken}")
    rest, is_cut = "", False  # text without an end so far; whether its last line is not whole
    for block in chain([head], blocks):
        if is_cut or len(rest) > _MOST_TEXT:
            file.note_once("cut", f"{file.path}: a document of more than {_MOST_TEXT:,} bytes is read in parts")
            yield rest
            rest = ""
        *whole, rest = _LAYOUTS[layout][1].split(rest + block)
        yield from whole
        is_cut = not block.endswith("\n")
    yield rest


def _choose_layout(head: str) -> tuple[str, str]:
    """The layout of a text file from its first megabyte, and the evidence, if there was a choice.

    Documents are separated by blank lines if there is one for each 200 other lines. Otherwise a text is hard-wrapped, and without
    a blank line the file one document, if its longest line has 30 to 120 characters and most lines are at least three quarters
    as long, do not end like a sentence and are not repeated. Anything else is one document per line.
    """
    head = head.strip()
    lines = [line.rstrip() for line in head.split("\n") if line and not line.isspace()]
    if len(lines) < 2:
        return "lines", ""
    blank_lines = len(_BLANK.findall(head))
    found = f"blank lines in {blank_lines:,} of {len(lines) - 1:,} gaps between lines"
    evidence = found if blank_lines else "no blank line"
    if blank_lines * _MOST_LINES >= len(lines):
        return "blank-lines", evidence
    lengths, half = [len(line) for line in lines], len(lines) / 2
    longest = sorted(lengths)[-1 - len(lengths) // 100]  # all but one of 100: an address in a book may be longer
    filled = sum(length >= 0.75 * longest for length in lengths)
    sentences = sum(line.rstrip(_CLOSERS)[-1:] in _ENDS for line in lines)
    wrapped = 30 <= longest <= 120 and filled > half and sentences < half and len(set(lines)) > half
    if len(lines) >= 4 and wrapped:
        return "blank-lines" if blank_lines else "file", f"{evidence}, hard-wrapped at {longest} characters"
    return "lines", f"{evidence}, median line length {median(lengths):.0f} characters"


def _read_json(file: File) -> Iterator[str]:
    return texts(json_rows(file.path, _lines(file.blocks()), f'{{"{file.text_field}": "A text."}}'), file.text_field)


def _read_table(file: File) -> Iterator[str]:
    header, rows = table_rows(file.path, _lines(file.blocks()), TABLES[parted_suffixes(file.path)[0]])
    if header and file.text_field not in header:
        raise missing_field(f"{file.path}, line 1", file.text_field, header)
    yield from texts(rows, file.text_field)


def texts(rows: Rows, text_field: str) -> Iterator[str]:
    """The texts in a field of rows, which must have it; null is left out."""
    for where, row in rows:
        if text_field not in row:
            raise missing_field(where, text_field, [name for name in row if not isinstance(row[name], dict)])
        if isinstance(text := row[text_field], str):
            yield unify(text)
        elif text is not None:
            raise _no_text(where, text_field, type(text).__name__)


def _read_parquet(file: File) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    path, text_field = file.path, file.text_field
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            names = [table.schema.column(i).path for i in range(len(table.schema))]  # of fields inside others: a.b
            if text_field not in {*names, *table.schema_arrow.names}:
                raise missing_field(str(path), text_field, names)
            if names.count(text_field) > 1:
                raise InputError(f"{path}: has {names.count(text_field)} columns {text_field!r}: rename all but one")
            size, rows = path.stat().st_size, max(1, table.metadata.num_rows)
            for batch in table.iter_batches(batch_size=1024, columns=[text_field]):
                column = batch.column(0)
                while pyarrow.types.is_struct(column.type) and text_field in names:
                    column = column.flatten()[0]
                kind = column.type.value_type if pyarrow.types.is_dictionary(column.type) else column.type
                if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
                    raise _no_text(str(path), text_field, str(column.type))
                yield from map(unify, filter(None, column.to_pylist()))
                file.advance(size * batch.num_rows // rows)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        what = f"not a readable parquet file ({first_line(error)})"
        raise InputError(f"{path}: {what}; download or write it again") from None


_TEXT_READERS: dict[str, Callable[[File], Iterator[str]]] = {
    **dict.fromkeys(TEXTS, _read_text),
    **dict.fromkeys(JSONS, _read_json),
    **dict.fromkeys((".csv", ".tsv"), _read_table),
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
    """Newlines as `\\n`, no BOM, and no lone surrogates, which JSON can carry but UTF-8 cannot."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text.replace("\ufeff", ""))
