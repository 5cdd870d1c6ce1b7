"""Labeled examples of one file or standard input, one by one, in constant memory.

Texts with a label (`read_examples`) come from .tsv, .csv, .jsonl or plain text, sentences with a tag for each word
(`read_tagged`) from .conll, .conllu, .jsonl or plain text, optionally compressed (.gz, .zst). Columns are named, or found
by their usual names in data sets. Errors are InputErrors with file and line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bert.data import rows as readers
from bert.data.files import JSONS, TEXTS, parted_suffixes, read_lines, unify
from bert.data.rows import Cells, Rows, cell_of, json_rows, name_of, there_are, usual
from bert.errors import InputError, did_you_mean
from bert.errors import option as flag

PAIRS = {  # usual names of the text, most likely first → names of a second sentence beside it
    "text": ("pair", "text_pair", "text2"),
    "sentence": ("pair", "sentence_pair", "sentence2"),
    "sentence1": ("sentence2",),
    "text1": ("text2",),
    "question1": ("question2",),
    "premise": ("hypothesis",),
    "review": (),
    "content": (),
}
LABELS = ("label", "labels", "tag", "class", "category", "topic", "sentiment", "sense")
WORDS = ("words", "tokens")
TAGS = ("tags", "ner_tags", "labels", "pos_tags", "upos")

_EXAMPLE_FORMATS = {".tsv": "tsv", ".csv": "csv"} | JSONS | TEXTS
_TAGGED_FORMATS = {".conll": "conll", ".bio": "conll", ".iob": "conll", ".iob2": "conll", ".tsv": "conll"}
_TAGGED_FORMATS |= {".conllu": "conllu"} | JSONS | {".txt": "txt"}
_TAG = re.compile(r"O|[BIESLUM]-.+")
_SEPARATORS = re.compile("[\t\r\n]")  # of cells and lines in files of predictions
_IDEOGRAPH = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


Parse = Callable[[str, dict[str, Any], str, bool], Any]
"""location of a row, its cells, column of the label, whether a label is required → the label, or None"""


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


@dataclass(frozen=True)
class TaggedExample:
    """A sentence: its words, and a tag for each word, or no tags."""

    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    where: str = ""
    """for messages: `train.conll, line 12`, where the sentence begins"""

    @property
    def key(self) -> str:
        """Equal for sentences of equal words."""
        return "\0".join(self.words)


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read; None for a missing column."""

    text: str
    pair: str | None = None
    label: str | None = None


# ── texts with a label ──


