"""Where a word stands: case, composition, borders, forms, running Chinese characters."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.data.vocabulary import train_tokenizer
from bert.inference.embeddings import span_tokens
from bert.probing.occurrences import find, forms_of, nearest_words

TEXTS = ["an apple in izmir, the fine pear: café, straße, été", "她吃苹果 می‌خواهم राम का नाम can't 👩‍💻 😀 가각"] * 3
TOKENIZERS = {
    kind: train_tokenizer(TEXTS, kind, size) for kind, size in (("wordpiece", 95), ("bpe", 280), ("unigram", 50))
}


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


@pytest.mark.parametrize(
    ("sentence", "word", "found"),
    [
        # vowel signs and other marks make another word, in every script
        ("किताबें और किताब", "किताब", ["किताब"]),
        ("নদীর নদী", "নদী", ["নদী"]),
        ("പുഴയിൽ പുഴ", "പുഴ", ["പുഴ"]),
        ("x\u20dd x\u0336 x", "x", ["x"]),
        ("กำ กา ก", "ก", ["ก", "ก"]),
        ("ខ្ខ ខ", "ខ", ["ខ"]),
        ("o\u0302\u0323 \u1ed9", "ộ", ["o\u0302\u0323", "ộ"]),  # marks in any order
        # joiners are ignored, and join
        ("نمی\u200cدانم دانم", "دانم", ["دانم"]),
        ("نمی\u200cدانم", "نمیدانم", ["نمی\u200cدانم"]),
        ("ක්\u200dරම ක්රම", "ක්රම", ["ක්\u200dරම", "ක්රම"]),
        # so are characters that are not seen
        ("pe\u00adar, pe\u200bar, \u2060pear\ufeff, pear\u200e", "pear", ["pe\u00adar", "pe\u200bar", "pear", "pear"]),
        ("ear in pe\u00adar", "ar", []),
        # letters of any width and form
        ("Ｐｅａｒ pear", "pear", ["Ｐｅａｒ", "pear"]),
        ("ｶﾞﾗｽ", "ガラス", ["ｶﾞﾗｽ"]),
        ("ｶﾞﾗｽ", "カ", []),
        ("ﻛﺘﺎﺏ كتاب", "كتاب", ["ﻛﺘﺎﺏ", "كتاب"]),
        # apostrophes are parts of words, except before a vowel and in 's, 'd, 'm, 'll, 're, 've
        ("pear'll pear’d, pears've pear'lls", "pear", ["pear", "pear"]),
        ("I'm, he'd, they're and M", "m", ["M"]),
        ("un'arte d'œuvres, Œuvres l’Œuvres", "œuvres", ["œuvres", "Œuvres", "Œuvres"]),
        ("un'arte", "arte", ["arte"]),
        # what is written otherwise is the same
        ("كتـــاب كتاب", "كتاب", ["كتـــاب", "كتاب"]),
        ("New\u00a0York New\u202fYork", "New York", ["New\u00a0York", "New\u202fYork"]),
        ("won't, won’t and won", "won", ["won"]),
        ("won't, won’t and won", "won’t", ["won't", "won’t"]),
        ("Pear's pears' 'pear'", "pear", ["Pear", "pear"]),
        ("l'orange d’Orange orange", "orange", ["orange", "Orange", "orange"]),
        ("dell'arte qu’arte", "arte", ["arte", "arte"]),
        ("ma'am and y'all am all", "am", ["am"]),
        ("м'ята, м’ята, мʼята, ята", "м'ята", ["м'ята", "м’ята", "мʼята"]),
        ("м'ята, ята", "ята", ["ята"]),
        ("2.5 5 1,500.5", "5", ["5"]),
        # emoji are whole
        ("✋🏿 ✋ ✋🏻", "✋", ["✋"]),
        ("✋🏿 ✋ ✋🏻", "✋🏿", ["✋🏿"]),
        ("👨‍🌾 👨🌾", "👨", ["👨"]),
        ("👨‍🌾 👨🌾", "👨‍🌾", ["👨‍🌾"]),
        ("☀️ ☀", "☀", ["☀️", "☀"]),
        ("🇧🇪🇷🇴 🇪🇷", "🇪🇷", ["🇪🇷"]),
        ("🏴󠁧󠁢󠁷󠁬󠁳󠁿 🏴", "🏴", ["🏴"]),
        ("2️⃣ 2", "2", ["2"]),
        # a capital İ is two letters after case folding
        ("İzmir, izmir, IZMIR", "izmir", ["İzmir", "izmir", "IZMIR"]),
        ("izmir", "İZMİR", ["izmir"]),
        ("ızgara", "izgara", []),
    ],
)
def test_a_match_covers_what_a_reader_sees_as_whole_letters(sentence: str, word: str, found: list[str]) -> None:
    assert [sentence[start:end] for start, end in find(sentence, [word])] == found


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        ["apple", "Straße", "राम", "می\u200cخواهم", "яблоко", "사과", "can't", "👩‍💻", "👍🏽", "🇩🇪", "café", "अ"]
    ),
    st.text(alphabet=" \t\n.,;:!?()[]«»“”-–/\\\"'’…€+=😀☃\u200b\u00ad\ufeff\u3000", max_size=6),
    st.text(alphabet=" \t\n.,;:!?()[]«»“”-–/\\\"'’…€+=😀☃\u200b\u00ad\ufeff\u3000", max_size=6),
)
def test_a_word_is_found_exactly_where_it_was_put(word: str, before: str, after: str) -> None:
    assert find(f"{before}{word}{after}", [word]) == [(len(before), len(before) + len(word))]
    assert find(f"{before}{word.upper()}{after}", [word]) == [(len(before), len(before) + len(word.upper()))]


_INVISIBLE_MARKS = {0x034F, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10)}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["apple", "яблоко", "राम", "سلام", "x"]), st.characters(categories=["Mn", "Mc", "Me"]))
def test_a_word_with_a_mark_after_it_is_another_word(word: str, mark: str) -> None:
    if ord(mark) in _INVISIBLE_MARKS or 0xE0100 <= ord(mark) <= 0xE01EF:  # variation selectors: the same word
        assert find(f"{word}{mark}", [word]) == [(0, len(word) + 1)]
    else:
        assert find(f"{word}{mark}", [word]) == []
        assert find(f"{word}{mark} {word}", [word]) == [(len(word) + 2, 2 * len(word) + 2)]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["an", "İkinci", "ﬁne", "pe\u00adar", "e\u0301te\u0301", "Straße", "😀", "ab\u200bc", "Ｗide"]),
        max_size=4,
    ),
    st.sampled_from(
        ["apple", "İzmir", "pe\u00adar", "cafe\u0301", "苹果", "می\u200cخواهم", "राम", "can't", "👩‍💻", "Straße"]
    ),
    st.lists(st.sampled_from(["the", "İİ", "te\u0301", "राम।", "ok.", "가각"]), max_size=3),
)
def test_the_tokens_of_a_word_are_those_of_its_characters(
    kind: str, before: list[str], word: str, after: list[str]
) -> None:
    tokenizer = TOKENIZERS[kind]
    sentence = " ".join([*before, word, *after])
    start = len(" ".join([*before, ""]))
    assert (start, start + len(word)) in find(sentence, [word])
    ((_, positions),) = span_tokens(tokenizer, [sentence], [(start, start + len(word))])
    offsets = [tokenizer.encode_with_offsets(sentence)[1][position] for position in positions]
    assert all(start <= first < last <= start + len(word) for first, last in offsets)
    covered = {place for first, last in offsets for place in range(first, last)}
    assert covered >= {place for place in range(start, start + len(word)) if sentence[place].isalnum()}
    assert offsets[0][0] == start


def test_several_forms_are_found_once_each_the_longest_first() -> None:
    sentence = "banks bank banking banked bankers"
    assert [sentence[a:b] for a, b in find(sentence, forms_of("bank"))] == ["banks", "bank", "banking", "banked"]
    assert find("apple pies, apple pie", ["apple", "apple pie"]) == [(0, 5), (12, 21)]  # where a longer one is no word


@pytest.mark.parametrize(
    ("word", "inflected"),
    [
        ("apple", ["apples", "appled", "appling"]),
        ("berry", ["berries", "berried", "berrying"]),
        ("soliloquy", ["soliloquies", "soliloquied", "soliloquying"]),
        ("play", ["plays", "played", "playing"]),
        ("match", ["matches", "matched", "matching"]),
        ("stomach", ["stomachs", "stomached", "stomaching"]),
        ("leaf", ["leaves", "leafs", "leafed", "leafing"]),
        ("knife", ["knives", "knifes", "knifed", "knifing"]),
        ("belief", ["beliefs", "beliefed", "beliefing"]),  # not believes
        ("safe", ["safes", "safed", "safing"]),  # not saves
        ("stop", ["stops", "stopped", "stopping"]),
        ("rat", ["rats", "ratted", "ratting"]),  # not rated
        ("quit", ["quits", "quitted", "quitting"]),
        ("quiz", ["quizzes", "quizes", "quizzed", "quizzing"]),
        ("rain", ["rains", "rained", "raining"]),
        ("snow", ["snows", "snowed", "snowing"]),
        ("fee", ["fees", "feeing"]),
        ("see", ["sees", "seeing"]),
        ("free", ["frees", "freed", "freeing"]),
        ("decree", ["decrees", "decreed", "decreeing"]),
        ("be", ["bes", "being"]),
        ("to", ["tos", "toing"]),  # not toes
        ("lie", ["lies", "lied", "lying"]),
        ("hoe", ["hoes", "hoed", "hoeing"]),
        ("dye", ["dyes", "dyed", "dyeing"]),
        ("care", ["cares", "cared", "caring"]),
        ("sing", ["sings", "singing"]),  # not singed
        ("singe", ["singes", "singed", "singeing"]),
        ("visit", ["visits", "visited", "visiting"]),
        ("offer", ["offers", "offered", "offering"]),
        ("profit", ["profits", "profited", "profiting"]),
        ("enter", ["enters", "entered", "entering"]),
        ("refer", ["refers", "referred", "referring"]),
        ("admit", ["admits", "admitted", "admitting"]),
        ("begin", ["begins", "beginned", "beginning"]),
        ("rebut", ["rebuts", "rebutted", "rebutting"]),
        ("debut", ["debuts", "debuted", "debuting"]),
        ("travel", ["travels", "traveled", "traveling", "travelled", "travelling"]),
        ("fail", ["fails", "failed", "failing"]),
        ("mimic", ["mimics", "mimicked", "mimicking"]),
        ("box", ["boxes", "boxed", "boxing"]),
        ("echo", ["echoes", "echos", "echoed", "echoing"]),
        ("radio", ["radios", "radioed", "radioing"]),
        ("crisis", ["crises"]),
        ("unit", ["units"]),  # united is a form of unite
        ("sheath", ["sheaths"]),  # and sheathed of sheathe
        ("secret", ["secrets"]),
        ("ad", ["ads"]),
        ("Spring", ["Springs", "Springed", "Springing"]),
        ("x-ray", []),
    ],
)
def test_forms_follow_the_rules_of_english(word: str, inflected: list[str]) -> None:
    forms = forms_of(word)
    assert sorted(forms) == sorted([word, *inflected])


@given(st.text(alphabet="abceghilnoqrstuwyz", min_size=2, max_size=8))
def test_the_word_comes_first_and_no_form_twice(word: str) -> None:
    forms = forms_of(word)
    assert forms[0] == word
    assert len(set(forms)) == len(forms)
    assert all(form.startswith(word[:-2]) for form in forms)


def test_chinese_words_have_no_other_forms() -> None:
    assert forms_of("苹果") == ["苹果"]


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet="aAeé\u0301ß fi苹果_1.\u200bİ각", max_size=12),
    st.text(alphabet="aeé苹果ß각", min_size=1, max_size=3),
)
def test_what_is_found_is_the_word_and_nothing_else(sentence: str, word: str) -> None:
    def folded(text: str) -> str:
        return unicodedata.normalize("NFD", text.replace("\u200b", "").casefold())

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
    assert nearest_words("izmirli", ["İzmir güzel."]) == ["izmir"]
    assert nearest_words("किताबें", ["यह किताब है"]) == ["किताब"]
    assert nearest_words("dont", ["I don’t know."]) == ["don't"]
