"""Test texts that stand in the training examples too, exactly or nearly.

Two texts are nearly equal if the cosine of the sets of their character 5-grams, |A ∩ B| / √(|A| · |B|), reaches a threshold. Sets of
n-grams need no spaces between words, and are hashed: memory does not grow with the training texts.
"""

from collections.abc import Sequence
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

_PAIRS_AT_ONCE = 2_000_000


class Copy(NamedTuple):
    """A test text that stands in the training examples: the number of its example, that of the most similar training example (the
    first of several), and their similarity, which is 1 only if the texts are equal (`normal_form`)."""

    test: int
    train: int
    similarity: float


def normal_form(text: str) -> str:
    """The text after NFKC and case folding, with single spaces: equal for texts that differ in nothing else."""
    # JSON may hold half of a surrogate pair, which cannot be encoded
    return " ".join(normalize("NFKC", text.encode(errors="replace").decode()).casefold().split())


def copies(train: Sequence[str], test: Sequence[str], least: float = 0.8) -> list[Copy]:
    """The test texts that are equal, or similar by at least `least`, to a training text; each with the most similar one."""
    learned, asked = [normal_form(text) for text in train], [normal_form(text) for text in test]
    first = {text: number for number, text in reversed([*enumerate(learned)])}
    likeness, nearest = _nearest(learned, asked)
    near = zip(nearest.tolist(), likeness.clip(max=0.999).tolist())  # also if the sets of n-grams are equal
    best = [(first[text], 1.0) if text in first else other for text, other in zip(asked, near)]
    return [Copy(number, *one) for number, one in enumerate(best) if one[1] >= least]


def _nearest(learned: Sequence[str], asked: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(similarity, number) of the most similar text of `learned`, for each of `asked`; 0 where none shares an n-gram."""
    vectors = HashingVectorizer(analyzer="char", ngram_range=(5, 5), lowercase=False, binary=True, alternate_sign=False)
    columns, step = vectors.transform([*asked, ""]).T.tocsr(), max(1, _PAIRS_AT_ONCE // (len(asked) + 1))
    likeness, nearest = np.zeros(len(asked) + 1), np.zeros(len(asked) + 1, int)  # also of the empty text
    for begin in range(0, len(learned), step):
        products = (vectors.transform(learned[begin : begin + step]) @ columns).toarray()  # (part, asked + 1)
        nearest = np.where(products.max(0) > likeness, begin + products.argmax(0), nearest)
        likeness = np.maximum(likeness, products.max(0))
    return likeness[:-1], nearest[:-1]
