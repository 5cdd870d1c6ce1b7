"""Locks: one owner, whoever it is; none after a death, however it comes."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bert import files
from bert.errors import InputError
from bert.files import is_held, locked

HOLDS = """
import sys
from pathlib import Path
from bert.files import locked
with locked(Path(sys.argv[1]), "runs/a"):
    {then}
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(file, then="pass"):
    """Another process that holds the lock until its input ends."""
    code = HOLDS.format(then=then)
    flags = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code, str(file)], **flags)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_file_is_made_says_who_owns_it_and_is_removed(tmp_path):
    file = tmp_path / ".lock"
    with locked(file, "runs/a") as descriptor:
        assert file.read_text().startswith(f"process {os.getpid()} on ")
        assert is_held(file, descriptor)
    assert not file.exists()
    assert not is_held(file, descriptor)


def test_it_is_removed_where_the_work_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / ".lock", "runs/a"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_it_is_free_where_its_removal_is_interrupted(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), locked(tmp_path / ".lock", "runs/a"):
        monkeypatch.setattr(os, "unlink", interrupt)
    monkeypatch.undo()
    with locked(tmp_path / ".lock", "runs/a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_told_who_owns_it(tmp_path):
    process = holder(tmp_path / ".lock")
    with pytest.raises(InputError) as refused, locked(tmp_path / ".lock", "runs/a"):
        pass
    owner = f"process {process.pid} on "
    assert str(refused.value).startswith(f"runs/a: in use by {owner}")
    assert str(refused.value).endswith(": wait until it ends, or give another folder")
    process.communicate("")
    with locked(tmp_path / ".lock", "runs/a"):
        pass


def test_this_process_itself_is_a_second_owner_too(tmp_path):
    with locked(tmp_path / ".lock", "runs/a"):
        with pytest.raises(InputError, match=f"in use by process {os.getpid()}"), locked(tmp_path / ".lock", "runs/a"):
            pass
        assert (tmp_path / ".lock").exists()


def test_the_text_in_the_file_only_informs(tmp_path):
    """A file that nobody holds is free whatever it says; one that somebody holds is not, whatever it says."""
    (tmp_path / ".lock").write_text(f"process {os.getppid()} on this very machine (bert pretrain)" * 9)
    with locked(tmp_path / ".lock", "runs/a"):
        assert (tmp_path / ".lock").read_text().count("process") == 1
        (tmp_path / ".lock").write_bytes(b"\xff\x00nothing")
        with pytest.raises(InputError, match="runs/a: in use by"), locked(tmp_path / ".lock", "runs/a"):
            pass
        (tmp_path / ".lock").write_text("")
        with pytest.raises(InputError, match="runs/a: in use by another process"), locked(tmp_path / ".lock", "runs/a"):
            pass


def test_death_releases_it_at_once_although_forked_children_live_on(tmp_path):
    """As loaders of data do, when the process that trains is killed."""
    then = "import os, time; r, w = os.pipe(); child = os.fork(); child or (os.write(w, b'x'), time.sleep(60)); "
    then += "os.read(r, 1); print(child)"  # once the child runs
    code = HOLDS.format(then=then)
    flags = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / ".lock")], **flags)
    child = int(process.stdout.readline())
    assert process.stdout.readline() == "held\n"
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives
        with locked(tmp_path / ".lock", "runs/a"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_leaves_the_with_releases_nothing_and_closes_nothing_else(tmp_path):
    with locked(tmp_path / ".lock", "runs/a") as descriptor:
        child = os.fork()
        if child == 0:
            os._exit(_leaves(tmp_path / ".lock", descriptor))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _leaves(file, descriptor):
    """In a child: 0 where the end of a `with` that it inherited leaves alone what now has the descriptor's number."""
    inherited = locked.__wrapped__(file.with_name("other"), "runs/b")
    number = next(inherited)
    files._release_in_child()
    reused = os.open(os.devnull, os.O_RDONLY)
    try:
        if next(inherited, None) is not None or reused not in (number, descriptor):
            return 1
        os.fstat(reused)
    except OSError:
        return 2
    return 0 if file.exists() and file.with_name("other").exists() else 3


def test_a_program_that_is_started_does_not_hold_it(tmp_path):
    with locked(tmp_path / ".lock", "runs/a"):
        program = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with locked(tmp_path / ".lock", "runs/a"):
            assert program.poll() is None
    finally:
        program.communicate(b"\n")


@pytest.mark.parametrize("what", ["unlinked", "replaced", "moved"])
def test_a_lock_file_that_is_gone_meanwhile_is_not_held_and_another_s_is_not_removed(tmp_path, what):
    file = tmp_path / "run" / ".lock"
    file.parent.mkdir()
    with locked(file, "runs/a") as descriptor:
        if what == "moved":
            file.parent.rename(tmp_path / "elsewhere")
            file.parent.mkdir()
        else:
            file.unlink()
        assert not is_held(file, descriptor)
        if what != "unlinked":
            file.write_text("of another process")
            assert not is_held(file, descriptor)
    assert file.exists() == (what != "unlinked")


def test_who_opened_the_file_that_its_owner_then_removed_takes_a_new_one(tmp_path, monkeypatch):
    """Or two would own one name: the first of an inode that is gone, the other of a new one."""
    file, real = tmp_path / ".lock", fcntl.flock
    passes = []

    def flock(descriptor, operation):
        passes.append(descriptor)
        if len(passes) == 1:
            file.unlink()  # the owner leaves between our opening and our locking
        return real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(file, "runs/a") as descriptor:
        assert len(passes) == 2
        assert is_held(file, descriptor)


def test_a_link_in_the_place_of_the_lock_file_is_not_followed(tmp_path):
    (tmp_path / "private").write_text("mine")
    (tmp_path / ".lock").symlink_to("private")
    with pytest.raises(OSError), locked(tmp_path / ".lock", "runs/a"):
        pass
    assert (tmp_path / "private").read_text() == "mine"


def test_an_error_of_the_disk_is_not_taken_for_an_owner(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path / ".lock", "runs/a"):
        pass


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without flock, whose owners give a sign of life each 0.05 seconds."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(files, "_BEAT", 0.05)


def test_without_locks_signs_of_life_keep_a_second_owner_out(tmp_path, no_locks):
    file = tmp_path / ".lock"
    with locked(file, "runs/a"):
        os.utime(file, (1, 1))
        deadline = time.monotonic() + 30
        while file.stat().st_mtime < 2:  # renewed
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(InputError, match="in use by process"), locked(file, "runs/a"):
            pass
    assert not file.exists()
    deadline = time.monotonic() + 30
    while any(thread.name.startswith("Thread") and "_beat" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_locks_an_owner_without_a_sign_of_life_is_gone(tmp_path, no_locks):
    file = tmp_path / ".lock"
    file.write_text("process 1 on a machine that burned")
    old = time.time() - files._DEAD - 1
    os.utime(file, (old, old))
    with locked(file, "runs/a"):
        assert f"process {os.getpid()} " in file.read_text()
        with pytest.raises(InputError), locked(file, "runs/a"):
            pass


def test_the_folder_is_the_callers_to_make(tmp_path):
    with pytest.raises(FileNotFoundError), locked(Path(tmp_path, "absent", ".lock"), "runs/a"):
        pass
