"""Sentences to look at, from plain text, JSON lines and tables: the target word, its place and its sense where they are given.

`CoarseWSD` rows are of this kind: `{"word": "apple", "sentence": "an apple a day", "start": 3, "end": 8, "sense": "fruit"}`.
Plain text has a sentence a line. All of it is held in memory: probes look at thousands of sentences, not at millions.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from bert.data.files import FORMATS, parted_suffixes, read_lines, unify
from bert.data.rows import Rows, json_rows, name_of, table_rows, there_are, usual
from bert.errors import InputError, did_you_mean

# what a column tells → its usual names, the likelier first
ROWS = {"sentence": ("sentence", "text"), "word": ("word", "lemma", "target"), "sense": ("sense", "label")}
ROWS |= {"start": ("start",), "end": ("end",), "index": ("index",)}
# of minimal pairs: our names, then those of the files that BLiMP comes in
PAIRS = {"good": ("good", "sentence_good"), "bad": ("bad", "sentence_bad"), "field": ("field",)}
PAIRS |= {"phenomenon": ("phenomenon", "linguistics_term"), "paradigm": ("paradigm", "uid")}


@dataclass(frozen=True)
class Row:
    """A sentence, and what is known about a word in it."""

    sentence: str
    where: str = ""
    """for messages: `apple.jsonl, line 12`"""
    word: str | None = None
    span: tuple[int, int] | None = None
    """the word's first character and the one after its last"""
    sense: str | None = None


def read_rows(path: str | Path, keep_empty: bool = False) -> list[Row]:
    """The sentences of a file (.txt, .jsonl, .tsv, .csv, each also .gz or .zst; `-`: lines of standard input).

    Columns: `sentence` (or `text`), `word`, `start` and `end` or `index` (the place of the word among those that blanks
    part), `sense`. All but the first may be absent. Empty sentences are left out, but where `keep_empty` asks for a row
    for each. Raises InputError.
    """
    rows = [row for row in _rows(path) if keep_empty or row.sentence.strip()]
    if not any(row.sentence.strip() for row in rows):
        raise InputError(f"{name_of(path)}: holds no sentence; give a file with at least one")
    return rows


@dataclass(frozen=True)
class Pair:
    """A right and a wrong sentence, and what they differ in."""

    good: str
    bad: str
    where: str = ""
    """for messages: `blimp.jsonl, line 12`"""
    phenomenon: str | None = None
    """such as island_effects"""
    field: str | None = None
    """such as syntax"""
    paradigm: str | None = None
    """such as adjunct_island: the pairs that were made alike"""


def read_pairs(path: str | Path, limit: int | None = None) -> list[Pair] | None:
    """The sentence pairs of a file with the columns `good` and `bad` (in BLiMP's own files `sentence_good`,
    `sentence_bad`), in their order; none where it has no such columns.

    Columns that may be absent: `phenomenon`, `field`, `paradigm`. `limit` takes so many pairs of each paradigm, the first
    ones. Raises InputError, also where there is no pair below the columns.
    """
    opened = _open(path, PAIRS)
    if opened is None or not {opened[1]["good"], opened[1]["bad"]} & {*opened[0]}:
        return None
    _, column, rows = opened
    pairs: list[Pair] = []
    seen: Counter[tuple[str | None, ...]] = Counter()
    for where, row in rows:
        for name in (column["good"], column["bad"]):
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise InputError(f"{where}: no sentence in column {name!r}; {there_are(list(row))}. Fill it in")
        kind = tuple(_text(row, column[name]) for name in ("phenomenon", "field", "paradigm"))
        seen[kind] += 1
        if limit is None or seen[kind] <= limit:
            pairs.append(Pair(row[column["good"]], row[column["bad"]], where, *kind))
    if not pairs:
        raise InputError(f"{name_of(path)}: holds no pairs; give a file with at least one")
    return pairs


def _rows(path: str | Path) -> Iterator[Row]:
    opened = _open(path, ROWS)
    if opened is None:
        for number, line in enumerate(read_lines(Path(path).expanduser()), start=1):
            yield Row(line.strip(), f"{name_of(path)}, line {number}")
        return
    header, column, rows = opened
    sentence = column["sentence"]
    if sentence not in header:
        near = did_you_mean("sentence", header)
        raise InputError(f"{name_of(path)}: no column `sentence`; {there_are(header)}.{near}")
    for where, row in rows:
        text = row.get(sentence)
        if not isinstance(text, str):
            raise InputError(f"{where}: no text in column {sentence!r}; {there_are(list(row))}")
        span = _span(where, row, column, text)
        if span is not None:  # positions in the file's text: line ends of two characters become one
            span = len(unify(text[: span[0]])), len(unify(text[: span[1]]))
        yield Row(unify(text), where, _text(row, column["word"]), span, _text(row, column["sense"]))


def _open(path: str | Path, names: Mapping[str, tuple[str, ...]]) -> tuple[list[str], dict[str, str], Rows] | None:
    """The columns of a table or of JSON lines, those of `names` as they are called there, and the rows; none for plain text."""
    form = FORMATS.get(parted_suffixes(path)[0])
    lines = read_lines(Path(path).expanduser())
    if form in ("tsv", "csv"):
        header, rows = table_rows(path, lines, "\t" if form == "tsv" else ",;")
    elif form == "jsonl":
        rows = json_rows(path, lines, '{"sentence": ...}')
        first = next(rows, None)
        header, rows = ([], rows) if first is None else (list(first[1]), chain([first], rows))
    else:
        return None
    return header, {kind: usual(options, header) or options[0] for kind, options in names.items()}, rows


def _text(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    return None if value is None or not str(value).strip() else str(value).strip()


def _span(where: str, row: Mapping[str, Any], column: Mapping[str, str], sentence: str) -> tuple[int, int] | None:
    """Characters of the target word, from `start` and `end` or from `index`; none where neither is given."""
    if one := [name for name in ("start", "end") if _text(row, column[name]) is not None]:
        if len(one) < 2:
            raise InputError(f"{where}: has {one[0]} alone: give start and end, or neither")
        start, end = (_number(where, row, column[name]) for name in ("start", "end"))
        if not 0 <= start < end <= len(sentence):
            raise InputError(f"{where}: characters {start} to {end} are not inside its sentence of {len(sentence)}")
        return start, end
    if _text(row, column["index"]) is None:
        return None
    words, index = sentence.split(" "), _number(where, row, column["index"])
    if not 0 <= index < len(words) or not words[index]:
        raise InputError(f"{where}: index {index} is none of the {len(words)} words of its sentence: count from 0")
    start = sum(len(word) + 1 for word in words[:index])
    return start, start + len(words[index])


def _number(where: str, row: Mapping[str, Any], column: str) -> int:
    value = row[column]
    try:
        if isinstance(value, bool) or int(value) != float(value):
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: {column} is {value!r}: give a whole number") from None
