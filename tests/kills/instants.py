"""The instants of an operation: the calls by which it changes what a folder holds, each with a moment before and one after.

At an instant a process can be killed or interrupted, and what a power cut would leave can be worked out. `watched` hands each instant to
a function; `Recorder` is such a function.
"""

import ctypes
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bert.files

CALLS = ("rename", "replace", "unlink", "remove", "rmdir", "mkdir", "link", "symlink", "fsync", "ftruncate")
STRUCTURAL = {"rename", "replace", "exchange"}
"""the calls by which a version takes the place of another"""

Instant = Callable[[str, bool, tuple[Any, ...]], None]
"""called with the name of the call, whether it is over, and its arguments"""


@contextmanager
def watched(instant: Instant, exchange: bool = True) -> Iterator[None]:
    """Call `instant` before and after every call. Without `exchange` the system cannot exchange two folders."""
    before = {name: getattr(os, name) for name in CALLS}
    exchanged = bert.files._exchanged

    def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            instant(name, False, arguments)
            result = call(*arguments, **options)
            instant(name, True, arguments)
            return result

        return wrapped

    for name, call in before.items():
        setattr(os, name, wrap(name, call))
    bert.files._exchanged = wrap("exchange", exchanged) if exchange else lambda first, second: False
    try:
        yield
    finally:
        for name, call in before.items():
            setattr(os, name, call)
        bert.files._exchanged = exchanged


def counted(at: int, act: Callable[[], None]) -> Instant:
    """An instant that does something at number `at`, counted from 0."""
    passed = -1

    def instant(name: str, over: bool, arguments: tuple[Any, ...]) -> None:
        nonlocal passed
        passed += 1
        if passed == at:
            act()

    return instant


def die() -> None:
    """End this process as a power switch would: nothing of it runs any more."""
    os.kill(os.getpid(), signal.SIGKILL)


Content = bytes | str | None
"""of a file, the target of a link, or none of a folder or pipe"""
State = dict[str, Content]
"""what a folder holds: path -> content, folders before what they hold"""


@dataclass
class Recorder:
    """Records an operation on `root` and what a power cut at each instant would leave, by two models of a disk.

    `durable[0]`: every change of names is kept, and of a file what was last synced: nothing, where it never was.
    `durable[1]`: of a folder the names are kept that were there when it was last synced.
    """

    root: Path
    names: list[str] = field(default_factory=list)
    """of the call of each instant"""
    durable: list[tuple[State, State]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """renames of what was not synced before, or whose folder was not synced after"""

    def __post_init__(self) -> None:
        self._contents: dict[int, Content] = {}  # of each inode, as the disk holds it
        self._entries: dict[int, dict[str, int]] = {}
        self._unsynced: dict[Path, str] = {}  # folder -> the rename that it must be synced after
        self._kept: list[int] = []  # descriptors: the number of a removed inode is not to be given to another
        self._numbers: set[int] = set()
        live, contents = self._look()
        self._contents, self._entries = dict(contents), {number: dict(names) for number, names in live.items()}

    def __call__(self, name: str, over: bool, arguments: tuple[Any, ...]) -> None:
        """An instant."""
        if name == "fsync" and over:
            status = os.fstat(arguments[0])
            live, contents = self._look()
            if status.st_ino in live:
                self._entries[status.st_ino] = dict(live[status.st_ino])
                path = Path(os.readlink(f"/proc/self/fd/{arguments[0]}"))
                self._unsynced.pop(path, None)
            elif status.st_ino in contents:
                self._contents[status.st_ino] = contents[status.st_ino]
        if name in STRUCTURAL:
            first, second = (Path(os.path.abspath(argument)) for argument in arguments[:2])
            if not over:
                self._check(first, f"{name} of {first} to {second}")
            else:
                kept = second.parent if ".new-" not in second.parent.name else first.parent
                if ".new-" not in kept.name:
                    self._unsynced[kept] = f"{name} of {first} to {second}"
        self.names.append(name)
        self._add()

    def finish(self) -> None:
        """The operation is over."""
        self._add()
        self.faults += [f"{folder} is not synced after the {what}" for folder, what in self._unsynced.items()]
        for descriptor in self._kept:
            os.close(descriptor)

    def _add(self) -> None:
        live, _ = self._look()
        self.durable.append((self._built(live), self._built(self._entries)))

    def _look(self) -> tuple[dict[int, dict[str, int]], dict[int, Content]]:
        """The entries of each folder and the content of each file, by the numbers of their inodes."""
        entries: dict[int, dict[str, int]] = {}
        contents: dict[int, Content] = {}
        for above, folders, files in os.walk(self.root):
            number = os.stat(above).st_ino
            self._keep(Path(above), number)
            entries[number] = {}
            for name in [*folders, *files]:
                path = Path(above, name)
                status = path.lstat()
                entries[number][name] = status.st_ino
                if stat.S_ISLNK(status.st_mode):
                    contents[status.st_ino] = os.readlink(path)
                    self._contents.setdefault(status.st_ino, contents[status.st_ino])
                elif stat.S_ISREG(status.st_mode):
                    contents[status.st_ino] = path.read_bytes()
                    self._keep(path, status.st_ino)
                elif not stat.S_ISDIR(status.st_mode):
                    contents[status.st_ino] = None
        return entries, contents

    def _keep(self, path: Path, number: int) -> None:
        if number not in self._numbers:
            self._numbers.add(number)
            self._kept.append(os.open(path, os.O_RDONLY))

    def _check(self, moved: Path, what: str) -> None:
        """A fault for each file that was written, and each folder that was changed, after it was last synced."""
        live, contents = self._look()
        for path in [moved, *(moved.rglob("*") if moved.is_dir() and not moved.is_symlink() else ())]:
            number = path.lstat().st_ino
            held, found = (self._entries, live) if number in live else (self._contents, contents)
            if number in found and found[number] != held.get(number):
                self.faults.append(f"{path} is not synced before the {what}")

    def _built(self, entries: dict[int, dict[str, int]]) -> State:
        """What the disk holds where folders have these entries."""
        state: State = {}

        def add(number: int, inside: str) -> None:
            for name, child in entries.get(number, {}).items():
                path = f"{inside}{name}"
                if child in self._folders:
                    state[path + "/"] = None
                    add(child, path + "/")
                else:
                    state[path] = self._contents.get(child, b"")

        self._folders = set(entries) | getattr(self, "_folders", set())
        add(os.stat(self.root).st_ino, "")
        return state


def restore(state: State, root: Path) -> None:
    """Make `root` hold what `state` says."""
    root.mkdir()
    for inside, content in state.items():
        path = root / inside
        if inside.endswith("/"):
            path.mkdir()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.symlink_to(content)
        else:
            os.mkfifo(path)


def can_exchange(folder: Path) -> bool:
    """Whether this system and file system exchange two folders in one step."""
    first, second = folder / ".first", folder / ".second"
    first.mkdir()
    second.mkdir()
    try:
        return hasattr(ctypes.CDLL(None), "renameat2") and bert.files._exchanged(first, second)
    finally:
        first.rmdir()
        second.rmdir()
