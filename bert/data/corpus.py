"""Documents from files, globs, folders or Hub data sets as one stream of strings, in constant memory."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

from bert.data.files import LAYOUTS, TEXTS, Advance, File, Notes, known_suffixes, parted_suffixes, suffixes, texts
from bert.data.hub_rows import hub_error, hub_revision
from bert.data.rows import with_inner_fields
from bert.errors import InputError, accessing, did_you_mean, option
from bert.files import real_path

Names = Sequence[str | Path] | str | Path
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?")


@dataclass(frozen=True)
class Corpus:
    """A corpus as found on disk and on the Hub: files in reading order and names of Hub data sets."""

    files: tuple[Path, ...]
    hub: tuple[str, ...] = ()
    layout: str = "auto"
    text_field: str = "text"
    notes: tuple[str, ...] = ()
    """what was left out, and what has no effect"""

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

        `notes` is called with lines about what was left out and how files are read; `advance` with the bytes on disk read since
        its last call. Raises InputError for a file that cannot be read and for an empty corpus.
        """
        noted: set[str] = set()

        def note_once(layout: str, line: str) -> None:
            if notes is not None and layout not in noted:
                notes(line)
            noted.add(layout)

        for line in self.notes:
            note_once(line, line)
        empty, counted = True, advance or (lambda _: None)
        of_files = (File(path, self.layout, self.text_field, note_once, counted).documents() for path in self.files)
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
            key = (os.fsencode(real_path(path)).decode("utf-8", "backslashreplace"), status.st_size, status.st_mtime_ns)
            digest = seen.get(key) or _digest(path)
            files.append({"path": key[0], "bytes": key[1], "mtime_ns": key[2], "blake2b": digest})
            content.update(json.dumps([suffixes(path), digest]).encode())
        for name in self.hub:
            try:
                revisions[name] = hub_revision(name)
            except InputError:
                if name not in revisions:  # an existing store stays usable offline
                    raise
        hub = [[name, revisions[name]] for name in self.hub]
        content.update(json.dumps(hub).encode())
        found = {"content": content.hexdigest(), "layout": self.layout, "text_field": self.text_field}
        return found | {"files": files, "hub": hub}


def find_corpus(
    corpus: Names, layout: str = "auto", text_field: str = "text", exclude: Sequence[str] = (), out: Path | None = None
) -> Corpus:
    """Find the files of a corpus: files, globs, folders (recursive, sorted, known suffixes) or Hub data sets.

    A name is that of a Hub data set (`name` or `owner/name`, with `:configuration` if it has several) only if no such path
    exists. A file that is named itself is read as text whatever its suffix. Links are followed, and each file is read once.
    Files and folders whose name, or path inside a folder, matches a pattern of `exclude` are left out. Raises InputError for
    what is missing or cannot be read, for a folder without a readable file, and for `out` inside the corpus.
    """
    if layout not in LAYOUTS:
        known = f"use one of {', '.join(LAYOUTS)}.{did_you_mean(layout, LAYOUTS)}"
        raise InputError(f"layout {layout!r} is not known: {known}")
    names = [corpus] if isinstance(corpus, str | Path) else list(corpus)
    if not names:
        raise InputError("no corpus was given: name files, globs, folders or a Hub data set")
    found, hub, notes, unused = list[Path](), list[str](), list[str](), set(exclude)
    for name in map(str, names):
        if (paths := _paths(name, out)) is None:
            hub.append(name)
            notes.append(f"{name}: no such file or folder; read as the data set of this name on the Hugging Face Hub")
        else:
            found += _readable(name, paths, exclude, unused, notes)
    files: dict[Path, Path] = {}  # without links → as found, in the order given
    for file in found:
        files.setdefault(real_path(file), file)
    notes += [f"files named or linked more than once: {len(found) - len(files):,}"] * (len(files) < len(found))
    notes += [f"the pattern {pattern!r} to exclude matches nothing" for pattern in unused]
    if text_field != "text" and not hub and all(parted_suffixes(file)[0] in TEXTS for file in found):
        notes.append(f"the text field {text_field!r} has no effect: plain text has no fields")
    return Corpus(tuple(files.values()), tuple(hub), layout, text_field, tuple(notes))


