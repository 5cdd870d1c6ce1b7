"""Running text → words, split as the words of a tagged file are.

Whitespace always separates words. Whether two neighboring characters of a *run* without whitespace belong to one word is decided by their
context: by up to four characters on each side, or by their *shape*, in which any number of letters is `w` and of digits `0`; the most
exact context that the file has decides. Where it has none, a text is split as by BERT: each punctuation mark and ideograph is a word.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import accumulate, chain, pairwise
from string import punctuation
from unicodedata import category

from bert.data.encoding import pieces
from bert.data.tokenizer import is_unspaced

_LEVELS = "012345"  # of contexts, the most exact first
_FAR = 12  # characters on each side that a shape is made of
_CONTEXT = re.compile("[0-5].{1,4} .{1,4}", re.DOTALL)  # its level, and the characters on each side
_ATTACHED = re.compile("[.,()\\[\\]@#\"'“”‘’]")  # a mark that running text attaches to a word
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

    def __init__(self, contexts: Mapping[str, bool] = {}, separated: bool = False) -> None:
        """`contexts`: context → whether it is a boundary of words; `separated`: whether a text with marks that stand alone
        consists of separated words. Raises ValueError for anything else."""
        entries = [*contexts.items()] if isinstance(contexts, dict) else [(None, None)]
        known = (_CONTEXT.fullmatch(str(key)) and type(key) is str and type(value) is bool for key, value in entries)
        if len(entries) > _MOST_CONTEXTS or not all(known):
            raise ValueError("the contexts of the words are damaged")
        self.contexts, self.separated = contexts, separated
        self._lengths = lru_cache(_MOST_CACHED)(self._split)

    def words(self, text: str) -> list[tuple[int, int]]:
        """The first character and the end of each word."""
        parts = list(pieces(text))  # of a long text
        starts = accumulate(map(len, parts), initial=0)
        return [(begin + start, begin + end) for begin, part in zip(starts, parts) for start, end in self._words(part)]

    def _words(self, text: str) -> Iterator[tuple[int, int]]:
        runs = [(run[0], run.start()) for run in re.finditer(r"\S+", text)]
        split = [self._lengths(run) if len(run) < _FAR * 4 else self._split(run) for run, _ in runs]
        # such marks alone, and none at the end of a word: the words are separated already
        ends = (run[-1] for (run, _), lengths in zip(runs, split) if len(lengths) > 1)
        if self.separated and any(_ATTACHED.fullmatch(run) for run, _ in runs) and not any(map(".,)!?".count, ends)):
            split = [[len(run)] if lengths else [] for (run, _), lengths in zip(runs, split)]
        starts = (pairwise(accumulate(lengths, initial=start)) for (_, start), lengths in zip(runs, split))
        return chain(*starts)

    def _split(self, run: str) -> list[int]:
        """The lengths of the words of a run; none for one of invisible characters."""
        text, kinds = _padded(run)
        if not kinds.strip("m\n"):
            return []
        ends = [place - 1 for place in range(2, len(text) - 1) if self._is_boundary(text, kinds, place)]
        return [end - start for start, end in zip([0, *ends], [*ends, len(run)])]

    def _is_boundary(self, text: str, kinds: str, place: int) -> bool:
        for context in _contexts(text, kinds, place) if self.contexts else ():
            if (found := self.contexts.get(context)) is not None:
                return found
        return _is_boundary_by_default(kinds, place)

    @classmethod
    def learn(cls, sentences: Iterable[Sentence]) -> "Splitter":
        """The splitter for text with words like those of these sentences."""
        sentences = list(sentences)
        lengths = [len(word) for words, _ in sentences for word in words]
        single = lengths.count(1) > _SINGLE * len(lengths)
        runs = Counter(run for words, joined in sentences for run in _runs(words, joined, single))
        split = [(*_padded("".join(run)), {*accumulate(map(len, run), initial=1)}, n) for run, n in runs.items()]
        places = [(one, place) for one in split for place in range(2, len(one[0]) - 1)]
        # hardly ever is there a boundary between two letters: most places tell nothing
        unusual = {kinds[place - 1 : place + 1] for (_, kinds, ends, _), place in places
                   if (place in ends) != _is_boundary_by_default(kinds, place)}  # fmt: skip
        cases = [(list(_contexts(text, kinds, place)), n if place in ends else -n, _is_boundary_by_default(kinds, place))
                 for (text, kinds, ends, n), place in places if kinds[place - 1 : place + 1] in unusual]  # fmt: skip
        learned: dict[str, bool] = {}
        decided = [by_default for _, _, by_default in cases]  # by the levels below
        for level in reversed(range(len(_LEVELS))):
            votes: defaultdict[str, int] = defaultdict(int)
            for contexts, count, _ in cases:
                votes[contexts[level]] += count
            for (contexts, *_), before in zip(cases, decided):
                if (vote := votes[contexts[level]]) and (vote > 0) != before:
                    learned[contexts[level]] = vote > 0
            decided = [learned.get(contexts[level], before) for (contexts, *_), before in zip(cases, decided)]
        return cls(learned, separated=not any(any(joined) for _, joined in sentences))


def _padded(run: str) -> tuple[str, str]:
    """A run and the kinds of its characters, with an edge around both."""
    return f"\n{run}\n", "".join(map(_kind, f"\n{run}\n"))


def _contexts(text: str, kinds: str, place: int) -> Iterator[str]:
    """The contexts of a place between two characters of a run, the most exact first."""
    left, right = text[max(0, place - 4) : place], text[place : place + 4]
    before, after = _shape(kinds[max(0, place - _FAR) : place]), _shape(kinds[place : place + _FAR])
    yield f"0{left} {right}"
    yield f"1{left} {after[:3]}"
    yield f"2{before[-3:]} {right}"
    yield f"3{before[-4:]} {after[:4]}"
    yield f"4{before[-2:]} {after[:2]}"
    yield f"5{before[-1:]} {after[:1]}"


def _runs(words: Sequence[str], joined: Sequence[bool], single: bool) -> Iterator[tuple[str, ...]]:
    """The words of each run of a sentence. If spaces are not known, words are joined as is usual for punctuation and scripts
    without spaces, and taken one by one too."""
    if not joined:
        joined = [single or _is_joined(before[-1], after[0]) for before, after in pairwise(words)]
        yield from ((part,) for word in words if not single for part in word.split())
    text = "".join(word + ("\0" if is_joined else " ") for word, is_joined in zip(words, [*joined, False]))
    yield from (tuple(filter(None, run.split("\0"))) for run in text.split())


def _is_joined(before: str, after: str) -> bool:
    """Whether there is usually no space between two words with these characters at their ends."""
    opens = category(before) in ("Ps", "Pi", "Pd") or before in "/$\"'@#"
    closes = category(after) in ("Pe", "Pf", "Pd", "Pc", "Po") and after not in "@#&*"
    return opens or closes or is_unspaced(before) or is_unspaced(after)


@cache
def _kind(character: str) -> str:
    """What a character counts as in a shape: a punctuation mark as itself."""
    group = category(character)
    if character in punctuation or character == "\n" or group[0] == "P":
        return character
    if is_unspaced(character):
        return "ก" if is_unspaced(character, ideographs=False) else "字"
    return {"L": "w", "N": "0", "M": "m", "C": "m"}.get(group[0], "s")


@lru_cache(_MOST_CACHED)
def _shape(kinds: str) -> str:
    return re.sub("0+", "0", re.sub("w+", "w", kinds))


def _is_boundary_by_default(kinds: str, place: int) -> bool:
    """As BERT splits words; combining marks, joiners and control characters belong to what is before them."""
    return kinds[place] != "m" and not (kinds[place - 1] in _WHOLE and kinds[place] in _WHOLE)


_WHOLE = "w0msก"  # kinds of characters that do not stand alone
