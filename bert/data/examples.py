"""Labelled rows of one file or standard input, one after the other, in constant memory.

Texts with a label (`read_examples`) come from .tsv, .csv, .jsonl or plain text, sentences with a tag for each word
(`read_tagged`) from .conll, .conllu, .jsonl or plain text, each as it is or compressed (.gz, .zst). Columns are named,
or found by the names that data sets usually give them. What cannot be read is an InputError with the file and line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bert.data.files import JSONS, TEXTS, parted_suffixes, read_lines, unify
from bert.data.rows import (
    CONLLU,
    Cells,
    Rows,
    cell_of,
    conll_lines,
    conllu_lines,
    json_rows,
    name_of,
    table_rows,
    there_are,
)
from bert.errors import InputError, did_you_mean
from bert.errors import option as flag

PAIRS = {  # usual names of the text, the likelier first → the names that its second sentence has beside it
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
_PARTS = re.compile("[\t\r\n]")  # what parts cells and lines of the files that predictions are written to
_IDEOGRAPH = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


Parse = Callable[[str, dict[str, Any], str, bool], Any]
"""where a row stands, its cells, the column of the label, whether there must be one → the label, None where there is none"""


@dataclass(frozen=True)
class Example:
    """A text, or two, and the label that it has or is to get."""

    text: str
    pair: str | None = None
    label: str | tuple[str, ...] | float | None = None
    """of the type that `read_examples` was asked for: a name, several names or none, or a number"""
    where: str = ""
    """for messages: `train.csv, line 12`"""

    @property
    def key(self) -> str:
        """What examples with equal texts have in common."""
        return f"{self.text}\0{self.pair or ''}"


@dataclass(frozen=True)
class TaggedExample:
    """A sentence: its words, and a tag for each or none at all."""

    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    where: str = ""
    """for messages: `train.conll, line 12`, where the sentence begins"""

    @property
    def key(self) -> str:
        """What sentences of equal words have in common."""
        return "\0".join(self.words)


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read; none where there is no such column."""

    text: str
    pair: str | None = None
    label: str | None = None


# ── texts with a label ──


@dataclass(frozen=True)
class Examples:
    """The rows of a file, read as they are asked for, and the columns that they are read from."""

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
    usual: Sequence[str] = LABELS,
) -> Examples:
    """The rows of a file (`-`: standard input) in their order.

    `text`, `pair` and `label` name columns; where not given they are found by usual names, from the first line. `file_format`
    (tsv, csv, jsonl, txt) is that of the suffix where not given. Blank lines are skipped, but in plain text, where a line is a
    row. `parse` makes a label of a row, a name where not given; `usual` are the names of its column, the likelier first. Where
    `needs_label` is false, an absent or empty label is None. Raises InputError.
    """
    form = _format(path, file_format, _EXAMPLE_FORMATS)
    lines = read_lines(Path(path).expanduser())
    if form == "txt":
        if given := next(filter(None, (text, pair, label)), None):
            raise InputError(
                f"{name_of(path)}: plain text has no column {given!r}; name the format if it is no plain text"
            )
        if needs_label:
            raise InputError(
                f"{name_of(path)}: plain text has no labels; give a .tsv, .csv or .jsonl file with a label column"
            )
        rows: Rows = ((f"{name_of(path)}, line {n}", {"text": line}) for n, line in enumerate(lines, start=1))
        columns = Columns("text")
    else:
        if form == "jsonl":
            rows = json_rows(path, lines, "{'text': ..., 'label': ...}")
            where, row = next(rows, ("", {}))
            header, rows = list(row), chain([(where, row)], rows)
        else:
            where = f"{name_of(path)}, line 1"
            header, rows = table_rows(path, lines, "\t" if form == "tsv" else ",;")
        if not header:
            raise _nothing_in(path)
        named = Columns(text or "", pair, label)
        columns = _choose_columns(where, header, named, needs_label, usual, table=form != "jsonl")
    return Examples(columns, _some(path, _examples(rows, columns, needs_label, parse or _label)))


def _examples(rows: Rows, columns: Columns, needs_label: bool, parse: Parse) -> Iterator[Example]:
    for where, row in rows:
        text = _text(where, row, columns.text)
        pair = None if columns.pair is None else _text(where, row, columns.pair)
        label = None if columns.label is None else parse(where, row, columns.label, needs_label)
        yield Example(text, pair, label, where)


