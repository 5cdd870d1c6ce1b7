"""Files that are whole or not there, and stay written should the machine stop the moment after."""

import os
import shutil
import tempfile
from collections.abc import Container, Iterator
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


@contextmanager
def replaced_folder(folder: Path, ours: Container[str]) -> Iterator[Path]:
    """An empty folder to fill; at the end it takes the place of `folder`, whose parents are made where they are not there.

    What stood in `folder` under the names `ours` is gone then; other files and folders of it move over. Where anything
    fails, all is as it was.
    """
    folder = folder.resolve()
    above = next(parent for parent in folder.parents if parent.exists())
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=above) as workshop:
        fresh, before = Path(workshop) / "fresh", Path(workshop) / "before"
        fresh.mkdir()
        yield fresh
        for path in [*fresh.rglob("*"), fresh]:
            sync(path)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.rename(before)
            try:
                fresh.rename(folder)
            except OSError:
                before.rename(folder)
                raise
            for path in before.iterdir():
                if path.name not in ours and not (folder / path.name).exists():
                    path.rename(folder / path.name)
            shutil.rmtree(before)
        else:
            fresh.rename(folder)
        sync(folder.parent)


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
