"""Files and folders that are whole or not there, and stay so should the machine stop the moment after; what is the user's stays.

A folder is replaced in one step: the new one is filled in a workshop beside it (`.NAME.new-xxxxxxxx`), what the user keeps in the old
one is linked into it, and the two change places. A workshop that a killed process left is known by its lock file, which nobody holds,
and cleared away or completed by the next who comes.
"""

import ctypes
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from bert.errors import InputError
from bert.locks import locked

_OWNER, _FRESH, _BEFORE = "owner", "fresh", "before"
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_HERE = -100  # AT_FDCWD


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """A temporary name beside `file` to write under; at the end it takes the place of `file`, or of what a link of that
    name leads to. Where anything fails, all is as it was."""
    file = file.resolve()
    partial = file.with_name(f".{file.stem}.partial{file.suffix}")
    try:
        yield partial
        sync(partial)
        os.replace(partial, file)
        sync(file.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replaced_folder(folder: Path, ours: Sequence[str]) -> Iterator[Path]:
    """An empty folder to fill; at the end it takes the place of `folder`, whose parents are made where they are not there.

    `ours` are patterns of paths in `folder` (as `fnmatch` reads them, * crosses /): what stood there under such a name is gone
    then; everything else is the user's and is linked, or copied, into the new folder first. At every instant the old or the new
    folder is there, whole. Raises InputError, with all as it was, where `folder` is a mount point or holds one.
    """
    folder = folder.resolve()
    completed(folder)
    if folder.is_mount():
        raise InputError(
            f"{folder}: is a mount point, which cannot be replaced: give a folder in it, as {folder / 'new'}"
        )
    with _parents(folder):
        _clear(folder)
        workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
        try:
            with locked(workshop / _OWNER, str(folder)):
                fresh = workshop / _FRESH
                fresh.mkdir()
                yield fresh
                if folder.exists():
                    keep_others(folder, fresh, ours)
                for path in [*fresh.rglob("*"), fresh]:
                    sync(path)
                old = _put(fresh, folder, workshop)
                if old is not None:
                    keep_others(old, folder, ours)  # what came in between
        finally:
            shutil.rmtree(workshop, ignore_errors=True)


def completed(folder: Path) -> Path:
    """`folder`; a replacement of it that was cut between its two renames, where the system has no exchange, is completed first."""
    if not folder.exists():
        for workshop in _abandoned(folder):
            if (workshop / _BEFORE).exists() and (workshop / _FRESH).exists():
                os.rename(workshop / _FRESH, folder)
                sync(folder.parent)
                break
    return folder


def remove_folder(folder: Path) -> None:
    """Remove a folder that is ours as a whole: it is there or not, never half of it."""
    with suppress(OSError):
        workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
        with locked(workshop / _OWNER, str(folder)):
            os.rename(folder, workshop / _BEFORE)
            sync(folder.parent)
        shutil.rmtree(workshop, ignore_errors=True)


def keep_others(folder: Path, fresh: Path, ours: Sequence[str]) -> None:
    """Link, or copy, into `fresh` what `folder` holds under other names than the patterns `ours`, unless `fresh` has that name.

    Raises InputError where one of them is a mount point, which no link reaches."""
    for above, folders, files in os.walk(folder):
        for name in [*files, *folders]:
            path = Path(above, name)
            inside = path.relative_to(folder)
            linked = path.is_symlink() or name in files
            if path.is_mount():
                raise InputError(
                    f"{path}: is a mount point, which cannot move with {folder}: unmount it, or give another folder"
                )
            if any(fnmatchcase(inside.as_posix(), pattern) for pattern in ours) or os.path.lexists(fresh / inside):
                continue
            if linked:
                _make_like(folder, fresh, inside.parent)
                _link(path, fresh / inside)
            elif not any(path.iterdir()):
                _make_like(folder, fresh, inside)


def is_same(first: Path, second: Path) -> bool:
    """Whether two names lead to one file that is there."""
    return first.exists() and second.exists() and first.samefile(second)


def sync(path: Path) -> None:
    """Have the disk hold what was written to the file, or which entries the folder has. Links and pipes hold nothing."""
    if not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISDIR(mode):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # of the user's, linked: not ours to write
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put(fresh: Path, folder: Path, workshop: Path) -> Path | None:
    """Give `fresh` the place of `folder`; where the old one is then, if there was any."""
    old: Path | None = None
    if not folder.exists():
        os.rename(fresh, folder)
    elif _exchanged(fresh, folder):
        old = fresh
    else:
        old = workshop / _BEFORE
        os.rename(folder, old)
        try:
            os.rename(fresh, folder)
        except BaseException:
            os.rename(old, folder)
            raise
    sync(folder.parent)
    return old


def _exchanged(first: Path, second: Path) -> bool:
    """Have two folders change places in one step; false where this system or file system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(*names, _EXCHANGE)
    elif hasattr(library, "renameat2"):
        failed = library.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE)
    else:
        return False
    if failed and (number := ctypes.get_errno()) not in _UNSUPPORTED:
        raise OSError(number, os.strerror(number), str(second))
    return not failed


@contextmanager
def _parents(folder: Path) -> Iterator[None]:
    """The parents of `folder` are there; those that were made go again where no folder comes of it."""
    new = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    for parent in new:
        sync(parent.parent)
    try:
        yield
    finally:
        if not folder.exists():
            for parent in new:
                with suppress(OSError):
                    parent.rmdir()


def _abandoned(folder: Path) -> Iterator[Path]:
    """The workshops of `folder` whose process is gone; each is locked while it is looked at."""
    with suppress(OSError):
        found = [path for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}.new-")]
        for workshop in found:
            if not workshop.is_symlink() and (workshop / _OWNER).is_file():
                with ExitStack() as stack, suppress(InputError):
                    stack.enter_context(locked(workshop / _OWNER, str(folder)))
                    yield workshop


def _clear(folder: Path) -> None:
    """Remove what killed processes left of new versions of `folder`, which is there or was never."""
    for workshop in _abandoned(folder):
        shutil.rmtree(workshop, ignore_errors=True)


def _make_like(folder: Path, fresh: Path, inside: Path) -> None:
    """The folder `inside` of `fresh`, with the rights that it has in `folder`."""
    for part in [*reversed(inside.parents), inside]:
        if not (fresh / part).exists():
            (fresh / part).mkdir()
            shutil.copystat(folder / part, fresh / part)
            os.chmod(fresh / part, stat.S_IMODE((folder / part).stat().st_mode) | stat.S_IRWXU)


def _link(path: Path, to: Path) -> None:
    try:
        os.link(path, to, follow_symlinks=False)
    except OSError:  # a file system without links, or a file that this user must not link
        shutil.copy2(path, to, follow_symlinks=False)
