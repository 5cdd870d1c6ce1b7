"""Files and folders that appear complete or not at all, even if the machine stops, without loss of the user's files; and locks.

A folder is replaced in one step: the new one is filled in a workshop beside it (`.NAME.new-xxxxxxxx`), the user's files in the old
one are linked into it, and the two are exchanged. A workshop of a killed process is recognized by its name and by its lock file,
which the kernel has released, and completed or removed by the next process.
"""

import ctypes
import errno
import fcntl
import glob
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import TypeVar

from bert.errors import InputError, accessing

_WORKSHOP = re.compile(r"\.(.+)\.new-[a-z0-9_]{8}", re.DOTALL)
_OWNER, _FRESH, _READY, _BEFORE = _PARTS = ("owner", "fresh", "ready", "before")
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV}
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_HERE = -100  # AT_FDCWD
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_BEAT, _DEAD = 5.0, 30.0  # without locks: seconds between two heartbeats, and until an owner without one is dead
held: set[int] = set()
"""descriptors of the lock files of this process"""


@contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """A temporary file beside `file` to write; at the end it replaces `file`, or the target of a link of that name. After an error,
    nothing has changed."""
    file = real_path(file)
    partial = file.with_name(f".{file.stem}.partial{file.suffix}")
    partial.unlink(missing_ok=True)  # a link of that name would lead elsewhere
    try:
        yield partial
        sync(partial)
        os.replace(partial, file)
        sync(file.parent)
    finally:
        partial.unlink(missing_ok=True)


def replace_text(file: Path, text: str) -> None:
    """Write `file` atomically, see `replaced`."""
    with replaced(file) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replaced_folder(folder: Path, ours: Sequence[str]) -> Iterator[Path]:
    """An empty folder to fill; at the end it replaces `folder`, whose missing parents are made.

    `ours` are patterns of paths in `folder`, see `matches`: files with such names are replaced; all others are the user's and are
    linked, or copied, into the new folder first. At every instant the old or the new folder exists, complete. Raises InputError,
    without changing anything, if `folder` is a file, or is or holds a mount point.
    """
    folder = completed(real_path(folder))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file: give the path of a folder")
    _check_mounts(folder)
    with _parents(folder):
        for workshop in _abandoned(folder):
            _clear(workshop, folder, ours)
        with _workshop(folder, ours) as workshop:
            fresh = workshop / _FRESH
            fresh.mkdir()
            yield fresh
            if folder.exists():
                keep_others(folder, fresh, ours)
            for path in [*fresh.rglob("*"), fresh]:
                sync(path)
            _put(fresh, folder, workshop)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Reserve `folder`, which need not exist yet, for this process; its parents are made. Raises InputError if another process has
    it, if it cannot be written, and if it is or holds the current folder, which would be another one afterwards."""
    where = real_path(folder)
    if Path.cwd().is_relative_to(where):
        raise InputError(f"{folder}: is or holds the current folder, which cannot be replaced: give a folder in it")
    with ExitStack() as stack:
        with accessing(folder, "written", "choose another folder"):
            stack.enter_context(_parents(where))
            stack.enter_context(locked(where.with_name(f".{where.name}.lock"), str(folder)))
        yield


def completed(folder: Path) -> Path:
    """`folder`; a replacement that was interrupted between its two renames, without atomic exchange, is completed first."""
    if not folder.exists():
        for workshop in _abandoned(folder):
            if (workshop / _BEFORE).exists() and (workshop / _READY).exists():
                os.rename(workshop / _READY, folder)
                sync(folder.parent)
                break
    return folder


def remove_folder(folder: Path) -> None:
    """Remove a folder that is entirely ours, atomically. It stays if it cannot be removed."""
    with suppress(OSError), _workshop(folder, ["**"]) as workshop:
        os.rename(folder, workshop / _FRESH)
        sync(folder.parent)


def clear_workshop(folder: Path, ours: Sequence[str]) -> None:
    """Remove the workshops of killed processes beside `folder`, which is complete, unless another process has it."""
    lock = folder.with_name(f".{folder.name}.lock")
    if lock.exists() or any(folder.parent.glob(f".{glob.escape(folder.name)}.new-*")):
        with suppress(InputError, OSError), locked(lock, str(folder)):
            for workshop in _abandoned(folder):
                _clear(workshop, folder, ours)


def clear_workshops(parent: Path, ours: Sequence[str]) -> None:
    """Complete, or remove, the workshops in `parent` of processes that were killed while they replaced or removed folders."""
    with suppress(OSError):
        names = {found[1] for path in parent.iterdir() if (found := _WORKSHOP.fullmatch(path.name))}
        for name in names - {".", ".."}:  # folders of others may hold workshops of any name
            for workshop in _abandoned(completed(parent / name)):
                _clear(workshop, parent / name, ours)


def keep_others(folder: Path, fresh: Path, ours: Sequence[str]) -> None:
    """Link, or copy, files of `folder` with other names than the patterns `ours` into `fresh`, unless they are there and not older.
    `fresh` gets the permissions of `folder`.

    Raises InputError if `folder` holds a mount point, which cannot be linked; OSError if a part cannot be read."""
    _check_mounts(folder)
    os.chmod(fresh, stat.S_IMODE(folder.stat().st_mode) | stat.S_IRWXU)
    for above, folders, files in os.walk(folder, onerror=_raise):
        for number, name in enumerate([*files, *folders]):
            path, inside = Path(above, name), Path(above, name).relative_to(folder)
            to = fresh / inside
            through_link = any((fresh / part).is_symlink() for part in inside.parents)  # to any folder of the user
            if through_link or any(matches(inside, pattern) for pattern in ours):
                continue
            if number < len(files) or path.is_symlink():
                if os.path.lexists(to):
                    if path.lstat().st_mtime_ns <= to.lstat().st_mtime_ns:
                        continue
                    to.unlink()  # the user replaced a file that was linked before
                _make_like(folder, fresh, inside.parent)
                _link(path, to)
            elif not os.path.lexists(to) and not any(path.iterdir()):
                _make_like(folder, fresh, inside)


def put_files(folder: Path, contents: Mapping[str, str | Path]) -> None:
    """Write texts, and copy files, to `folder`, by their names."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, folder / name)
        else:
            (folder / name).write_text(content, encoding="utf-8")


