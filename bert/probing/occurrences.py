"""Occurrences of a word in sentences: in any case, composed or decomposed, at word boundaries, and inside running Chinese text.

Letters are compared after case folding and canonical decomposition, character by character, so that matches can be mapped back to the
sentence. No torch.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from bert.data.tokenizer import is_unspaced

_VOWELS = "aeiou"


def find(sentence: str, forms: Sequence[str]) -> list[tuple[int, int]]:
    """Characters (start, end) of each occurrence of a form in the sentence, without overlaps.

    An occurrence begins and ends at a word boundary, except in scripts without spaces, such as Chinese. The longest of several forms
    wins.
    """
    needles = sorted({_fold(form) for form in forms} - {""}, key=len, reverse=True)
    if not any(needle in _fold(sentence) for needle in needles):
        return []
    folded = [_fold(character) for character in sentence]
    origin = [index for index, parts in enumerate(folded) for _ in parts]  # of each folded character
    text = "".join(folded)
    pattern = re.compile("|".join(map(re.escape, needles)))
    found, at = [], 0
    while (match := pattern.search(text, at)) is not None:
        begin = match.start()
        at = begin + 1
        for end in (begin + len(needle) for needle in needles if text.startswith(needle, begin)):
            if _is_boundary(text, begin) and _is_boundary(text, end) and _is_whole(origin, begin, end):
                found.append((origin[begin], origin[end - 1] + 1))
                at = end
                break
    return found


def forms_of(word: str) -> list[str]:
    """The word and its forms by English rules: plural, third person, past, -ing. Irregular forms are not known."""
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
    if closed:  # stop: stopped, stopping; spelling does not tell which words of several syllables do so
        forms += [word + last + "ed", word + last + "ing"]
    return [*forms, word + "s", *([] if last == "e" else [word + "ed", word + "ing"])]


def nearest_words(word: str, sentences: Iterable[str], most: int = 3) -> list[str]:
    """Words of the sentences similar to `word`, the most similar first; in Chinese, substrings of its length with a common character."""
    seen: Counter[str] = Counter()
    unspaced = any(is_unspaced(character) for character in word)
    for sentence in sentences:
        for run in re.findall(r"\w+", unicodedata.normalize("NFC", sentence.casefold())):
            if not unspaced:
                seen[run] += 1
                continue
            parts = (run[at : at + len(word)] for at in range(len(run) - len(word) + 1))
            seen.update(part for part in parts if set(part) & set(word))
    if unspaced:
        return [part for part, _ in seen.most_common(most)]
    return get_close_matches(word.casefold(), seen, n=most, cutoff=0.7)


def _fold(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFD", text.casefold())


def _is_boundary(text: str, at: int) -> bool:
    """Whether a word can end before the character `at`, and another begin there."""
    if at == 0 or at == len(text) or not (_in_word(text[at - 1]) and _in_word(text[at])):
        return True
    return not unicodedata.combining(text[at]) and (is_unspaced(text[at - 1]) or is_unspaced(text[at]))


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.combining(character) > 0


def _is_whole(origin: Sequence[int], begin: int, end: int) -> bool:
    """Whether a match covers whole characters of the sentence, and not a part of a folded character."""
    before = begin == 0 or origin[begin - 1] != origin[begin]
    return before and (end == len(origin) or origin[end - 1] != origin[end])
