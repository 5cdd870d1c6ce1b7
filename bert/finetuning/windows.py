"""Texts and tagged sentences → rows of token ids. What does not fit in a row goes through several: windows that overlap.

A row is `[CLS] pieces [SEP]`, for two texts `[CLS] a [SEP] b [SEP]` (or with two separators between them, where the
tokenizer says so, as RoBERTa's does). The windows of a text are alike in learning and in
prediction: a classifier takes the mean of their scores, a tagger takes each word from the one window where it is
furthest from where the text was cut. Plain Python: no torch.
"""

import dataclasses
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from bert.errors import InputError
from bert.finetuning.config import SEQUENCE_LENGTH, SPECIALS, WindowsConfig
from bert.untrusted import read_json

if TYPE_CHECKING:
    from bert.data.tokenizer import Tokenizer

WINDOWS_FILE = "windows.json"  # in a model folder, beside what Hugging Face knows


@dataclass(frozen=True, slots=True)
class Window:
    """One row of the model."""

    ids: list[int]
    """token ids, special tokens included"""
    token_types: list[int] | None = None
    """of two texts: 0 up to the first [SEP], 1 after it, as the tokenizer has it; none: all 0"""
    words: tuple[int, ...] = ()
    """tagging: the numbers of the words that are decided in this window, ascending"""
    places: tuple[int, ...] = ()
    """tagging: where the first piece of each of them stands in `ids`"""


@dataclass(frozen=True)
class WindowMaker:
    """Makes rows of at most `sequence_length` tokens; windows begin `stride` pieces apart."""

    tokenizer: "Tokenizer"
    sequence_length: int
    stride: int
    token_types: bool
    """whether the model tells the first text of two from the second"""

    def from_texts(self, texts: Sequence[str], pairs: Sequence[str | None]) -> list[list[Window]]:
        """The windows of each text, or of each text with its second one. An empty text is `[CLS] [SEP]`."""
        seconds = [pair for pair in pairs if pair is not None]
        values, lengths = self.tokenizer.encode_documents([*texts, *seconds])
        ends = list(accumulate(lengths.tolist()))
        ids = values.tolist()
        pieces = [ids[end - length : end] for end, length in zip(ends, lengths.tolist())]
        second = iter(pieces[len(texts) :])
        return [
            self._text(of_text) if pair is None else self._pair(of_text, next(second))
            for of_text, pair in zip(pieces, pairs)
        ]

    def from_sentences(self, sentences: Sequence[Sequence[str]]) -> list[list[Window]]:
        """The windows of each sentence, given as words; every word is decided in exactly one."""
        flat = [word for words in sentences for word in words]
        pieces = self.tokenizer.word_tokens(flat)
        ends = list(accumulate((len(words) for words in sentences), initial=0))
        self._shorten(pieces, flat)
        return [self._words(pieces[begin:end]) for begin, end in pairwise(ends)]

    def _shorten(self, pieces: list[list[int]], words: Sequence[str]) -> None:
        """Keep of a word that is longer than a row what fits, and say so."""
        room = self.sequence_length - SPECIALS
        for place, ids in enumerate(pieces):
            if len(ids) > room:
                shown = words[place] if len(words[place]) <= 40 else f"{words[place][:39]}…"
                warnings.warn(
                    f"the word {shown!r} has {len(ids)} pieces, a row holds {room}: the rest of it is not read",
                    stacklevel=3,
                )
                pieces[place] = ids[:room]

    def _text(self, pieces: list[int]) -> list[Window]:
        cls_id, sep_id = self.tokenizer.cls_id, self.tokenizer.sep_id
        cuts = cut(len(pieces), self.sequence_length - SPECIALS, self.stride)
        return [Window([cls_id, *pieces[begin:end], sep_id]) for begin, end in cuts]

    def _pair(self, first: list[int], second: list[int]) -> list[Window]:
        cls_id, sep_id, between = self.tokenizer.cls_id, self.tokenizer.sep_id, self.tokenizer.pair_separators
        room = self.sequence_length - SPECIALS - len(between)
        windows = []
        for (begin_a, end_a), (begin_b, end_b) in cut_pair(len(first), len(second), room, self.stride):
            a, b = [cls_id, *first[begin_a:end_a], *between], [*second[begin_b:end_b], sep_id]
            types = [0] * len(a) + [self.tokenizer.second_type] * len(b)
            windows.append(Window(a + b, types if self.token_types else None))
        return windows

    def _words(self, pieces: list[list[int]]) -> list[Window]:
        room = self.sequence_length - SPECIALS
        lengths = [len(ids) for ids in pieces]
        cuts = cut_words(lengths, room, self.stride)
        decided = decide(lengths, cuts)
        windows = []
        for (begin, end), words in zip(cuts, decided):
            starts = list(accumulate(lengths[begin:end], initial=1))  # after [CLS]
            ids = [self.tokenizer.cls_id, *(i for word in pieces[begin:end] for i in word), self.tokenizer.sep_id]
            windows.append(Window(ids, None, tuple(words), tuple(starts[word - begin] for word in words)))
        return windows


