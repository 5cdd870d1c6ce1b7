"""Many documents → token ids, for a store: each distinct word is tokenised once, and looked up from then on.

A WordPiece tokenizer as BERT has it cuts a text at blanks and around each punctuation mark and ideograph, and then each of
these words for itself: the ids of a text are the ids of its words one after the other. Running text repeats its words, so a
table of them does nearly all the work; Arrow finds the distinct ones.
"""

import json
from collections.abc import Callable, Sequence
from itertools import count, repeat
from typing import Any

import numpy as np

from bert.data.tokenizer import Tokenizer, encodable

Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
# some of the characters that stand for themselves: those of ASCII and the commonest others
_MARKS = r"!-/:-@\[-`{-~，。、"
_IDEOGRAPHS = "㐀-䶿一-鿿"  # where the normaliser puts blanks around them


def document_encoder(tokenizer: Tokenizer) -> Encode:
    """The fastest function that gives what `tokenizer.encode_documents` gives. It may keep some 100 MB of words."""
    definition = json.loads(tokenizer.backend.to_str())
    if not cuts_words_apart(definition):
        return tokenizer.encode_documents
    normalizer = definition["normalizer"] or {"handle_chinese_chars": False, "lowercase": False}
    alone = _MARKS + _IDEOGRAPHS if normalizer["handle_chinese_chars"] else _MARKS
    return WordTable(tokenizer.encode_documents, alone, normalizer["lowercase"]).encode


def cuts_words_apart(definition: dict[str, Any]) -> bool:
    """Whether no id of a text depends on what stands beyond the next blank, newline or punctuation mark.

    So it is with BERT's normaliser and pre-tokenizer. An added word could hold a blank; special tokens are text here.
    """
    normalizer, pre_tokenizer = definition["normalizer"] or {}, definition["pre_tokenizer"] or {}
    return (
        definition["model"]["type"] == "WordPiece"
        and pre_tokenizer.get("type") == "BertPreTokenizer"
        and normalizer.get("type", "BertNormalizer") == "BertNormalizer"
        and all(entry["special"] for entry in definition["added_tokens"])
    )


class WordTable:
    """The ids of the words that came so far; at most `words` of them with `characters` in all, then it is begun anew."""

    def __init__(
        self, encode: Encode, alone: str, lowercase: bool, words: int = 500_000, characters: int = 8_000_000
    ) -> None:
        """`encode` takes words and returns (values, lengths), as `Tokenizer.encode_documents` does.

        `alone` are the characters, as in the brackets of a regular expression, that are words of their own; `lowercase` says
        that `encode` does not tell A from a.
        """
        self.encode_words, self.alone, self.lowercase = encode, f"([{alone}])", lowercase
        self.words, self.characters = words, characters
        self._forget()

    def _forget(self) -> None:
        self._number: dict[str, int] = {}
        self._starts: np.ndarray = np.zeros(0, np.int64)  # of each word in `_values`
        self._lengths: np.ndarray = np.zeros(0, np.int64)
        self._values: np.ndarray = np.zeros(0, np.uint16)
        self._length = 0  # characters of all words

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Flat ids of all texts, and the number of ids of each (N,) int64."""
        import pyarrow as pa
        import pyarrow.compute as pc

        lines = [text.replace("\n", " ") for text in texts]
        try:
            plain = pa.array(lines, pa.large_string())
        except UnicodeEncodeError:  # a lone surrogate
            plain = pa.array(map(encodable, lines), pa.large_string())
        plain = pc.ascii_lower(plain) if self.lowercase else plain
        words_of = pc.split_pattern(pc.replace_substring_regex(plain, self.alone, r" \1 "), " ")
        words = words_of.flatten().dictionary_encode()
        numbers = self._look_up(words.dictionary.to_pylist())[words.indices.to_numpy()]
        lengths = self._lengths[numbers]  # of each word
        ends = np.cumsum(lengths)
        places = np.repeat(self._starts[numbers] - (ends - lengths), lengths)  # where in the table each id stands
        places += np.arange(len(places))
        values = self._values[places]
        ends_of_texts = np.concatenate(([0], ends))[words_of.offsets.to_numpy()]
        if len(self._number) > self.words or self._length > self.characters:
            self._forget()
        return values, np.diff(ends_of_texts)

    def _look_up(self, words: list[str]) -> np.ndarray:
        """Where in the table each word stands (int64), also those that are new."""
        numbers = np.fromiter(map(self._number.get, words, repeat(-1)), np.int64, len(words))
        new = np.flatnonzero(numbers < 0)
        if len(new) or not len(self._lengths):
            numbers[new] = len(self._number) + np.arange(len(new))
            self._learn([words[place] for place in new.tolist()])
        return numbers

    def _learn(self, new: list[str]) -> None:
        """Put distinct words at the end of the table."""
        values, lengths = self.encode_words(new)
        self._number.update(zip(new, count(len(self._number))))
        self._starts = np.concatenate((self._starts, len(self._values) + np.cumsum(lengths) - lengths))
        self._lengths = np.concatenate((self._lengths, lengths))
        self._values = np.concatenate((self._values, values)) if len(self._values) else values
        self._length += sum(map(len, new))
