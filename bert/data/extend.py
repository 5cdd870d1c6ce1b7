"""Words added to a tokenizer that is there: what it cut into pieces before becomes one entry, all else stays as it was.

A new entry of a WordPiece vocabulary would change other words too, since the longest entry that begins a word is cut off
first (with `covid` in it, `covidiot` is no longer `co ##vid ##iot`). So a word is an added token of `tokenizers`, found in
the normalised text where no letter or digit touches it; its id comes after the old ones, which stay.
"""

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken

from bert.data.tokenizer import Tokenizer, is_unspaced
from bert.errors import InputError, option


def read_words(file: str | Path) -> list[str]:
    """The words of a file with a word a line, each once, in their order. InputError where it holds none, or a line with a
    blank inside."""
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"{file}: no such file: give a text file with a word a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not readable as UTF-8 text ({error}): give a text file with a word a line") from None
    words: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        if len(parts := line.split()) > 1:
            raise InputError(f"{file}, line {number}: {line.strip()!r} has a blank in it: give a word a line")
        words.update(dict.fromkeys(parts))
    if not words:
        raise InputError(f"{file}: holds no words: give a text file with a word a line")
    return list(words)


def add_words(tokenizer: Tokenizer, words: Sequence[str], source: str = "words") -> tuple[Tokenizer, list[str]]:
    """(tokenizer with `words`, the words that are new to it, as it spells them), for a WordPiece tokenizer.

    A word is spelt as the tokenizer normalises it (lower-cased where it lower-cases). Words that are one piece already
    are left out. Text without the new words keeps its ids. Raises InputError for tokenizers of other kinds, and for
    words that cannot be told from parts of others; `source` names where they come from.
    """
    if tokenizer.kind != "wordpiece":
        raise InputError(
            f"{source}: a {tokenizer.kind} tokenizer takes no words, because the blank before a word is part of its first"
            " piece and an added word would leave it behind: give a model with a WordPiece tokenizer, or train a new one"
            f" on your text ({option('vocabulary.retrain')})"
        )
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    vocabulary = backend.get_vocab(with_added_tokens=True)
    new: dict[str, None] = {}
    for word, pieces in zip(words, tokenizer.word_tokens(words)):
        spelt = _spelt(backend, word)
        if not spelt:
            raise InputError(f"{source}: nothing is left of {word!r} when the tokenizer normalises it: leave it out")
        if len(spelt) > 1 and any(map(is_unspaced, spelt)):
            why = "is of a script without blanks, where it would be found inside other words"
            raise InputError(f"{source}: {word!r} {why}: leave it out (a single new character can be added)")
        if spelt not in vocabulary and (len(pieces) > 1 or pieces == [tokenizer.unk_id]):
            new[spelt] = None
    # the backend numbers them in this order after the highest id there is, the unused entries kept
    backend.add_tokens([AddedToken(word, single_word=True, normalized=True, special=False) for word in new])
    return Tokenizer(backend, tokenizer.tokens), list(new)


def _spelt(backend: tokenizers.Tokenizer, word: str) -> str:
    """A word as it stands in the normalised text, without the blanks that BERT's normaliser puts around an ideograph."""
    text = word if backend.normalizer is None else backend.normalizer.normalize_str(word)
    return "".join(text.split())
