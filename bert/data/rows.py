"""The rows of tables, JSON lines and CoNLL files, each with its location (file and line) for messages."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from bert.errors import InputError, did_you_mean

logger = logging.getLogger(__name__)

_NAMED_DELIMITER = re.compile('"?sep=(.)"?\r?\n?')  # the line that Excel writes and reads above a header
_JOINED = re.compile(r"[^\t,;|]+\b\"?([\t,;|])\"?\b[^\t,;|]+(\1[^\t,;|]+)*")  # a header with another delimiter
_QUOTED = re.compile('"(?:[^"]|"")*"')
CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
NO_SPACE = "SpaceAfter=No"

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


def _table_cells(path: str | Path, lines: Iterator[str], delimiter: str, has_quotes: bool) -> Cells:
    """The header of a table, if it has one, and its rows, without blank lines.

    Unclosed quotes are refused: they would swallow the following rows.
    """
    csv.field_size_limit(1 << 27)  # the default refuses a document of more than 128 KiB
    quoting: Any = csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    name = name_of(path)
    row: list[str] | None = []
    while row is not None:
        where = f"{name}, line {reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            fix = 'close its quotes, write " inside them as ""'
            raise InputError(f"{where}: not a readable row ({error}); {fix}") from None
        if row:
            yield where, row


def table_rows(path: str | Path, lines: Iterator[str], delimiters: str) -> tuple[list[str], Rows]:
    """The header of a table and its rows, without blank lines.

    The delimiter is the most frequent one of the first line, unless a line such as `sep=|` above the header, as Excel writes it,
    names another. Double quotes enclose cells; between tabs only if they enclose all cells of the header too. Raises InputError
    with file and line.
    """
    opening: list[str] = []  # up to and including the first line that is not blank
    while not (opening and opening[-1].strip("\r\n")) and (line := next(lines, None)) is not None:
        opening.append(line)
    first = "".join(opening[-1:])
    delimiter = max(delimiters, key=first.count)
    has_quotes = delimiter != "\t" or all(map(_QUOTED.fullmatch, first.strip("\r\n").split("\t")))
    if named := _NAMED_DELIMITER.fullmatch(first):
        delimiter, has_quotes, opening[-1] = named[1], True, "\n"
    elif delimiter not in first and (joined := _JOINED.fullmatch(first.strip())):
        fix = "name the file .tsv" if joined[1] == "\t" else f"write a line sep={joined[1]} above this one"
        what = f"columns are separated by {' or '.join(map(repr, delimiters))}, not by {joined[1]!r}"
        raise InputError(f"{name_of(path)}, line {len(opening)}: {what}; {fix}")
    all_cells = _table_cells(path, chain(opening, lines), delimiter, has_quotes)
    where, head = next(all_cells, ("", []))
    header = [name.strip() for name in head]
    _refuse_single_quotes(where, header)
    if twice := next((name for name, count in Counter(header).items() if name and count > 1), None):
        raise InputError(f"{where}: two columns are named {twice!r}: give each a name of its own")
    return header, _table_rows(all_cells, head, header, has_quotes, is_quoted='"' in first)


def _table_rows(all_cells: Cells, head: list[str], header: list[str], has_quotes: bool, is_quoted: bool) -> Rows:
    """The rows of a table below its header, which is `head` as it stands in the file, in double quotes if `is_quoted`."""
    said, width = has_quotes, len(header)
    for where, cells in all_cells:
        if len(cells) != width:
            fix = "a .tsv has no quotes: keep tabs and line ends out of cells"
            if has_quotes:
                are_single = any(cell.lstrip().startswith("'") for cell in cells)
                fix = "put cells with a delimiter in quotes" + "; single quotes are none, use double ones" * are_single
            raise InputError(f"{where}: {len(cells)} cells, the header has {width}; repair this line ({fix})")
        if width > 1 and not is_quoted:
            _refuse_single_quotes(where, cells)
        if cells == head:
            raise InputError(f"{where}: repeats the header, as where two tables were joined; remove this line")
        if not said and '"' in "".join(cells):
            quoted = list(filter(_QUOTED.fullmatch, cells))
            if said := 1 < len(cells) == len(quoted) or any('""' in cell[1:-1] for cell in quoted):
                what = "quotes enclose cells, but a .tsv has no quotes, and they are read as part of the text"
                logger.warning(f"{where}: {what}; if they are not, enclose the names of all columns in quotes too")
        yield where, dict(zip(header, cells))


def _refuse_single_quotes(where: str, cells: list[str]) -> None:
    if cells and cells[0].startswith("'") and all(re.fullmatch("'.*'", cell, re.DOTALL) for cell in cells):
        raise InputError(f"{where}: cells are in single quotes, which are part of the text; use double quotes")


def json_rows(path: str | Path, lines: Iterator[str], like: str) -> Rows:
    """The objects of JSON lines; `like` is an example of one for messages. A field of an object inside a row is also a field of the
    row, named as in `meta.text`. Raises InputError with file and line."""
    name, is_first = name_of(path), True
    for number, text in enumerate(lines, start=1):
        if not text.isspace():
            where = f"{name}, line {number}"
            try:
                row = json.loads(text)
                if text.find("{", 1) > 0 and isinstance(row, dict):
                    row = with_inner_fields(row)
            except (ValueError, RecursionError) as error:
                what = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
                if not is_first or getattr(error, "pos", 0) < len(text.rstrip()):
                    raise InputError(f"{where}: not valid JSON ({what}); each line must be one JSON object") from None
                row = []  # a value over several lines
            if is_first and isinstance(row, list):
                is_array = text.lstrip().startswith("[")
                what = "an array (jq -c '.[]' splits it)" if is_array else "one over several lines (jq -c . joins them)"
                raise InputError(f"{where}: not a JSON object but {what}; each line must be like {like}")
            if not isinstance(row, dict):
                raise InputError(f"{where}: not a JSON object; each line must be like {like}")
            yield where, row
            is_first = False


def json_table(path: str | Path, lines: Iterator[str], like: str) -> tuple[str, list[str], Rows]:
    """The location and the fields of the first of the objects that `json_rows` reads, and all of them; no fields of an empty file."""
    rows = json_rows(path, lines, like)
    where, row = next(rows, ("", {}))
    return where, list(row), chain([(where, row)] if row else [], rows)


def with_inner_fields(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the fields of the objects in it. A field with such a name of its own stays."""
    parts = {name: with_inner_fields(part) for name, part in row.items() if isinstance(part, dict)}
    return row | {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()} | row


