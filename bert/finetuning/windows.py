"""Texts and tagged sentences → sequences of token ids. Text that does not fit in a sequence is split into overlapping windows.

A sequence is `[CLS] tokens [SEP]`, for two texts `[CLS] a [SEP] b [SEP]` (or with two separators between them, if the tokenizer says so,
as RoBERTa's does). Training and prediction use the same windows: a classifier averages their scores, a tagger labels each word in the
window in which the word is furthest from a cut. Plain Python: no torch.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from bert.data.columns import Columns
from bert.data.encoding import in_pieces
from bert.errors import InputError
from bert.finetuning.config import SEQUENCE_LENGTH, SPECIALS, WindowsConfig

if TYPE_CHECKING:
    from bert.data.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Window:
    """One sequence."""

    ids: list[int]
    """token ids, special tokens included"""
    token_types: list[int] | None = None
    """two texts: 0 up to the first [SEP], and in the second as the tokenizer says; none: all 0"""
    words: tuple[int, ...] = ()
    """tagging: the numbers of the words that are labeled in this window, ascending"""
    starts: tuple[int, ...] = ()
    """tagging: the positions in `ids` of their first tokens"""


@dataclass(frozen=True)
class WindowMaker:
    """Makes sequences of at most `sequence_length` tokens; windows start `stride` tokens apart."""

    tokenizer: "Tokenizer"
    sequence_length: int
    stride: int
    token_types: bool
    """whether the encoder knows the token types of the tokenizer; otherwise those of the second of two texts are 1"""

    def from_texts(self, texts: Sequence[str], pairs: Sequence[str | None]) -> list[list[Window]]:
        """The windows of each text, or pair of texts. An empty text is `[CLS] [SEP]`."""
        seconds = [pair for pair in pairs if pair is not None]
        values, lengths = in_pieces(self.tokenizer.encode_documents, [*texts, *seconds])
        ids = values.tolist()
        tokens = [ids[start:end] for start, end in pairwise(accumulate(lengths.tolist(), initial=0))]
        firsts, second = zip(tokens, pairs), iter(tokens[len(texts) :])
        return [self.from_tokens(ids, None if pair is None else next(second)) for ids, pair in firsts]

    def from_tokens(self, tokens: list[int], second: list[int] | None = None) -> list[Window]:
        """The windows of the tokens of a text, or of a pair of texts; the tokens need not be ids."""
        return self._text(tokens) if second is None else self._pair(tokens, second)

    def from_sentences(self, sentences: Sequence[Sequence[str]]) -> list[list[Window]]:
        """The windows of each sentence, given as words; every word is labeled in exactly one of them."""
        flat = [word for words in sentences for word in words]
        tokens = self.tokenizer.word_tokens(flat)
        self._shorten(tokens, flat)
        ends = accumulate((len(words) for words in sentences), initial=0)
        return [self._words(tokens[begin:end]) for begin, end in pairwise(ends)]

    def _shorten(self, tokens: list[list[int]], words: Sequence[str]) -> None:
        """Truncate words that are longer than a sequence, with a warning."""
        room = self.sequence_length - SPECIALS
        for number, (word, ids) in enumerate(zip(words, tokens)):
            if len(ids) > room:
                shown = word if len(word) <= 40 else f"{word[:39]}…"
                message = f"the word {shown!r} has {len(ids)} tokens and a sequence holds {room}: it is truncated"
                warnings.warn(message, stacklevel=3)
                tokens[number] = ids[:room]

    def _text(self, tokens: list[int]) -> list[Window]:
        cls_id, sep_id = self.tokenizer.cls_id, self.tokenizer.sep_id
        cuts = cut(len(tokens), self.sequence_length - SPECIALS, self.stride)
        return [Window([cls_id, *tokens[begin:end], sep_id]) for begin, end in cuts]

    def _pair(self, first: list[int], second: list[int]) -> list[Window]:
        cls_id, sep_id, between = self.tokenizer.cls_id, self.tokenizer.sep_id, self.tokenizer.pair_separators
        room = self.sequence_length - SPECIALS - len(between)
        windows = []
        for (begin_a, end_a), (begin_b, end_b) in cut_pair(len(first), len(second), room, self.stride):
            a, b = [cls_id, *first[begin_a:end_a], *between], [*second[begin_b:end_b], sep_id]
            types = [0] * len(a) + [self.tokenizer.second_type if self.token_types else 1] * len(b)
            windows.append(Window(a + b, types))
        return windows

    def _words(self, tokens: list[list[int]]) -> list[Window]:
        room = self.sequence_length - SPECIALS
        lengths = [len(ids) for ids in tokens]
        cuts = cut_words(lengths, room, self.stride)
        decided = decide(lengths, cuts)
        windows = []
        for (begin, end), words in zip(cuts, decided):
            starts = list(accumulate(lengths[begin:end], initial=1))  # after [CLS]
            ids = [self.tokenizer.cls_id, *(i for word in tokens[begin:end] for i in word), self.tokenizer.sep_id]
            windows.append(Window(ids, None, tuple(words), tuple(starts[word - begin] for word in words)))
        return windows


@dataclass(frozen=True)
class Settings:
    """What prediction needs besides the weights: the `settings` of a model, which its folder holds in `windows.json`."""

    windows: WindowsConfig = dataclasses.field(default_factory=WindowsConfig)
    """those of training"""
    columns: Columns = dataclasses.field(default_factory=Columns)
    """those of the training file"""
    task: dict[str, Any] = dataclasses.field(default_factory=dict)
    """what the task has learned besides the weights (`Task.settings`)"""
    temperature: float | None = None
    """what the logits were divided by to calibrate them, as a part of the weights; none: they were not calibrated"""

    def written(self) -> dict[str, Any]:
        """As in the file."""
        content = dataclasses.asdict(self)
        return {**content.pop("windows"), **content}

    @classmethod
    def read(cls, content: dict[str, Any], source: str = "settings") -> "Settings":
        """The settings in a file, defaults for what it has not, as that of a model from elsewhere. Raises InputError if they
        are damaged."""
        windows = {name: value for name, value in content.items() if name not in ("columns", "task", "temperature")}
        columns, task, temperature = content.get("columns") or {}, content.get("task", {}), content.get("temperature")
        try:
            if not isinstance(columns, dict) or not isinstance(task, dict):
                raise TypeError("columns and task must be objects")
            if temperature is not None and not 0 < float(temperature) < float("inf"):
                raise ValueError(f"the temperature is {temperature}")
            return cls(WindowsConfig(**windows), Columns(**columns), task, temperature)
        except (ValueError, TypeError, OverflowError) as error:
            fix = f"remove it to use sequences of {SEQUENCE_LENGTH} tokens"
            raise InputError(f"{source}: cannot be read ({error}): {fix}") from error


def cut(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(begin, end) of the windows over `length` tokens, at most `room` tokens each, `stride` apart; the last one is full and ends
    with the text."""
    if length <= room:
        return [(0, length)]
    begins = [*range(0, length - room, min(stride, room)), length - room]
    return [(begin, begin + room) for begin in begins]


