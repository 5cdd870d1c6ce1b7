"""Where a word stands in sentences: any case, composed or decomposed, at word borders, inside running Chinese characters.

Letters are compared after case folding and canonical decomposition, character by character, so that a place in what is
compared is a place in the sentence. No torch here.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from bert.data.tokenizer import is_unspaced

_VOWELS = "aeiou"


def find(sentence: str, forms: Sequence[str]) -> list[tuple[int, int]]:
    """Characters (start, end) of each occurrence of a form in the sentence, none overlapping.

    An occurrence begins and ends where a word does; letters of scripts without blanks, such as Chinese, stand for themselves
    and may go on. Of several forms the longest is taken.
    """
    needles = sorted({_fold(form) for form in forms} - {""}, key=len, reverse=True)
    if not any(needle in _fold(sentence) for needle in needles):
        return []
    folded, origin = [], []  # characters, and the positions that they come from
    for place, character in enumerate(sentence):
        parts = _fold(character)
        folded.append(parts)
        origin += [place] * len(parts)
    text = "".join(folded)
    pattern = re.compile("|".join(map(re.escape, needles)))
    found, at = [], 0
    while (match := pattern.search(text, at)) is not None:
        begin = match.start()
        at = begin + 1
        for end in (begin + len(needle) for needle in needles if text.startswith(needle, begin)):
            if _at_border(text, begin - 1, begin) and _at_border(text, end - 1, end) and _whole(origin, begin, end):
                found.append((origin[begin], origin[end - 1] + 1))
                at = end
                break
    return found


def forms_of(word: str) -> list[str]:
    """The word and what English rules make of it: plural, third person, past, -ing. Irregular forms are not known."""
    forms = [word]
    if not word.isascii() or not word.isalpha() or len(word) < 2:
        return forms
    lower = word.lower()
    last, before = lower[-1], lower[-2]
    if last == "y" and before not in _VOWELS:
        forms += [word[:-1] + "ies", word[:-1] + "ied"]
    if lower.endswith(("s", "x", "z", "ch", "sh", "o")):
        forms.append(word + "es")
    if last == "f":
        forms.append(word[:-1] + "ves")
    if lower.endswith("fe"):
        forms.append(word[:-2] + "ves")
    if last == "e":
        forms += [word + "d", word + "ing" if before in "eoy" else word[:-1] + "ing"]
    closed = len(word) >= 3 and last not in _VOWELS + "wxy" and before in _VOWELS and lower[-3] not in _VOWELS
    if closed:  # stop: stopped, stopping; which words of several syllables do so, spelling does not tell
        forms += [word + last + "ed", word + last + "ing"]
    return [*forms, word + "s", *([] if last == "e" else [word + "ed", word + "ing"])]


def nearest_words(word: str, sentences: Iterable[str], most: int = 3) -> list[str]:
    """Words of the sentences that look like `word`, the likest first; Chinese: runs as long that share a character with it."""
    seen: Counter[str] = Counter()
    unspaced = any(is_unspaced(character) for character in word)
    for sentence in sentences:
        for run in re.findall(r"\w+", unicodedata.normalize("NFC", sentence.casefold())):
            if not unspaced:
                seen[run] += 1
                continue
            pieces = (run[at : at + len(word)] for at in range(len(run) - len(word) + 1))
            seen.update(piece for piece in pieces if set(piece) & set(word))
    if unspaced:
        return [piece for piece, _ in seen.most_common(most)]
    return get_close_matches(word.casefold(), seen, n=most, cutoff=0.7)


def _fold(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFD", text.casefold())


def _at_border(text: str, left: int, right: int) -> bool:
    """Whether a word may end at `left` and another begin at `right`, two positions side by side."""
    if left < 0 or right >= len(text) or not (_in_word(text[left]) and _in_word(text[right])):
        return True
    if unicodedata.combining(text[right]):
        return False
    return is_unspaced(text[left]) or is_unspaced(text[right])


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.combining(character) > 0


def _whole(origin: Sequence[int], begin: int, end: int) -> bool:
    """Whether a match covers characters of the sentence as a whole, no part of what one was folded into."""
    before = begin == 0 or origin[begin - 1] != origin[begin]
    return before and (end == len(origin) or origin[end - 1] != origin[end])
