"""Words of running text: found by offsets that lose nothing, like BERT's without a training file, and like those of one."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from unicodedata import category, ucd_3_2_0

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from bert.data.splitting import Splitter
from bert.data.tagged import TaggedExample, read_tagged
from bert.data.tokenizer import is_unspaced
from tests.conftest import DATA
from tests.strategies import TEXTS


def split(splitter: Splitter, text: str) -> list[str]:
    return [text[start:end] for start, end in splitter.words(text)]


def text_of(words: list[str], joined: list[bool]) -> str:
    return "".join(word + ("" if one else " ") for word, one in zip(words, joined)).removesuffix(" ")


def is_visible(character: str) -> bool:
    return category(character)[0] not in "MC" or is_unspaced(character)  # new ideographs have no category yet


# phrases of one or more words, which are written without a space between them
PHRASES = [
    ["Mr."],
    ["U.S."],
    ["do", "n't"],
    ["@user"],
    [":)"],
    ["Li"],
    ["go", "."],
    ["it", "'s"],
    ["well-known"],
    ["#tag"],
]
PHRASES += [
    ["yes", ",", '"'],
    ["C", "++"],
    ["3.14"],
    ["5", "%"],
    ["北京", "很", "大", "。"],
    ["سلام", "،"],
    ["e.g."],
    ["–"],
]


def sentence(phrases: list[list[str]]) -> tuple[list[str], list[bool]]:
    joined = [[True] * (len(phrase) - 1) + [False] for phrase in phrases]
    return [*chain(*phrases)], [*chain(*joined)]


SENTENCES = st.lists(st.lists(st.sampled_from(PHRASES), min_size=1, max_size=6).map(sentence), min_size=1, max_size=8)
LEARNED = Splitter.learn(map(sentence, [PHRASES, PHRASES[::-1]]))
ALONE = Splitter.learn([(list("我住在北京2008年"), []), (list("苹果iPhone4很好"), [])])


@pytest.mark.parametrize("splitter", [Splitter(), LEARNED, ALONE], ids=["untrained", "learned", "characters"])
@given(text=TEXTS)
def test_words_are_disjoint_and_ascending_and_leave_out_nothing_that_is_seen(splitter, text):
    offsets = splitter.words(text)
    places = [place for start, end in offsets for place in range(start, end)]
    assert places == sorted(set(places))
    assert all(0 <= start < end <= len(text) for start, end in offsets)
    assert not any(map(str.isspace, (text[place] for place in places)))
    runs = [range(*run.span()) for run in re.finditer(r"\S+", text)]
    assert places == [place for run in runs if any(is_visible(text[one]) for one in run) for place in run]
    assert splitter.words(text) == offsets  # also from what is remembered


PRINTABLE = st.characters(exclude_categories=("M", "C", "Zl", "Zp")).filter(
    lambda one: ucd_3_2_0.category(one) == category(one)  # of which every library has the same tables
)


@given(text=st.text(PRINTABLE | st.sampled_from("aé1.,!-苹果かสี€😀 \u00a0\u3000").filter(is_visible)))
def test_without_a_training_file_words_are_those_of_bert(text):
    spaced = BertNormalizer(clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False)
    expected = [word for word, _ in BertPreTokenizer().pre_tokenize_str(spaced.normalize_str(text))]
    assert split(Splitter(), text) == expected


def test_ideographs_are_words_beside_other_scripts():
    for text, words in {
        "他买了MacBook电脑。Very good!": ["他", "买", "了", "MacBook", "电", "脑", "。", "Very", "good", "!"],
        "上海很远 。": [*"上海很远。"],
        "Ann 住在很远的北京": ["Ann", *"住在很远的北京"],
        "Ann lives in Berlin-Mitte .": ["Ann", "lives", "in", "Berlin", "-", "Mitte", "."],
    }.items():
        assert split(Splitter(), text) == words


def test_marks_joiners_and_selectors_stay_with_what_is_before_them():
    text = "cafe\u0301 👩\u200d👧! ❤\ufe0f น้ำ, \u200b a\u200bb 苹\ufe00果 !\u0301?"
    assert split(Splitter(), text) == [
        "cafe\u0301",
        "👩\u200d👧",
        "!",
        "❤\ufe0f",
        "น้ำ",
        ",",
        "a\u200bb",
        "苹\ufe00",
        "果",
        "!\u0301",
        "?",
    ]


@given(sentences=SENTENCES)
def test_the_words_of_the_training_sentences_are_found_in_the_text_that_they_make(sentences):
    learned = Splitter.learn(sentences)
    for words, joined in sentences:
        assert split(learned, text_of(words, joined)) == words


@given(sentences=SENTENCES)
def test_what_is_learned_holds_for_other_sentences_of_the_same_words(sentences):
    for words, joined in sentences:
        assert split(LEARNED, text_of(words, joined)) == words


@given(
    sentences=st.lists(
        st.lists(st.sampled_from([*chain(*PHRASES[:10])]), min_size=1, max_size=6), min_size=1, max_size=6
    )
)
def test_words_of_a_file_that_tells_no_spaces_are_found_between_spaces(sentences):
    learned = Splitter.learn([(words, []) for words in sentences])
    for words in sentences:
        assert split(learned, " ".join(words)) == words


@pytest.mark.parametrize("mark", ["...", "(", '"', "@", "."])
def test_a_mark_that_stands_alone_changes_no_other_word_where_the_file_tells_spaces(mark):
    words, joined = sentence([["do", "n't"], [mark], ["Mr."], ["Li"]])
    learned = Splitter.learn([(words, joined), sentence([["I"], ["do", "n't", "."]])] * 3)
    assert split(learned, text_of(words, joined)) == words


def test_words_that_no_space_separates_are_learned_where_a_file_tells_no_spaces():
    learned = Splitter.learn([("He met Mr. Li in the U.S. today .".split(), []), ("No , we go !".split(), [])] * 2)
    assert split(learned, "No, Mr. Wu went!") == ["No", ",", "Mr.", "Wu", "went", "!"]
    assert split(Splitter(), "Mr. Wu") == ["Mr", ".", "Wu"]


def test_a_file_of_single_characters_splits_latin_words_and_numbers_too():
    assert split(ALONE, "在 iPad2上") == [*"在iPad2上"]
    assert split(Splitter(), "在 iPad2上") == ["在", "iPad2", "上"]


def test_nothing_learned_is_the_untrained_splitter():
    assert Splitter.learn([]).contexts == Splitter.learn([([], [])]).contexts == {}
    plain = [(["Ann", "left", "."], [False, True, False])] * 3
    assert Splitter.learn(plain).contexts == {}  # as without it


@example(sentences=[(["Mr."], [False])], text=") 苹果")
@given(sentences=SENTENCES, text=TEXTS)
def test_contexts_and_one_flag_are_all_that_is_learned(sentences, text):
    learned = Splitter.learn(sentences)
    again = Splitter(json.loads(json.dumps(learned.contexts)), json.loads(json.dumps(learned.separated)))
    assert again.words(text) == learned.words(text)


@pytest.mark.parametrize(
    "contexts",
    [
        {"": True},
        {"9a b": True},
        {"0a b": 1},
        {"0a b": "yes"},
        {"0a b": None},
        {1: True},
        {"0" + "a" * 40: True},
        ["0a b"],
        "0a b",
    ],
)  # fmt: skip
def test_damaged_contexts_are_refused(contexts):
    with pytest.raises(ValueError, match="contexts of the words are damaged"):
        Splitter(contexts)


# ── the spaces of a file ──

CONLLU = """\
# text = It's “vámonos”, or (dámelo).
1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\t_
1\tIt\t_\tPRON\t_\t_\t_\t_\t_\t_
2\t's\t_\tAUX\t_\t_\t_\t_\t_\t_
3\t“\t_\tPUNCT\t_\t_\t_\t_\t_\tSpaceAfter=No
4-5\tvámonos\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No|Lang=es
4\tvámo\t_\tVERB\t_\t_\t_\t_\t_\t_
5\tnos\t_\tPRON\t_\t_\t_\t_\t_\t_
6\t”\t_\tPUNCT\t_\t_\t_\t_\t_\tX=1|SpaceAfter=No
6.1\tsilent\t_\tX\t_\t_\t_\t_\t_\tSpaceAfter=No
7\t,\t_\tPUNCT\t_\t_\t_\t_\t_\t_
8\tor\t_\tCCONJ\t_\t_\t_\t_\t_\tNoSpaceAfter=No