def _choose_columns(
    where: str, header: list[str], named: Columns, needs_label: bool, usual: Sequence[str], table: bool
) -> Columns:
    """The columns to read: those named, which must be there, and for the others what usual names find."""
    for option, name in (("text", named.text), ("pair", named.pair), ("label", named.label)):
        if name and name not in header:
            raise InputError(
                f"{where}: no column {name!r} for {flag(option)}; {there_are(header)}.{did_you_mean(name, header)}"
            )
    text = named.text or _usual(PAIRS, header)
    label = named.label or _usual(usual, header)
    missing = "text" if text is None else "label" if label is None and needs_label else ""
    if missing:
        first_line = ", or, if this is a row and no header, write one above it" if table else ""
        if table and len(header) == 1 and len(header[0].split()) > 1:
            first_line += "; one column only: columns of a .tsv are parted by tabs, of a .csv by commas or semicolons"
        raise InputError(
            f"{where}: no column is known as the {missing}; {there_are(header)}. Name it by {flag(missing)}{first_line}"
        )
    assert text is not None
    pair = named.pair or _usual(PAIRS.get(text.lower(), ()), header)
    return Columns(text, pair, label)


def _usual(names: Iterable[str], header: list[str]) -> str | None:
    """The column of `header` that has the first of the usual names, in any case of letters."""
    lower = {column.lower(): column for column in reversed(header)}
    return next((lower[name] for name in names if name in lower), None)


def _text(where: str, row: dict[str, Any], column: str) -> str:
    text = cell_of(where, row, column)
    if not isinstance(text, str):
        raise InputError(
            f"{where}: column {column!r} holds {_kind(text)}, not text; repair this row or name another column"
        )
    return unify(text).strip()


def _label(where: str, row: dict[str, Any], column: str, needed: bool) -> str | None:
    cell = cell_of(where, row, column) if needed else row.get(column)
    label = label_name(where, column, cell)
    if not label and needed:
        raise InputError(f"{where}: the label in column {column!r} is empty; fill it in or remove the row")
    return label or None


def label_name(where: str, column: str, cell: Any) -> str:
    """A label as it is kept: a string that a line of a prediction can hold."""
    return _whole(where, column, _as_label(where, column, cell).strip())


def _as_label(where: str, column: str, label: Any) -> str:
    """A label as a string: JSON has numbers and booleans too, and writes them like this."""
    if isinstance(label, dict | list):
        raise InputError(f"{where}: column {column!r} holds {_kind(label)}, not a label; name another column")
    return label if isinstance(label, str) else "" if label is None else json.dumps(label)


def _whole(where: str, column: str, value: str) -> str:
    """A label or a word that a line of a prediction can hold."""
    if _PARTS.search(value):
        raise InputError(f"{where}: column {column!r} holds {value!r}; put a blank for its tab or line end")
    return value


# ── sentences with a tag for each word ──


def read_tagged(
    path: str | Path,
    words: str | None = None,
    tags: str | None = None,
    needs_tags: bool = True,
    file_format: str | None = None,
) -> Iterator[TaggedExample]:
    """The sentences of a file (`-`: standard input) in their order.

    `file_format` is that of the suffix where not given:
    conll: a word a line, with its tag; blank lines part sentences. Columns are parted by tabs, or by blanks in a line
      without a tab; `words` and `tags` are their numbers, 1 the first and -1 the last, as they are where not given.
    conllu: Universal Dependencies; `words` and `tags` are names of its columns, form and upos where not given.
    jsonl: two lists a line; `words` and `tags` are their names, found by usual names where not given.
    txt: a sentence a line where no tags are needed and none seen, otherwise conll. Words are parted by blanks; in a
      line without blanks that has Chinese characters, each character is a word.
    Where `needs_tags` is false, tags are read where they are found. Raises InputError.
    """
    form = _format(path, file_format, _TAGGED_FORMATS)
    lines = read_lines(Path(path).expanduser())
    if form == "txt":
        form, lines = _plain_or_conll(lines, needs_tags or words is not None or tags is not None)
    match form:
        case "conllu":
            places = _conllu_column(path, words or "form"), _conllu_column(path, tags or "upos")
            sentences = _sentences(path, conllu_lines(path, lines), *places, needs_tags)
        case "conll":
            places = _number(path, "words", words or "1"), _number(path, "tags", tags or "-1")
            lines = _no_table(path, lines)
            sentences = _sentences(path, conll_lines(path, lines), *places, needs_tags)
        case "jsonl":
            sentences = _tagged_json(path, lines, words, tags, needs_tags)
        case _:
            sentences = _plain_sentences(path, lines)
    return _some(path, sentences)


def _sentences(path: str | Path, lines: Cells, word: int, tag: int, needs_tags: bool) -> Iterator[TaggedExample]:
    """Sentences from lines of a word each, `word` and `tag` being places in a line. One column alone is words."""
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
            raise InputError(
                f"{where}: no tag beside {words[-1]!r}; write one after a tab, O for a word outside of spans"
            )


def _column(where: str, cells: list[str], place: int, option: str) -> str:
    if not -len(cells) <= place < len(cells):
        number = place + 1 if place >= 0 else place
        raise InputError(
            f"{where}: no column {number} for {option!r}; there are {len(cells)}, parted by tabs or blanks"
        )
    return cells[place]


