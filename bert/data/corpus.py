"""Documents from files, globs, folders or Hub data sets as one stream of strings, in constant memory."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bert.data.files import LAYOUTS, Advance, Notes, known_suffixes, missing_field, read_file, suffixes, unify
from bert.errors import InputError, accessing, did_you_mean
from bert.files import real_path

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?")


@dataclass(frozen=True)
class Corpus:
    """A corpus as found on disk and on the Hub: files in reading order and names of Hub data sets."""

    files: tuple[Path, ...]
    hub: tuple[str, ...] = ()
    layout: str = "auto"
    text_field: str = "text"

    @property
    def num_bytes(self) -> int:
        """Bytes on disk of all files, compressed ones as they are. Hub data sets count as 0."""
        return sum(path.stat().st_size for path in self.files)

    def describe(self) -> str:
        """A short description for messages: `3 files (85.3 MB)`, `texts/a.txt` or the name of a data set."""
        several = [f"{len(self.files)} files ({self.num_bytes / 1e6:.1f} MB)"]
        return ", ".join([*(several if len(self.files) > 1 else map(str, self.files)), *self.hub])

    def documents(self, notes: Notes | None = None, advance: Advance | None = None) -> Iterator[str]:
        """The documents in reading order: stripped, newlines as `\\n`, no BOM, none empty.

        `notes` is called with a line if a layout had to be guessed; `advance` with the bytes on disk read since its last
        call. Raises InputError for a file that cannot be read and for an empty corpus.
        """
        noted: set[str] = set()

        def note_once(layout: str, line: str) -> None:
            if notes is not None and layout not in noted:
                notes(line)
            noted.add(layout)

        empty, counted = True, advance or (lambda _: None)
        of_files = (read_file(path, self.layout, self.text_field, note_once, counted) for path in self.files)
        of_hub = (_read_hub(name, self.text_field) for name in self.hub)
        for document in chain.from_iterable(chain(of_files, of_hub)):
            if document := document.strip():
                empty = False
                yield document
        if empty:
            raise InputError(f"{self.describe()}: the corpus holds no text; give files with at least a few documents")

    def fingerprint(self, known: dict[str, Any] | None = None) -> dict[str, Any]:
        """A description of the corpus: `content` is equal for corpora with the same bytes, read in the same way.

        Files whose path, size and modification time are in `known` (an earlier fingerprint) are not read again; a file that
        was touched or copied is, and gets the same digest. A Hub data set is represented by its name and revision.
        """
        known, seen, revisions = known or {}, {}, {}
        with suppress(TypeError, KeyError, ValueError):  # a damaged fingerprint
            seen = {(file["path"], file["bytes"], file["mtime_ns"]): file["blake2b"] for file in known.get("files", [])}
            revisions = dict(known.get("hub", []))
        content = hashlib.blake2b(digest_size=16)
        content.update(json.dumps([self.layout, self.text_field, len(self.files)]).encode())
        files = []
        for path in self.files:
            status = path.stat()
            key = (str(real_path(path)), status.st_size, status.st_mtime_ns)
            digest = seen.get(key) or _digest(path)
            files.append({"path": key[0], "bytes": key[1], "mtime_ns": key[2], "blake2b": digest})
            content.update(json.dumps([suffixes(path), digest]).encode())
        for name in self.hub:
            try:
                revisions[name] = _hub_revision(name)
            except InputError:
                if name not in revisions:  # an existing store stays usable offline
                    raise
        hub = [[name, revisions[name]] for name in self.hub]
        content.update(json.dumps(hub).encode())
        found = {"content": content.hexdigest(), "layout": self.layout, "text_field": self.text_field}
        return found | {"files": files, "hub": hub}


def find_corpus(corpus: Sequence[str | Path] | str | Path, layout: str = "auto", text_field: str = "text") -> Corpus:
    """Find the files of a corpus: files, globs, folders (recursive, sorted, known suffixes) or Hub data sets.

    A name is that of a Hub data set (`name` or `owner/name`, with `:configuration` if it has several) only if no such path
    exists. A file that is named itself is read as text whatever its suffix. Raises InputError for a missing file and for a
    folder or glob without a readable file.
    """
    if layout not in LAYOUTS:
        known = f"use one of {', '.join(LAYOUTS)}.{did_you_mean(layout, LAYOUTS)}"
        raise InputError(f"layout {layout!r} is not known: {known}")
    names = [corpus] if isinstance(corpus, str | Path) else list(corpus)
    if not names:
        raise InputError("no corpus was given: name files, globs, folders or a Hub data set")
    files: dict[Path, None] = {}  # in the order given, each once
    hub: list[str] = []
    for name in names:
        path, what = Path(name).expanduser(), ""
        if path.is_dir():
            found = [file for file in sorted(path.rglob("*")) if _readable(file, below=path)]
            what = "no readable file in it"
        elif path.exists():
            found = [path]
        elif glob.has_magic(str(name)):
            found = [file for file in map(Path, sorted(glob.glob(str(path), recursive=True))) if _readable(file)]
            what = "matches no readable file"
        elif _HUB_NAME.fullmatch(str(name)) and not suffixes(path):
            hub.append(str(name))
            continue
        else:
            raise InputError(f"{name}: no such file or folder; check the path")
        if not found:
            raise InputError(f"{name}: {what}; known suffixes are {known_suffixes()}")
        files.update(dict.fromkeys(found))
    return Corpus(tuple(files), tuple(hub), layout, text_field)


def _readable(file: Path, below: Path | None = None) -> bool:
    hidden = below is not None and any(part.startswith(".") for part in file.relative_to(below).parts)
    return not hidden and bool(suffixes(file)) and file.is_file()


def _digest(path: Path) -> str:
    with accessing(path, "read", "check the file"), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _read_hub(name: str, text_field: str) -> Iterator[str]:
    import datasets

    revision = _hub_revision(name)
    repository, _, configuration = name.partition(":")
    try:
        how: dict[str, Any] = {"split": "train", "streaming": True, "revision": revision}
        for row in datasets.load_dataset(repository, configuration or None, **how):
            if text_field not in row:
                raise missing_field(f"{name} (Hub data set)", text_field, list(row))
            if row[text_field] is not None:
                yield unify(str(row[text_field]))
    except InputError:
        raise
    except Exception as error:  # of any of the libraries between here and the Hub
        raise _hub_error(name, error) from None


def _hub_revision(name: str) -> str:
    """The commit of a Hub data set. Requested first: `load_dataset` retries for half a minute before it fails."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name.partition(":")[0], timeout=10).sha)
    except Exception as error:
        raise _hub_error(name, error) from None


def _hub_error(name: str, error: Exception) -> InputError:
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    why = f"as a Hub data set it cannot be read ({type(error).__name__}: {first})"
    return InputError(f"{name}: no such file or folder, and {why}; check the path, the name or the network")