def cut_pair(first: int, second: int, room: int, stride: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The windows over two texts of `first` and `second` tokens: the (begin, end) of each text in each window.

    A text that takes at most half of the room is in every window as a whole; otherwise each text gets half, and the windows move
    through both at once.
    """
    room_first = min(first, max(room // 2, room - second))
    firsts, seconds = cut(first, room_first, stride), cut(second, min(second, room - room_first), stride)
    count = max(len(firsts), len(seconds))
    return [(firsts[n * len(firsts) // count], seconds[n * len(seconds) // count]) for n in range(count)]


def cut_words(lengths: Sequence[int], room: int, stride: int) -> list[tuple[int, int]]:
    """(first word, end) of the windows over words of `lengths` tokens (at most `room` each); no word is split."""
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
        begin -= 1  # fill the last window
    return [*cuts, (begin, count)]


def decide(lengths: Sequence[int], cuts: Sequence[tuple[int, int]]) -> list[list[int]]:
    """For each window the words that are labeled in it: those that are further from a cut than in any other window.

    The distance of a word is the number of tokens between it and the nearer cut; the beginning and the end of the sentence are not
    cuts. The first of equal windows wins.
    """
    offsets = list(accumulate(lengths, initial=0))
    far = offsets[-1] + 1
    best, chosen = [-1] * len(lengths), [0] * len(lengths)  # distance and window of each word
    for number, (begin, end) in enumerate(cuts):
        for word in range(begin, end):
            left = offsets[word] - offsets[begin] if begin > 0 else far
            right = offsets[end] - offsets[word + 1] if end < len(lengths) else far
            if min(left, right) > best[word]:
                best[word], chosen[word] = min(left, right), number
    decided: list[list[int]] = [[] for _ in cuts]
    for word, number in enumerate(chosen):
        decided[number].append(word)
    return decided
