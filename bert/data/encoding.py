"""The layer between `Tokenizer` and the library `tokenizers`, which is written in Rust: names of special tokens and files, guards
against failures of the library on untrusted input, and a table of words that saves most of its calls.

A WordPiece tokenizer like BERT's splits a text at spaces and around each punctuation mark and ideograph, and then each of
these words by itself: the ids of a text are the ids of its words in order. Running text repeats its words, so each distinct
word is tokenized once and looked up afterwards. Arrow finds the distinct words.
"""

import base64
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, count, product, repeat
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from bert.errors import InputError
from bert.untrusted import read_json

ROLES = ("pad", "unk", "cls", "sep", "mask")
BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_TOKENS = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")

FILES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt")
"""files that hold a tokenizer; the first one in a folder is read"""
ALL_FILES = (*FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

NORMALIZER = {"do_lower_case": "lowercase", "strip_accents": "strip_accents"}
NORMALIZER |= {"tokenize_chinese_chars": "handle_chinese_chars"}
"""keys of tokenizer_config.json, and what tokenizer.json calls the same"""

Item = TypeVar("Item")
Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
"""texts → flat ids of all texts, and the number of ids of each"""

_MOST_EXPANSION = 10_000  # characters that the steps of a tokenizer may make of one
_SURROGATES = re.compile("[\ud800-\udfff]")
# some of the characters that are words by themselves: the most frequent ones, without <, = and >, which a combining mark may follow
_MARKS = r"!-/:;?@\[-`{-~，。、"
LONGEST_WORD = 100  # characters
_LONGEST_PIECE = 100_000  # characters
# joiners and signs that enclose the following digits have a shape
_CONTROLS = r"[[\p{Cc}\p{Cf}\x{FFFD}]&&[^\s\x{200C}\x{200D}\p{Prepended_Concatenation_Mark}]]"
_IDEOGRAPHS = "㐀-䶿一-鿿"  # where the normalizer puts spaces around them


# ── guards ──


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if there is no file. Raises InputError."""
    try:
        content = read_json(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise InputError(f"{file}: not valid JSON ({error}); repair or remove it") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a JSON object; repair or remove it")
    return content


def sentencepieces(folder: Path) -> list[str]:
    """The names of the files of sentencepiece in a folder, such as spiece.model."""
    return sorted(path.name for path in folder.glob("*") if path.suffix in (".model", ".spm"))


def token_name(entry: Any) -> str | None:
    """The text of a special token in a JSON file, which holds it as a string or in an object."""
    name = entry.get("content") if isinstance(entry, dict) else entry
    return name if isinstance(name, str) else None


def is_of_rust(error: BaseException) -> bool:
    """Whether `tokenizers` raised it: a bare Exception, or a panic, which is not an Exception."""
    return type(error) is Exception or type(error).__module__ == "pyo3_runtime"


@contextmanager
def rust_silent() -> Iterator[None]:
    """Nothing reaches standard error, where a panic is printed before it becomes an exception."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def encodable(text: str) -> str:
    """The text without lone surrogates, which no encoding of Unicode can hold."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def steps(waiting: list[Any]) -> Iterator[dict[str, Any]]:
    """These parts of a tokenizer.json and the parts inside them."""
    while waiting:
        if isinstance(step := waiting.pop(), dict):
            waiting += [inner for value in step.values() if isinstance(value, list) for inner in value]
            yield step


def check_expansion(definition: Any) -> None:
    """ValueError if the steps of a tokenizer may make a text many thousand times as long, or if the table of a normalizer claims
    to be larger than it is: its first four bytes are its size."""
    times = 1
    for step in steps([definition.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")]):
        if isinstance(charsmap := step.get("precompiled_charsmap"), str):
            table = base64.b64decode(charsmap)
            if len(table) >= 4 and int.from_bytes(table[:4], "little") > len(table) - 4:
                raise ValueError("its precompiled_charsmap is cut off")
        longest = [len(value) for key in ("content", "prepend") if isinstance(value := step.get(key), str)]
        times *= max([1 + (step.get("type") == "ByteLevel"), *longest])
    if times > _MOST_EXPANSION:
        raise ValueError(f"its steps may make {times:,} characters of one")


def read_definition(file: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json. Raises InputError for a part that this version of `tokenizers` does not know."""
    definition = read_json(file)
    check_expansion(definition)
    try:
        with rust_silent():
            return tokenizers.Tokenizer.from_str(json.dumps(definition, ensure_ascii=False))
    except Exception:
        for kind in (str(step["type"]) for step in steps(list(definition.values())) if "type" in step):
            if not any(hasattr(module, kind) for module in (decoders, models, normalizers, pre_tokenizers, processors)):
                what = f"{kind} is not known to tokenizers {tokenizers.__version__}"
                raise InputError(f"{file}: {what}; a newer one may be needed: pip install -U tokenizers") from None
        raise


# ── the words of the tokenizers that are trained here ──


def word_normalizer(lowercase: bool, strip_accents: bool) -> normalizers.Normalizer:
    """No control characters, composed characters (NFC), optionally in lower case and without accents.

    Unlike BERT's, it keeps what is part of a letter in other scripts: vowel signs and tones, voicing marks, the joiners ZWNJ
    and ZWJ. Like BERT's, it puts spaces around ideographs, without which an added word would not be found next to them.
    """
    words = normalizers.BertNormalizer(clean_text=False, strip_accents=False, lowercase=lowercase)
    return normalizers.Sequence([without_controls(), words, *composed(lowercase, strip_accents)])


def without_controls() -> normalizers.Normalizer:
    """Drops control and format characters that have no shape, but not spaces and joiners."""
    return normalizers.Replace(Regex(_CONTROLS), "")


def composed(lowercase: bool, strip_accents: bool) -> list[normalizers.Normalizer]:
    """The last steps of a normalizer: NFC, for lower-cased text with i for İ, and optionally Latin and Greek letters without
    marks."""
    accents = normalizers.Replace(Regex(r"(?<=[\p{Latin}\p{Greek}])\p{Mn}+"), "")
    steps = [normalizers.NFD(), accents] * strip_accents + [normalizers.NFC()]
    return steps + [normalizers.Replace("i\u0307", "i")] * lowercase


def words_and_ideographs() -> pre_tokenizers.PreTokenizer:
    """Words between spaces; punctuation marks and ideographs by themselves. WordPiece has no token for a word of more than 100
    characters: longer ones, such as sentences of a script without spaces, are split."""
    ideographs = r"\p{Han}\x{20000}-\x{3FFFD}"
    marks = r"\p{P}$+<=>^`|~"  # of BERT
    spaced = r"\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}"  # those around which the normalizer puts spaces: faster
    pattern = rf"[{ideographs}&&[^{spaced}]]|[^\s{marks}{ideographs}]{{{LONGEST_WORD}}}"
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.BertPreTokenizer()])


