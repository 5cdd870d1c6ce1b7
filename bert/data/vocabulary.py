"""Making tokenizers: training one on a sample of a corpus, and adding words to one.

Training gives the same bytes for the same documents in any process. Adding words does not change the ids of other text: a new
entry of a WordPiece vocabulary would, since the longest entry at the beginning of a word is matched first (with `covid`,
`covidiot` is no longer `co ##vid ##iot`). So a word becomes an added token of `tokenizers`, which is found in the normalized text
without letters or digits next to it; its id follows the old ones.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from bert.data import encoding
from bert.data.corpus import find_corpus
from bert.data.files import read_lines
from bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer, is_unspaced, post_processor
from bert.errors import InputError, did_you_mean, option
from bert.files import completed, owned
from bert.signals import interruptible

logger = logging.getLogger(__name__)

KINDS = ("wordpiece", "bpe", "unigram")
# half a minute on two cores for 8,192 entries; unigram takes ten times as long, longer on Chinese
SAMPLE_CHARACTERS = {"wordpiece": 100_000_000, "bpe": 100_000_000, "unigram": 5_000_000}
_MULTIPLE = 64  # the output matrix is fastest with a multiple of 64 rows
VOCAB_SIZE = 8192
_MOST_UNSPACED = 1 / 3  # of the letters; Japanese has more kana than that
_CODE_POINTS = 0x110000
Train = Callable[[list[str], int, bool, bool], dict[str, Any]]
"""texts, vocabulary size, whether to lower-case and to strip accents → the definition of a tokenizer"""
_THREE_BYTES = "[ä-é].."  # of an ideograph, as a byte-level vocabulary spells them
_PAIRS: dict[str, Any] = {"min_frequency": 2, "show_progress": False}  # of merges
_LONGEST_WORD = 1000  # characters; in byte-level vocabularies bytes
# at four bytes per character; words end at these spaces
_LONG = re.compile(rf"[^ \t\n\r]{{{_LONGEST_WORD // 4}}}").search


def train_tokenizer(
    documents: Iterable[str],
    kind: str = "auto",
    vocab_size: int | None = None,
    sample_characters: int | None = None,
    lowercase: bool | None = None,
    strip_accents: bool = False,
    ideographs: bool = False,
) -> Tokenizer:
    """Train a tokenizer with at most `vocab_size` entries, filled up to a multiple of 64 with `[unusedN]` entries.

    The default size is 8,192, or less if a small corpus supports less.

    `wordpiece`: BERT's words, each ideograph by itself. `bpe`: byte-level; with `ideographs` each of them by itself. `unigram`: for text
    without spaces between words (Kudo 2018). `auto`: unigram if a third of the letters belong to a script without spaces (Thai, Lao,
    Khmer, Burmese, kana), otherwise wordpiece. Text is composed (NFC), except for bpe without control characters; `auto` and `wordpiece`
    lower-case it unless `lowercase` is false. Accents and other marks are kept; `strip_accents` drops those of Latin and Greek letters.
    Trained on at most `sample_characters` characters (by default 100 million, 5 million for unigram), spread evenly over the documents.
    [PAD] [UNK] [CLS] [SEP] [MASK] are 0 to 4.

    Raises InputError for an unknown kind, and for a size that is too small for the alphabet or too large for the corpus.
    """
    if kind not in (known := ("auto", *KINDS)):
        raise InputError(f"kind {kind!r} is not known: use one of {', '.join(known)}.{did_you_mean(kind, known)}")
    size = VOCAB_SIZE if vocab_size is None else vocab_size
    for name, value in (("vocabulary size", size), ("sample of characters", sample_characters)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: must be positive")
    most = max(SAMPLE_CHARACTERS.values()) if kind == "auto" else SAMPLE_CHARACTERS[kind]
    sample = sample_documents(documents, sample_characters or most)
    if not sample:
        raise InputError("the corpus holds no text; give files with at least a few documents")
    lowercase = kind in ("auto", "wordpiece") if lowercase is None else lowercase
    if (unspaced := _share_without_spaces(sample)) > _MOST_UNSPACED and kind != "unigram":
        what = f"{unspaced:.0%} of the letters belong to scripts without spaces between words"
        if kind == "auto":
            logger.info(f"{what}: a unigram tokenizer is trained")
            kind, sample = "unigram", sample_documents(sample, sample_characters or SAMPLE_CHARACTERS["unigram"])
        else:
            logger.warning(f"{what}, which the kind unigram finds and {kind} does not")
    ways: dict[str, Train] = {"bpe": partial(_train_bpe, ideographs=ideographs), "unigram": _train_unigram}
    train = ways.get(kind, _train_wordpiece)
    pieces = [piece for document in sample for piece in encoding.pieces(document)]
    definition = train(pieces, size, lowercase, strip_accents)
    if vocab_size is None:
        size = min(size, len(definition["model"]["vocab"]))
    return Tokenizer(_finish(definition, size))


def make_tokenizer(
    corpus: Sequence[str | Path] | str | Path,
    out: str | Path,
    kind: str = "auto",
    vocab_size: int | None = None,
    layout: str = "auto",
    text_field: str = "text",
    exclude: Sequence[str] = (),
    sample_characters: int | None = None,
    lowercase: bool | None = None,
    strip_accents: bool = False,
    overwrite: bool = False,
) -> Tokenizer:
    """Train a tokenizer on a corpus, without what the patterns `exclude` match, and save it to the folder `out`.

    Raises InputError if the corpus or the sizes cannot be used, and if `out` holds a tokenizer already.
    """
    out = Path(out).expanduser()
    started = time.monotonic()
    found = find_corpus(corpus, layout, text_field, exclude, out)
    seen = [0, 0]  # documents, characters

    def counted() -> Iterable[str]:
        for document in found.documents(notes=logger.info):
            seen[0] += 1
            seen[1] += len(document)
            yield document

    with owned(out):
        if (completed(out) / "tokenizer.json").exists() and not overwrite:
            fix = f"give another {option('out')}, or {option('overwrite')}"
            raise InputError(f"{out}: already holds a tokenizer; {fix}")
        tokenizer = train_tokenizer(counted(), kind, vocab_size, sample_characters, lowercase, strip_accents)
        tokenizer.save(out)
    used = min(seen[1], sample_characters or SAMPLE_CHARACTERS[tokenizer.kind])
    what = f"{tokenizer.kind} tokenizer of {tokenizer.vocab_size:,} entries ({len(tokenizer.unused_ids)} unused), trained on"
    text = f"{used / 1e6:,.1f} of {seen[1] / 1e6:,.1f} million characters ({seen[0]:,} documents)"
    logger.info(f"{out}: {what} {text} in {time.monotonic() - started:.0f} s")
    return tokenizer


def _share_without_spaces(sample: list[str]) -> float:
    """The share of the letters and signs in scripts without spaces between words, ideographs aside, in up to 2,000 documents."""
    letters = Counter("".join(document[:1000] for document in sample[:: 1 + len(sample) // 2000]))
    counts = {letter: count for letter, count in letters.items() if unicodedata.category(letter)[0] in "LM"}
    unspaced = sum(count for letter, count in counts.items() if is_unspaced(letter, ideographs=False))
    return unspaced / max(1, sum(counts.values()))


def sample_documents(documents: Iterable[str], sample_characters: int) -> list[str]:
    """At most `sample_characters` characters of whole documents, those with the lowest hashes, in order.

    The hash spreads them over a corpus of any length, and makes the choice the same in any process. A document longer than
    the sample is truncated.
    """
    kept: list[tuple[int, int, str]] = []  # a heap with the highest hash first
    characters = 0
    for place, document in enumerate(documents):
        document = document[:sample_characters].encode("utf-8", "replace").decode()
        rank = int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest(), "big")
        heapq.heappush(kept, (-rank, place, document))
        characters += len(document)
        while characters > sample_characters and len(kept) > 1:
            characters -= len(heapq.heappop(kept)[2])
    return [document for _, document in sorted((place, document) for _, place, document in kept)]


def read_words(file: str | Path) -> list[str]:
    """The words of a file with one word per line, each once, in order. Raises InputError if it holds none, or a line with a
    space inside."""
    words: dict[str, None] = {}
    for number, line in enumerate(read_lines(Path(file).expanduser()), start=1):
        if len(parts := line.split()) > 1:
            raise InputError(f"{file}, line {number}: {line.strip()!r} contains a space: give one word per line")
        words.update(dict.fromkeys(parts))
    if not words:
        raise InputError(f"{file}: holds no words: give a text file with one word per line")
    return list(words)


def add_words(tokenizer: Tokenizer, words: Sequence[str], source: str = "words") -> tuple[Tokenizer, list[str]]:
    """(tokenizer with `words`, the new words as it spells them), for a WordPiece tokenizer.

    A word is spelled as the tokenizer normalizes it, for example in lower case. Words that are one token already are
    skipped. Text without the new words keeps its ids. Raises InputError for tokenizers of other kinds, and for words that
    would be found inside others; `source` is their origin, for messages.
    """
    if tokenizer.kind != "wordpiece":
        why = "the space before a word is part of its first token, but not of an added word"
        fix = f"give a model with a WordPiece tokenizer, or train one on your text ({option('vocabulary.retrain')})"
        raise InputError(f"{source}: a {tokenizer.kind} tokenizer cannot add words, because {why}: {fix}")
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    vocabulary = backend.get_vocab(with_added_tokens=True)
    new: dict[str, None] = {}
    for word, ids in zip(words, tokenizer.word_tokens(words)):
        normalized = word if backend.normalizer is None else backend.normalizer.normalize_str(word)
        spelled = "".join(normalized.split())  # without the spaces that BERT's normalizer puts around an ideograph
        if not spelled:
            raise InputError(f"{source}: nothing is left of {word!r} after the tokenizer normalizes it: remove it")
        if len(spelled) > 1 and any(map(is_unspaced, spelled)):
            why = "is in a script without spaces, where it would be found inside other words"
            raise InputError(f"{source}: {word!r} {why}: remove it (a single new character can be added)")
        if spelled not in vocabulary and (len(ids) > 1 or ids == [tokenizer.unk_id]):
            new[spelled] = None
    # the backend numbers them in this order after the highest existing id; unused entries are kept
    # a mark, such as a quotation mark, is a word also beside letters
    whole = {word: any(unicodedata.category(character)[0] in "LMN" for character in word) for word in new}
    backend.add_tokens([AddedToken(word, single_word=whole[word], normalized=True, special=False) for word in new])
    return Tokenizer(backend, tokenizer.tokens), list(new)


def _definition(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    return json.loads(backend.to_str())


def _finish(definition: dict[str, Any], vocab_size: int) -> tokenizers.Tokenizer:
    """Check the number of entries, add unused ones and the post-processor.

    Unused entries are part of the model: added tokens would be found in running text.
    """
    vocabulary = definition["model"]["vocab"]
    size, wanted = len(vocabulary), -(-vocab_size // _MULTIPLE) * _MULTIPLE  # no trainer exceeds vocab_size
    if -(-size // _MULTIPLE) * _MULTIPLE < wanted:
        raise InputError(f"vocabulary size {vocab_size}: the corpus supports {size} entries; give {size} or more text")
    for token in definition["added_tokens"]:
        # if the space before a word is part of its first token, a mask includes it too
        token["lstrip"] = token["content"] == "[MASK]" and definition["model"]["type"] != "WordPiece"
    unused = [f"[unused{number}]" for number in range(wanted - size)]
    if isinstance(vocabulary, list):
        lowest = min(score for _, score in vocabulary)
        vocabulary.extend([token, lowest] for token in unused)
    else:
        vocabulary.update({token: size + number for number, token in enumerate(unused)})
    backend = tokenizers.Tokenizer.from_str(json.dumps(definition, ensure_ascii=False))
    backend.post_processor = post_processor("[CLS]", 2, "[SEP]", 3)
    return backend


def _train_wordpiece(sample: list[str], vocab_size: int, lowercase: bool, strip_accents: bool) -> dict[str, Any]:
    """WordPiece by byte-pair merges, like `tokenizers`, but with a deterministic result.

    Its WordPieceTrainer numbers the `##x` characters in the order of a randomly seeded hash map, and breaks ties between merges
    and between rare characters by it. So the alphabet is counted here and passed to the trainer in order.
    """
    backend = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]", continuing_subword_prefix="##"))
    backend.normalizer = encoding.word_normalizer(lowercase, strip_accents)
    backend.pre_tokenizer = encoding.words_and_ideographs()
    first, inner = _count_characters(sample, backend)
    # the trainer has an entry for each character, even if it never begins a word, and one for each inside a word
    rare = _rare_characters(first + inner, 1 + (inner > 0), vocab_size, set())
    inner_tokens = [f"##{chr(point)}" for point in np.flatnonzero(inner)]
    room = 2 * len(rare) + 64  # for tokens with a rare character, which are dropped first
    known: dict[str, Any] = {"special_tokens": [*SPECIAL_TOKENS, *inner_tokens], "continuing_subword_prefix": "##"}
    trained = _train(backend, sample, trainers.BpeTrainer(vocab_size=vocab_size + room, **known, **_PAIRS))
    merged = sorted(trained["model"]["vocab"].items(), key=lambda entry: entry[1])
    # in the order of merges, those with a rare character last: used only if the others do not fill the vocabulary
    entries = [token for token, _ in merged if token not in SPECIAL_TOKENS]
    entries.sort(key=lambda token: _rarity(token.removeprefix("##"), rare))
    entries = sorted(entries[: vocab_size - len(SPECIAL_TOKENS)])
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *entries])}
    wordpiece = models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=encoding.LONGEST_WORD)
    made = tokenizers.Tokenizer(wordpiece)
    made.normalizer, made.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    made.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    made.add_special_tokens(list(SPECIAL_TOKENS))
    return _definition(made)


def _train(backend: tokenizers.Tokenizer, sample: list[str], trainer: trainers.Trainer) -> dict[str, Any]:
    """Train `backend`, and return its definition. The time per word is quadratic in its length, so the longest words are split."""
    words = backend.pre_tokenizer
    if any(map(_LONG, sample)):
        cut = pre_tokenizers.Split(Regex(f"(?m:.{{{_LONGEST_WORD}}})"), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, cut])
    interruptible(backend.train_from_iterator, sample, trainer)
    backend.pre_tokenizer = words
    return _definition(backend)


def _count_characters(sample: list[str], backend: tokenizers.Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """How often each code point begins a word, and how often it is inside one: two int64 arrays."""
    first, inner = np.zeros(_CODE_POINTS, dtype=np.int64), np.zeros(_CODE_POINTS, dtype=np.int64)
    # 0: not seen yet, 1: separates words and is dropped (a space), 2: a word by itself (punctuation), 3: in a word
    classes = np.zeros(_CODE_POINTS, dtype=np.int8)
    ends = accumulate(map(len, sample))  # of groups of about four million characters
    for _, group in groupby(zip(sample, ends), key=lambda document_and_end: document_and_end[1] // 4_000_000):
        text = backend.normalizer.normalize_str("\n".join(document for document, _ in group))
        points = np.frombuffer(f" {text}".encode("utf-32-le"), dtype=np.uint32)
        for point in np.flatnonzero(np.bincount(points, minlength=_CODE_POINTS)):
            if not classes[point]:
                parts = backend.pre_tokenizer.pre_tokenize_str(f"a{chr(point)}a")
                classes[point] = {1: 3, 2: 1, 3: 2}[len(parts)]
        kinds = classes[points]
        inside = (kinds[1:] == 3) & (kinds[:-1] == 3)
        starts = (kinds[1:] >= 2) & ~inside
        inner += np.bincount(points[1:][inside], minlength=_CODE_POINTS)
        first += np.bincount(points[1:][starts], minlength=_CODE_POINTS)
    return first, inner


def _rare_characters(counts: np.ndarray, entries: np.ndarray, vocab_size: int, own: set[str]) -> dict[str, int]:
    """The characters to omit from the alphabet, with their rank by count.

    `counts` and `entries`: how often each code point occurs and how many entries it takes; `own` are always kept. The most
    frequent characters that cover 99.99 % of the text are kept (about 6,000 in Chinese), and at least 300; if the vocabulary
    has no room for them, only 99.99, 99.9 or 99 %.
    """
    others = counts.copy()
    others[[ord(character) for character in own]] = 0
    by_count = np.lexsort((np.arange(_CODE_POINTS), -others))[: np.count_nonzero(others)]
    covered = 1 - (others.sum() - np.cumsum(others[by_count])) / counts.sum()
    reserved = needed = len(SPECIAL_TOKENS) + len(own)
    for coverage, at_least in ((0.9999, 300), (0.9999, 0), (0.999, 0), (0.99, 0)):
        kept = min(max(int(np.searchsorted(covered, coverage)) + 1, at_least), len(by_count))
        needed = reserved + int(entries[by_count[:kept]].sum())
        if needed <= vocab_size:
            return {chr(point): rank for rank, point in enumerate(by_count[kept:], start=1)}
    raise _too_small(vocab_size, needed)


def _rarity(token: str, rare: dict[str, int]) -> tuple[bool, int]:
    """Sorts tokens without a rare character first, then rare characters by their rank, then longer tokens with one."""
    ranks = [rare[character] for character in token if character in rare]
    return len(token) > 1 and bool(ranks), max(ranks, default=0)


def _too_small(vocab_size: int, needed: int) -> InputError:
    why = f"the special tokens and the alphabet of the corpus alone need {needed}"
    return InputError(f"vocabulary size {vocab_size}: {why}; give {needed} or more")


def _train_bpe(
    sample: list[str], vocab_size: int, lowercase: bool, strip_accents: bool, ideographs: bool
) -> dict[str, Any]:
    """Byte-level BPE. Words begin with a space, the first of a text too: separate words are split as in a text."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(SPECIAL_TOKENS) + len(alphabet):
        raise _too_small(vocab_size, len(SPECIAL_TOKENS) + len(alphabet))
    backend = tokenizers.Tokenizer(models.BPE())
    lower = [normalizers.Lowercase()] * lowercase
    backend.normalizer = normalizers.Sequence([*lower, *encoding.composed(lowercase, strip_accents)])
    steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.ByteLevel(add_prefix_space=True, trim_offsets=True)]
    if ideographs:
        steps.append(pre_tokenizers.Split(Regex(_THREE_BYTES), "isolated"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps) if ideographs else steps[0]
    backend.decoder = decoders.ByteLevel()
    known: dict[str, Any] = {"special_tokens": list(SPECIAL_TOKENS), "initial_alphabet": sorted(alphabet)}
    return _train(backend, sample, trainers.BpeTrainer(vocab_size=vocab_size, **known, **_PAIRS))


def _train_unigram(sample: list[str], vocab_size: int, lowercase: bool, strip_accents: bool) -> dict[str, Any]:
    """Unigram as in `tokenizers`, but without rare characters, all of which it would keep, and with rounded scores, which
    differ in the last bits from run to run.
    """
    backend = tokenizers.Tokenizer(models.Unigram())
    lower = [encoding.without_controls(), *[normalizers.Lowercase()] * lowercase]
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence([*lower, *encoding.composed(lowercase, strip_accents), spaces])
    # split at punctuation too: no token contains it, and no special token is found in a text
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    backend.decoder = decoders.Metaspace()
    first, inner = _count_characters(sample, backend)
    rare = _rare_characters(first + inner, np.ones_like(first), vocab_size, {"▁"})
    room = 2 * len(rare) + 64  # for tokens with a rare character
    known: dict[str, Any] = {"special_tokens": list(SPECIAL_TOKENS), "unk_token": "[UNK]", "initial_alphabet": ["▁"]}
    trainer = trainers.UnigramTrainer(vocab_size=vocab_size + room, **known, show_progress=False)
    definition = _train(backend, sample, trainer)
    special = definition["model"]["vocab"][: len(SPECIAL_TOKENS)]
    learned = definition["model"]["vocab"][len(special) :]
    # characters without an entry in the trained model get the lowest score + 0, 1e-4, 2e-4 ... in the order of a
    # randomly seeded hash map: give all of them the lowest
    lowest = min(score for _, score in learned)
    for entry in learned:
        steps_above = (entry[1] - lowest) / 1e-4
        if len(entry[0]) == 1 and abs(steps_above - round(steps_above)) < 1e-5:
            entry[1] = lowest
        entry[1] = round(entry[1], 5)
    # the alphabet first, then by score; tokens with a rare character last, as in WordPiece
    learned.sort(key=lambda entry: (*_rarity(entry[0], rare), len(entry[0]) > 1, -entry[1], entry[0]))
    learned = learned[: vocab_size - len(special)]
    definition["model"]["vocab"] = special + sorted(learned, key=lambda entry: (-entry[1], entry[0]))
    return definition