@dataclass(frozen=True)
class Examples:
    """The rows of a file, read lazily, and the columns that they are read from."""

    columns: Columns
    rows: Iterator[Example]

    def __iter__(self) -> Iterator[Example]:
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
) -> Examples:
    """The rows of a file (`-`: standard input) in order.

    `text`, `pair` and `label` name columns; by default they are found in the first line by their usual names.
    `file_format` (tsv, csv, jsonl, txt) is by default that of the suffix. Blank lines are skipped, except in plain text,
    where each line is a row. `parse` makes the label of a row, by default a name; `label_names` are the usual names of its
    column, most likely first. Unless `needs_label`, an absent or empty label is None. Raises InputError.
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
    else:
        if form == "jsonl":
            rows = json_rows(path, lines, '{"text": "A text.", "label": "a label"}')
            where, row = next(rows, ("", {}))
            header, rows = list(row), chain([(where, row)], rows)
        else:
            where = f"{name_of(path)}, line 1"
            header, rows = readers.table_rows(path, lines, "\t" if form == "tsv" else ",;")
        if not header:
            raise _nothing_in(path)
        named = Columns(text or "", pair, label)
        columns = _choose_columns(where, header, named, needs_label, label_names, table=form != "jsonl")
    return Examples(columns, _some(path, _examples(rows, columns, needs_label, parse or _label)))


def _examples(rows: Rows, columns: Columns, needs_label: bool, parse: Parse) -> Iterator[Example]:
    for where, row in rows:
        text = _text(where, row, columns.text)
        pair = None if columns.pair is None else _text(where, row, columns.pair)
        label = None if columns.label is None else parse(where, row, columns.label, needs_label)
        yield Example(text, pair, label, where)


def _choose_columns(
    where: str, header: list[str], named: Columns, needs_label: bool, label_names: Sequence[str], table: bool
) -> Columns:
    """The columns to read: the named ones, which must exist; for the others those found by usual names."""
    for option, name in (("text", named.text), ("pair", named.pair), ("label", named.label)):
        if name and name not in header:
            what = f"no column {name!r} for {flag(option)}; {there_are(header)}"
            raise InputError(f"{where}: {what}.{did_you_mean(name, header)}")
    text = named.text or usual(PAIRS, header)
    label = named.label or usual(label_names, header)
    if text is None or (label is None and needs_label):
        header_or_row = ", or, if this line is data and not a header, add a header above it" if table else ""
        if table and len(header) == 1 and len(header[0].split()) > 1:
            header_or_row += "; only one column: a .tsv separates columns by tabs, a .csv by commas or semicolons"
        raise _unknown_column(where, "text" if text is None else "label", header, header_or_row)
    pair = named.pair or usual(PAIRS.get(text.lower(), ()), header)
    return Columns(text, pair, label)


def _unknown_column(where: str, role: str, columns: list[str], more: str = "") -> InputError:
    found = f"no column is known as the {role}; {there_are(columns)}"
    return InputError(f"{where}: {found}. Name it by {flag(role)}{more}")


def _text(where: str, row: dict[str, Any], column: str) -> str:
    text = cell_of(where, row, column)
    if not isinstance(text, str):
        what = f"column {column!r} holds {_kind(text)}, not text"
        raise InputError(f"{where}: {what}; repair this row or name another column")
    return unify(text).strip()


def _label(where: str, row: dict[str, Any], column: str, needed: bool) -> str | None:
    cell = cell_of(where, row, column) if needed else row.get(column)
    label = label_name(where, column, cell)
    if not label and needed:
        raise InputError(f"{where}: the label in column {column!r} is empty; fill it in or remove the row")
    return label or None


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
) -> Iterator[TaggedExample]:
    """The sentences of a file (`-`: standard input) in order.

    `file_format` is by default that of the suffix:
    conll: one word and its tag per line; blank lines separate sentences. Columns are separated by tabs, or by spaces in a
      line without a tab; `words` and `tags` are their numbers, by default 1 (the first) and -1 (the last).
    conllu: Universal Dependencies; `words` and `tags` are names of its columns, by default form and upos.
    jsonl: two lists per line; `words` and `tags` are their names, by default found by usual names.
    txt: one sentence per line if tags are neither needed nor seen, otherwise conll. Words are separated by spaces; in a
      line without spaces that has Chinese characters, each character is a word.
    Unless `needs_tags`, tags are read if there are any. Raises InputError.
    """
    form = _format(path, file_format, _TAGGED_FORMATS)
    lines = read_lines(Path(path).expanduser())
    if form == "txt":
        form, lines = _plain_or_conll(lines, needs_tags or words is not None or tags is not None)
    match form:
        case "conllu":
            places = _conllu_column(path, words or "form"), _conllu_column(path, tags or "upos")
            sentences = _sentences(readers.conllu_lines(path, lines), *places, needs_tags)
        case "conll":
            places = _number(path, "words", words or "1"), _number(path, "tags", tags or "-1")
            sentences = _sentences(readers.conll_lines(path, _no_table(path, lines)), *places, needs_tags)
        case "jsonl":
            sentences = _tagged_json(path, lines, words, tags, needs_tags)
        case _:
            sentences = _plain_sentences(path, lines)
    return _some(path, sentences)


def _sentences(lines: Cells, word: int, tag: int, needs_tags: bool) -> Iterator[TaggedExample]:
    """Sentences from lines of one word each; `word` and `tag` are indices of columns. A single column holds words."""
    words: list[str] = []
    tags: list[str] = []
    begins, width = "", 0
    for where, cells in chain(lines, [("", [])]):
        if not cells:
            if words:
                yield TaggedExample(tuple(words), tuple(tags) if all(tags) else None, begins)
            words, tags = [], []
            continue
        width = width or len(cells)
        if len(cells) != width:
            raise InputError(f"{where}: {len(cells)} columns, the lines before have {width}; repair this line")
        begins = begins if words else where
        words.append(_column(where, cells, word, "words"))
        tags.append("" if width == 1 and tag == -1 else _column(where, cells, tag, "tags").strip())
        if needs_tags and not tags[-1]:
            raise _no_tag(where, words[-1], "one after a tab, O")


def _no_tag(where: str, word: str, write: str) -> InputError:
    return InputError(f"{where}: no tag beside {word!r}; write {write} for a word outside of spans")


def _column(where: str, cells: list[str], place: int, option: str) -> str:
    if not -len(cells) <= place < len(cells):
        what = f"no column {place + (place >= 0)} for {option!r}; there are {len(cells)}"
        raise InputError(f"{where}: {what}, separated by tabs or spaces")
    return cells[place]


def _number(path: str | Path, option: str, column: str) -> int:
    """The index of a column of a CoNLL file, from its number."""
    if not re.fullmatch("-?[1-9][0-9]*", column):
        fix = "give the number of a column of the CoNLL file, 1 first, -1 last"
        raise InputError(f"{name_of(path)}: {option!r} is {column!r}: {fix}")
    return int(column) - (column[0] != "-")


def _conllu_column(path: str | Path, column: str) -> int:
    known = readers.CONLLU
    if column.lower() not in known:
        near = did_you_mean(column.lower(), known)
        raise InputError(f"{name_of(path)}: CoNLL-U has no column {column!r}; {there_are(list(known))}.{near}")
    return known.index(column.lower())


def _plain_or_conll(lines: Iterator[str], tagged: bool) -> tuple[str, Iterator[str]]:
    """Whether a text file has one sentence or one word per line ("txt" or "conll"), and its lines from the first.

    It has words if it must (`tagged`), if its first line has a tab, and if its first two lines end in tags: one sentence
    can end in "B-12", two hardly.
    """
    if tagged:
        return "conll", lines
    seen: list[str] = []
    for line in lines:
        seen.append(line)
        if sum(not line.isspace() for line in seen) == 2:
            break
    cells = [line.split() for line in seen if not line.isspace()]
    ends_in_tags = len(cells) == 2 and all(len(row) > 1 and _TAG.fullmatch(row[-1]) for row in cells)
    is_conll = ends_in_tags or any("\t" in line.strip() for line in seen[:1])
    return "conll" if is_conll else "txt", chain(seen, lines)


def _no_table(path: str | Path, lines: Iterator[str]) -> Iterator[str]:
    """The lines. Raises InputError if the first one is the header of a table of texts with labels."""
    first = next(lines, "")
    cells = {cell.strip().lower() for cell in first.split("\t")}
    if cells & PAIRS.keys() and cells & set(LABELS):
        what = "a table of texts with labels, not one word and its tag per line"
        raise InputError(f"{name_of(path)}, line 1: {what}: use it for a task on texts")
    return chain([first] if first else [], lines)


def _plain_sentences(path: str | Path, lines: Iterator[str]) -> Iterator[TaggedExample]:
    """A sentence for each line, empty lines too: predictions are in the same order."""
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) == 1 and _IDEOGRAPH.search(line):
            words = list(words[0])
        yield TaggedExample(tuple(words), None, f"{name_of(path)}, line {number}")


def _tagged_json(
    path: str | Path, lines: Iterator[str], words: str | None, tags: str | None, needs_tags: bool
) -> Iterator[TaggedExample]:
    """Sentences from lines such as {"words": ["Ann", "left"], "tags": ["B-PER", "O"]}."""
    for where, row in json_rows(path, lines, '{"words": ["Ann", "left"], "tags": ["B-PER", "O"]}'):
        words = words or usual(WORDS, row)  # the names of the first row are those of all
        tags = tags or usual(TAGS, row)
        if words is None or (tags is None and needs_tags):
            raise _unknown_column(where, "words" if words is None else "tags", list(row))
        of_words = _strings(where, row, words)
        if "" in of_words:
            raise InputError(f"{where}: column {words!r} has an empty word; remove it and its tag")
        if tags is None or (not needs_tags and row.get(tags) is None):
            yield TaggedExample(of_words, None, where)
            continue
        of_tags = _strings(where, row, tags)
        if len(of_words) != len(of_tags):
            raise InputError(f"{where}: {len(of_words)} words and {len(of_tags)} tags; give each word one tag")
        if needs_tags and "" in of_tags:
            raise _no_tag(where, of_words[of_tags.index("")], "O")
        yield TaggedExample(of_words, of_tags, where)


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
            near = did_you_mean(file_format, known)
            what = f"format {file_format!r} is not known"
            raise InputError(f"{name_of(path)}: {what}: use one of {', '.join(known)}.{near}")
        return file_format
    if str(path) == "-":
        return "txt"
    if Path(path).expanduser().is_dir():
        raise InputError(f"{path}: is a folder: give a file")
    suffix, _ = parted_suffixes(path)
    form = formats.get(suffix)
    tagged = formats is _TAGGED_FORMATS
    if form is None and suffix in (_EXAMPLE_FORMATS if tagged else _TAGGED_FORMATS):
        holds, wanted = ("texts", "tagged words") if tagged else ("tagged words", "texts")
        raise InputError(f"{path}: {suffix} is a format of {holds}, not of {wanted}: use it for a task on {holds}")
    if form is None:
        fix = f"rename it or name the format: {', '.join(known)}"
        raise InputError(f"{path}: no known suffix ({', '.join(formats)}); {fix}")
    return form


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
