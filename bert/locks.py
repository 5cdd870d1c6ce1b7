"""Who owns a folder: a lock file that the kernel releases when its process ends, however that comes."""

import errno
import fcntl
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bert.errors import InputError

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_BEAT, _DEAD = 5.0, 30.0  # where the system has no locks: seconds between two signs of life, and to the end without one
_held: set[int] = set()


@contextmanager
def locked(file: Path, what: str) -> Iterator[int]:
    """Own `what` by the lock file `file`, which is made, and removed at the end. Yields its descriptor.

    Raises InputError, which names the owner, where another process has it. The text in the file only informs. On a file system
    without locks its time of change, renewed every few seconds, does their service.
    """
    descriptor, has_locks = _acquired(file, what)
    _held.add(descriptor)
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
        if descriptor in _held:  # and not closed, as in a forked child
            try:
                if is_held(file, descriptor):
                    file.unlink()
            finally:
                _held.discard(descriptor)
                os.close(descriptor)


def is_held(file: Path, descriptor: int) -> bool:
    """Whether `file` is still the one that was locked: its folder may have been moved, or replaced by another."""
    with suppress(OSError):
        return os.path.samestat(os.stat(file, follow_symlinks=False), os.fstat(descriptor))
    return False


def _acquired(file: Path, what: str) -> tuple[int, bool]:
    """(descriptor of the locked file, whether the file system has locks)."""
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
                raise InputError(f"{what}: in use by {owner}: wait for its end, or give another folder") from None
        if is_held(file, descriptor):  # and not one that its owner has just removed
            return descriptor, has_locks
        os.close(descriptor)


def _beat(descriptor: int, ended: threading.Event) -> None:
    with suppress(OSError):  # closed meanwhile
        while not ended.wait(_BEAT):
            os.utime(descriptor)


def _release_in_child() -> None:
    """A forked child, as a worker that loads data, must not keep the locks of a parent that was killed."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_release_in_child)
