"""Tags that mark spans: their schemes, the spans that they mark, and the best sequence of tags that is legal in a scheme."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

Scheme = Literal["IOB1", "IOB2", "IOBES", "BILOU"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

_SPAN_TAG = re.compile("[BIESLUMW]([-_].+)?")  # also of BILOU, BMES and BMEWO
_TO_IOBES = {"L": "E", "U": "S", "M": "I", "W": "S"}


class Span(NamedTuple):
    """A type, and the words from `start` to before `end` that have it."""

    type: str
    start: int
    end: int


def scheme_of(sentences: Iterable[Sequence[str]]) -> Scheme | None:
    """The scheme of the tags of many sentences; none if they are not span tags, such as parts of speech.

    IOB1 opens a span with I, or with B right after another span of its type; IOB2 opens every span with B. BMES and
    BMEWO are IOBES with other letters.
    """
    neighbors = {pair for tags in sentences for pair in pairwise(["O", *tags])}
    if not all(tag == "O" or marks_span(tag) for _, tag in neighbors):
        return None
    prefixes = {tag[0] for _, tag in neighbors}
    opening = {tag[0] for before, tag in neighbors if (before[2:] or before == "O") != (tag[2:] or tag == "O")}
    if prefixes & {"L", "U"}:
        return "BILOU"
    if prefixes & set("ESMW"):
        return "IOBES"
    return None if prefixes <= {"O"} else "IOB1" if "I" in opening and "B" not in opening else "IOB2"


def spans(tags: Sequence[str], scheme: Scheme | None = None) -> list[Span]:
    """The spans of a sentence in order: the well-formed ones of a scheme, or, without a scheme, those that conlleval finds.

    In conlleval a span begins at B, and at I if no span of its type is open. As in seqeval, this is extended to E and S (in BILOU L and
    U), which end a span, and to the letters of BMES and BMEWO. Raises ValueError for a tag that is neither O nor like
    B-PER.
    """
    ends_marked = scheme in ("IOBES", "BILOU")
    found: list[Span] = []
    start, (before, type_before) = -1, ("O", "")
    known = {tag: parts(tag) for tag in {*tags, "O"}}
    for index, (prefix, type_) in enumerate(map(known.__getitem__, [*tags, "O"])):
        same = type_ == type_before
        if scheme is None:
            opens = prefix != "O" and (prefix in "BS" or before in "OES" or not same)
            continues, whole = prefix != "O" and not opens, True
        else:
            continues = start >= 0 and same and prefix in ("IE" if ends_marked else "I") and before not in "ES"
            whole = not ends_marked or before in "ES"
            if scheme == "IOB1":
                opens = not continues and (prefix == "I" or (prefix == "B" and same))
            else:
                opens = not continues and prefix in ("BS" if ends_marked else "B")
        if start >= 0 and not continues:
            if whole:
                found.append(Span(type_before, start, index))
            start = -1
        start = index if opens else start
        before, type_before = prefix, type_
    return found


def marks_span(tag: str) -> bool:
    """Whether a tag is a prefix and a type, as B-PER or B_PER, or a prefix alone."""
    return _SPAN_TAG.fullmatch(tag) is not None


def span_tags(labels: Sequence[str]) -> list[str]:
    """The labels with O in place of those that mark no span; empty if these are more than the others. Prefixes
    without a type, B and I, mark spans where no label has one with a type."""
    alone = "B" in labels and not any(map(marks_span, set(labels) - set("BIESLUMW")))
    tags = [label if marks_span(label) and (alone or len(label) > 1) else "O" for label in labels]
    strays = sum(tag != label for tag, label in zip(tags, labels))
    return tags if len(labels) - tags.count("O") >= max(1, strays) else []


def parts(tag: str) -> tuple[str, str]:
    """The prefix and type of a tag, with the letters of other schemes mapped to IOBES. A type may contain hyphens."""
    if tag != "O" and not marks_span(tag):
        raise ValueError(f"tag {tag!r} is neither O nor a prefix and a type as in B-PER")
    return ("O", "") if tag == "O" else (_TO_IOBES.get(tag[0], tag[0]), tag[2:] or "_")


class Transitions:
    """Which tag may follow which in a scheme. A sentence begins and ends as if there were an O around it.

    >>> legal = Transitions(("O", "B-PER", "I-PER"), "IOB2")
    >>> legal.table.tolist()  # from O, from B-PER, from I-PER
    [[True, True, False], [True, True, True], [True, True, True]]
    >>> scores = np.array([[0.0, 0.2, 0.3], [0.0, 0.1, 0.9]])
    >>> scores.argmax(1).tolist(), legal.best(scores).tolist()
    ([2, 2], [1, 2])
    """

    def __init__(self, tags: Sequence[str], scheme: Scheme) -> None:
        """`tags`: those of the columns of the scores, O for one that marks no span. Raises ValueError as `spans` does."""
        around = [*map(parts, tags), parts("O")]
        self._table = np.array([[_may_follow(before, after, scheme) for after in around] for before in around])
        self.table = self._table[:-1, :-1]
        """(C, C) bool: from the tag of a row to the tag of a column"""
        self.start = self._table[-1, :-1]
        """(C,) bool: the tags that a sentence may begin with"""
        self.end = self._table[:-1, -1]
        """(C,) bool: the tags that a sentence may end with"""

    def written(self) -> dict[str, Any]:
        """As tables of 0 and 1 for JSON."""
        tables = {"start": self.start, "next": self.table, "end": self.end}
        return {name: table.astype(int).tolist() for name, table in tables.items()}

    def illegal(self, classes: np.ndarray, sizes: Sequence[int]) -> list[int]:
        """The numbers of the sentences, of `sizes` words each, whose tags (N,) are not legal."""
        around = len(self.start)
        padded = np.insert(classes, np.cumsum([0, *sizes]), around)
        sentence = (padded == around).cumsum() - 1
        return np.unique(sentence[:-1][~self._table[padded[:-1], padded[1:]]]).tolist()

    def best(self, scores: np.ndarray) -> np.ndarray:
        """(T,): the legal tags whose scores (T, C) have the largest sum (Viterbi 1967); the best ones of all if none are legal,
        as where the tags of a scheme are not complete."""
        cost = np.where(self.table, 0.0, -np.inf)
        total = np.where(self.start, scores[0], -np.inf)  # (C,): of the best tags up to a word, by its tag
        origins = np.zeros(scores.shape, np.int16)
        for place in range(1, len(scores)):
            reached = total[:, None] + cost
            origins[place] = reached.argmax(0)
            total = reached.max(0) + scores[place]
        total = np.where(self.end, total, -np.inf)
        if total.max() == -np.inf:
            return scores.argmax(1)
        found = [int(total.argmax())]
        for origin in origins[:0:-1]:
            found.append(int(origin[found[-1]]))
        return np.array(found[::-1])


def _may_follow(before: tuple[str, str], after: tuple[str, str], scheme: Scheme) -> bool:
    """Whether a tag may follow another, both as prefix and type; O stands for the ends of a sentence too."""
    continues = before[0] in "BI" and before[1] == after[1]
    match scheme:
        case "IOB2":
            return after[0] != "I" or continues
        case "IOB1":
            return after[0] != "B" or continues
        case _:
            return continues if after[0] in "IE" else before[0] not in "BI"
