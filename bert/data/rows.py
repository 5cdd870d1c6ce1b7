"""The rows of tables, JSON lines and CoNLL files, each with its location (file and line) for messages."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from bert.errors import InputError, did_you_mean

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")

Rows = Iterator[tuple[str, dict[str, Any]]]  # location of a row, and its cells by column
Cells = Iterator[tuple[str, list[str]]]  # location of a row, and its cells
Words = Iterator[tuple[int, list[str]]]  # line of a word, and its cells; none at the end of a sentence


def name_of(path: str | Path) -> str:
    """The name of a file for messages."""
    return "standard input" if str(path) == "-" else str(path)


def there_are(columns: list[str]) -> str:
    """The columns of a file for messages. Shortened: a text read as a header can be long."""
    names = [column if len(column) <= 40 else f"{column[:39]}…" for column in columns[:12]]
    return f"there are: {', '.join(names + ['…'] * (len(columns) > 12)) or 'none'}"


def _table_cells(path: str | Path, lines: Iterator[str], delimiter: str) -> Cells:
    """The header of a table, if it has one, and its rows, without blank lines.

    Unclosed quotes are refused: they would swallow the following rows. A tab-separated file has no quotes.
    """
    csv.field_size_limit(1 << 30)  # the default refuses a document of more than 128 KiB
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    row: list[str] | None = []
    while row is not None:
        where = f"{name_of(path)}, line {reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            fix = 'close its quotes, write " inside them as ""'
            raise InputError(f"{where}: not a readable row ({error}); {fix}") from None
        if row:
            yield where, row


def table_rows(path: str | Path, lines: Iterator[str], delimiters: str) -> tuple[list[str], Rows]:
    """The header of a table and its rows, without blank lines. The delimiter is the most frequent one of its first line."""
    opening: list[str] = []  # up to and including the first line that is not blank
    while not (opening and opening[-1].strip("\r\n")) and (line := next(lines, None)) is not None:
        opening.append(line)
    delimiter = max(delimiters, key="".join(opening[-1:]).count)
    all_cells = _table_cells(path, chain(opening, lines), delimiter)

    def rows(header: list[str]) -> Rows:
        for where, cells in all_cells:
            if len(cells) != len(header):
                without_quotes = "a .tsv has no quotes: keep tabs and line ends out of cells"
                fix = without_quotes if delimiter == "\t" else "put cells with a delimiter in quotes"
                raise InputError(f"{where}: {len(cells)} cells, the header has {len(header)}; repair this line ({fix})")
            yield where, dict(zip(header, cells))

    where, head = next(all_cells, ("", []))
    header = [name.strip() for name in head]
    if twice := next((name for name, count in Counter(header).items() if name and count > 1), None):
        raise InputError(f"{where}: two columns are named {twice!r}: give each a name of its own")
    return header, rows(header)


def json_rows(path: str | Path, lines: Iterator[str], like: str) -> Rows:
    """The objects of JSON lines; `like` is an example of one for messages."""
    for number, text in enumerate(lines, start=1):
        if not text.isspace():
            where = f"{name_of(path)}, line {number}"
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                what = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
                raise InputError(f"{where}: not valid JSON ({what}); each line must be one JSON object") from None
            if not isinstance(row, dict):
                raise InputError(f"{where}: not a JSON object; each line must be like {like}")
            yield where, row


def usual(names: Iterable[str], header: Iterable[str]) -> str | None:
    """The column with the first of the usual names: the exact name, otherwise one that differs only in case."""
    columns = list(header)
    known = {column.lower(): column for column in reversed(columns)} | {column: column for column in columns}
    return next((known[name] for name in names if name in known), None)


def cell_of(where: str, row: dict[str, Any], column: str) -> Any:
    """The value of a row in a column, which must exist."""
    if column not in row:
        raise InputError(f"{where}: no column {column!r}; {there_are(list(row))}.{did_you_mean(column, row)}")
    return row[column]


def conll_lines(lines: Iterator[str]) -> Words:
    """The lines of a CoNLL file, with any number of columns. A -DOCSTART- line ends a sentence like a blank line.

    Lines that begin with # before a sentence are comments, unless they have the columns of the first word of the
    file."""
    opening: list[str] = []
    word: list[str] = []
    for line in lines:
        opening.append(line)
        word = _conll_cells(line) or word
        if _conll_cells(line) and not line.startswith("#"):
            break
    before_sentence = True
    for number, line in enumerate(chain(opening, lines), start=1):
        cells = _conll_cells(line)
        if not (before_sentence and line.startswith("#") and _is_comment(cells, word)):
            before_sentence = not cells
            yield number, cells


def _conll_cells(line: str) -> list[str]:
    # not str.split() and str.isspace(): a wide space or a control character can be a word
    bare = line.strip(" \t\n")
    if not bare or bare.startswith("-DOCSTART-"):
        return []
    return line.rstrip("\n").split("\t") if "\t" in line else re.split(" +", bare)


def _is_comment(cells: list[str], word: list[str]) -> bool:
    """Whether a line that begins with # is not like a `word`: it has other columns, a space after #, or a number in
    place of a tag, as `# 12`. A hashtag alone is a word without its tag."""
    if len(cells) != len(word):
        return len(cells) > 1 or cells == ["#"]
    return cells[0].startswith("# ") or (cells[0] == "#" and is_number(cells[-1]) and not is_number(word[-1]))


def is_number(text: str) -> bool:
    """Whether a tag is a number: an id, or a probability."""
    return re.fullmatch(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?", text.strip()) is not None


def conllu_lines(path: str | Path, lines: Iterator[str]) -> Words:
    """The words of a CoNLL-U file, with ten columns each. https://universaldependencies.org/format.html"""
    for number, line in enumerate(lines, start=1):
        cells = line.rstrip("\n").split("\t")
        if line.isspace():
            yield number, []
        elif not line.startswith("#"):
            if len(cells) != len(CONLLU):
                where = f"{name_of(path)}, line {number}"
                raise InputError(f"{where}: {len(cells)} columns, CoNLL-U has 10, separated by tabs; repair this line")
            if cells[0].isdecimal():  # 1-2 spans several words, 1.1 is a word that is not in the text
                yield number, cells
