"""Options that several commands share."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bert.data.milestones import Milestone, milestones
from bert.errors import InputError, accessing
from bert.files import is_same, real_path, replaced
from bert.flags import Parser

TRUST = "import and call any class_path that the recipe names for the Trainer, with any arguments"


def add_corpus(parser: Parser) -> None:
    """Add the corpus, and the options that say how its files are read."""
    layout = "document separator in .txt files: blank-lines, lines or file; auto detects it"
    parser.add("corpus", "files, globs, folders or a Hub data set", list[str])
    parser.add("--layout", layout, default="auto")
    parser.add("--text-field", "column or field that holds the text, or meta.text in an object meta", default="text")
    parser.add("--exclude", "names or paths to leave out; can be repeated", list[str], metavar="PATTERN", repeated=True)


def names(text: str) -> list[str]:
    """What is separated by commas, without empty parts."""
    return [part.strip() for part in text.split(",") if part.strip()]


def counts(option: str, text: str) -> list[int]:
    """Numbers from 1, separated by commas. Raises InputError for others."""
    parts = names(text)
    if wrong := [part for part in parts if not part.isascii() or not part.isdecimal() or int(part) < 1]:
        raise InputError(f"{option} {text}: {wrong[0]!r} is not a whole number above 0")
    return list(map(int, parts))


def kept_milestones(run: str) -> list[Milestone]:
    """The milestones of `--checkpoints`. Raises InputError for a run that has none."""
    if not Path(run).expanduser().is_dir():
        raise InputError(f"--checkpoints {run}: there is no such folder: give a run")
    if not (found := milestones(run)):
        raise InputError(f"--checkpoints {run}: no milestones: give a run of bert pretrain --checkpoint.milestones")
    return found


def output(
    option: str, file: str | None, suffixes: Sequence[str], inputs: Sequence[str | None] = ()
) -> Callable[[Callable[[Path], object]], object]:
    """A function that writes the file of an option atomically: it calls its argument with the path of a temporary file, which then
    replaces the file, and returns what that returns. Without a file it does nothing.

    Raises InputError, before any work, if the file has another suffix, cannot be written, or is one of `inputs` or inside one."""
    if file is None:
        return lambda _: None
    path = Path(file).expanduser()
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{option} {file}: give a name that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"{option} {file}: is a folder: give the path of a file")
    if not path.parent.is_dir():
        raise InputError(f"{option} {file}: no folder {path.parent}: create it, or give another path")
    for other in (Path(other).expanduser() for other in inputs if other is not None):
        if is_same(path, other) or (other.is_dir() and real_path(path).is_relative_to(real_path(other))):
            raise InputError(f"{option} {file}: would overwrite the input: give another {option}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{option} {file}: the folder {path.parent} cannot be written: give another path")

    def write(fill: Callable[[Path], object]) -> object:
        with accessing(f"{option} {file}", "written", "give another path"), replaced(path) as partial:
            return fill(partial)

    return write
