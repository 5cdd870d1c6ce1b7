"""Predictions as files: tables, JSON lines, a word per line, and texts with their spans in brackets."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

from rich.console import Console
from rich.style import Style

from bert.data.encoding import encodable
from bert.data.files import JSONS, parted_suffixes
from bert.errors import InputError, did_you_mean
from bert.files import replaced
from bert.finetuning.tasks.task import Prediction, Task
from bert.terminal import raw
from bert.untrusted import printable

Write = Callable[[Any, Any], object]
"""writes the prediction of an example"""

_SUFFIXES = {".csv": "csv", **dict.fromkeys(JSONS, "jsonl")}
_SUFFIXES |= dict.fromkeys((".conll", ".bio", ".iob", ".iob2", ".tsv"), "conll")
_COLORS = ("cyan", "magenta", "green", "yellow", "blue", "red")


def chosen_format(task: Task, given: str | None, out: str, example: Any) -> str:
    """The format of a file of predictions: the given one, that of the suffix of `out`, or the usual one for examples like this one.

    Raises InputError if the task has no such format."""
    by_suffix = _SUFFIXES.get(parted_suffixes(out)[0], "")
    if given is None:
        on_terminal = out == "-" and sys.stdout.isatty()
        return by_suffix if by_suffix in task.formats else task.usual_format(example, on_terminal)
    if given not in task.formats:
        known = ", ".join(task.formats)
        raise InputError(f"--format {given}: {task.name} writes {known}; give one.{did_you_mean(given, task.formats)}")
    return given


def writer(form: str, task: Task, stream: TextIO, top: int | None) -> Write:
    """A function that writes predictions in a format to a stream."""
    if form == "conll":
        return lambda example, prediction: stream.write(encodable(prediction.lines()))
    if form == "text":
        return _text_writer(stream)
    if form == "jsonl":
        return lambda example, prediction: stream.write(_json(task.given(example), prediction.record(top)))
    return _table_writer(form, task, stream, top)


def _joined(given: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the input and of the prediction; these are renamed where the input has such a name."""
    joined = dict(given)
    for name, value in found.items():
        while name in given:
            name = f"predicted_{name}"
        joined[name] = value
    return joined


def _json(given: dict[str, Any], found: dict[str, Any]) -> str:
    value = _joined(given, found)
    text = json.dumps(value, ensure_ascii=False)
    return (text if encodable(text) == text else json.dumps(value)) + "\n"


def _table_writer(form: str, task: Task, stream: TextIO, top: int | None) -> Write:
    """A row for each example below a header; in a .csv file also the columns of the input, which those of the first row determine."""
    how: dict[str, Any] = {} if form == "csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
    # a line end of \r\n makes it quote a cell with \r
    lines: Any = SimpleNamespace(write=lambda row: stream.write(row.removesuffix("\r\n") + "\n"))
    table: list[csv.DictWriter[str]] = []

    def write(example: Any, prediction: Prediction) -> None:
        given = task.given(example) if form == "csv" else {}
        why = {"explanation": prediction.explanation.top()} if prediction.explanation else {}
        found = _joined(given, {**prediction.cells(top), **why})
        cells = {name: encodable(_cell(value)) for name, value in found.items()}
        if not table:
            table.append(csv.DictWriter(lines, list(cells), **how))
            table[0].writeheader()
        if more := cells.keys() - table[0].fieldnames:
            raise InputError(f"{example.at(0)}: column {min(more)!r} is not in the first row; give --format jsonl")
        table[0].writerow(cells)

    return write


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _text_writer(stream: TextIO) -> Write:
    """Texts with their spans in brackets; in colors on a terminal that has them."""
    console = Console(file=raw(stream), force_jupyter=False)
    colored = console.is_terminal and console.color_system is not None and not console.no_color
    styles: dict[str, Style] = {}

    def write(example: Any, prediction: Any) -> None:
        line, end = "", 0
        for span in prediction.spans:
            style = styles.setdefault(span.type, Style(color=_COLORS[len(styles) % len(_COLORS)], bold=True))
            shown = _shown(f"[{span.text} {span.type}]")
            line += _shown(prediction.text[end : span.start]) + (style.render(shown) if colored else shown)
            end = span.end
        (raw(stream) if colored else stream).write(line + _shown(prediction.text[end:]) + "\n")

    return write


def _shown(text: str) -> str:
    return encodable(printable(text))


@contextmanager
def written(out: str) -> Iterator[TextIO]:
    """A text file that is written atomically; `-` is standard output. Raises InputError if it cannot be written."""
    file = Path(out).expanduser()
    if out != "-" and file.is_dir():
        raise InputError(f"{out}: is a folder: give a file as --out")
    try:
        if out == "-":
            # only a terminal needs protection from control characters
            yield sys.stdout if sys.stdout.isatty() else raw(sys.stdout)
            sys.stdout.flush()
        else:  # a pipe or a device is written to, not replaced
            target = nullcontext(file) if file.exists() and not file.is_file() else replaced(file)
            with target as path, path.open("w", encoding="utf-8", newline="\n") as stream:
                yield stream
    except BrokenPipeError:  # the reader has closed the pipe
        raise
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}): give another --out") from error