def matches(path: PurePath, pattern: str) -> bool:
    """Whether a relative path matches `pattern`, part by part: * does not match a /, except in `/**` at the end."""
    parts, wanted = path.parts, PurePath(pattern).parts
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        parts = parts[: len(wanted)]
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def real_path(path: str | Path) -> Path:
    """The path with its links resolved, as far as possible: `Path.resolve` raises RuntimeError for circular links."""
    return Path(os.path.realpath(path))


_Name = TypeVar("_Name", str, str | None)


def absolute(name: _Name) -> _Name:
    """The absolute form of a path or a glob on this machine, so that a run can be resumed and repeated from any directory; any other name,
    such as one on the Hub, unchanged."""
    if name is None:
        return name
    path = Path(name).expanduser()
    if path.exists():
        return str(real_path(path))
    return str(path.absolute()) if glob.has_magic(name) else name


def is_same(first: Path, second: Path) -> bool:
    """Whether two paths are the same existing file."""
    return first.exists() and second.exists() and first.samefile(second)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk. Does nothing for links and pipes."""
    if not stat.S_ISREG(mode := path.lstat().st_mode) and not stat.S_ISDIR(mode):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a linked file of the user
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put(fresh: Path, folder: Path, workshop: Path) -> None:
    """Move `fresh`, which is complete, to `folder`; the old one, if any, is in the workshop then."""
    ready = workshop / _READY
    os.rename(fresh, ready)
    if not folder.exists():
        os.rename(ready, folder)
    elif not _exchanged(ready, folder):
        os.rename(folder, workshop / _BEFORE)
        os.rename(ready, folder)
    sync(folder.parent)


def _exchanged(first: Path, second: Path) -> bool:
    """Exchange two folders atomically; false if the system or file system cannot."""
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
    """Make the parents of `folder`; new ones are removed at the end if `folder` does not exist then."""
    new = [parent for parent in folder.parents if not parent.exists()]
    if new:
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


@contextmanager
def _workshop(folder: Path, ours: Sequence[str]) -> Iterator[Path]:
    """A locked folder of our own beside `folder`, removed at the end of the `with`."""
    workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
    try:
        with locked(workshop / _OWNER, str(folder)):
            try:
                yield workshop
            finally:
                _clear(workshop, folder, ours)
    finally:
        with suppress(OSError):
            workshop.rmdir()


def _abandoned(folder: Path) -> Iterator[Path]:
    """The workshops of `folder` without a process; each is locked while it is used, and removed if it is empty then."""
    with suppress(OSError):
        for workshop in list(folder.parent.iterdir()):
            named = _WORKSHOP.fullmatch(workshop.name)
            if not named or named[1] != folder.name or workshop.is_symlink() or not workshop.is_dir():
                continue
            if all(path.name in _PARTS and not path.is_symlink() for path in workshop.iterdir()):  # else not ours
                with suppress(InputError), locked(workshop / _OWNER, str(folder)):
                    yield workshop
                with suppress(OSError):
                    workshop.rmdir()


def _clear(workshop: Path, folder: Path, ours: Sequence[str]) -> None:
    """Remove the versions in a locked workshop, after `folder` exists and has the files that the user put into them."""
    ready, before = workshop / _READY, workshop / _BEFORE
    if before.exists() and not folder.exists():
        os.rename(before, folder)
    for version in (ready, before):
        if version.exists() and folder.exists() and not folder.is_symlink():
            keep_others(version, folder, ours)
    for version in (ready, before, workshop / _FRESH):
        shutil.rmtree(version, ignore_errors=True)


def _check_mounts(folder: Path) -> None:
    """Raises InputError if `folder` is or holds a mount point: it cannot be renamed, and its files must not be removed."""
    points = [folder] if folder.is_mount() else []
    with suppress(OSError):  # only Linux lists those of the same file system
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
        names = [re.sub(rb"\\(\d{3})", lambda found: bytes([int(found[1], 8)]), line.split()[4]) for line in lines]
        points += [point for point in map(Path, map(os.fsdecode, names)) if point.is_relative_to(folder)]
    for point in points:
        advice = f"a folder in it, as {folder / 'new'}" if point == folder else "another folder, or unmount it"
        raise InputError(f"{point}: is a mount point, which cannot be replaced: give {advice}")


def _raise(error: OSError) -> None:
    raise error


def _make_like(folder: Path, fresh: Path, inside: Path) -> None:
    """Make the folder `inside` of `fresh`, with its permissions in `folder`."""
    for part in [*reversed(inside.parents), inside]:
        if not (fresh / part).exists():
            (fresh / part).mkdir()
            shutil.copystat(folder / part, fresh / part)
            os.chmod(fresh / part, stat.S_IMODE((folder / part).stat().st_mode) | stat.S_IRWXU)


def _link(path: Path, to: Path) -> None:
    try:
        os.link(path, to, follow_symlinks=False)
    except OSError:  # a file system without links, or a file that this user may not link
        shutil.copy2(path, to, follow_symlinks=False)


# ── ownership ──


@contextmanager
def locked(file: Path, what: str) -> Iterator[int]:
    """Own `what` by the lock file `file`, which is made, and removed at the end. Yields its descriptor. The kernel releases the lock
    when the process ends, for whatever reason.

    Raises InputError, naming the owner, if another process has it. The text in the file is only for information. On a file system
    without locks, the modification time of the file is a heartbeat.
    """
    descriptor, has_locks = _acquired(file, what)
    held.add(descriptor)
    ended = threading.Event()
    try:
        os.ftruncate(descriptor, 0)
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} ({command})".encode(), 0)
        if not has_locks:
            threading.Thread(target=_beat, args=(descriptor, ended), daemon=True).start()
        yield descriptor
    finally:
        ended.set()
        if descriptor in held:  # not closed, as in a forked child
            try:
                if is_held(file, descriptor):
                    file.unlink()
            finally:
                held.discard(descriptor)
                os.close(descriptor)


def is_held(file: Path, descriptor: int) -> bool:
    """Whether `file` is still the locked one: its folder may have been moved or replaced."""
    with suppress(OSError):
        return os.path.samestat(os.stat(file, follow_symlinks=False), os.fstat(descriptor))
    return False


def _acquired(file: Path, what: str) -> tuple[int, bool]:
    """(descriptor of the locked file, whether the file system has locks)"""
    while True:
        is_new = not file.exists()
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        has_locks = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            has_locks = error.errno not in _NO_LOCKS
            if has_locks or (not is_new and time.time() - os.fstat(descriptor).st_mtime < _DEAD):
                owner = os.pread(descriptor, 200, 0).decode("utf-8", "replace") or "another process"
                os.close(descriptor)
                if has_locks and error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                raise InputError(f"{what}: in use by {owner}: wait until it ends, or give another folder") from None
        if is_held(file, descriptor):  # not one that its owner has just removed
            return descriptor, has_locks
        os.close(descriptor)


def _beat(descriptor: int, ended: threading.Event) -> None:
    with suppress(OSError):  # closed meanwhile
        while not ended.wait(_BEAT):
            os.utime(descriptor)


def _release_in_child() -> None:
    """A forked child, such as a data loading worker, must not keep the locks of a killed parent."""
    for descriptor in held:
        with suppress(OSError):
            os.close(descriptor)
    held.clear()


os.register_at_fork(after_in_child=_release_in_child)
