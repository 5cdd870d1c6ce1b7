"""Output on the terminal: log records as lines, untrusted text without control characters, progress bars."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from bert.untrusted import printable


class TerminalHandler(logging.Handler):
    """Writes log records to standard output as they are, and warnings to standard error.

    The streams are looked up for each record, so that redirections are followed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.renamed: dict[str, str] = {}
        """temporary names of folders → their final names"""

    def emit(self, record: logging.LogRecord) -> None:
        warns = record.levelno >= logging.WARNING
        text = record.getMessage()
        for before, after in self.renamed.items():
            text = text.replace(before, after)
        print(f"warning: {text}" if warns else text, file=sys.stderr if warns else sys.stdout, flush=True)


TERMINAL = TerminalHandler()


@contextmanager
def quiet(needed: bool = True) -> Iterator[None]:
    """Log warnings only inside the `with`, if `needed`: as in every process of a run but the first."""
    logger = logging.getLogger("bert")
    before = logger.level
    logger.setLevel(logging.WARNING if needed else before)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def renamed(before: Path, after: Path) -> Iterator[None]:
    """Log the temporary folder `before` under its final name `after` inside the `with`."""
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
    """Show the control characters of everything printed inside the `with`, except what is written to `raw`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream if isinstance(stream, _Printable) else _Printable(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def raw(stream: TextIO) -> TextIO:
    """The stream itself: for our own progress bars, and for data written to a file or another program."""
    return stream.raw if isinstance(stream, _Printable) else stream


@contextmanager
def progress_bar(
    label: str | None, total: float | None
) -> Iterator[tuple[Callable[[float], None], Callable[[str], None]]]:
    """A progress bar that disappears when the work is done; nothing without a label or without a terminal.

    Yields two functions: one advances the bar, the other sets the text after it.
    """
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
