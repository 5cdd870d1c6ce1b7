"""SIGINT, SIGTERM, SIGHUP and SIGUSR1 from the first line of a command to its last.

Outside the steps of a run a signal raises (KeyboardInterrupt, or SystemExit with 128 + its number), so that unfinished files are
removed. During training it is recorded, and the run ends at the next step boundary.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_IGNORABLE = (signal.SIGHUP, signal.SIGUSR1)  # stay ignored if they are, as the first by nohup
is_run = False
"""whether the command is a run, and says so if it ends before it has begun"""
_BEFORE = b"stopped before the start: run the same command again\n"
_STOPPING = b"\nstopping at the end of this step; press Ctrl-C again to quit at once\n"


class Signals:
    """Raises signals, or records the last one as `received` while they are `deferred`."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferred = False
        self._process = os.getpid()

    def install(self) -> None:
        """Install the handlers, again if others have replaced them. Does nothing outside the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                if number not in _IGNORABLE or signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Record signals as `received` instead of raising them; a second Ctrl-C ends the process at once."""
        self.received, self._deferred = None, True
        try:
            yield
        finally:
            self._deferred = False
            self.install()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked child, whose parent handles signals
            if not self._deferred:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self._deferred:
            if self.received == signal.SIGINT == number:
                os._exit(128 + number)
            self.received = number
            with suppress(OSError):  # the terminal may be closed
                os.write(2, _STOPPING)  # print may be what was interrupted
        elif _breaks(frame):
            if not getattr(sys.modules.get("bert.files"), "held", None):  # nothing to clean up
                os.write(2, _BEFORE * is_run)
                os._exit(128 + number)
            threading.Timer(0.05, os.kill, (self._process, number)).start()  # again when that is over
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)


_current: Signals | None = None


@contextmanager
def handled() -> Iterator[Signals]:
    """The signals of this command; the previous handlers are restored when the outermost `with` ends."""
    global _current
    if _current is not None:
        yield _current
        return
    if threading.current_thread() is not threading.main_thread():
        yield Signals()
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in NUMBERS}
    _current = Signals()
    _current.install()
    try:
        yield _current
    finally:
        _current = None
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _breaks(frame: FrameType | None) -> bool:
    """Whether an exception in `frame` would be lost, as in a `__del__`, or leave a module imported in part."""
    while frame is not None:
        name, module = frame.f_code.co_name, str(frame.f_globals.get("__name__"))
        if name == "__del__" or module.startswith("importlib._"):
            return True
        if module.startswith("bert.") and name != "<module>":
            return False
        frame = frame.f_back
    return False


def number_of(error: BaseException) -> int | None:
    """The signal that raised `error`, if it was one."""
    if KeyboardInterrupt in (type(error), type(error.__context__)):  # Lightning turns it into an exit
        return signal.SIGINT
    if isinstance(error, SystemExit) and error.code in {128 + number for number in NUMBERS}:
        return int(error.code) - 128
    return None


def interruptible(function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)`, which may take minutes in native code, in a thread that the main thread waits for, so that a signal
    ends the wait at once. The thread is abandoned then."""
    if threading.current_thread() is not threading.main_thread():
        return function(*arguments)
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future.result()
