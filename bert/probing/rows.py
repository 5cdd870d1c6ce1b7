"""Sentences from plain text, JSON lines and tables, with a target word, its position and its sense if they are given.

`CoarseWSD` rows look like this: `{"word": "apple", "sentence": "an apple a day", "start": 3, "end": 8, "sense": "fruit"}`. Plain text has
one sentence a line. Everything is read into memory: probes use thousands of sentences, not millions.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert.data.examples import TAGGED_FORMATS
from bert.data.files import JSONS, READERS, TABLES, TEXTS, parted_suffixes, read_lines, unify
from bert.data.rows import Rows, json_table, name_of, table_rows, there_are, usual
from bert.errors import InputError, did_you_mean
from bert.probing.occurrences import find, forms_of

# content of a column → its usual names, the most likely first
ROWS = {"sentence": ("sentence", "text"), "word": ("word", "lemma", "target"), "sense": ("sense", "label")}
ROWS |= {"start": ("start",), "end": ("end",), "index": ("index",)}
# minimal pairs: our names, then those of BLiMP's own files
PAIRS = {"good": ("good", "sentence_good"), "bad": ("bad", "sentence_bad"), "field": ("field",)}
# words in two contexts: those of WiC
CONTEXTS = {
    "word": ROWS["word"],
    "same": ("same", "label", "tag"),
    "sentence1": ("sentence1",),
    "sentence2": ("sentence2",),
}
CONTEXTS |= {name + side: (name + side,) for side in "12" for name in ("start", "end", "index")}
PAIRS |= {"phenomenon": ("phenomenon", "linguistics_term"), "paradigm": ("paradigm", "uid")}


@dataclass(frozen=True)
class Row:
    """A sentence, and a word in it."""

    sentence: str
    where: str = ""
    """for messages: `apple.jsonl, line 12`"""
    word: str | None = None
    span: tuple[int, int] | None = None
    """the first character of the word, and the one after its last"""
    sense: str | None = None
    group: str | None = None
    """the period or corpus of the sentence"""


def span_of(row: Row) -> tuple[int, int]:
    """The characters of the word of a row: those given, or its first occurrence. Raises InputError if there is none."""
    if row.span is not None:
        return row.span
    if not (found := find(row.sentence, [str(row.word)])):
        raise InputError(f"{row.where}: {row.word} does not occur in its sentence: give start and end, or index")
    return found[0]


def read_rows(path: str | Path, keep_empty: bool = False, group: str | None = None) -> list[Row]:
    """The sentences of a file (.txt, .jsonl, .tsv, .csv, each also .gz or .zst; `-`: lines of standard input).

    Columns: `sentence` (or `text`), `word`, `start` and `end` or `index` (the number of the word among those separated by spaces),
    `sense`. All but the first are optional. At its place stands the word, or a form of it by English rules; any form if the column is
    `lemma`. `group` names a column that every row has. Empty sentences are left out unless `keep_empty`. Raises InputError.
    """
    rows = [row for row in _rows(path, group) if keep_empty or row.sentence.strip()]
    if not any(row.sentence.strip() for row in rows):
        raise InputError(f"{name_of(path)}: no sentences: give a file with at least one")
    return rows


@dataclass(frozen=True)
class Pair:
    """A good and a bad sentence, and what they differ in."""

    good: str
    bad: str
    where: str = ""
    """for messages: `blimp.jsonl, line 12`"""
    phenomenon: str | None = None
    """such as island_effects"""
    field: str | None = None
    """such as syntax"""
    paradigm: str | None = None
    """such as adjunct_island: the template of the pair"""


def read_pairs(path: str | Path, limit: int | None = None) -> list[Pair] | None:
    """The sentence pairs of a file with the columns `good` and `bad` (in BLiMP's own files `sentence_good`, `sentence_bad`), in order;
    none if it has no such columns.

    Optional columns: `phenomenon`, `field`, `paradigm`. `limit`: only the first pairs of each paradigm. Raises InputError, also if there
    is no pair.
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
        raise InputError(f"{name_of(path)}: no pairs: give a file with at least one")
    return pairs


@dataclass(frozen=True)
class TwoContexts:
    """A word in two sentences, and whether it means the same in both."""

    word: str
    first: Row
    second: Row
    same: bool


def read_contexts(path: str | Path) -> list[TwoContexts] | None:
    """The rows of a file such as WiC (Pilehvar and Camacho-Collados 2019), in order; none if it has no columns sentence1 and sentence2.

    Columns: `word`, `sentence1`, `sentence2`, their `start1` and `end1` or `index1`, likewise for 2 (default: the first form of the word
    by English rules), and `same` (or `label`, `tag`): true or false, T or F, 1 or 0. Raises InputError.
    """
    opened = _open(path, CONTEXTS)
    if opened is None or not {"sentence1", "sentence2"} <= {*opened[0]}:
        return None
    _, column, rows = opened
    found = []
    for where, row in rows:
        word, same = _text(row, column["word"]), (_text(row, column["same"]) or "").lower()
        if word is None:
            raise InputError(f"{where}: no value in column {column['word']!r}; fill it in")
        if same not in (yes := ("true", "t", "1", "1.0")) and same not in ("false", "f", "0", "0.0"):
            raise InputError(f"{where}: {column['same']} is {same!r}; must be true or false")
        sides = []
        for side in "12":
            text = row.get(f"sentence{side}")
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{where}: no text in column 'sentence{side}'; {there_are(list(row))}")
            span = _span(where, row, {name: name + side for name in ("start", "end", "index")}, text)
            if (span := span or next(iter(find(text, forms_of(word))), None)) is None:
                raise InputError(f"{where}: {word} does not occur in sentence{side}: give start{side} and end{side}")
            sides.append(Row(text, where, word, span))
        found.append(TwoContexts(word, sides[0], sides[1], same in yes))
    return found


def _rows(path: str | Path, group: str | None) -> Iterator[Row]:
    opened = _open(path, ROWS)
    if group is not None and group not in (header := [] if opened is None else opened[0]):
        near = did_you_mean(group, header)
        raise InputError(f"{name_of(path)}: no column {group!r}; {there_are(header)}. Name another column.{near}")
    if opened is None:
        for number, line in enumerate(read_lines(Path(path).expanduser()), start=1):
            yield Row(line.strip(), f"{name_of(path)}, line {number}")
        return
    header, column, rows = opened
    sentence = column["sentence"]
    if sentence not in header:
        near = did_you_mean("sentence", header)
        raise InputError(f"{name_of(path)}: no column `sentence`; {there_are(header)}. Rename a column.{near}")
    for where, row in rows:
        text = row.get(sentence)
        if not isinstance(text, str):
            raise InputError(f"{where}: no text in column {sentence!r}; {there_are(list(row))}")
        span, word = _span(where, row, column, text), _text(row, column["word"])
        if span is not None and word is not None:
            marked, lemma = text[slice(*span)], column["word"].lower() == "lemma"
            inside = [(0, len(marked))] * (span in find(text, [marked])) if lemma else find(marked, forms_of(word))
            if not inside:
                what = f"characters {span[0]} to {span[1]} are {marked!r}, not {word!r}; count characters, not bytes"
                raise InputError(f"{where}: {what}, or name the column `lemma` if it holds base forms")
            span = span[0] + inside[0][0], span[0] + inside[0][1]  # without a comma or a quote beside the word
        if span is not None:  # positions in the file's text, in which a line end can have two characters
            span = len(unify(text[: span[0]])), len(unify(text[: span[1]]))
        of_group = None if group is None else _text(row, group)
        if group is not None and of_group is None:
            raise InputError(f"{where}: no value in column {group!r}; fill it in")
        yield Row(unify(text), where, word, span, _text(row, column["sense"]), of_group)


def _open(path: str | Path, names: Mapping[str, tuple[str, ...]]) -> tuple[list[str], dict[str, str], Rows] | None:
    """The header of a table or of JSON lines, the names in it of the columns `names`, and the rows; none for plain text."""
    suffix, _ = parted_suffixes(path)
    lines = read_lines(Path(path).expanduser())
    if suffix in TABLES:
        header, rows = table_rows(path, lines, TABLES[suffix])
    elif suffix in JSONS:
        _, header, rows = json_table(path, lines, '{"sentence": "A sentence."}')
    elif suffix in READERS and suffix not in TEXTS:
        known = ", ".join((*TEXTS, *JSONS, *TABLES))
        raise InputError(f"{path}: {suffix} is not a format of sentences: convert it to {known}")
    elif suffix in TAGGED_FORMATS and suffix not in TEXTS:
        raise InputError(
            f"{name_of(path)}: holds tagged words: give the sentences as {', '.join((*TEXTS, *JSONS, *TABLES))}"
        )
    else:
        return None
    return header, {kind: usual(options, header) or options[0] for kind, options in names.items()}, rows


def _text(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    return None if value is None else str(value).strip() or None


def _span(where: str, row: Mapping[str, Any], column: Mapping[str, str], sentence: str) -> tuple[int, int] | None:
    """Characters of the target word, from `start` and `end` or from `index`; none if neither is given."""
    if given := [name for name in ("start", "end") if _text(row, column[name]) is not None]:
        if len(given) < 2:
            raise InputError(f"{where}: only {given[0]} is given: give start and end, or neither")
        start, end = (_number(where, row, column[name]) for name in ("start", "end"))
        if not 0 <= start < end <= len(sentence):
            raise InputError(f"{where}: characters {start} to {end} are not inside its sentence of {len(sentence)}")
        return start, end
    if _text(row, column["index"]) is None:
        return None
    words, index = sentence.split(" "), _number(where, row, column["index"])
    if not 0 <= index < len(words) or not words[index]:
        raise InputError(f"{where}: index is {index} and the sentence has {len(words)} words: count from 0")
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