1\t(\t_\tPUNCT\t_\t_\t_\t_\t_\tSpaceAfter=No
2\tso\t_\tADV\t_\t_\t_\t_\t_\t_
"""


def test_conllu_tells_which_words_are_joined(tmp_path):
    (tmp_path / "a.conllu").write_text(CONLLU, encoding="utf-8")
    for needs_tags in (True, False):
        first, second = read_tagged(tmp_path / "a.conllu", needs_tags=needs_tags)
        text = "It's “vámonos”, or"
        assert first.words == ("It", "'s", "“", "vámo", "nos", "”", ",", "or")
        assert first.joined == (True, False, True, True, True, True, False, False)
        assert first.located()[0] == text
        assert [text[start:end] for start, end in first.located()[1]] == [*first.words]
        assert second.joined == (True, False)
        assert second.located() == ("(so", [(0, 1), (1, 3)])


def test_other_formats_do_not_tell_and_words_are_located_between_spaces(tmp_path):
    (tmp_path / "a.conll").write_text("Ann\tO\nleft\tO\n.\tSpaceAfter=No\n\n我\tO\n们\tO\nOK\tO\n", encoding="utf-8")
    first, second = read_tagged(tmp_path / "a.conll")
    assert first.joined == second.joined == ()
    assert first.located() == ("Ann left .", [(0, 3), (4, 8), (9, 10)])
    assert second.located() == ("我们OK", [(0, 1), (1, 2), (2, 4)])


@given(
    words=st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=4), max_size=8),
    data=st.data(),
)
def test_located_words_are_those_that_were_given(words, data):
    joined = data.draw(st.just(()) | st.lists(st.booleans(), min_size=len(words), max_size=len(words)).map(tuple))
    text, offsets = TaggedExample(tuple(words), joined=joined).located()
    assert [text[start:end] for start, end in offsets] == words


# ── measurement data ──


def word_f1(name: str, suffix: str, alone: bool = False) -> float:
    """F1 of the words that are found in the text of a dev set by what is learned from its training set."""
    train, dev = (DATA / name / f"{part}.{suffix}.gz" for part in ("train", "dev"))
    for file in (train, dev):
        if not file.exists():
            pytest.skip(f"{file} is absent")
    splitter = Splitter.learn((one.words, one.joined) for one in read_tagged(train))
    right = found = both = 0
    for one in dev_examples(dev, alone):
        text, offsets = one.located()
        words = set(splitter.words(text))
        right, found, both = right + len(offsets), found + len(words), both + len(words.intersection(offsets))
    return 2 * both / (right + found)


def dev_examples(file, alone: bool) -> Iterator[TaggedExample]:
    """With words joined by nothing (`alone`), or as the file tells, which is by spaces if it does not."""
    for one in read_tagged(file):
        spaces = one.joined or (alone,) * len(one.words)
        yield replace(one, joined=spaces)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "suffix", "alone", "least"),
    [
        pytest.param("ner-en", "conll", False, 0.995, marks=pytest.mark.slow),
        ("ner-tweets", "conll", False, 0.99),
        pytest.param("zh-ner", "conll", True, 1.0, marks=pytest.mark.slow),
        pytest.param("ud-ewt", "conllu", False, 0.985, marks=pytest.mark.slow),
    ],
)
def test_words_of_a_dev_set_are_found_in_its_text(name, suffix, alone, least):
    assert word_f1(name, suffix, alone) >= least
