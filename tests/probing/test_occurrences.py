"""Where a word stands: case, composition, borders, forms, running Chinese characters."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.probing.occurrences import find, forms_of, nearest_words


@pytest.mark.parametrize(
    ("sentence", "word", "found"),
    [
        ("An apple, an APPLE; Apple's.", "apple", ["apple", "APPLE", "Apple"]),
        ("pineapple apples applesauce apple_1 apple2", "apple", []),
        ("(apple) apple-pie “apple”", "Apple", ["apple"] * 3),
        ("我用apple手机", "apple", ["apple"]),
        ("苹果树上的苹果，不是苹 果。", "苹果", ["苹果", "苹果"]),
        ("我爱北京", "北京", ["北京"]),
        ("Cafe\u0301 and café and cafe", "café", ["Cafe\u0301", "café"]),
        ("café cafés", "cafe", []),
        ("die Straße, die STRASSE", "strasse", ["Straße", "STRASSE"]),
        ("마각 가 각", "가", ["가"]),
        ("New York and new york.", "New York", ["New York", "new york"]),
        ("she said 👍👍", "👍", ["👍", "👍"]),
        ("a+b", "+", ["+"]),
        ("", "apple", []),
        ("İstanbul", "i", []),
    ],
)
def test_words_are_found_as_a_reader_finds_them(sentence: str, word: str, found: list[str]) -> None:
    assert [sentence[start:end] for start, end in find(sentence, [word])] == found


def test_several_forms_are_found_once_each_the_longest_first() -> None:
    sentence = "banks bank banking banked bankers"
    assert [sentence[a:b] for a, b in find(sentence, forms_of("bank"))] == ["banks", "bank", "banking", "banked"]
    assert find("apple pies, apple pie", ["apple", "apple pie"]) == [(0, 5), (12, 21)]  # where a longer one is no word


@pytest.mark.parametrize(
    ("word", "inflected"),
    [
        ("apple", ["apples", "appled", "appling"]),
        ("berry", ["berries", "berried", "berrying"]),
        ("play", ["plays", "played", "playing"]),
        ("match", ["matches", "matched", "matching"]),
        ("leaf", ["leaves", "leafs"]),
        ("knife", ["knives"]),
        ("stop", ["stops", "stopped", "stopping"]),
        ("see", ["sees", "seeing"]),
        ("box", ["boxes", "boxed", "boxing"]),
        ("Spring", ["Springs", "Springing"]),
    ],
)
def test_forms_follow_the_rules_of_english(word: str, inflected: list[str]) -> None:
    assert {word, *inflected} <= set(forms_of(word))


def test_chinese_words_have_no_other_forms() -> None:
    assert forms_of("苹果") == ["苹果"]


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet="aAeé\u0301ß fi苹果_1.\u200bİ각", max_size=12),
    st.text(alphabet="aeé苹果ß각", min_size=1, max_size=3),
)
def test_what_is_found_is_the_word_and_nothing_else(sentence: str, word: str) -> None:
    def folded(text: str) -> str:
        return unicodedata.normalize("NFD", text.casefold())

    last = 0
    for start, end in find(sentence, [word]):
        assert last <= start < end <= len(sentence)
        assert folded(sentence[start:end]) == folded(word)
        last = end
    assert find(f"{word} . {sentence}", [word])[:1] == ([(0, len(word))] if not unicodedata.combining(word[0]) else [])


def test_the_nearest_words_of_one_that_is_not_there() -> None:
    assert nearest_words("aple", ["An apple fell.", "The Ample bank."]) == ["apple", "ample"]
    assert nearest_words("苹国", ["一个苹果和苹果", "中国人"])[0] == "苹果"
    assert nearest_words("xyz", ["An apple fell."]) == []