def definition_of(step: normalizers.Normalizer | pre_tokenizers.PreTokenizer) -> dict[str, Any]:
    """A step of a tokenizer as its JSON file holds it."""
    return dict(json.loads(step.__getstate__()))


# ── many documents ──


def pieces(text: str) -> Iterator[str]:
    """A text in pieces of at most 100,000 characters after the spaces they begin with, each up to a space if there is one:
    `tokenizers` needs a hundred bytes for each character of a text."""
    start = 0
    while len(text) - start > _LONGEST_PIECE:
        piece = text[start : start + _LONGEST_PIECE]
        spaces = len(piece) - len(piece.lstrip())
        piece = text[start : start + spaces + _LONGEST_PIECE]
        piece = piece[: max(piece.rfind(" "), piece.rfind("\n"), 0)].rstrip() or piece
        yield piece
        start += len(piece)
    yield text[start:]


def grouped(items: Iterable[Item], size: Callable[[Item], int], enough: int) -> Iterator[list[Item]]:
    """Consecutive items in lists whose sizes add up to `enough` or more, except for the last one."""
    group, total = list[Item](), 0
    for item in items:
        group.append(item)
        total += size(item)
        if total >= enough:
            yield group
            group, total = [], 0
    if group:
        yield group


def document_encoder(encode: Encode, definition: dict[str, Any]) -> Encode:
    """The fastest function with the results of `encode`, the `encode_documents` of a tokenizer with this definition. It may keep
    about 100 MB of words. Texts of more than 100,000 characters are encoded in pieces."""
    if cuts_words_apart(definition):
        steps = definition["normalizer"] or {"handle_chinese_chars": False, "lowercase": False}
        words = steps["normalizers"][1] if "normalizers" in steps else steps
        alone = _MARKS + _IDEOGRAPHS if words["handle_chinese_chars"] else _MARKS
        encode = WordTable(encode, alone, words["lowercase"]).encode
    return partial(in_pieces, encode)


