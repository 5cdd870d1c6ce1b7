"""Labelled units of a file, for probes: words in their sentences, or whole texts.

.conllu, .conll, JSON lines with lists → words with a column as label, or their heads
.tsv, .csv, JSON lines → texts with a column as label
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert.data.columns import WORDS
from bert.data.examples import read_examples
from bert.data.files import JSONS, parted_suffixes
from bert.data.hub_rows import lines_of
from bert.data.rows import CONLLU, conllu_lines, json_table, there_are, usual
from bert.data.tagged import TaggedExample, read_tagged
from bert.errors import InputError, check_arguments, did_you_mean, option

logger = logging.getLogger(__name__)

CONLL = (".conll", ".bio", ".iob", ".iob2")
HEAD = "head"
LAST_COLUMN = "tag"
_NONE = "_"  # an empty cell of CoNLL-U
_Labelled = tuple[TaggedExample, Sequence[str | None], Sequence[str]]
"""a sentence; of each word the label, if it has one, and the part of speech, `_` if it is not known"""


@dataclass(frozen=True)
class Units:
    """N labelled units: words in their sentences, or whole texts."""

    sentences: tuple[str, ...]
    owners: NDArray[np.int64]
    """(N,): the index of the sentence of each unit; units of a sentence are neighbors"""
    spans: tuple[tuple[int, int], ...] | None
    """the first character of each word in its sentence, and the one after its last; None for whole texts"""
    labels: tuple[str, ...]
    """one for each unit"""
    types: tuple[str, ...]
    """the form of each word, casefolded; the text itself for texts"""
    heads: NDArray[np.int64] | None
    """(N,), with the label `head` alone: the index of the head of each word among the units, -1 for the root"""
    punctuation: NDArray[np.bool_]
    """(N,): whether a word has the part of speech PUNCT or, in files without it, no letter and no digit"""

    def select(self, keep: NDArray[np.bool_]) -> "Units":
        """The units to keep, (N,) bool; of a sentence with heads all, or none."""
        places = np.flatnonzero(keep)
        heads = None if self.heads is None else np.where(self.heads < 0, -1, (np.cumsum(keep) - 1)[self.heads])[places]
        labels, types = ([values[place] for place in places] for values in (self.labels, self.types))
        spans = None if self.spans is None else tuple(self.spans[place] for place in places)
        owners, punctuation = self.owners[places], self.punctuation[places]
        return Units(self.sentences, owners, spans, tuple(labels), tuple(types), heads, punctuation)


def read_units(path: str | Path, label: str, text: str | None = None) -> Units:
    """The labelled words or texts of a file (each format also .gz or .zst), in order.

    - .conllu: words. `label` is the name of a column, such as upos or deprel; one feature, such as `feats=Number`; or `head`, of which
      the tree of each sentence is checked. Words without it (`_`) are left out, for heads whole sentences.
    - .conll, with one word and its tags per line: words. `label` is `tag`, the last column, or the number of a column, 1 first.
    - .jsonl: words if it has a list of them, in `text` or the usual columns, with a list of labels in the column `label`; otherwise texts.
    - .tsv, .csv: texts. `label` is the name of a column, `text` that of the texts, by default the usual one.

    Raises InputError, with file and line, if the file cannot be read so, for an unknown label, which names the nearest one, for a
    single class, and for heads that are not one tree for each sentence.
    """
    check_arguments(read_units, locals())
    suffix, _ = parted_suffixes(path)
    if text is not None and suffix in (".conllu", *CONLL):
        raise InputError(f"{path}: has no column of texts: leave out {option('text')}")
    if suffix in CONLL and label != LAST_COLUMN and not label.isdecimal():
        wanted = f"must be {LAST_COLUMN}, the last column, or the number of a column, from 1"
        raise InputError(f"{path}: {option('label')} is {label!r}; {wanted}")
    lists = _column_of_lists(path, text) if suffix in JSONS else None
    if suffix == ".conllu":
        units = _of_words(path, label, _conllu(path, label))
        if label.lower() == HEAD:
            numbers = np.array(units.labels, np.int64)  # in their sentences, from 1; 0 for the root
            before = np.searchsorted(units.owners, units.owners)
            units = replace(units, heads=np.where(numbers > 0, before + numbers - 1, -1))
    elif suffix in CONLL or lists:
        units = _of_words(path, label, _tagged(path, lists, None if label == LAST_COLUMN and not lists else label))
    else:
        units = _of_texts(path, label, text)
    if units.heads is None and len(classes := {*units.labels}) < 2:
        raise InputError(f"{path}: only one class of {label}, {classes.pop()!r}; give units of two or more")
    return units


def _of_texts(path: str | Path, label: str, text: str | None) -> Units:
    rows = read_examples(path, text=text, label=label)
    texts, labels = zip(*((one.text, one.label) for one in rows))
    if rows.columns.pair is not None:
        logger.warning(f"{path}: column {rows.columns.pair!r} is not read: units are single texts")
    return Units(texts, np.arange(len(texts)), None, labels, texts, None, np.zeros(len(texts), np.bool_))


def _column_of_lists(path: str | Path, text: str | None) -> str | None:
    """The column of JSON lines with lists of words; none if there is no such column."""
    _, header, rows = json_table(path, lines_of(path), '{"words": ["Ann", "left"], "upos": ["PROPN", "VERB"]}')
    column, (_, first) = text or usual(WORDS, header), next(rows, ("", {}))
    return column if column and isinstance(first.get(column), list) else None


def _tagged(path: str | Path, words: str | None, tags: str | None) -> Iterator[_Labelled]:
    return ((one, one.tags, [_NONE] * len(one.words)) for one in read_tagged(path, words, tags))


def _conllu(path: str | Path, label: str) -> Iterator[_Labelled]:
    """The sentences of a CoNLL-U file; the number of the head is the label if that is `head`."""
    column, _, feature = label.partition("=")
    is_head = column.lower() == HEAD
    for sentence, upos, *others in zip(*(read_tagged(path, tags=name) for name in (column, "upos", *["id"] * is_head))):
        cells = [cell if cell != _NONE else None for cell in sentence.tags]
        for ids in others:
            cells = [*_tree(sentence, ids.tags)] if all(cells) else [None] * len(cells)
        yield sentence, [_features(cell).get(feature) for cell in cells] if feature else cells, upos.tags


def _features(cell: str | None) -> dict[str, str]:
    """`Case=Nom|Number=Sing` by name."""
    return {name: value for name, _, value in (part.partition("=") for part in (cell or "").split("|")) if value}


def _tree(sentence: TaggedExample, ids: Sequence[str]) -> list[str]:
    """The number of the head of each word, from 1, 0 for the root. Raises InputError, at its line, for a word that is not in a tree with
    one root."""
    heads = sentence.tags or ()
    known = {"0": 0} | {own: place for place, own in enumerate(ids, start=1)}
    above = np.array([0, *(known.get(head, -1) for head in heads)])
    top = above
    for _ in range(len(heads).bit_length()):  # twice as far up each time
        top = top[top]
    roots = np.cumsum(above == 0) - 1
    for is_wrong, right in (above < 0, "a word, or 0"), (roots > 1, "0 only once"), (top != 0, "outside of a cycle"):
        if is_wrong.any():
            place = int(is_wrong.argmax()) - 1
            raise InputError(f"{sentence.at(place)}: head is {heads[place]}; must be {right}")
    return list(map(str, above[1:]))


def _of_words(path: str | Path, label: str, labelled: Iterable[_Labelled]) -> Units:
    sentences, total = list[str](), 0
    words = list[tuple[Any, ...]]()  # sentence, label, place, form, part of speech
    for sentence, own, upos in labelled:
        text, places = sentence.located()
        cells = zip(own, places, sentence.words, upos)
        here = [(len(sentences), *cell) for cell in cells if cell[0] is not None]
        sentences += [text] * bool(here)
        words += here
        total += len(own)
    if not words:
        raise _no_label(path, label)
    if left := total - len(words):
        logger.info(f"{path}: {left:,} of {total:,} words without {label} are left out")
    owners, labels, spans, forms, of_speech = zip(*words)
    is_known, types = {*of_speech} != {_NONE}, tuple(form.casefold() for form in forms)
    marks = [tag == "PUNCT" if is_known else not any(map(str.isalnum, form)) for form, tag in zip(forms, of_speech)]
    return Units(tuple(sentences), np.array(owners), spans, labels, types, None, np.array(marks))


def _no_label(path: str | Path, label: str) -> InputError:
    """The error of a CoNLL-U file without the label: the features, or the columns, that are there."""
    column, _, feature = label.partition("=")
    if feature and column not in ("feats", "misc"):
        return InputError(f"{path}: {column} has no features: give the name of the column, or feats={feature}")
    rows = [cells for _, cells in conllu_lines(path, lines_of(path)) if cells]
    known = sorted({name for cells in rows for name in _features(cells[CONLLU.index("feats")])})
    if feature and known:
        return InputError(f"{path}: no word has {feature!r}; {there_are(known)}.{did_you_mean(feature, known)}")
    filled = [name for name, cells in zip(CONLLU[1:], [*zip(*rows)][1:]) if {*cells} != {_NONE}]
    return InputError(f"{path}: column {column!r} holds nothing but _; filled are {', '.join(filled)}")
