"""The judge is judged: each thing that no case may do is seen when it is done."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile import sandbox
from tests.hostile.sandbox import SECRET, Place, Result, run_case

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches children by Linux's means")

Judged = Callable[..., Result]


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    """Runs a function as a case, in a home with a file of the user's, a private file and an empty folder for results."""
    home = tmp_path / "home"
    case = home / "case"
    (case / "out").mkdir(parents=True)
    (home / "notes.txt").write_text("the user's")
    (home / "private.key").write_text(SECRET)
    (home / "evil.py").write_text("x = 1\n")
    for name in ("scratch", "caches"):
        (tmp_path / name).mkdir()
    place = Place(home, case, (case / "out",), tmp_path / "scratch", tmp_path / "caches")

    def run(action: Callable[[], object], **options: object) -> Result:
        return run_case(lambda: int(action() or 0), place, **options)  # type: ignore[arg-type]

    return run


def _refuse(line: str = "bert: no") -> int:
    print(line, file=sys.stderr)
    return 2


def _write(name: str, text: str = "x") -> None:
    Path(name).write_text(text)


def test_success_and_a_refusal_in_one_line_are_no_faults(judged: Judged) -> None:
    assert judged(lambda: _write("out/a")).kind == "accepted"
    assert judged(_refuse).kind == "refused"


@pytest.mark.parametrize(
    "errors",
    ["", "no", "bert: one\nbert: two", "thread panicked at x\nbert: two"],
    ids=["none", "plain", "two", "panic"],
)
def test_a_refusal_that_is_not_one_line_is_a_fault(judged: Judged, errors: str) -> None:
    assert judged(lambda: _refuse(errors) if errors else 2).kind == "lines"


def test_a_traceback_is_a_fault_and_says_where(judged: Judged) -> None:
    from bert.untrusted import parse_json

    result = judged(lambda: parse_json(7))  # type: ignore[arg-type]
    assert (result.kind, result.where.split(":")[0]) == ("traceback", "bert/untrusted.py")


def test_a_signal_another_code_and_too_much_memory_are_faults(judged: Judged) -> None:
    assert judged(lambda: signal.raise_signal(signal.SIGSEGV)).kind == "signal"
    assert judged(lambda: 1).kind == "exit code"
    assert judged(lambda: bytearray(3 * sandbox.MEMORY)).kind == "memory"


def test_what_takes_too_long_is_ended(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    assert judged(signal.pause).kind == "time"


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (lambda: os.system("true"), "start"),
        (lambda: subprocess.run(["true"]), "start"),
        (lambda: _write("../notes.txt"), "write"),
        (lambda: _write("elsewhere"), "write"),
        (lambda: os.remove("../notes.txt"), "write"),
        (lambda: os.rename("../notes.txt", "out/n"), "write"),
        (lambda: os.link("../notes.txt", "n"), "write"),
        (lambda: os.chmod("../notes.txt", 0), "write"),
        (lambda: shutil.rmtree(".."), "write"),
        (lambda: os.symlink("../..", "out/up") or _write("out/up/x"), "write"),
        (lambda: socket.socket().connect_ex(("127.0.0.1", 9)), "connect"),
        (lambda: sys.path.append("..") or __import__("evil"), "import"),
        (lambda: __import__("this"), "import"),
        (lambda: print("\x1b[31m"), "control"),
        (lambda: print("\x9b31m", file=sys.stderr), "control"),
        (lambda: shutil.copy("../private.key", "out/k"), "leak"),
        (lambda: os.symlink("../../private.key", "out/k"), "leak"),
        (lambda: os.mkdir("out/.a.new-12345678"), "left"),
    ],
)
def test_what_is_done_outside_is_a_fault(judged: Judged, action: Callable[[], object], kind: str) -> None:
    assert judged(lambda: action() and None).kind == kind


def test_what_python_does_not_see_shows_in_the_tree(judged: Judged) -> None:
    def write_natively() -> None:
        library = ctypes.CDLL(None)
        descriptor = library.creat(b"../notes.txt", 0o644)
        library.write(descriptor, b"x", 1)

    assert judged(write_natively).kind == "changed"


def test_a_refusal_that_leaves_a_new_file_is_a_fault(judged: Judged) -> None:
    def half() -> int:
        _write("out/half")
        return _refuse()

    assert judged(half, whole=True).kind == "left"
