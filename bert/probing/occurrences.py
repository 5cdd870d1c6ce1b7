"""Occurrences of a word in sentences: in any case, composed or decomposed, at word boundaries, and inside running Chinese text.

Text is compared by grapheme clusters, a letter with its marks or an emoji with its modifiers, so that a match covers whole ones and can
be mapped back to the sentence. Case, width and other forms of presentation do not matter, and what is invisible is ignored: soft
hyphens, zero-width spaces, joiners between letters, variation selectors, the Arabic tatweel. Boundaries are those of Unicode's UAX 29,
with its break after an apostrophe before a vowel, in elisions alone (l'eau, not ma'am), and one before a final 's, 'd, 'm, 'll, 're or
've. No torch.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import accumulate

from bert.data.tokenizer import is_unspaced

_MARKS = "".join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.category(chr(code))[0] == "M")
_WORD = rf"[\w{_MARKS}]"
_MIDDLE = "['\u00b7\u2027\u05f4]"  # can't, col·lecció
_INSIDE = re.compile(  # a word or a number: no boundary
    rf"(?<={_WORD})(?={_WORD}|{_MIDDLE}\w)(?!'(?:s|d|m|ll|re|ve)(?!{_WORD}))|(?<={_WORD}{_MIDDLE})(?=\w)"
    r"(?!((?<=\b[cdjlmnst]')|(?<=qu')|(?<=ll')|(?<=\bun'))[aeiouyhœæ])|(?<=\d)(?=[.,]\d)|(?<=\d[.,])(?=\d)"
)
_PICTURES = "[\u2190-\u2bff\U0001f000-\U0001faff]"
# A cluster: a flag of two indicators, or a character, with marks, joiners, vowel signs of Thai and Lao, half-width voiced marks, skin
# tones, tags and variation selectors; with pictures after a joiner, and letters stacked in Myanmar and Khmer.
_CLUSTER = re.compile(
    "(?s)[\0-\x7f](?=[\0-\x7f])|(?:[\U0001f1e6-\U0001f1ff]{2}|.)(?:"
    f"[{_MARKS}\u200c\u200d\u0e33\u0eb3\uff9e\uff9f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\U000e0100-\U000e01ef]"
    f"|(?<=\u200d){_PICTURES}|(?<=[\u1039\u17d2]).)*"
)
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u0640\u180b-\u180f\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    f"\U000e0100-\U000e01ef]|\u200d(?!{_PICTURES})"
)
# spaces, full-width and half-width letters, ligatures, Arabic letters by position
_PRESENTATION = re.compile("[\u00a0\u2000-\u200a\u202f\u3000\ufb00-\ufdff\ufe10-\ufefe\uff00-\uffef]+")

# English: the first pattern that the end of a word fits, how many letters it loses, and the endings it takes ("+": its last letter)
_SHORT = "^y?[^aeiouy]*[aeiouy]"  # one syllable up to its vowel
_PLURALS = (
    ("[^aeiou]y", 1, "ies"),
    ("sis", 2, "es"),
    ("(?:al|el|ol|ea|oa|thie|hoo|ar)f", 1, "ves fs"),
    ("(?:kni|wi|li)fe", 2, "ves fes"),
    ("(?<!o)och|omach|[gin]arch|[tz]ech|nuch", 0, "s"),  # ch as in k
    (f"{_SHORT}[sz]", 0, "+es es"),
    ("s|x|z|ch|sh", 0, "es"),
    ("^[dgn]o|[aeiouy].*[^aeiou]o", 0, "es s"),
    ("", 0, "s"),
)
_STRESSED = (  # at the end
    "^(?:a[bcdln]?|be|com|con|de|dis|en?|em|ex|for|im|in|mis|o|oc|off|out|over|per|pre|re|sub|trans|un|up)(?:bar|bed|bet|bid|"
    "bug|(?<!de)but|cur|fer|fit|get|gin|gret|hor|lap|lot|mit|mur|pin|plug|put|qwip|qwit|run|set|step|t?rol|pel|wit|wrap|zip)|"
    "^(?:deter|inter|format|fulfil|handicap|kidnap|patrol|program|propel)"
)
_VERBS = (
    # the forms by rule belong to another word: add, unite, breathe
    ("^(?:ad|aide|caste|cloth|envelope|lung|past|secret|sooth|steppe|suite|unit)|[hr]eath|sis", 0, ""),
    ("^sw?ing|^[^aeiouy]*[eo]|^(?!fr|kn|tr)[^aeiouy]*ee", 0, "ing"),  # not singed, bed, toed, seed
    ("[^aeiou]y", 1, "ied ying"),
    ("ie", 2, "ied ying"),
    ("[eoy]e|^sw?inge", 0, "d ing"),
    ("e", 1, "ed ing"),
    ("[aeiouy].*[aeiou]c", 0, "ked king"),
    (f"{_SHORT}[^aeiouwxy]|{_STRESSED}", 0, "+ed +ing"),
    ("[aeiouy].*[^aeiou][aeiou]l|[iu]al|uel", 0, "ed ing +ed +ing"),  # American and British
    ("", 0, "ed ing"),
)


def find(sentence: str, forms: Sequence[str]) -> list[tuple[int, int]]:
    """Characters (start, end) of each occurrence of a form in the sentence, without overlaps.

    An occurrence begins and ends at a word boundary, except in scripts without spaces, such as Chinese. The longest of several forms
    wins.
    """
    needles = sorted({fold(form) for form in forms} - {""}, key=len, reverse=True)
    if not any(needle in fold(sentence) for needle in needles):
        return []
    clusters = [match.span() for match in _CLUSTER.finditer(sentence)]
    folded = [fold(sentence[start:end]) for start, end in clusters]
    origin = [index for index, parts in enumerate(folded) for _ in parts]  # of each folded character, its cluster
    text, edges = "".join(folded), {*accumulate(map(len, folded), initial=0)}
    found, at = [], 0
    for begin in sorted(edges):
        for end in (begin + len(needle) for needle in needles if begin >= at and text.startswith(needle, begin)):
            if end in edges and _is_boundary(text, begin) and _is_boundary(text, end):
                found.append((clusters[origin[begin]][0], clusters[origin[end - 1]][1]))
                at = end
                break
    return found


def forms_of(word: str) -> list[str]:
    """The word and its forms by English rules: plural, third person, past, -ing. Irregular forms are not known."""
    if not word.isascii() or not word.isalpha() or len(word) < 2:
        return [word]
    forms, spelled = [word], word.lower().replace("qu", "qw")  # this u is no vowel
    for rules in (_PLURALS, _VERBS):
        lost, endings = next((n, ends) for pattern, n, ends in rules if re.search(f"(?:{pattern})$", spelled))
        forms += [word[: len(word) - lost] + ending.replace("+", word[-1]) for ending in endings.split()]
    return forms


def nearest_words(word: str, sentences: Iterable[str]) -> list[str]:
    """Up to three words of the sentences similar to `word`, the most similar first; in Chinese, substrings of its length with a
    common character."""
    seen: Counter[str] = Counter()
    unspaced = any(map(is_unspaced, word))
    for sentence in sentences:
        for run in re.findall(rf"{_WORD}(?:[\w{_MARKS}']*{_WORD})?", unicodedata.normalize("NFC", fold(sentence))):
            if not unspaced:
                seen[run] += 1
                continue
            parts = (run[at : at + len(word)] for at in range(len(run) - len(word) + 1))
            seen.update(part for part in parts if set(part) & set(word))
    if unspaced:
        return [part for part, _ in seen.most_common(3)]
    return get_close_matches(unicodedata.normalize("NFC", fold(word)), seen, n=3, cutoff=0.7)


def fold(text: str) -> str:
    """The text without differences of case, composition and presentation, and without what is invisible."""
    if text.isascii():
        return text.lower()
    text = _PRESENTATION.sub(lambda found: unicodedata.normalize("NFKC", found[0]), _INVISIBLE.sub("", text))
    text = unicodedata.normalize("NFD", text.casefold()).replace("i\u0307", "i")  # of a Turkish capital İ
    return re.sub("[\u2018\u2019\u02bc]", "'", text)


def _is_boundary(text: str, at: int) -> bool:
    """Whether a word can end before the character `at`, and another begin there."""
    return any(map(is_unspaced, text[max(0, at - 1) : at + 1])) or not _INSIDE.match(text, at)
