"""The default tokenizer loses no letter of any script: words that differ differ in ids, and decoding gives the text back."""

import json
import random
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import KINDS, train_tokenizer

# language → words, among them pairs that a normalizer which strips marks makes equal
WORDS = {
    "Thai": "เขา เข้า ขาว ข้าว คา ค่า ค้า น้ำ นา หนา กำลัง ไป มัน ที่ ที",
    "Lao": "ມາ ມ້າ ໄປ ກິນ ເຂົ້າ ນ້ຳ ດີ",
    "Khmer": "ខ្ញុំ ទៅ ផ្សារ ទឹក ស្រី សី",
    "Hindi": "कल काल किला कीला कुल कूल मन मान में मैं है हैं नहीं राम रामायण",
    "Tamil": "கல் கால் கிளி அம்மா அம்மாவை தமிழ் மொழி",
    "Japanese": "かき かぎ はし ばし ぱし パンダ ハンタ カード ガード 東京 は が を です",
    "Korean": "한국 한국의 하국 사과 사과를 배 먹다 걷다",
    "Arabic": "كتب كتاب كَتَبَ كُتِبَ مدرسة مدرسه أن ان إن",
    "Persian": "می\u200cخواهم میخواهم کتاب\u200cها کتابها خانه",
    "German": "schon schön Mutter Mütter zahlen zählen Straße",
    "Turkish": "İstanbul ısı isi Işık ilik ılık kır kir şey çay cay",
    "Vietnamese": "ma má mà mả mã mạ đường duong Việt nước",
    "Russian": "все всё мой мои йод иод край краи",
    "Yoruba": "ọkọ ọkọ́ ọ̀kọ̀ oko",
    "Chinese": "苹果 𰻞𰻞面 𠀀 㐀 人々",
    "Emoji": "👍 👍🏽 👩\u200d💻 👩 ❤️ ❤",
}
UNSPACED = ("Thai", "Lao", "Khmer", "Japanese")


def lines_of(language: str, count: int = 150, seed: int = 0) -> list[str]:
    draw, words = random.Random(seed), WORDS[language].split()
    between = "" if language in (*UNSPACED, "Chinese") else " "
    return [between.join(draw.choices(words, k=draw.randint(4, 40))) + "." for _ in range(count)]


TRAINED = {language: train_tokenizer(lines_of(language)) for language in WORDS}

CHARACTERS = sorted({*"".join(WORDS.values()), "\u0301", "\u3099", "ｶ", "Ａ", "ﬁ"})
ALL_LINES = [line for language in WORDS for line in lines_of(language, 30)]
ALL_LINES += [
    " ".join(f"{character} a{character}" for character in CHARACTERS)
] * 3  # at the beginning of a word and inside
EVERYTHING = {kind: train_tokenizer(ALL_LINES, kind) for kind in KINDS}


def comparable(text: str) -> str:
    return "".join(unicodedata.normalize("NFC", text).casefold().replace("i\u0307", "i").split())


@pytest.mark.parametrize("language", WORDS)
def test_words_that_differ_differ_in_ids(language):
    tokenizer, words = TRAINED[language], WORDS[language].split()
    assert len({comparable(word) for word in words}) == len(words)
    assert len({tuple(ids) for ids in tokenizer.word_tokens(words)}) == len(words)


@pytest.mark.parametrize("language", WORDS)
def test_decoding_gives_new_lines_back_and_no_token_is_unknown(language):
    tokenizer, lines = TRAINED[language], lines_of(language, seed=1)
    for line in lines:
        assert comparable(tokenizer.decode(tokenizer.encode(line))) == comparable(line)
        assert comparable(tokenizer.decode(tokenizer.encode(unicodedata.normalize("NFD", line)))) == comparable(line)
    assert (tokenizer.encode_documents(lines)[0] == tokenizer.unk_id).mean() < 0.001


@pytest.mark.parametrize("language", WORDS)
def test_scripts_without_spaces_get_unigram_and_others_wordpiece(language, said):
    assert TRAINED[language].kind == ("unigram" if language in UNSPACED else "wordpiece")
    if language in UNSPACED:
        train_tokenizer(lines_of(language))
        assert said[-1].endswith(
            "of the letters belong to scripts without spaces between words: a unigram tokenizer is trained"
        )
        train_tokenizer(lines_of(language), "wordpiece", 256)
        assert said[-1].endswith("spaces between words, which the kind unigram finds and wordpiece does not")


def test_a_long_sentence_without_spaces_is_not_one_unknown_token():
    thai = "".join(WORDS["Thai"].split())
    tokenizer = train_tokenizer([thai * 20, *lines_of("German")] * 5, "wordpiece", 128)
    ids = tokenizer.encode(thai * 20)
    assert tokenizer.unk_id not in ids
    assert comparable(tokenizer.decode(ids)) == comparable(thai * 20)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(CHARACTERS), max_size=40).map("".join),
    st.sampled_from(KINDS),
)
def test_any_text_of_known_characters_comes_back(text, kind):
    composed, known = (unicodedata.normalize("NFC", some.lower()) for some in (text, "".join(CHARACTERS)))
    # A letter and a mark may be another character, and the dot of İ is known only beside an i.
    assume(set(composed.replace("i\u0307", "i")) <= {*CHARACTERS, *known.replace("i\u0307", "i")})
    assert comparable(EVERYTHING[kind].decode(EVERYTHING[kind].encode(text))) == comparable(text)


def test_accents_are_stripped_from_latin_and_greek_letters_alone_if_asked():
    tokenizer = train_tokenizer(ALL_LINES, "wordpiece", strip_accents=True)
    normalized = tokenizer.backend.normalizer.normalize_str
    assert normalized("Schön Việt Ελλάς é ñ") == "schon viet ελλας e n"
    for kept in ("всё", "йод", "नहीं", "かぎ", "한국", "ข้าว", "كَتَبَ"):
        assert normalized(kept) == kept


def test_control_characters_are_dropped_and_what_has_a_shape_or_separates_words_is_kept():
    normalized = TRAINED["German"].backend.normalizer.normalize_str
    assert normalized("a\x00b\u00adc\u200bd\ufeffe\u202ef\ufffdg") == "abcdefg"
    for kept in (
        "a\u200cb",
        "a\u200db",
        "a\tb",
        "a\x0cb",
        "a\x85b",
        "a\u2028b",
        "\u06dd",
        "\u0601",
        "\ue000",
        "❤\ufe0f",
    ):
        assert normalized(kept) == kept


@pytest.mark.hf
@pytest.mark.parametrize("kind", KINDS)
def test_auto_tokenizer_gives_the_same_ids_for_every_script(kind, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    EVERYTHING[kind].save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    for line in [*ALL_LINES, "İSTANBUL 한국 [MASK]", "ข้าว" * 60]:
        assert theirs(line)["input_ids"] == ours.encode(line) == EVERYTHING[kind].encode(line)