def _number(path: str | Path, option: str, column: str) -> int:
    """The place of a column of a CoNLL file in a Python list."""
    if not re.fullmatch("-?[1-9][0-9]*", column):
        raise InputError(
            f"{name_of(path)}: {option!r} is {column!r}: columns of CoNLL files have numbers, 1 first, -1 last"
        )
    return int(column) - (column[0] != "-")


def _conllu_column(path: str | Path, column: str) -> int:
    if column.lower() not in CONLLU:
        near = did_you_mean(column.lower(), CONLLU)
        raise InputError(f"{name_of(path)}: CoNLL-U has no column {column!r}; {there_are(list(CONLLU))}.{near}")
    return CONLLU.index(column.lower())


def _plain_or_conll(lines: Iterator[str], tagged: bool) -> tuple[str, Iterator[str]]:
    """Whether a text file has a sentence or a word a line, and its lines from the first.

    It has words where it must (`tagged`), where its first line has a tab, and where its first two lines end in tags: a
    sentence can end in "B-12", hardly two.
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
    """The lines, where the first one is not the header of a table of texts with labels."""
    first = next(lines, "")
    cells = {cell.strip().lower() for cell in first.split("\t")}
    if cells & PAIRS.keys() and cells & set(LABELS):
        raise InputError(
            f"{name_of(path)}, line 1: a table of texts with labels, not a word and its tag a line: use it for a task on texts"
        )
    return chain([first] if first else [], lines)


def _plain_sentences(path: str | Path, lines: Iterator[str]) -> Iterator[TaggedExample]:
    """A sentence a line, also an empty one: what is predicted stands in the same order."""
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) == 1 and _IDEOGRAPH.search(line):
            words = list(words[0])
        yield TaggedExample(tuple(words), None, f"{name_of(path)}, line {number}")


def _tagged_json(
    path: str | Path, lines: Iterator[str], words: str | None, tags: str | None, needs_tags: bool
) -> Iterator[TaggedExample]:
    """Sentences from lines such as {"words": ["Ann", "left"], "tags": ["B-PER", "O"]}."""
    for where, row in json_rows(path, lines, "{'words': [...], 'tags': [...]}"):
        words = words or _usual(WORDS, list(row))  # the names of the first row are those of all
        tags = tags or _usual(TAGS, list(row))
        if words is None or (tags is None and needs_tags):
            missing = "words" if words is None else "tags"
            raise InputError(
                f"{where}: no column is known as the {missing}; {there_are(list(row))}. Name it by {flag(missing)}"
            )
        of_words = _strings(where, row, words)
        if "" in of_words:
            raise InputError(f"{where}: column {words!r} has an empty word; leave it and its tag out")
        if tags is None or (not needs_tags and row.get(tags) is None):
            yield TaggedExample(of_words, None, where)
            continue
        of_tags = _strings(where, row, tags)
        if len(of_words) != len(of_tags):
            raise InputError(f"{where}: {len(of_words)} words and {len(of_tags)} tags; give each word one tag")
        if needs_tags and "" in of_tags:
            raise InputError(
                f"{where}: no tag beside {of_words[of_tags.index('')]!r}; write O for a word outside of spans"
            )
        yield TaggedExample(of_words, of_tags, where)


def _strings(where: str, row: dict[str, Any], column: str) -> tuple[str, ...]:
    """A list of words or tags; numbers become strings."""
    cell = cell_of(where, row, column)
    if not isinstance(cell, list):
        raise InputError(f"{where}: column {column!r} holds {_kind(cell)}, not a list; give one string for each word")
    return tuple(_whole(where, column, unify(_as_label(where, column, value))) for value in cell)


# ── what both share ──


def _format(path: str | Path, file_format: str | None, formats: dict[str, str]) -> str:
    """The format of a file by its name, of standard input plain text; `file_format` decides where it is given."""
    known = sorted(set(formats.values()))
    if file_format is not None:
        if file_format not in known:
            near = did_you_mean(file_format, known)
            raise InputError(
                f"{name_of(path)}: format {file_format!r} is not known: use one of {', '.join(known)}.{near}"
            )
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
        raise InputError(
            f"{path}: no known suffix ({', '.join(formats)}); rename it or name the format: {', '.join(known)}"
        )
    return form


def _some(path: str | Path, examples: Iterator[Any]) -> Iterator[Any]:
    """The examples of a file, which must have one."""
    empty = True
    for example in examples:
        empty = False
        yield example
    if empty:
        raise _nothing_in(path)


def _nothing_in(path: str | Path) -> InputError:
    return InputError(f"{name_of(path)}: holds no examples; give a file with at least one")


def _kind(value: Any) -> str:
    kinds = {str: "text", dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