def _paths(name: str, out: Path | None) -> list[Path] | None:
    """What a name stands for: a file, a folder, or the matches of a glob; None for a Hub data set."""
    path = Path(name).expanduser()
    if not name.strip():
        raise InputError("an empty name in the corpus: give a file or folder (is a variable of the shell unset?)")
    if name == "-" or os.path.exists(path) > (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError(f"{name}: a pipe can be read only once, and a corpus is read twice; write it to a file first")
    if os.path.exists(path):
        paths = [path]
    elif glob.has_magic(name):
        # the folders of ** are found as those of a folder: each once
        paths = [Path(match) for match in sorted(glob.glob(str(path).partition("**")[0] or "."))]
    elif _HUB_NAME.fullmatch(name) and not suffixes(path) and (path.parent == Path() or not path.parent.is_dir()):
        return None
    else:
        raise InputError(f"{name}: no such file or folder; check the path")
    if out is not None:
        folder, text = real_path(out), real_path(path)
        written = (folder, *folder.parents, folder / "vocab.txt", folder / "tokenizer.json")
        if any(one.match(str(text)) or _is_deep_match(one, text) for one in written):
            raise InputError(f"{option('out')} {out} lies in the text {name}: give another {option('out')}")
    return paths


def _is_deep_match(path: Path, pattern: Path) -> bool:
    """Whether a path matches a glob with ** for any number of folders."""
    return "**" in str(pattern) and any(fnmatchcase(str(path), str(pattern).replace("**/", one)) for one in ("", "*/"))


def _readable(name: str, paths: list[Path], exclude: Sequence[str], unused: set[str], notes: list[str]) -> list[Path]:
    """The files of a name that are read; `unused` loses the patterns that exclude any, and `notes` gets what is left out."""

    def wanted(path: Path) -> bool:
        hits = [one for one in exclude if fnmatchcase(f"/{path}", f"*/{one.removeprefix('**/').strip('/')}")]
        unused.difference_update(hits)
        return not hits

    itself, readable, others = Path(name).expanduser(), list[Path](), Counter[str]()
    above = [part.parent for part in (itself, *itself.parents) if glob.has_magic(part.name)]
    for folder in map(Path, chain.from_iterable(glob.glob(str(part)) for part in above)):
        if os.path.isdir(folder) and wanted(folder):
            next(os.walk(folder, onerror=_refuse), None)  # glob leaves out a folder that cannot be read
    found = (_files(path, wanted) if path.is_dir() else [path] for path in filter(wanted, paths))
    for file in chain.from_iterable(found):
        if "**" in name and not _is_deep_match(file, itself):
            continue
        if not suffixes(file) and file != itself:
            kind = "without a suffix" if file.exists() else "link to nothing"
            others["".join(parted_suffixes(file)) or kind] += 1
        elif file.is_file():
            readable.append(file)
        else:
            raise InputError(f"{file}: a link to nothing, or not a file; remove it, or exclude it")
    left = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(9))
    left_out = f"left out for their suffix: {left} (name a file itself to read it as text)" if left else ""
    if not readable:
        what = "no readable file in it" if os.path.exists(itself) else "matches no readable file"
        what += "; what matches a pattern to exclude is not read" * bool(exclude)
        raise InputError(f"{name}: {what}; known suffixes are {known_suffixes()}{left and f'; {left_out}'}")
    notes += [f"{name}: {left_out}"] if left else []
    return readable


def _files(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """The files below a folder, sorted, without hidden and unwanted ones. Linked folders are entered, each folder once."""
    files: list[Path] = []
    entered: set[Path] = set()
    for above, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        inside, is_new = Path(above).relative_to(folder.parent), real_path(above) not in entered
        entered.add(real_path(above))
        kept = {name for name in (*folders, *names) if is_new and name[0] != "." and wanted(inside / name)}
        folders[:] = sorted(kept.intersection(folders))
        files += [Path(above, name) for name in kept.intersection(names)]
    return sorted(files)


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror}); allow it, or exclude the folder") from None


def _digest(path: Path) -> str:
    with accessing(path, "read", "check the file"), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _read_hub(name: str, text_field: str) -> Iterator[str]:
    import datasets

    revision = hub_revision(name)
    repo, _, configuration = name.partition(":")
    try:
        rows = datasets.load_dataset(repo, configuration or None, split="train", streaming=True, revision=revision)
        yield from texts(((f"{name} (Hub data set)", with_inner_fields(row)) for row in rows), text_field)
    except Exception as error:  # of any of the libraries between here and the Hub
        raise error if isinstance(error, InputError) else hub_error(name, error) from None
