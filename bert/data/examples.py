"""Labeled examples of one file or standard input, one by one, in constant memory.

Texts with a label (`read_examples`) come from .tsv, .csv, .jsonl or plain text, sentences with a tag for each word
(`read_tagged`) from .conll, .conllu, .jsonl or plain text, optionally compressed (.gz, .zst). Columns are named, or found
by their usual names in data sets. Errors are InputErrors with file and line.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bert.data import rows as readers
from bert.data.columns import LABELS, Columns, check_pair, choose_columns
from bert.data.files import JSONS, TABLES, TEXTS, parted_suffixes, unify
from bert.data.hub_rows import is_split, lines_of
from bert.data.rows import Rows, cell_of, json_table, name_of, own_fields
from bert.errors import InputError, did_you_mean, option

EXAMPLE_FORMATS = {".tsv": "tsv", ".csv": "csv"} | JSONS | TEXTS
TAGGED_FORMATS = {".conll": "conll", ".bio": "conll", ".iob": "conll", ".iob2": "conll", ".tsv": "conll"}
TAGGED_FORMATS |= {".conllu": "conllu"} | JSONS | {".txt": "txt"}
_SEPARATORS = re.compile("[\t\r\n]")  # of cells and lines in files of predictions

logger = logging.getLogger(__name__)


Parse = Callable[[str, dict[str, Any], str], Any]
"""location of a row, its cells, column of the label → the label; raises InputError if there is none"""


@dataclass(frozen=True)
class Example:
    """A text, or two, and its label."""

    text: str
    pair: str | None = None
    label: str | tuple[str, ...] | float | None = None
    """a name, several names, or a number, as `parse` of `read_examples` returns it"""
    where: str = ""
    """for messages: `train.csv, line 12`"""
    row: dict[str, Any] | None = field(default=None, compare=False, repr=False)
    """all columns of the row, as they are in the file"""

    @property
    def key(self) -> str:
        """Equal for examples with equal texts."""
        return f"{self.text}\0{self.pair or ''}"

    def at(self, label: int) -> str:
        """The location of a label, by its number."""
        return self.where


# ── texts with a label ──


@dataclass(frozen=True)
class Examples:
    """The rows of a file, read lazily, and the columns that they are read from."""

    columns: Columns
    rows: Iterator[Any]

    def __iter__(self) -> Iterator[Any]:
        return self.rows


def read_examples(
    path: str | Path,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    needs_label: bool = True,
    file_format: str | None = None,
    parse: Parse | None = None,
    label_names: Sequence[str] = LABELS,
    learned: Columns = Columns(),
    advice: str = "",
    lines: Iterator[str] | None = None,
) -> Examples:
    """The rows of a file (`-`: standard input) in order.

    `text`, `pair` and `label` name columns; by default they are found in the first line by their usual names.
    `file_format` (tsv, csv, jsonl, txt) is by default that of the suffix. Blank lines are skipped, except in plain text,
    where each line is a row. `parse` makes the label of a row, by default a name; `label_names` are the usual names of its
    column, most likely first. Unless `needs_label`, a label that is absent, empty or invalid is None. For `learned`,
    the columns of training, and `advice` see `choose_columns`. With `lines` these are read in place of the file,
    and texts are left as they are. Raises InputError.
    """
    form = format_of(path, file_format, EXAMPLE_FORMATS)
    as_given, lines = lines is not None, lines or lines_of(path)
    if form == "txt":
        if given := next(filter(None, (text, pair, label)), None):
            raise InputError(f"{name_of(path)}: plain text has no column {given!r}; name the format if it is another")
        if needs_label:
            fix = "give a .tsv, .csv or .jsonl file with a label column"
            raise InputError(f"{name_of(path)}: plain text has no labels; {fix}")
        rows = lines_of_text(path, lines)
        columns = Columns("text")
        check_pair(name_of(path), columns, learned)
    else:
        where, header, rows, why = open_table(path, form, lines)
        named = Columns(text, pair, label)
        columns = choose_columns(where, header, named, learned, label_names, needs_label, advice + why)
    return Examples(columns, some(path, _examples(rows, columns, needs_label, parse or _label, as_given)))


def _examples(rows: Rows, columns: Columns, needs_label: bool, parse: Parse, as_given: bool) -> Iterator[Example]:
    assert columns.text is not None
    for where, row in rows:
        text = text_of(where, row, columns.text, as_given)
        pair = None if columns.pair is None else text_of(where, row, columns.pair, as_given)
        label = None
        with nullcontext() if needs_label else suppress(InputError):
            label = None if columns.label is None else parse(where, row, columns.label)
        yield Example(text, pair, label, where, own_fields(row))


def lines_of_text(path: str | Path, lines: Iterator[str]) -> Rows:
    """Each line is a row, an empty one too: predictions are in the same order."""
    for number, line in enumerate(lines, start=1):
        yield f"{name_of(path)}, line {number}", {"text": line.removesuffix("\n").removesuffix("\r")}


def open_table(path: str | Path, form: str, lines: Iterator[str]) -> tuple[str, list[str], Rows, str]:
    """The location of the header of a table or of JSON lines, the header, the rows, and advice for an error in the header."""
    if form == "jsonl":
        where, header, rows = json_table(path, lines, '{"text": "A text.", "label": "a label"}')
        advice = ""
    else:
        where = f"{name_of(path)}, line 1"
        header, rows = readers.table_rows(path, lines, TABLES[f".{form}"])
        advice = ", or, if this line is data and not a header, add a header above it"
        if len(header) == 1 and len(header[0].split()) > 1:
            advice += "; only one column: a .tsv separates columns by tabs, a .csv by commas or semicolons"
    if not header:
        raise _nothing_in(path)
    return where, header, rows, advice


def text_of(where: str, row: dict[str, Any], column: str, as_given: bool) -> str:
    """The text in a column; unless `as_given` without space around it, and with newlines as `\\n`."""
    text = cell_of(where, row, column)
    text = "" if text is None else text  # as in an empty cell of a table
    if not isinstance(text, str):
        what = f"column {column!r} holds {kind_of(text)}, not text"
        raise InputError(f"{where}: {what}; repair this row or name another column")
    return text if as_given else unify(text).strip()


def _label(where: str, row: dict[str, Any], column: str) -> str:
    label = label_name(where, column, cell_of(where, row, column))
    if not label:
        raise InputError(f"{where}: the label in column {column!r} is empty; fill it in or remove the row")
    return label


def label_name(where: str, column: str, cell: Any) -> str:
    """A label as a string that fits into a line of a prediction file."""
    return whole(where, column, as_label(where, column, cell).strip())


def as_label(where: str, column: str, label: Any) -> str:
    """A label as a string: numbers and booleans of JSON as JSON writes them."""
    if isinstance(label, dict | list):
        raise InputError(f"{where}: column {column!r} holds {kind_of(label)}, not a label; name another column")
    return label if isinstance(label, str) else "" if label is None else json.dumps(label)


def whole(where: str, column: str, value: str) -> str:
    """Refuse a label or a word that does not fit into a line of a prediction file."""
    if _SEPARATORS.search(value):
        raise InputError(f"{where}: column {column!r} holds {value!r}; replace its tab or line end by a space")
    return value


# ── files of both ──


def format_of(path: str | Path, file_format: str | None, formats: dict[str, str]) -> str:
    """The format of a file: `file_format` if given, otherwise by its suffix; plain text for standard input, JSON lines for the Hub."""
    known = sorted(set(formats.values()))
    file_format = "jsonl" if is_split(path) else file_format
    if file_format is not None:
        if file_format not in known:
            fix = f"use one of {', '.join(known)}.{did_you_mean(file_format, known)}"
            raise InputError(f"{name_of(path)}: format {file_format!r} is not known: {fix}")
        return file_format
    if str(path) == "-":
        return "txt"
    if Path(path).expanduser().is_dir():
        raise InputError(f"{path}: is a folder: give a file")
    suffix, _ = parted_suffixes(path)
    if suffix in formats:
        return formats[suffix]
    if suffix in EXAMPLE_FORMATS | TAGGED_FORMATS:
        holds, wanted = ("texts", "tagged words") if formats is not EXAMPLE_FORMATS else ("tagged words", "texts")
        raise InputError(f"{path}: {suffix} is a format of {holds}, not of {wanted}: use it for a task on {holds}")
    fix = f"rename it or give {option('file_format')}: {', '.join(known)}"
    if suffix in (".xlsx", ".xls", ".ods"):
        fix = "save it as CSV in UTF-8"
    raise InputError(f"{path}: no known suffix ({', '.join(formats)}); {fix}")


def some(path: str | Path, examples: Iterator[Any]) -> Iterator[Any]:
    """The examples of a file, which must have at least one."""
    if (first := next(examples, None)) is None:
        raise _nothing_in(path)
    yield first
    yield from examples


def _nothing_in(path: str | Path) -> InputError:
    return InputError(f"{name_of(path)}: holds no examples; give a file with at least one")


def kind_of(value: Any) -> str:
    kinds = {str: "text", dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
