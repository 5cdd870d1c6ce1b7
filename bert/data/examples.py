"""Labeled examples of one file or standard input, one by one, in constant memory.

Texts with a label (`read_examples`) come from .tsv, .csv, .jsonl or plain text, sentences with a tag for each word
(`read_tagged`) from .conll, .conllu, .jsonl or plain text, optionally compressed (.gz, .zst). Columns are named, or found
by their usual names in data sets. Errors are InputErrors with file and line.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bert.data import rows as readers
from bert.data.columns import LABELS, PAIRS, TAGS, WORDS, Columns, check_pair, choose_columns, unknown_column
from bert.data.files import JSONS, TABLES, TEXTS, parted_suffixes, read_lines, unify
from bert.data.rows import Rows, Words, cell_of, is_number, json_table, name_of, there_are, usual
from bert.errors import InputError, did_you_mean, option

_EXAMPLE_FORMATS = {".tsv": "tsv", ".csv": "csv"} | JSONS | TEXTS
_TAGGED_FORMATS = {".conll": "conll", ".bio": "conll", ".iob": "conll", ".iob2": "conll", ".tsv": "conll"}
_TAGGED_FORMATS |= {".conllu": "conllu"} | JSONS | {".txt": "txt"}
_ENDS_IN_TAG = re.compile(r"\s(O|[BIESLUMW][-_]\S+)$")
_SEPARATORS = re.compile("[\t\r\n]")  # of cells and lines in files of predictions
_IDEOGRAPH = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_UNITS = re.compile(r"[^\W\u2e80-\U0003ffff]+|\S")  # a word of other scripts than those of East Asia, or one character
_NUMBERS = [str(number) for number in range(-99, 100)]  # of columns
_LONGEST_WORDS = 3  # characters of words with ideographs in a line, on average: longer ones are phrases
_MOST_IN_WORD = 3  # words of a text in a cell for a word, on average: more are texts
_FOR_TEXTS = "a table of texts with labels, not one word and its tag per line: use it for a task on texts"

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

    @property
    def key(self) -> str:
        """Equal for examples with equal texts."""
        return f"{self.text}\0{self.pair or ''}"

    def at(self, label: int) -> str:
        """The location of a label, by its number."""
        return self.where


@dataclass(frozen=True)
class TaggedExample:
    """A sentence: its words, and a tag for each word, or no tags."""

    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    where: str = ""
    """for messages: `train.conll, line 12`, where the sentence begins"""
    lines: tuple[int, ...] = ()
    """the line of each word, if each has one of its own"""

    @property
    def key(self) -> str:
        """Equal for sentences of equal words."""
        return "\0".join(self.words)

    def at(self, label: int) -> str:
        """The location of a label, by the number of its word."""
        return f"{self.where.rpartition(' ')[0]} {self.lines[label]}" if self.lines else self.where


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
) -> Examples:
    """The rows of a file (`-`: standard input) in order.

    `text`, `pair` and `label` name columns; by default they are found in the first line by their usual names.
    `file_format` (tsv, csv, jsonl, txt) is by default that of the suffix. Blank lines are skipped, except in plain text,
    where each line is a row. `parse` makes the label of a row, by default a name; `label_names` are the usual names of its
    column, most likely first. Unless `needs_label`, a label that is absent, empty or invalid is None. For `learned`,
    the columns of training, and `advice` see `choose_columns`. Raises InputError.
    """
    form = _format(path, file_format, _EXAMPLE_FORMATS)
    lines = read_lines(Path(path).expanduser())
    if form == "txt":
        if given := next(filter(None, (text, pair, label)), None):
            raise InputError(f"{name_of(path)}: plain text has no column {given!r}; name the format if it is another")
        if needs_label:
            fix = "give a .tsv, .csv or .jsonl file with a label column"
            raise InputError(f"{name_of(path)}: plain text has no labels; {fix}")
        rows: Rows = ((f"{name_of(path)}, line {n}", {"text": line}) for n, line in enumerate(lines, start=1))
        columns = Columns("text")
        check_pair(name_of(path), columns, learned)
    else:
        if form == "jsonl":
            where, header, rows = json_table(path, lines, '{"text": "A text.", "label": "a label"}')
        else:
            where = f"{name_of(path)}, line 1"
            header, rows = readers.table_rows(path, lines, TABLES[f".{form}"])
            advice += ", or, if this line is data and not a header, add a header above it"
            if len(header) == 1 and len(header[0].split()) > 1:
                advice += "; only one column: a .tsv separates columns by tabs, a .csv by commas or semicolons"
        if not header:
            raise _nothing_in(path)
        columns = choose_columns(where, header, Columns(text, pair, label), learned, label_names, needs_label, advice)
    return Examples(columns, _some(path, _examples(rows, columns, needs_label, parse or _label)))


def _examples(rows: Rows, columns: Columns, needs_label: bool, parse: Parse) -> Iterator[Example]:
    assert columns.text is not None
    for where, row in rows:
        text = _text(where, row, columns.text)
        pair = None if columns.pair is None else _text(where, row, columns.pair)
        label = None
        with nullcontext() if needs_label else suppress(InputError):
            label = None if columns.label is None else parse(where, row, columns.label)
        yield Example(text, pair, label, where)


def _text(where: str, row: dict[str, Any], column: str) -> str:
    text = cell_of(where, row, column)
    text = "" if text is None else text  # as in an empty cell of a table
    if not isinstance(text, str):
        what = f"column {column!r} holds {_kind(text)}, not text"
        raise InputError(f"{where}: {what}; repair this row or name another column")
    return unify(text).strip()


def _label(where: str, row: dict[str, Any], column: str) -> str:
    label = label_name(where, column, cell_of(where, row, column))
    if not label:
        raise InputError(f"{where}: the label in column {column!r} is empty; fill it in or remove the row")
    return label


def label_name(where: str, column: str, cell: Any) -> str:
    """A label as a string that fits into a line of a prediction file."""
    return _whole(where, column, _as_label(where, column, cell).strip())


def _as_label(where: str, column: str, label: Any) -> str:
    """A label as a string: numbers and booleans of JSON as JSON writes them."""
    if isinstance(label, dict | list):
        raise InputError(f"{where}: column {column!r} holds {_kind(label)}, not a label; name another column")
    return label if isinstance(label, str) else "" if label is None else json.dumps(label)


def _whole(where: str, column: str, value: str) -> str:
    """Refuse a label or a word that does not fit into a line of a prediction file."""
    if _SEPARATORS.search(value):
        raise InputError(f"{where}: column {column!r} holds {value!r}; replace its tab or line end by a space")
    return value


# ── sentences with a tag for each word ──


def read_tagged(
    path: str | Path,
    words: str | None = None,
    tags: str | None = None,
    needs_tags: bool = True,
    file_format: str | None = None,
    learned: Columns = Columns(),
) -> Examples:
    """The sentences of a file (`-`: standard input) in order.

    `file_format` is by default that of the suffix:

    - conll: one word and its tag per line; blank lines separate sentences. Columns are separated by tabs, or by spaces in
      a line without a tab; `words` and `tags` are their numbers, by default 1 (the first) and -1 (the last).
    - conllu: Universal Dependencies; `words` and `tags` are names of its columns, by default form and upos.
    - jsonl: two lists per line; `words` and `tags` are their names, by default found by usual names.
    - txt: one sentence per line if tags are neither needed nor seen, otherwise conll. Words are separated by spaces; in
      a line of Chinese without them, or with few, each character is a word.

    `learned` are the columns of training, which are found before usual names and numbers. Unless `needs_tags`, tags
    are read if there are any. Raises InputError.
    """
    form = _format(path, file_format, _TAGGED_FORMATS)
    lines = read_lines(Path(path).expanduser())
    if form == "txt":
        form, lines = _plain_or_conll(path, lines, needs_tags or words is not None or tags is not None)

    def choose(header: Iterable[str], *names: Sequence[str]) -> list[str]:
        given, known = ((words, learned.words), (tags, learned.tags)), list(header)
        found = [one or usual(filter(None, (old, *usual_)), known) or "" for (one, old), usual_ in zip(given, names)]
        for (one, old), new in zip(given, found):
            if new and not one and old not in (None, new, *_NUMBERS):
                logger.warning(f"{name_of(path)}: no column {old!r}, which training had; reading {new!r}")
        return found

    match form:
        case "conllu":
            words, tags = choose(readers.CONLLU, ("form",), ("upos",))
            places = _conllu_column(path, words), _conllu_column(path, tags)
            sentences = _sentences(path, readers.conllu_lines(path, lines), *places, needs_tags)
        case "conll":
            words, tags = choose(_NUMBERS, (), ())
            places = _number(path, "words", words or "1"), _number(path, "tags", tags or "-1")
            rows_of_words = readers.conll_lines(_no_table(path, lines))
            sentences = _sentences(path, rows_of_words, *places, needs_tags, guessed=needs_tags and not tags)
        case "jsonl":
            where, header, rows = json_table(path, lines, '{"words": ["Ann", "left"], "tags": ["B-PER", "O"]}')
            words, tags = choose(header, WORDS, TAGS)
            if header and not (words and (tags or not needs_tags)):
                raise unknown_column(where, "tags" if words else "words", header)
            sentences = _tagged_json(rows, words, tags, needs_tags)
        case _:
            sentences = _plain_sentences(path, lines)
    return Examples(Columns(words=words or None, tags=tags or None), _some(path, sentences))


def _sentences(
    path: str | Path, lines: Words, word: int, tag: int, needs_tags: bool, guessed: bool = False
) -> Iterator[TaggedExample]:
    """Sentences from lines of one word each; `word` and `tag` are indices of columns. A single column holds words,
    and empty columns at the end of the first line hold nothing. Numbers are no tags if the column is `guessed`."""
    words, tags, numbers, width = list[str](), list[str](), list[int](), 0
    for number, cells in chain(lines, [(0, [])]):
        if not cells:
            if words:
                begins = f"{name_of(path)}, line {numbers[0]}"
                if sum(len(word.split()) for word in words) > _MOST_IN_WORD * len(words):
                    raise InputError(f"{begins}: {words[0]!r} is no word; {_FOR_TEXTS}")
                yield TaggedExample(tuple(words), tuple(tags) if all(tags) else None, begins, tuple(numbers))
            words, tags, numbers = [], [], []
            continue
        while tag == -1 and len(cells) > max(2, width) and not cells[-1].strip():
            cells.pop()
        where, width = f"{name_of(path)}, line {number}", width or len(cells)
        if len(cells) != width:
            raise InputError(f"{where}: {len(cells)} columns, the lines before have {width}; repair this line")
        words.append(_column(where, cells, word, "words"))
        tags.append("" if width == 1 and tag == -1 else _column(where, cells, tag, "tags").strip())
        numbers.append(number)
        if problem := _problem(words[-1], tags[-1], needs_tags, guessed):
            raise InputError(f"{where}: {problem}")


def _problem(word: str, tag: str, needs_tag: bool, guessed: bool) -> str:
    """What is wrong with a word and its tag, and the fix."""
    if not word:
        return f"the word is empty; remove the tab before it, or name the column of the words by {option('words')}"
    if needs_tag and not tag:
        return _no_tag(word, "one after a tab, O")
    if guessed and is_number(tag):
        fix = f"name the column of the tags by {option('tags')} (-1: the last)"
        return f"the tag of {word!r} is the number {tag}; {fix}"
    return ""


def _no_tag(word: str, write: str) -> str:
    return f"no tag beside {word!r}; write {write} for a word outside of spans"


def _column(where: str, cells: list[str], place: int, role: str) -> str:
    if not -len(cells) <= place < len(cells):
        what = f"no column {place + (place >= 0)} for {role!r}; there are {len(cells)}"
        raise InputError(f"{where}: {what}, separated by tabs or spaces")
    return cells[place]


def _number(path: str | Path, role: str, column: str) -> int:
    """The index of a column of a CoNLL file, from its number."""
    if not re.fullmatch("-?[1-9][0-9]*", column):
        fix = "give the number of a column of the CoNLL file, 1 first, -1 last"
        raise InputError(f"{name_of(path)}: {role!r} is {column!r}: {fix}")
    return int(column) - (column[0] != "-")


def _conllu_column(path: str | Path, column: str) -> int:
    known = readers.CONLLU
    if column.lower() not in known:
        near = did_you_mean(column.lower(), known)
        raise InputError(f"{name_of(path)}: CoNLL-U has no column {column!r}; {there_are(list(known))}.{near}")
    return known.index(column.lower())


def _plain_or_conll(path: str | Path, lines: Iterator[str], tagged: bool) -> tuple[str, Iterator[str]]:
    """Whether a text file has one sentence or one word per line ("txt" or "conll"), and its lines from the first.

    It has words if it must (`tagged`), and if its first two lines end in tags (one sentence can end in "B-12", two
    hardly) or have a word and as many cells after it, separated by tabs.
    """
    if tagged:
        return "conll", lines
    seen, rows = list[str](), list[str]()
    while len(rows) < 2 and (line := next(lines, "")):
        seen.append(line)
        rows += filter(None, [line.strip()])
    ends_in_tags = len(rows) == 2 and all(map(_ENDS_IN_TAG.search, rows))
    tabs = {row.count("\t") if "\t" in row.split(" ")[0] else 0 for row in rows}
    is_table = len(rows) == 2 and len(tabs) == 1 and tabs != {0}
    if "\t" in "".join(rows) and not ends_in_tags:
        what = "words with their tags" if is_table else "sentences"
        logger.warning(f"{name_of(path)}, line 1: tabs; {what} are read, one per line")
    return "conll" if ends_in_tags or is_table else "txt", chain(seen, lines)


def _no_table(path: str | Path, lines: Iterator[str]) -> Iterator[str]:
    """The lines. Raises InputError if the first one is the header of a table of texts with labels, or of words with
    tags."""
    first = next(lines, "")
    cells = {cell.strip().lower() for cell in first.split("\t" if "\t" in first else None)}
    if cells & {*PAIRS, *WORDS, "word", "token"} and cells & {*LABELS, *TAGS, "ner", "pos"}:
        what = _FOR_TEXTS if cells & PAIRS.keys() else "the names of columns, not a word and its tag; remove it"
        raise InputError(f"{name_of(path)}, line 1: {what}")
    return chain([first] if first else [], lines)


def _plain_sentences(path: str | Path, lines: Iterator[str]) -> Iterator[TaggedExample]:
    """A sentence for each line, empty lines too: predictions are in the same order."""
    for number, line in enumerate(lines, start=1):
        words = line.split()
        chinese = [word for word in words if _IDEOGRAPH.search(word)]
        if len(words) == 1 or len("".join(chinese)) > _LONGEST_WORDS * len(chinese):  # not separated into words
            words = [unit for word in words for unit in (_UNITS.findall(word) if word in chinese else [word])]
        yield TaggedExample(tuple(words), None, f"{name_of(path)}, line {number}")


def _tagged_json(rows: Rows, words: str, tags: str, needs_tags: bool) -> Iterator[TaggedExample]:
    """Sentences from lines such as {"words": ["Ann", "left"], "tags": ["B-PER", "O"]}."""
    for where, row in rows:
        of_words, of_tags = _strings(where, row, words), None
        if "" in of_words:
            raise InputError(f"{where}: column {words!r} has an empty word; remove it and its tag")
        with nullcontext() if needs_tags else suppress(InputError):
            of_tags = _json_tags(where, row, tags, of_words) if tags else None
        yield TaggedExample(of_words, of_tags, where)


def _json_tags(where: str, row: dict[str, Any], column: str, words: Sequence[str]) -> tuple[str, ...]:
    tags = tuple(tag.strip() for tag in _strings(where, row, column))
    if len(words) != len(tags):
        raise InputError(f"{where}: {len(words)} words and {len(tags)} tags; give each word one tag")
    if "" in tags:
        raise InputError(f"{where}: {_no_tag(words[tags.index('')], 'O')}")
    return tags


def _strings(where: str, row: dict[str, Any], column: str) -> tuple[str, ...]:
    """A list of words or tags; numbers become strings."""
    cell = cell_of(where, row, column)
    if not isinstance(cell, list):
        raise InputError(f"{where}: column {column!r} holds {_kind(cell)}, not a list; give one string for each word")
    return tuple(_whole(where, column, unify(_as_label(where, column, value))) for value in cell)


# ── files of both ──


def _format(path: str | Path, file_format: str | None, formats: dict[str, str]) -> str:
    """The format of a file: `file_format` if given, otherwise by its suffix; plain text for standard input."""
    known = sorted(set(formats.values()))
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
    if suffix in _EXAMPLE_FORMATS | _TAGGED_FORMATS:
        holds, wanted = ("texts", "tagged words") if formats is _TAGGED_FORMATS else ("tagged words", "texts")
        raise InputError(f"{path}: {suffix} is a format of {holds}, not of {wanted}: use it for a task on {holds}")
    fix = f"rename it or give {option('file_format')}: {', '.join(known)}"
    if suffix in (".xlsx", ".xls", ".ods"):
        fix = "save it as CSV in UTF-8"
    raise InputError(f"{path}: no known suffix ({', '.join(formats)}); {fix}")


def _some(path: str | Path, examples: Iterator[Any]) -> Iterator[Any]:
    """The examples of a file, which must have at least one."""
    if (first := next(examples, None)) is None:
        raise _nothing_in(path)
    yield first
    yield from examples


def _nothing_in(path: str | Path) -> InputError:
    return InputError(f"{name_of(path)}: holds no examples; give a file with at least one")


def _kind(value: Any) -> str:
    kinds = {str: "text", dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
