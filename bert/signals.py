"""SIGINT, SIGTERM, SIGHUP and SIGUSR1 from the first line of a command to its last.

Outside the steps of a run a signal raises (KeyboardInterrupt, or SystemExit with 128 + its number), so that whatever is half-written is
removed on the way out. While a run trains it is kept, and the run ends at the next step boundary.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_IGNORABLE = (signal.SIGHUP, signal.SIGUSR1)  # nohup has the first ignored, and so it stays
_STOPPING = b"\nstopping at the end of this step; press Ctrl-C again to quit at once\n"


class Signals:
    """What to do with signals: raise them, or keep the last one as `received` while they are `deferred`."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferred = False
        self._process = os.getpid()

    def install(self) -> None:
        """Put the handlers in place, again where somebody else has put theirs. Only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                if number not in _IGNORABLE or signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Keep signals as `received` instead of raising them; a second Ctrl-C ends the process at once."""
        self.received, self._deferred = None, True
        try:
            yield
        finally:
            self._deferred = False
            self.install()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked child: its parent was told too, or tells it
            if not self._deferred:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self._deferred:
            if self.received == signal.SIGINT == number:
                os._exit(128 + number)
            self.received = number
            with suppress(OSError):  # the terminal may be what is gone
                os.write(2, _STOPPING)  # print is not safe here: it may be what was interrupted
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)


_current: Signals | None = None


@contextmanager
def handled() -> Iterator[Signals]:
    """The signals of this command: the handlers stand until the outermost `with` ends, then those of before stand again."""
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


def number_of(error: BaseException) -> int | None:
    """The signal that raised `error`; none where it was none."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(error, SystemExit) and error.code in {128 + number for number in NUMBERS}:
        return int(error.code) - 128
    return None


def interruptible(function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)`, which may stay in native code for minutes, in a thread that the main thread waits for, so that a
    signal ends the wait at once. The thread is left to itself then."""
    if threading.current_thread() is not threading.main_thread():
        return function(*arguments)
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if errors:
        raise errors[0]
    return results[0]
