"""One case in a forked child: what it may do, what it did, and whether that is allowed.

Allowed is exit code 0, or exit code 2 with exactly one line on standard error, `bert: …`. Everything else is a fault: a traceback,
a signal, more time or memory than the limits, a process started, a file written, renamed or removed outside the folders that are the
command's to write, a connection, a module that comes from the inputs, a control character on the terminal, the text of a private file
in what was written, and what is left half-written. With exit code 0 warnings may stand on standard error, but no panic of native code;
with exit code 2 there is one line and no more, since a warning before the error would bury it.
"""

import contextlib
import faulthandler
import hashlib
import json
import os
import re
import resource
import select
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEMORY = 1 << 30
"""bytes of address space that a child may add to what it has when it is forked"""
FILE_SIZE = 1 << 28
SECONDS_CPU, SECONDS = 10, 120
"""of processor time and of the clock; the first decides, the second ends what waits for ever"""
SECRET = "PRIVATE-7f3a91c2-of-the-user"
CANARIES = frozenset({"antigravity", "this", "turtledemo", "idlelib"})
"""installed modules that no command of ours has a use for"""

_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")  # a bar draws itself by \r
_STARTS = frozenset(
    {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen", "pty.spawn", "os.kill"}
)
_CONNECTS = frozenset(
    {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"}
)
# event → the places of (path, descriptor of its folder) among its arguments
_CHANGES: dict[str, Sequence[tuple[int, int | None]]] = {
    "os.remove": [(0, 1)],
    "os.rmdir": [(0, 1)],
    "os.mkdir": [(0, 2)],
    "os.rename": [(0, 2), (1, 3)],
    "os.link": [(1, 3)],
    "os.symlink": [(1, 2)],
    "os.chmod": [(0, 2)],
    "os.chown": [(0, 3)],
    "os.truncate": [(0, None)],
    "os.utime": [(0, 3)],
    "shutil.rmtree": [(0, 1)],
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Place:
    """Where a case happens."""

    home: Path
    """the tree that must stay as it is, but for `writable`; the user's home"""
    case: Path
    """the current folder of the child, somewhere in `home`"""
    writable: tuple[Path, ...]
    """folders that the command may write, and make anew beside themselves under hidden names"""
    scratch: Path
    """for temporary files, and the streams of the child; outside `home`"""
    caches: Path
    """of libraries; outside `home`"""


@dataclass
class Result:
    """What came of a case."""

    kind: str
    """accepted, refused, or the name of a fault"""
    detail: str = ""
    where: str = ""
    """of a traceback: the deepest place in the package, and the exception"""
    output: str = ""
    errors: str = ""
    seconds: float = 0.0
    started: list[str] = field(default_factory=list)
    """the processes that it started, as the audit hook saw them"""
    modules: list[str] = field(default_factory=list)
    """that it imported"""

    @property
    def is_fault(self) -> bool:
        return self.kind not in ("accepted", "refused")


def run_case(
    action: Callable[[], int], place: Place, allowed_starts: Sequence[str] = (), whole: bool = False
) -> Result:
    """Run `action`, which returns an exit code, in a child, and judge it.

    `allowed_starts`: processes that the same command starts with good inputs. `whole`: a refusal leaves nothing written.
    """
    before, secret_before = _tree(place), _files(place.writable)
    streams = [place.scratch / name for name in ("stdout", "stderr", "report")]
    for stream in streams:
        stream.unlink(missing_ok=True)
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_child(action, place, streams)
    status, timed_out = _wait(child, begun)
    output, errors = (stream.read_bytes() if stream.exists() else b"" for stream in streams[:2])
    report = [json.loads(line) for line in streams[2].read_text().splitlines()] if streams[2].exists() else []
    result = Result("", output=_shown(output), errors=_shown(errors), seconds=time.monotonic() - begun)
    result.started = [entry["detail"] for entry in report if entry["kind"] == "start"]
    result.modules = [entry["detail"] for entry in report if entry["kind"] == "module"]
    result.kind, result.detail = _judge(
        status, timed_out, output, errors, [entry for entry in report if entry["kind"] != "module"], allowed_starts
    )
    result.where = (
        _where(result.errors) if result.kind in ("traceback", "signal", "time", "memory", "exit code") else ""
    )
    if not result.is_fault or result.kind in ("traceback", "lines"):
        with contextlib.suppress(StopIteration):
            result.kind, result.detail = next(_harm(place, before, secret_before, result, whole))
    return result


def _judge(
    status: int,
    timed_out: bool,
    output: bytes,
    errors: bytes,
    report: Sequence[Mapping[str, str]],
    allowed_starts: Sequence[str],
) -> tuple[str, str]:
    """(accepted, refused or the name of a fault, what it is)."""
    worst = [entry for entry in report if entry["kind"] != "start" or entry["detail"] not in allowed_starts]
    if worst:
        return worst[0]["kind"], worst[0]["detail"]
    if timed_out:
        return "time", f"more than {SECONDS} s"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number in (signal.SIGXCPU, signal.SIGKILL):
            return "time", f"more than {SECONDS_CPU} s of the processor"
        return "signal", signal.Signals(number).name
    code, lines = os.WEXITSTATUS(status), errors.decode("utf-8", "replace").splitlines()
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        last = next((line for line in reversed(lines) if line.strip()), "")
        return ("memory" if last.startswith("MemoryError") else "traceback"), last
    if found := _CONTROL.search(output) or _CONTROL.search(errors):
        return "control", f"{found[0]!r} on the terminal"
    if code == 0:
        if panic := next((line for line in lines if "panicked at" in line), ""):
            return "lines", panic
        return "accepted", ""
    if code != 2:
        return "exit code", str(code)
    if len(lines) != 1 or not lines[0].startswith("bert: "):
        return "lines", f"{len(lines)} lines on standard error: {lines[0] if lines else ''}"
    return "refused", lines[0]


def _harm(place: Place, before: Any, secret_before: Mapping[str, bytes], result: Result, whole: bool) -> Any:
    """(fault, what it is) for what was changed, leaked or left."""
    after = _tree(place)
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            yield (
                "changed",
                f"{path} was {'changed' if path in before and path in after else 'made' if path in after else 'removed'}",
            )
    found = _files(place.writable)
    for name, content in found.items():
        if secret_before.get(name) != content and SECRET.encode() in content:
            yield "leak", f"{name} holds a private file"
    for folder in place.writable:
        for path in folder.rglob("*"):
            if (
                path.is_symlink()
                and str(path) not in secret_before
                and not _inside(os.path.realpath(path), [place.case])
            ):
                yield "leak", f"{path} is a link to {os.readlink(path)}"
            if re.fullmatch(r"\..*\.(new-\w+|partial|old|lock|tmp|replaced)|.*\.partial", path.name):
                yield "left", f"{path.relative_to(place.home)}"
    if whole and result.kind != "accepted" and (new := found.keys() - secret_before.keys()):
        yield "left", min(new)


def _where(errors: str) -> str:
    """Where a traceback, or the dump of a signal, was last in the package."""
    lines = errors.splitlines()
    frames = [
        match for line in lines if (match := re.search(r'File "[^"]*/(bert/[^"]+)", line (\d+),? in (\S+)', line))
    ]
    dump = any(line.startswith(("Fatal Python error", "Current thread", "Timeout")) for line in lines)
    frame = None if not frames else frames[0] if dump else frames[-1]
    last = next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception|Panic\w*)\b", line)), "")
    return f"{frame[1]}:{frame[2]} {frame[3]} {last.partition(':')[0]}".strip() if frame else last.partition(":")[0]


def _shown(stream: bytes) -> str:
    return stream.decode("utf-8", "backslashreplace")


def _tree(place: Place) -> dict[str, tuple[Any, ...]]:
    """Every path below the home that is not the command's to write, with what it is and what is in it."""
    found = {}
    for above, folders, files in os.walk(place.home):
        folders[:] = [name for name in folders if Path(above, name) not in place.writable]
        for name in [*folders, *files]:
            path = Path(above, name)
            about = path.lstat()
            content = os.readlink(path) if path.is_symlink() else ""
            if stat.S_ISREG(about.st_mode):
                content = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
            found[str(path.relative_to(place.home))] = (about.st_mode, about.st_nlink, content)
    return found


def _files(folders: Sequence[Path]) -> dict[str, bytes]:
    """Files, and links as where they lead, below some folders."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_symlink():
                found[str(path)] = os.readlink(path).encode()
            elif path.is_file() and path.stat().st_size < FILE_SIZE:
                found[str(path)] = path.read_bytes()
    return found


def _wait(child: int, begun: float) -> tuple[int, bool]:
    """(status of the child, whether it had to be killed); whatever it started ends with it."""
    descriptor = os.pidfd_open(child)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    timed_out = not poll.poll(max(0, (begun + SECONDS - time.monotonic()) * 1000))
    os.close(descriptor)
    with contextlib.suppress(ProcessLookupError):  # its own session: see below
        os.killpg(child, signal.SIGKILL if timed_out else 0)
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return status, timed_out


def _be_the_child(action: Callable[[], int], place: Place, streams: Sequence[Path]) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        for number, name in ((0, Path(os.devnull)), (1, streams[0]), (2, streams[1])):
            descriptor = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, number)
            os.close(descriptor)
        report = os.open(streams[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", errors="backslashreplace")
            for number in range(3)
        )
        os.chdir(place.case)
        sys.path[:] = [entry for entry in sys.path if entry and Path(entry) != place.case]
        os.environ["TMPDIR"], tempfile.tempdir = str(place.scratch), None  # or that of the parent would be kept
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(place.scratch)  # of what a recipe says is compiled
        _limit()
        known = set(sys.modules)
        sys.addaudithook(_auditor(place, report))
        code = action()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1 if error.code else 0
    except BaseException:  # a panic of Rust is not an Exception
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            for name in sys.modules.keys() - known:
                os.write(report, json.dumps({"kind": "module", "detail": name}).encode() + b"\n")
        os._exit(code)


def _limit() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_CPU, SECONDS_CPU + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(sys.stderr)
    faulthandler.register(signal.SIGXCPU, sys.stderr, chain=True)


def _auditor(place: Place, report: int) -> Callable[[str, tuple[Any, ...]], None]:
    """The hook that writes down what a child must not do; it forbids nothing, so that all of it shows."""
    writable = [*place.writable, place.scratch, place.caches, Path("/dev"), Path("/proc")]
    process = os.getpid()
    busy = False

    def note(kind: str, detail: str) -> None:
        os.write(report, json.dumps({"kind": kind, "detail": detail[:300]}).encode() + b"\n")

    def check(path: Any, folder: Any, what: str) -> None:
        if isinstance(path, int) or path is None:
            return
        name = os.fsdecode(path)
        if isinstance(folder, int) and folder >= 0 and not os.path.isabs(name):
            name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
        follows = what in ("open", "os.truncate", "os.utime", "os.chmod", "os.chown")
        above, last = os.path.split(os.path.abspath(name))
        real = os.path.realpath(name) if follows else os.path.join(os.path.realpath(above), last)
        if not _inside(real, writable) and not any(
            real.startswith(f"{folder.parent}/.{folder.name}.") for folder in place.writable
        ):
            note("write", f"{what} {real}")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        try:
            if event == "open":
                if isinstance(arguments[2], int) and arguments[2] & _WRITING:
                    check(arguments[0], None, "open")
            elif event in _CHANGES:
                for path, folder in _CHANGES[event]:
                    check(
                        arguments[path],
                        arguments[folder] if folder is not None and folder < len(arguments) else None,
                        event,
                    )
            elif event in _STARTS:
                if event != "os.kill" or os.getpid() == process:
                    note("start", f"{event} {arguments!r}")
            elif event in _CONNECTS:
                note("connect", f"{event} {arguments[1:]!r}")
            elif event == "exec":
                file = getattr(arguments[0], "co_filename", "")
                if file.startswith(str(place.home)):
                    note("import", file)
            elif event == "import":
                if str(arguments[0]).partition(".")[0] in CANARIES:
                    note("import", str(arguments[0]))
            elif event == "pickle.find_class":
                if arguments[0] not in ("torch", "numpy", "collections"):
                    note("unpickle", f"{arguments[0]}.{arguments[1]}")
            elif event == "ctypes.dlopen" and arguments[0] and _inside(str(arguments[0]), [place.home]):
                note("import", str(arguments[0]))
        finally:
            busy = False

    return watch


def _inside(path: str, folders: Sequence[Path]) -> bool:
    return any(path == str(folder) or path.startswith(f"{folder}/") for folder in folders)
