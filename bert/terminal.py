"""What reaches the terminal: log records as lines, texts of strangers without their control characters, progress bars."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from bert.untrusted import printable


class TerminalHandler(logging.Handler):
    """Writes what happens to standard output, as it stands, and warnings to standard error.

    The streams are looked up for each record, so that redirections hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.renamed: dict[str, str] = {}
        """names of folders that will bear another name → that name"""

    def emit(self, record: logging.LogRecord) -> None:
        warns = record.levelno >= logging.WARNING
        text = record.getMessage()
        for before, after in self.renamed.items():
            text = text.replace(before, after)
        print(f"warning: {text}" if warns else text, file=sys.stderr if warns else sys.stdout, flush=True)


TERMINAL = TerminalHandler()


@contextmanager
def quiet(needed: bool = True) -> Iterator[None]:
    """Nothing but warnings is logged in the `with` where that is `needed`, as in all processes of a run but the first."""
    logger = logging.getLogger("bert")
    before = logger.level
    logger.setLevel(logging.WARNING if needed else before)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def renamed(before: Path, after: Path) -> Iterator[None]:
    """Lines of the `with` name the folder `before`, which is a temporary one, as it is called later."""
    TERMINAL.renamed[str(before)] = str(after)
    try:
        yield
    finally:
        del TERMINAL.renamed[str(before)]


class _Printable:
    """A text stream that shows control characters instead of passing them on."""

    def __init__(self, stream: TextIO) -> None:
        self.raw = stream

    def write(self, text: str) -> int:
        self.raw.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


@contextmanager
def printable_output() -> Iterator[None]:
    """Everything that is printed until the end of the `with` has its control characters shown, but for what goes to `raw`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream if isinstance(stream, _Printable) else _Printable(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def raw(stream: TextIO) -> TextIO:
    """The stream itself: for our own progress bars, and for data that a file or another program reads."""
    return stream.raw if isinstance(stream, _Printable) else stream


@contextmanager
def progress_bar(
    label: str | None, total: float | None
) -> Iterator[tuple[Callable[[float], None], Callable[[str], None]]]:
    """A bar on a terminal that goes when the work is done, nothing elsewhere or without a label: yields what counts its steps, and
    what says more after it."""
    if label is None or not sys.stderr.isatty():
        yield lambda _: None, lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    said = TextColumn("{task.description}")
    columns = (TextColumn("{task.fields[label]}"), BarColumn(), TaskProgressColumn(), said, TimeRemainingColumn())
    with Progress(*columns, console=Console(file=raw(sys.stderr)), transient=True) as bar:
        task = bar.add_task("", total=total, label=label)
        yield lambda done: bar.advance(task, done), lambda text: bar.update(task, description=text)
