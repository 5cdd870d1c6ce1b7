"""What the command lines of several verbs share."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bert.errors import InputError
from bert.files import is_same, real_path, replaced
from bert.flags import Parser

TRUST = "import and call whatever class_path the recipe names for the Trainer, with any arguments"


def add_corpus(parser: Parser) -> None:
    layout = "what separates documents in .txt files: blank-lines, lines, file; auto looks at the file"
    parser.add("corpus", "files, globs, folders or a Hub data set", list[str])
    parser.add("--layout", layout, default="auto")
    parser.add("--text-field", "column of .jsonl, .csv, .tsv and .parquet that holds the text", default="text")


def check_output(option: str, file: str | None, suffixes: Sequence[str], inputs: Sequence[str | None] = ()) -> None:
    """InputError, before any work, where the file of an option has another suffix, cannot be written, or is one of `inputs`
    or lies in one that is a folder."""
    if file is None:
        return
    path = Path(file).expanduser()
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{option} {file}: give a name that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"{option} {file}: a folder has this name: give another")
    if not path.parent.is_dir():
        raise InputError(f"{option} {file}: no folder {path.parent}: make it, or give another path")
    for other in (Path(other).expanduser() for other in inputs if other is not None):
        if is_same(path, other) or (other.is_dir() and real_path(path).is_relative_to(real_path(other))):
            raise InputError(f"{option} {file}: is the input, which would be lost: give another {option}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{option} {file}: the folder {path.parent} cannot be written: give another path")


def write_whole(option: str, file: str, write: Callable[[Path], object]) -> None:
    """Have `write` make the file under a temporary name beside it, then rename: it appears whole or not at all."""
    try:
        with replaced(Path(file).expanduser()) as partial:
            write(partial)
    except OSError as error:
        raise InputError(f"{option} {file}: cannot be written ({error.strerror or error}): give another path") from None
