"""Many documents → token ids, for a store: each distinct word is tokenised once, and looked up from then on.

A WordPiece tokenizer as BERT has it cuts a text at blanks first and then each word for itself, so the ids of a text are
the ids of its words one after the other. Running text repeats its words: a table of them does nearly all the work.
"""

import json
from collections.abc import Callable, Sequence
from itertools import chain, count, repeat

import numpy as np

from bert.text.tokenizer import Tokenizer

Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


def document_encoder(tokenizer: Tokenizer) -> Encode:
    """The fastest function that gives what `tokenizer.encode_documents` gives. It may keep some 100 MB of words."""
    return WordTable(tokenizer.encode_documents).encode if cuts_at_blanks(tokenizer) else tokenizer.encode_documents


def cuts_at_blanks(tokenizer: Tokenizer) -> bool:
    """Whether no id of a text depends on what stands beyond the next blank or newline.

    So it is with BERT's normaliser and pre-tokenizer. An added word could hold a blank; special tokens are text here.
    """
    definition = json.loads(tokenizer.backend.to_str())
    normalizer, pre_tokenizer = definition["normalizer"] or {}, definition["pre_tokenizer"] or {}
    return (
        definition["model"]["type"] == "WordPiece"
        and pre_tokenizer.get("type") == "BertPreTokenizer"
        and normalizer.get("type", "BertNormalizer") == "BertNormalizer"
        and all(entry["special"] for entry in definition["added_tokens"])
    )


class WordTable:
    """The ids of the words that came so far; at most `words` of them with `characters` in all, then it is begun anew.

    Where a "word" is a whole paragraph, as in Chinese, nothing is gained and next to nothing lost.
    """

    def __init__(self, encode: Encode, words: int = 500_000, characters: int = 8_000_000) -> None:
        """`encode` takes words and returns (values, lengths), as `Tokenizer.encode_documents` does."""
        self.encode_words, self.words, self.characters = encode, words, characters
        self._forget()

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Flat ids of all texts, and the number of ids of each (N,) int64."""
        words_of = [text.replace("\n", " ").split(" ") for text in texts]  # one at least, "", which has no ids
        words = list(chain.from_iterable(words_of))
        numbers = np.fromiter(map(self._number.get, words, repeat(-1)), np.int64, len(words))
        unknown = np.flatnonzero(numbers < 0).tolist()
        if unknown or not len(self._lengths):
            self._learn(list(dict.fromkeys(words[place] for place in unknown)))
            numbers[unknown] = [self._number[words[place]] for place in unknown]
        lengths = self._lengths[numbers]  # of each word
        ends = np.cumsum(lengths)
        places = np.repeat(self._starts[numbers] - (ends - lengths), lengths)  # where in the table each id stands
        places += np.arange(len(places))
        values = self._values[places]
        per_text = np.fromiter(map(len, words_of), np.int64, len(texts))
        ends_of_texts = np.concatenate(([0], ends))[np.cumsum(per_text)]
        if len(self._number) > self.words or self._length > self.characters:
            self._forget()
        return values, np.diff(ends_of_texts, prepend=0)

    def _learn(self, new: list[str]) -> None:
        """Put words at the end of the table."""
        values, lengths = self.encode_words(new)
        self._number.update(zip(new, count(len(self._number))))
        self._starts = np.concatenate((self._starts, len(self._values) + np.cumsum(lengths) - lengths))
        self._lengths = np.concatenate((self._lengths, lengths))
        self._values = np.concatenate((self._values, values)) if len(self._values) else values
        self._length += sum(map(len, new))

    def _forget(self) -> None:
        self._number: dict[str, int] = {}
        self._starts, self._lengths = np.zeros(0, np.int64), np.zeros(0, np.int64)  # of each word in `_values`
        self._values = np.zeros(0, np.uint16)
        self._length = 0  # characters of all words
