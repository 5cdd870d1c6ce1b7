"""Signals: raised or kept, by whom they were meant for."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from bert import signals
from bert.signals import NUMBERS, handled, interruptible, number_of


@pytest.fixture(autouse=True)
def as_before():
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    assert {number: signal.getsignal(number) for number in NUMBERS} == before
    assert signals._current is None


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [
        (signal.SIGINT, KeyboardInterrupt, None),
        (signal.SIGTERM, SystemExit, 143),
        (signal.SIGHUP, SystemExit, 129),
        (signal.SIGUSR1, SystemExit, 138),
    ],
)
def test_a_signal_raises_from_the_first_line_of_a_command(number, error, code):
    with handled(), pytest.raises(error) as raised:
        os.kill(os.getpid(), number)
    assert number_of(raised.value) == number
    if code is not None:
        assert raised.value.code == code


@pytest.mark.parametrize("number", NUMBERS)
def test_a_run_keeps_the_signal_and_says_that_it_will_stop(number, capfd):
    with handled() as found:
        with found.deferred():
            assert found.received is None
            os.kill(os.getpid(), number)
            assert found.received == number
        assert found.received == number  # to be read after the run
        with found.deferred():
            assert found.received is None
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            os.kill(os.getpid(), number)
    assert capfd.readouterr().err == "\nstopping at the end of this step; press Ctrl-C again to quit at once\n"


def test_a_terminal_that_is_gone_does_not_end_the_run(monkeypatch):
    """SIGHUP comes when it goes, and nothing can be written to it any more."""

    def fail(*_):
        raise OSError("Input/output error")

    with handled() as found, found.deferred():
        monkeypatch.setattr(os, "write", fail)
        os.kill(os.getpid(), signal.SIGHUP)
        monkeypatch.undo()
        assert found.received == signal.SIGHUP


def test_the_last_signal_counts(capfd):
    with handled() as found, found.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert found.received == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)  # the first of a row: after it a second would quit
        assert found.received == signal.SIGINT


def in_a_process(code, expected):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == expected, done.stderr
    return done.stdout


def test_a_second_ctrl_c_ends_the_process_at_once():
    code = """
import os, signal
from bert.signals import handled
with handled() as found, found.deferred():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        print("kept", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        print("not reached", flush=True)
"""
    assert in_a_process(code, 130) == "kept\n"


def test_handlers_of_somebody_else_are_replaced_again():
    with handled() as found:
        with found.deferred():
            signal.signal(signal.SIGTERM, lambda *_: None)
            found.install()
            os.kill(os.getpid(), signal.SIGTERM)
            assert found.received == signal.SIGTERM
            signal.signal(signal.SIGINT, lambda *_: None)
        with pytest.raises(KeyboardInterrupt):  # put back at the end of the run
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_what_nohup_has_ignored_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with handled() as found:
            os.kill(os.getpid(), number)
            with found.deferred():
                os.kill(os.getpid(), number)
                assert found.received is None
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_commands_within_a_command_share_its_signals():
    with handled() as outer:
        with handled() as inner:
            assert inner is outer
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)


def test_outside_the_main_thread_no_handler_is_touched():
    found = []

    def work():
        with handled() as one:
            one.install()
            with one.deferred():
                found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.parametrize("deferred", [False, True])
def test_a_forked_child_dies_of_a_signal_unless_its_parent_keeps_it(deferred, capfd):
    """A loader of data must not end, nor speak, at a Ctrl-C that the run keeps for the end of its step."""
    with handled() as found:
        if deferred:
            with found.deferred():
                child = _forked()
        else:
            child = _forked()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == (7 if deferred else -signal.SIGTERM)
    assert capfd.readouterr().err == ""


def _forked():
    child = os.fork()
    if child == 0:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        finally:
            os._exit(8)  # it was raised in the child
    return child


def test_what_was_no_signal_has_no_number():
    for error in (ValueError(), SystemExit(2), SystemExit(), SystemExit("130"), SystemExit(128 + signal.SIGKILL)):
        assert number_of(error) is None


BUSY = """
import os, signal, sys, time
from pathlib import Path
from bert import files, signals
def send(): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.01)
class Trap:
    def find_spec(self, name, *_):
        if name == "colorsys": send()
class Dies:
    def __del__(self): send()
sys.meta_path.insert(0, Trap())
def work():
    {work}
    time.sleep(20)
try:
    with signals.handled(), files.locked(Path(sys.argv[1]) / ".lock", "a run"):
        work()
except KeyboardInterrupt:
    print("raised", "colorsys" in sys.modules, list(Path(sys.argv[1]).iterdir()))
"""


@pytest.mark.parametrize(
    ("work", "imported"), [("import colorsys", True), ("Dies()", False)], ids=["an import", "a __del__"]
)
def test_a_signal_where_python_would_lose_its_exception_is_raised_after_that(work, imported, tmp_path):
    program = [sys.executable, "-c", BUSY.format(work=work), str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"raised {imported} []\n", "")


def test_interruptible_work_gives_its_result_or_its_error():
    assert interruptible(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        interruptible(divmod, 7, 0)
    with pytest.raises(SystemExit):
        interruptible(sys.exit, 3)
    assert interruptible(threading.current_thread) is not threading.main_thread()
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(interruptible(threading.current_thread)))
    thread.start()
    thread.join()
    assert elsewhere == [thread]


def test_a_signal_ends_the_wait_for_work_that_goes_on():
    begun, ended = threading.Event(), threading.Event()

    def work():
        begun.set()
        ended.wait(60)

    def interrupt():
        begun.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with handled(), pytest.raises(KeyboardInterrupt):
        interruptible(work)
    assert not ended.is_set()
    ended.set()


def test_work_that_is_left_to_itself_does_not_keep_the_process():
    code = """
import os, signal, threading
from bert.signals import handled, interruptible, number_of
with handled():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    interruptible(threading.Event().wait)
"""
    in_a_process(code, 143)