def in_pieces(encode: Encode, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """`encode` of texts in `pieces`, each of which is encoded once."""
    if max(map(len, texts), default=0) <= _LONGEST_PIECE:
        return encode(texts)
    encoded: dict[str, np.ndarray] = {}  # a text without end may be one word repeated
    for piece in chain.from_iterable(map(pieces, texts)):
        if piece not in encoded:
            encoded[piece] = encode([piece])[0]
    parts = [[encoded[piece] for piece in pieces(text)] for text in texts]
    return np.concatenate(list(chain(*parts))), np.array([sum(map(len, part)) for part in parts], np.int64)


def cuts_words_apart(definition: dict[str, Any]) -> bool:
    """Whether no id of a text depends on what follows the next space, newline or punctuation mark.

    This holds for BERT's normalizer and pre-tokenizer, and for those of `bert.data.vocabulary`. An added word could contain a
    space; special tokens are text here.
    """
    normalizer, pre_tokenizer = definition["normalizer"] or {}, definition["pre_tokenizer"] or {}
    if pre_tokenizer == definition_of(words_and_ideographs()):
        known = normalizer in (definition_of(word_normalizer(*flags)) for flags in product((False, True), repeat=2))
    else:
        known = normalizer.get("type", "BertNormalizer") == "BertNormalizer"
        known = known and pre_tokenizer.get("type") == "BertPreTokenizer"
    added = all(entry["special"] for entry in definition["added_tokens"])
    return definition["model"]["type"] == "WordPiece" and known and added


class WordTable:
    """The ids of the words seen so far; with more than `words` of them, or `characters` in all, it starts empty again."""

    def __init__(
        self, encode: Encode, alone: str, lowercase: bool, words: int = 500_000, characters: int = 8_000_000
    ) -> None:
        """`alone`: the characters that are words by themselves, as in the brackets of a regular expression; `lowercase`:
        `encode` does not tell A from a."""
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
        places = np.repeat(self._starts[numbers] - (ends - lengths), lengths)  # index of each id in `_values`
        places += np.arange(len(places))
        values = self._values[places]
        ends_of_texts = np.concatenate(([0], ends))[words_of.offsets.to_numpy()]
        if len(self._number) > self.words or self._length > self.characters:
            self._forget()
        return values, np.diff(ends_of_texts)

    def _look_up(self, words: list[str]) -> np.ndarray:
        """The index (int64) of each of these distinct words; new ones are added to the end of the table."""
        numbers = np.fromiter(map(self._number.get, words, repeat(-1)), np.int64, len(words))
        places = np.flatnonzero(numbers < 0)
        if len(places) or not len(self._lengths):
            new = [words[place] for place in places.tolist()]
            numbers[places] = len(self._number) + np.arange(len(new))
            values, lengths = self.encode_words(new)
            self._number.update(zip(new, count(len(self._number))))
            self._starts = np.concatenate((self._starts, len(self._values) + np.cumsum(lengths) - lengths))
            self._lengths = np.concatenate((self._lengths, lengths))
            self._values = np.concatenate((self._values, values)) if len(self._values) else values
            self._length += sum(map(len, new))
        return numbers
