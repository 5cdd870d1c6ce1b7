"""Adding words to a tokenizer: a word of several tokens becomes one entry, and the ids of other text do not change.

A new entry of a WordPiece vocabulary would also change other words, since the longest entry at the beginning of a word is
matched first (with `covid`, `covidiot` is no longer `co ##vid ##iot`). So a word becomes an added token of `tokenizers`, which
is found in the normalized text without letters or digits next to it; its id follows the old ones, which do not change.
"""

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken

from bert.data.files import read_lines
from bert.data.tokenizer import Tokenizer, is_unspaced
from bert.errors import InputError, option


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
    backend.add_tokens([AddedToken(word, single_word=True, normalized=True, special=False) for word in new])
    return Tokenizer(backend, tokenizer.tokens), list(new)