def windows_file(windows: WindowsConfig) -> dict[str, str]:
    """The file of a model folder that keeps how long its rows were, so that prediction cuts texts as learning did: name → text."""
    return {WINDOWS_FILE: json.dumps(dataclasses.asdict(windows)) + "\n"}


def read_windows(folder: Path) -> WindowsConfig:
    """What `windows_file` kept; all open where the model is not from here. InputError where the file is damaged."""
    try:
        return WindowsConfig(**read_json(folder / WINDOWS_FILE))
    except FileNotFoundError:
        return WindowsConfig()
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{folder / WINDOWS_FILE}: not readable ({error}): remove it, and rows are of {SEQUENCE_LENGTH}"
        ) from error


def cut(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(begin, end) of the windows over `length` pieces, at most `room` pieces each, `stride` apart; the last ends with
    the text and is full."""
    if length <= room:
        return [(0, length)]
    begins = [*range(0, length - room, min(stride, room)), length - room]
    return [(begin, begin + room) for begin in begins]


def cut_pair(first: int, second: int, room: int, stride: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The windows over two texts of `first` and `second` pieces: what each takes of either.

    The shorter one stays whole in each window where it takes half of the room at most; otherwise each has its half, and
    the windows move through both at once.
    """
    room_first = min(first, max(room // 2, room - second))
    cuts_first = cut(first, room_first, stride)
    cuts_second = cut(second, min(second, room - room_first), stride)
    count = max(len(cuts_first), len(cuts_second))
    return [
        (cuts_first[number * len(cuts_first) // count], cuts_second[number * len(cuts_second) // count])
        for number in range(count)
    ]


def cut_words(lengths: Sequence[int], room: int, stride: int) -> list[tuple[int, int]]:
    """(first word, end) of the windows over words of `lengths` pieces (each at most `room`), whole words only."""
    offsets = list(accumulate(lengths, initial=0))
    count = len(lengths)
    cuts, begin = [], 0
    while offsets[count] - offsets[begin] > room:
        end = begin
        while offsets[end + 1] - offsets[begin] <= room:
            end += 1
        cuts.append((begin, end))
        following = begin + 1
        while following < end and offsets[following] - offsets[begin] < stride:
            following += 1
        begin = following
    while cuts and begin > 0 and offsets[count] - offsets[begin - 1] <= room:
        begin -= 1  # the last window is as full as the others
    return [*cuts, (begin, count)]


def decide(lengths: Sequence[int], cuts: Sequence[tuple[int, int]]) -> list[list[int]]:
    """For each window the words that are decided in it: those that are nowhere further from a cut.

    The distance of a word is the pieces between it and the nearer end of the window; where the sentence itself begins
    or ends nothing was cut. Of equal windows the first decides.
    """
    offsets = list(accumulate(lengths, initial=0))
    far = offsets[-1] + 1
    best: list[tuple[int, int]] = [(-1, -1)] * len(lengths)  # distance, window
    for number, (begin, end) in enumerate(cuts):
        for word in range(begin, end):
            left = offsets[word] - offsets[begin] if begin > 0 else far
            right = offsets[end] - offsets[word + 1] if end < len(lengths) else far
            if min(left, right) > best[word][0]:
                best[word] = min(left, right), number
    decided: list[list[int]] = [[] for _ in cuts]
    for word, (_, number) in enumerate(best):
        decided[number].append(word)
    return decided
