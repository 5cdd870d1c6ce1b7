"""Running text → words, split as the words of a tagged file are.

Whitespace always separates words. Whether two neighboring characters of a *run* without whitespace belong to one word is decided by their
context: by up to four characters on each side, or by their *shape*, in which any number of letters is `w` and of digits `0`; the most
exact context that the file has decides. Where it has none, a text is split as by BERT: each punctuation mark and ideograph is a word.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from string import punctuation
from typing import Any
from unicodedata import category

from bert.data.tokenizer import is_unspaced

_EDGE = "\n"  # of a run, in its contexts
_LEVELS = "012345"  # of contexts, the most exact first
_FAR = 12  # characters on each side that a shape is made of
_LONGEST = 10  # characters of a context: its level, four on each side, and a space between them
_ALONE, _ENDS = (
    re.compile("[.,()\\[\\]@#\"'“”‘’…]+"),
    ".,)!?",
)  # marks that running text attaches to words, and to their ends
_SINGLE = 0.95  # share of words of one character in a file that is split into characters
_MOST_CONTEXTS = 1_000_000
_MOST_CACHED = 100_000  # runs

Sentence = tuple[Sequence[str], Sequence[bool]]
"""words, and whether the next one follows each without a space; empty if that is not known"""


class Splitter:
    """Splits text into words.

    >>> learned = Splitter.learn([(["Mr.", "Li", "did", "n't", "go", "."], [False, False, True, False, True, False])])
    >>> text = "Mr. Wu didn't run."
    >>> [text[start:end] for start, end in learned.words(text)]
    ['Mr.', 'Wu', 'did', "n't", 'run', '.']
    """

    def __init__(self, contexts: Mapping[str, bool] = {}) -> None:
        """`contexts`: context → whether it is a boundary of words. Raises ValueError for anything else."""
        entries: Iterable[tuple[Any, Any]] = contexts.items() if isinstance(contexts, dict) else [(None, None)]
        if len(contexts) > _MOST_CONTEXTS or not all(_is_context(*entry) for entry in entries):
            raise ValueError("the contexts of the words are damaged")
        self.contexts = contexts
        self._lengths = lru_cache(_MOST_CACHED)(self._split)

    def words(self, text: str) -> list[tuple[int, int]]:
        """The first character and the end of each word."""
        runs = [(run[0], run.start()) for run in re.finditer(r"\S+", text)]
        split = [self._lengths(run) if len(run) < _FAR * 4 else self._split(run) for run, _ in runs]
        # marks that stand alone, and none at the end of a word: the words are separated already
        if self.contexts and any(_ALONE.fullmatch(run) for run, _ in runs):
            ends = (run[-1] for (run, _), lengths in zip(runs, split) if len(lengths) > 1)
            if not any(end in _ENDS for end in ends):
                return [(start, start + len(run)) for (run, start), lengths in zip(runs, split) if lengths]
        found = []
        for (_, start), lengths in zip(runs, split):
            for length in lengths:
                found.append((start, start + length))
                start += length
        return found

    def _split(self, run: str) -> list[int]:
        """The lengths of the words of a run; none for one of invisible characters."""
        kinds = "".join(map(_kind, run))
        if not kinds.strip("m"):
            return []
        ends = [place for place in range(1, len(run)) if self._is_boundary(run, kinds, place)]
        return [end - start for start, end in zip([0, *ends], [*ends, len(run)])]

    def _is_boundary(self, run: str, kinds: str, place: int) -> bool:
        if self.contexts:
            for context in _contexts(run, kinds, place):
                if (found := self.contexts.get(context)) is not None:
                    return found
        return _is_boundary_by_default(kinds[place - 1], kinds[place])

    @classmethod
    def learn(cls, sentences: Iterable[Sentence]) -> "Splitter":
        """The splitter for text with words like those of these sentences."""
        known = list(sentences)
        words = [len(word) for words, _ in known for word in words]
        alone = sum(length == 1 for length in words) > _SINGLE * len(words)
        runs = Counter(run for words, joined in known for run in _runs(words, joined, alone))
        places = []  # contexts, is it a boundary, would it be one by default, how often
        for (run, ends), count in runs.items():
            kinds = "".join(map(_kind, run))
            for place in range(1, len(run)):
                default = _is_boundary_by_default(kinds[place - 1], kinds[place])
                places.append((list(_contexts(run, kinds, place)), place in ends, default, count))
        varied = {contexts[-1] for contexts, boundary, default, _ in places if boundary != default}
        places = [one for one in places if one[0][-1] in varied]  # hardly ever is there a boundary between two letters
        learned: dict[str, bool] = {}
        decided = [default for _, _, default, _ in places]  # by the levels below
        for level in reversed(range(len(_LEVELS))):
            votes: defaultdict[str, int] = defaultdict(int)
            for contexts, boundary, _, count in places:
                votes[contexts[level]] += count if boundary else -count
            for number, (contexts, *_) in enumerate(places):
                vote = votes[contexts[level]]
                if vote and (vote > 0) != decided[number]:
                    learned[contexts[level]] = vote > 0
            decided = [learned.get(one[0][level], before) for one, before in zip(places, decided)]
        return cls(learned)


def _is_context(context: Any, boundary: Any) -> bool:
    return (
        isinstance(context, str) and len(context) <= _LONGEST and context[:1] in _LEVELS and isinstance(boundary, bool)
    )


def _contexts(run: str, kinds: str, place: int) -> Iterator[str]:
    """The contexts of a place between two characters of a run, the most exact first."""
    begin, end = max(0, place - _FAR), place + _FAR
    left, right = _EDGE * (begin == 0) + run[begin:place], run[place:end] + _EDGE * (end >= len(run))
    before, after = (
        _EDGE * (begin == 0) + _shape(kinds[begin:place]),
        _shape(kinds[place:end]) + _EDGE * (end >= len(run)),
    )
    yield f"0{left[-4:]} {right[:4]}"
    yield f"1{left[-4:]} {after[:3]}"
    yield f"2{before[-3:]} {right[:4]}"
    yield f"3{before[-4:]} {after[:4]}"
    yield f"4{before[-2:]} {after[:2]}"
    yield f"5{before[-1:]} {after[:1]}"


def _runs(words: Sequence[str], joined: Sequence[bool], alone: bool) -> Iterator[tuple[str, frozenset[int]]]:
    """The runs of a sentence and the places in each that are boundaries of words. If spaces are not known, words are joined as
    is usual for punctuation and scripts without spaces, and taken one by one too."""
    if not joined:
        joined = [alone or _is_joined(before[-1], after[0]) for before, after in pairwise(words)]
        yield from ((part, frozenset()) for word in words if not alone for part in word.split())
    run, ends = "", set[int]()
    for word, is_joined in zip(words, [*joined, False]):
        *whole, last = (run + word).split() or [""]
        yield from ((part, frozenset(ends)) for part in whole)
        run, ends = last, set() if whole else ends
        if is_joined:
            ends.add(len(run))
        elif run:
            yield run, frozenset(ends - {len(run)})
            run, ends = "", set()


def _is_joined(before: str, after: str) -> bool:
    """Whether there is usually no space between two words with these characters at their ends."""
    opens, closes = (
        category(before) in ("Ps", "Pi", "Pd"),
        category(after)[0] == "P" and category(after) not in ("Ps", "Pi"),
    )
    unspaced = is_unspaced(before) or is_unspaced(after)
    return unspaced or opens or before in "/$\"'@#" or (closes and after not in "@#&*")


@cache
def _kind(character: str) -> str:
    """What a character counts as in a shape: a punctuation mark as itself."""
    group = category(character)
    if character in punctuation or group[0] == "P":
        return character
    if is_unspaced(character):
        return "ก" if is_unspaced(character, ideographs=False) else "字"
    # combining marks, joiners and control characters belong to what is before them
    return {"L": "w", "N": "0", "M": "m", "C": "m"}.get(group[0], "s")


@lru_cache(_MOST_CACHED)
def _shape(kinds: str) -> str:
    return re.sub("0+", "0", re.sub("w+", "w", kinds))


def _is_boundary_by_default(before: str, after: str) -> bool:
    return after != "m" and not (before in _WHOLE and after in _WHOLE)


_WHOLE = "w0msก"
