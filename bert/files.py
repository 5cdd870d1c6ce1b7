"""Files that are whole or not there, and stay written should the machine stop the moment after."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """A temporary name beside `file` to write under; at the end it takes the place of `file`, or of what a link of that
    name leads to. Where anything fails, all is as it was."""
    file = file.resolve()
    partial = file.with_name(f".{file.stem}.partial{file.suffix}")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def is_same(first: Path, second: Path) -> bool:
    """Whether two names lead to one file that is there."""
    return first.exists() and second.exists() and first.samefile(second)


def sync(path: Path) -> None:
    """Have the disk hold what was written to the file, or which entries the folder has."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
