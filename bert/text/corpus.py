"""Documents from files, globs, folders or a Hub data set: one stream of strings, in constant memory."""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

from bert.errors import InputError, did_you_mean

LAYOUTS = ("auto", "blank-lines", "lines", "file")
_TEXT, _JSON, _TABLE, _PARQUET = (".txt", ".text"), (".jsonl", ".ndjson", ".json"), (".csv", ".tsv"), (".parquet",)
SUFFIXES = (*_TEXT, *_JSON, *_TABLE, *_PARQUET)
COMPRESSIONS = (".gz", ".zst")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?")
_SURROGATES = re.compile("[\ud800-\udfff]")
_CHUNK = 1 << 20  # bytes read at once; also how much of a file is looked at to choose its layout

Advance = Callable[[int], None]
Notes = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """What a user named as a corpus, found: files in reading order and names of Hub data sets."""

    files: tuple[Path, ...]
    hub: tuple[str, ...] = ()
    layout: str = "auto"
    text_field: str = "text"

    @property
    def num_bytes(self) -> int:
        """Bytes on disk of all files, as compressed as they are. A Hub data set counts nothing."""
        return sum(path.stat().st_size for path in self.files)

    def describe(self) -> str:
        """A few words for messages: `3 files (85.3 MB)`, `texts/a.txt` or the name of a data set."""
        parts = list(self.hub)
        if len(self.files) == 1:
            parts.insert(0, str(self.files[0]))
        elif self.files:
            parts.insert(0, f"{len(self.files)} files ({self.num_bytes / 1e6:.1f} MB)")
        return ", ".join(parts)

    def documents(self, notes: Notes | None = None, advance: Advance | None = None) -> Iterator[str]:
        """The documents in reading order: stripped, newlines as `\\n`, no BOM, none empty.

        `notes` gets a line where a layout had to be guessed; `advance` the bytes on disk read since its last call.
        Raises InputError for a file that cannot be read, and where nothing at all is in the corpus.
        """
        noted: set[str] = set()

        def note_once(layout: str, line: str) -> None:
            if notes is not None and layout not in noted:
                notes(line)
            noted.add(layout)

        empty = True
        for path in self.files:
            for document in _read_file(path, self.layout, self.text_field, note_once, advance or (lambda _: None)):
                if document := document.strip():
                    empty = False
                    yield document
        for name in self.hub:
            for document in _read_hub(name, self.text_field):
                if document := document.strip():
                    empty = False
                    yield document
        if empty:
            raise InputError(f"{self.describe()}: the corpus holds no text; give files with at least a few documents")

    def fingerprint(self, known: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the corpus is made of: `content` is equal for corpora with the same bytes read in the same way.

        Files whose path, size and time of change stand in `known` (an earlier fingerprint) are not read again; a file
        that was touched or copied is, and gets the same digest. A Hub data set stands for itself with its revision.
        """
        known = known or {}
        seen = {(file["path"], file["bytes"], file["mtime_ns"]): file["blake2b"] for file in known.get("files", [])}
        content = hashlib.blake2b(digest_size=16)
        content.update(json.dumps([self.layout, self.text_field, len(self.files)]).encode())
        files = []
        for path in self.files:
            status = path.stat()
            key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
            digest = seen.get(key) or _digest(path)
            files.append({"path": key[0], "bytes": key[1], "mtime_ns": key[2], "blake2b": digest})
            content.update(json.dumps([_suffixes(path), digest]).encode())
        revisions = dict(known.get("hub", []))
        for name in self.hub:
            try:
                revisions[name] = _hub_revision(name)
            except InputError:
                if name not in revisions:  # a store of it that is there stays usable offline
                    raise
        hub = [[name, revisions[name]] for name in self.hub]
        content.update(json.dumps(hub).encode())
        how = {"layout": self.layout, "text_field": self.text_field}
        return {"content": content.hexdigest(), **how, "files": files, "hub": hub}


def find_corpus(corpus: Sequence[str | Path] | str | Path, layout: str = "auto", text_field: str = "text") -> Corpus:
    """Find what `corpus` names: files, globs, folders (recursive, sorted, known suffixes) or Hub data sets.

    A name is taken for a Hub data set (`name` or `owner/name`, with `:configuration` where it has several) only where
    no such path exists. A file named outright is read as text whatever its suffix. Raises InputError for what is not
    there and for a folder or glob without a readable file.
    """
    if layout not in LAYOUTS:
        near = did_you_mean(layout, LAYOUTS)
        raise InputError(f"layout {layout!r} is not known: use one of {', '.join(LAYOUTS)}.{near}")
    names = [corpus] if isinstance(corpus, str | Path) else list(corpus)
    if not names:
        raise InputError("no corpus was given: name files, globs, folders or a Hub data set")
    files: dict[Path, None] = {}  # in the order given, each once
    hub: list[str] = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            found = [file for file in sorted(path.rglob("*")) if _readable(file, below=path)]
            if not found:
                raise InputError(f"{name}: no readable file in this folder; known suffixes are {_known_suffixes()}")
        elif path.exists():
            found = [path]
        elif glob.has_magic(str(name)):
            found = [file for file in map(Path, sorted(glob.glob(str(path), recursive=True))) if _readable(file)]
            if not found:
                raise InputError(f"{name}: matches no readable file; known suffixes are {_known_suffixes()}")
        elif _HUB_NAME.fullmatch(str(name)) and not _suffixes(path):
            hub.append(str(name))
            continue
        else:
            raise InputError(f"{name}: no such file or folder; check the path")
        files.update(dict.fromkeys(found))
    return Corpus(tuple(files), tuple(hub), layout, text_field)


def read_documents(
    corpus: Sequence[str | Path] | str | Path,
    layout: str = "auto",
    text_field: str = "text",
    notes: Notes | None = None,
) -> Iterator[str]:
    """The documents of a corpus, one string each, in constant memory: `find_corpus(...).documents(notes)`."""
    return find_corpus(corpus, layout, text_field).documents(notes)


def _known_suffixes() -> str:
    return f"{', '.join(SUFFIXES)}, each text format also with {' or '.join(COMPRESSIONS)}"


def _suffixes(path: Path) -> str:
    """The known end of a file name, such as `.jsonl.gz`; empty where it is not known."""
    name = path.name.lower()
    compression = next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")
    form = next((suffix for suffix in SUFFIXES if name.removesuffix(compression).endswith(suffix)), "")
    return form + compression if form and not (form in _PARQUET and compression) else ""


def _readable(file: Path, below: Path | None = None) -> bool:
    hidden = below is not None and any(part.startswith(".") for part in file.relative_to(below).parts)
    return not hidden and bool(_suffixes(file)) and file.is_file()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _read_file(
    path: Path, layout: str, text_field: str, note_once: Callable[[str, str], None], advance: Advance
) -> Iterator[str]:
    form = _suffixes(path).removesuffix(".gz").removesuffix(".zst")
    if form in _PARQUET:
        return _read_parquet(path, text_field, advance)
    blocks = _text_blocks(path, advance)
    if form in _JSON:
        return _read_json_lines(path, _lines(blocks), text_field)
    if form in _TABLE:
        return _read_table(path, _lines(blocks), text_field, "\t" if form == ".tsv" else ",")
    return _read_text(path, blocks, layout, note_once)


def _byte_chunks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Decompressed bytes of a file. A compressed file that ends too early is an InputError, not a shorter corpus."""
    if path.name.lower().endswith(".gz"):
        with gzip.GzipFile(fileobj=file) as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    elif path.name.lower().endswith(".zst"):
        import zstandard

        # not zstandard.open: it takes the end of a truncated file for the end of the text
        decompressor = zstandard.ZstdDecompressor()
        frame, started = decompressor.decompressobj(), False
        while chunk := file.read(_CHUNK // 4):
            while chunk:
                if frame.eof:
                    frame = decompressor.decompressobj()
                text = frame.decompress(chunk)
                started = True
                if text:
                    yield text
                chunk = frame.unused_data if frame.eof else b""
        if not started or not frame.eof:
            raise EOFError("ended before the end-of-frame marker was reached")
    else:
        while chunk := file.read(_CHUNK):
            yield chunk


def _text_blocks(path: Path, advance: Advance) -> Iterator[str]:
    """The text of a file in blocks of about 1 MB that end with a whole line; newlines are `\\n`, the BOM is gone."""
    import zstandard

    lines_before = 0
    rest: list[bytes] = []  # of an unfinished line, joined once: one endless line costs no more than many
    try:
        with path.open("rb") as file:
            before = 0
            for chunk in _byte_chunks(path, file):
                advance(file.tell() - before)
                before = file.tell()
                cut = chunk.rfind(b"\n") + 1
                if cut:
                    block = b"".join([*rest, chunk[:cut]])
                    yield _decode(path, block, lines_before)
                    lines_before += block.count(b"\n")
                    rest = []
                rest.append(chunk[cut:])
        if any(rest):
            yield _decode(path, b"".join(rest), lines_before)
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise InputError(f"{path}: truncated or damaged ({error}); download or compress the file again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _decode(path: Path, block: bytes, lines_before: int) -> str:
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        line = lines_before + block.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}:{line}: not UTF-8 (byte 0x{block[error.start]:02x}); "
            f"convert the file: iconv -f ITS_ENCODING -t UTF-8 {path.name}"
        ) from None
    return _unify(text.removeprefix("\ufeff") if lines_before == 0 else text)


def _lines(blocks: Iterator[str]) -> Iterator[str]:
    """Lines with their newline. Not str.splitlines, which also cuts at U+2028 and form feeds."""
    for block in blocks:
        start = 0
        while (end := block.find("\n", start) + 1) > 0:
            yield block[start:end]
            start = end
        if start < len(block):
            yield block[start:]


def _read_text(path: Path, blocks: Iterator[str], layout: str, note_once: Callable[[str, str], None]) -> Iterator[str]:
    head = next(blocks, "")
    if layout == "auto":
        layout, why = _choose_layout(head)
        if why:
            taken = {"lines": "one document a line", "file": "the whole file as one document"}[layout]
            note_once(layout, f"{path}: no blank line, {why}: took {taken} (--layout decides otherwise)")

    def all_blocks() -> Iterator[str]:
        yield head
        yield from blocks

    if layout == "file":
        yield "".join(all_blocks())
    elif layout == "lines":
        yield from _lines(all_blocks())
    else:
        paragraph: list[str] = []
        for line in _lines(all_blocks()):
            if line.isspace():
                yield "".join(paragraph)
                paragraph.clear()
            else:
                paragraph.append(line)
        yield "".join(paragraph)


def _choose_layout(head: str) -> tuple[str, str]:
    """The layout of a text file from its first megabyte, and why, where its lines had to be measured.

    A blank line between two others: documents are separated by blank lines. Otherwise a text is hard-wrapped when its
    longest line has 30 to 120 characters and most lines are filled to three quarters of that, do not end like a sentence
    and come once: then the file is one document. Anything else is one document a line.
    """
    lines = [line.rstrip() for line in head.strip().split("\n")]
    if "" in lines:
        return "blank-lines", ""
    lengths = [len(line) for line in lines]
    longest = max(lengths)
    filled = sum(length >= 0.75 * longest for length in lengths)
    sentences = sum(line.endswith((".", "!", "?", '"', "”", "。", "！", "？", "…")) for line in lines)
    middle = f"lines of {median(lengths):.0f} characters at the median"
    half = len(lines) / 2
    wrapped = 30 <= longest <= 120 and filled > half and sentences < half and len(set(lines)) > half
    if len(lines) >= 4 and wrapped:
        return "file", f"hard-wrapped at {longest} characters"
    return "lines", middle if len(lines) > 1 else ""


def _read_json_lines(path: Path, lines: Iterator[str], text_field: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = getattr(error, "msg", "nested too deeply")
            raise InputError(f"{path}:{number}: not valid JSON ({what}); each line must be one JSON object") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: not a JSON object; each line must be like {{{text_field!r}: ...}}")
        if text_field not in row:
            raise _missing_field(f"{path}:{number}", text_field, list(row))
        text = row[text_field]
        if text is None:
            continue
        if not isinstance(text, str):
            held = type(text).__name__
            raise InputError(
                f"{path}:{number}: field {text_field!r} holds {held}, not text; name another by --text-field"
            )
        yield _unify(text)


def _read_table(path: Path, lines: Iterator[str], text_field: str, delimiter: str) -> Iterator[str]:
    csv.field_size_limit(1 << 30)  # the default refuses a document of more than 128 KiB
    # a tab-separated file knows no quotes: one at the start of a field would swallow the lines that follow
    tab = delimiter == "\t"
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if tab else csv.QUOTE_MINIMAL)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not header:
            return
        if text_field not in header:
            raise _missing_field(f"{path}:1", text_field, header)
        column = header.index(text_field)
        for row in reader:
            if not row:
                continue
            if len(row) <= column:
                there = f"{len(row)} columns, the header has {len(header)}"
                raise InputError(f"{path}:{reader.line_num}: {there}; repair this line")
            yield row[column]
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not a readable table ({error}); repair this line") from None


def _read_parquet(path: Path, text_field: str, advance: Advance) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if text_field not in names:
                raise _missing_field(str(path), text_field, names)
            kind = file.schema_arrow.field(text_field).type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise InputError(f"{path}: field {text_field!r} holds {kind}, not text; name another by --text-field")
            size, rows = path.stat().st_size, max(1, file.metadata.num_rows)
            for batch in file.iter_batches(batch_size=1024, columns=[text_field]):
                for text in batch.column(0).to_pylist():
                    if text is not None:
                        yield _unify(text)
                advance(size * batch.num_rows // rows)
    except (pyarrow.ArrowInvalid, OSError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{path}: not a readable parquet file ({first}); download or write it again") from None


def _missing_field(where: str, text_field: str, names: list[str]) -> InputError:
    there = ", ".join(names) or "none"
    near = did_you_mean(text_field, names)
    return InputError(f"{where}: no field {text_field!r}; there are: {there}. Name one by --text-field.{near}")


def _read_hub(name: str, text_field: str) -> Iterator[str]:
    import datasets

    revision = _hub_revision(name)
    repository, _, configuration = name.partition(":")
    try:
        rows = datasets.load_dataset(
            repository, configuration or None, split="train", streaming=True, revision=revision
        )
        for row in rows:
            if text_field not in row:
                raise _missing_field(f"{name} (Hub data set)", text_field, list(row))
            if row[text_field] is not None:
                yield _unify(str(row[text_field]))
    except InputError:
        raise
    except Exception as error:  # whatever fails between here and the Hub is for the user to see in one line
        raise _hub_error(name, error) from None


def _hub_revision(name: str) -> str:
    """The commit of a Hub data set. Asked first: `load_dataset` retries for half a minute before it says no."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name.partition(":")[0], timeout=10).sha)
    except Exception as error:
        raise _hub_error(name, error) from None


def _hub_error(name: str, error: Exception) -> InputError:
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return InputError(
        f"{name}: no such file or folder, and as a Hub data set it cannot be read "
        f"({type(error).__name__}: {first}); check the path, the name or the network"
    )


def _unify(text: str) -> str:
    """Newlines as `\\n`, and no lone surrogates, which JSON can carry but UTF-8 cannot."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)
