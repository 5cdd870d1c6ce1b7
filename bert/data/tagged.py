"""Sentences of one file or standard input with a tag for each word, or texts to tag, one by one, in constant memory.

They come from .conll, .conllu, .jsonl or plain text, optionally compressed (.gz, .zst). Columns are named, or found by their usual
names in data sets. Errors are InputErrors with file and line.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

from bert.data import examples as tables
from bert.data import rows as readers
from bert.data.columns import LABELS, PAIRS, TAGS, WORDS, Columns, unknown_column
from bert.data.examples import Example, Examples
from bert.data.files import unify
from bert.data.hub_rows import lines_of
from bert.data.rows import NO_SPACE, Rows, Words, cell_of, is_number, json_table, name_of, own_fields, there_are, usual
from bert.data.tokenizer import is_unspaced
from bert.errors import InputError, did_you_mean, option

logger = logging.getLogger(__name__)

_ENDS_IN_TAG = re.compile(r"\s(O|[BIESLUMW][-_]\S+)$")
_NUMBERS = [str(number) for number in range(-99, 100)]  # of columns
_MOST_IN_WORD = 3  # words of a text in a cell for a word, on average: more are texts
_FOR_TEXTS = "a table of texts with labels, not one word and its tag per line: use it for a task on texts"


@dataclass(frozen=True)
class TaggedExample:
    """A sentence: its words, and a tag for each word, or no tags."""

    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    where: str = ""
    """for messages: `train.conll, line 12`, where the sentence begins"""
    lines: tuple[int, ...] = ()
    """the line of each word, if each has one of its own"""
    joined: tuple[bool, ...] = ()
    """for each word whether the next one follows without a space; empty if the file does not say so"""
    row: dict[str, Any] | None = field(default=None, compare=False, repr=False)
    """all columns of the row, if the file has columns"""
    text: str | None = None
    """the text that the words are found in; none if they were given as words"""
    offsets: Sequence[tuple[int, int]] = field(default=(), compare=False, repr=False)
    """the first character and the end of each word in `text`"""

    @property
    def key(self) -> str:
        """Equal for sentences of equal words."""
        return "\0".join(self.words)

    def located(self) -> tuple[str, Sequence[tuple[int, int]]]:
        """The text, and the first character and the end of each word. Given words are joined by spaces, where it is not known that
        there are none, and scripts have them."""
        if self.text is not None:
            return self.text, self.offsets
        usual = [is_unspaced(before[-1]) or is_unspaced(after[0]) for before, after in pairwise(self.words)]
        pairs = [(word, "" if joined else " ") for word, joined in zip(self.words, self.joined or [*usual, False])]
        starts = accumulate((len(word) + len(gap) for word, gap in pairs), initial=0)
        text = "".join(word + gap for word, gap in pairs).removesuffix(" ")
        return text, [(start, start + len(word)) for start, word in zip(starts, self.words)]

    def at(self, label: int) -> str:
        """The location of a label, by the number of its word."""
        return f"{self.where.rpartition(' ')[0]} {self.lines[label]}" if self.lines else self.where


def read_tagged(
    path: str | Path,
    words: str | None = None,
    tags: str | None = None,
    needs_tags: bool = True,
    file_format: str | None = None,
    learned: Columns = Columns(),
    text: str | None = None,
) -> Examples:
    """The sentences of a file (`-`: standard input) in order; or its texts as they are, as `Example`, unless it `needs_tags`.

    `file_format` is by default that of the suffix:

    - conll: one word and its tag per line; blank lines separate sentences. Columns are separated by tabs, or by spaces in
      a line without a tab; `words` and `tags` are their numbers, by default 1 (the first) and -1 (the last).
    - conllu: Universal Dependencies; `words` and `tags` are names of its columns, by default form and upos.
    - jsonl: two lists per line; `words` and `tags` are their names, by default found by usual names. If there are no words,
      a text in the column `text`, by default found by usual names.
    - txt: one text per line if tags are neither needed nor seen, otherwise conll.
    - csv, and any table or JSON lines in which the column `text` is named: texts.

    `learned` are the columns of training, which are found before usual names and numbers. Unless `needs_tags`, tags
    are read if there are any. Raises InputError.
    """
    takes_texts = not needs_tags and words is None and tags is None
    formats = tables.TAGGED_FORMATS | ({".csv": "csv"} if takes_texts else {})
    form = tables.format_of(path, file_format, tables.EXAMPLE_FORMATS if text else formats)
    lines = lines_of(path, exact=takes_texts and form in tables.EXAMPLE_FORMATS.values())
    if form == "txt" and not text:
        form, lines = _plain_or_conll(path, lines, not takes_texts)
        lines = lines if form == "txt" else (line.replace("\r\n", "\n") for line in lines)

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
            rows_of_words = readers.conllu_lines(path, lines)
            sentences = _sentences(path, rows_of_words, *places, needs_tags, tells_spaces=True)
        case "conll":
            words, tags = choose(_NUMBERS, (), ())
            places = _number(path, "words", words or "1"), _number(path, "tags", tags or "-1")
            rows_of_words = readers.conll_lines(_no_table(path, lines, takes_texts))
            sentences = _sentences(path, rows_of_words, *places, needs_tags, guessed=needs_tags and not tags)
        case "jsonl" if not text:
            where, header, rows = json_table(path, lines, '{"words": ["Ann", "left"], "tags": ["B-PER", "O"]}')
            words, tags = choose(header, WORDS, TAGS)
            if takes_texts and not words and (text := usual(PAIRS, header)):
                return Examples(Columns(text), tables.some(path, _texts(rows, text)))
            if header and not (words and (tags or not needs_tags)):
                texts = f", or texts by {option('text')}" * takes_texts
                raise unknown_column(where, "tags" if words else "words", header, texts)
            sentences = _tagged_json(rows, words, tags, needs_tags)
        case _:
            return tables.read_examples(path, text, needs_label=False, file_format=form, lines=lines)
    return Examples(Columns(words=words or None, tags=tags or None), tables.some(path, sentences))


def _sentences(
    path: str | Path,
    lines: Words,
    word: int,
    tag: int,
    needs_tags: bool,
    guessed: bool = False,
    tells_spaces: bool = False,
) -> Iterator[TaggedExample]:
    """Sentences from lines of one word each; `word` and `tag` are indices of columns. A single column holds words,
    and empty columns at the end of the first line hold nothing. Numbers are no tags if the column is `guessed`."""
    words, tags, numbers, joined, width = list[str](), list[str](), list[int](), list[bool](), 0
    for number, cells in chain(lines, [(0, [])]):
        if not cells:
            if words:
                begins = f"{name_of(path)}, line {numbers[0]}"
                if sum(len(word.split()) for word in words) > _MOST_IN_WORD * len(words):
                    raise InputError(f"{begins}: {words[0]!r} is no word; {_FOR_TEXTS}")
                known = tuple(joined) if tells_spaces else ()
                yield TaggedExample(tuple(words), tuple(tags) if all(tags) else None, begins, tuple(numbers), known)
            words, tags, numbers, joined = [], [], [], []
            continue
        while tag == -1 and len(cells) > max(2, width) and not cells[-1].strip():
            cells.pop()
        where, width = f"{name_of(path)}, line {number}", width or len(cells)
        if len(cells) != width:
            raise InputError(f"{where}: {len(cells)} columns, the lines before have {width}; repair this line")
        words.append(_column(where, cells, word, "words"))
        tags.append("" if width == 1 and tag == -1 else _column(where, cells, tag, "tags").strip())
        numbers.append(number)
        joined.append(NO_SPACE in cells[-1].split("|"))
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


def _no_table(path: str | Path, lines: Iterator[str], takes_texts: bool) -> Iterator[str]:
    """The lines. Raises InputError if the first one is the header of a table of texts with labels, or of words with
    tags. If it `takes_texts`, warns of a header with a text."""
    first = next(lines, "")
    cells = {cell.strip().lower() for cell in first.split("\t" if "\t" in first else None)}
    if cells & {*PAIRS, *WORDS, "word", "token"} and cells & {*LABELS, *TAGS, "ner", "pos"}:
        what = _FOR_TEXTS if cells & PAIRS.keys() else "the names of columns, not a word and its tag; remove it"
        raise InputError(f"{name_of(path)}, line 1: {what}")
    if takes_texts and (texts := sorted(cells & PAIRS.keys())):
        what = f"read as words, one per line; if it is a table of texts, name their column: {option('text')} {texts[0]}"
        logger.warning(f"{name_of(path)}, line 1: {what}")
    return chain([first] if first else [], lines)


def _texts(rows: Rows, column: str) -> Iterator[Example]:
    """The texts of a column, unchanged."""
    for where, row in rows:
        yield Example(tables.text_of(where, row, column, True), None, None, where, own_fields(row))


def _tagged_json(rows: Rows, words: str, tags: str, needs_tags: bool) -> Iterator[TaggedExample]:
    """Sentences from lines such as {"words": ["Ann", "left"], "tags": ["B-PER", "O"]}."""
    for where, row in rows:
        of_words, of_tags = _strings(where, row, words), None
        if "" in of_words:
            raise InputError(f"{where}: column {words!r} has an empty word; remove it and its tag")
        with nullcontext() if needs_tags else suppress(InputError):
            of_tags = _json_tags(where, row, tags, of_words) if tags else None
        yield TaggedExample(of_words, of_tags, where, row=own_fields(row))


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
        held = f"column {column!r} holds {tables.kind_of(cell)}, not a list"
        raise InputError(f"{where}: {held}; give one string for each word")
    return tuple(tables.whole(where, column, unify(tables.as_label(where, column, value))) for value in cell)