def own_fields(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the fields that `with_inner_fields` has added."""
    return {name: row[name] for name in row if not isinstance(row.get(name.rpartition(".")[0]), dict)}


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
    word = ""
    for line in lines:
        opening.append(line)
        word = line if _conll_cells(line) else word
        if _conll_cells(line) and not line.startswith("#"):
            break
    before_sentence = True
    for number, line in enumerate(chain(opening, lines), start=1):
        cells = _conll_cells(line)
        if not (before_sentence and line.startswith("#") and _is_comment(line, word)):
            before_sentence = not cells
            yield number, cells


def _conll_cells(line: str) -> list[str]:
    # not str.split() and str.isspace(): a wide space or a control character can be a word
    bare = line.strip(" \t\n")
    if not bare or bare.startswith("-DOCSTART-"):
        return []
    return line.rstrip("\n").split("\t") if "\t" in line else re.split(" +", bare)


def _is_comment(line: str, word: str) -> bool:
    """Whether a line that begins with # is not like that of a `word`: it has other columns or spaces in place of tabs,
    a space after #, or a number in place of a tag, as `# 12`. A hashtag alone is a word without its tag."""
    cells, of_word = _conll_cells(line), _conll_cells(word)
    if len(cells) != len(of_word):
        return len(cells) > 1 or cells == ["#"]
    if cells[0].startswith("# ") or ("\t" in word and "\t" not in line):
        return True
    return cells[0] == "#" and is_number(cells[-1]) and not is_number(of_word[-1])


def is_number(text: str) -> bool:
    """Whether a tag is a number: an id, or a probability."""
    return re.fullmatch(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?", text.strip()) is not None


def conllu_lines(path: str | Path, lines: Iterator[str]) -> Words:
    """The words of a CoNLL-U file, with ten columns each. https://universaldependencies.org/format.html

    Words that are written as one, 1-2, have `SpaceAfter=No` in the column misc too, but for the last one."""
    last, misc = 0, ""  # of a range
    for number, line in enumerate(lines, start=1):
        cells = line.rstrip("\n").split("\t")
        if line.isspace():
            last = 0
            yield number, []
        elif not line.startswith("#"):
            if len(cells) != len(CONLLU):
                where = f"{name_of(path)}, line {number}"
                raise InputError(f"{where}: {len(cells)} columns, CoNLL-U has 10, separated by tabs; repair this line")
            if found := re.fullmatch(r"\d{1,9}-(\d{1,9})", cells[0]):
                last, misc = int(found[1]), cells[-1]
            if re.fullmatch(r"[0-9]{1,9}", cells[0]):  # 1.1 is a word that is not in the text
                if (place := int(cells[0])) <= last:
                    cells[-1] = misc if place == last else NO_SPACE
                yield number, cells
