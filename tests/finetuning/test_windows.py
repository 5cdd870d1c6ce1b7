"""Windows: nothing is lost, words stay whole, and each word is decided once, where it is furthest from a cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert.data.tokenizer import Tokenizer
from bert.errors import InputError
from bert.finetuning.config import WindowsConfig
from bert.finetuning.inputs import window_maker
from bert.finetuning.predict import load_predictor
from bert.finetuning.windows import (
    Settings,
    WindowMaker,
    cut,
    cut_pair,
    cut_words,
    decide,
)
from bert.model.config import EncoderConfig, task_head
from bert.model.encoder import Encoder
from bert.model.heads import SequenceClassifier
from tests.data.folders import FOLDERS

ROOMS = st.integers(3, 20)


@pytest.fixture(scope="module")
def tokenizer(tiny_run):
    return Tokenizer.load(tiny_run / "tokenizer")


@given(st.integers(0, 200), ROOMS, st.integers(1, 30))
def test_windows_of_a_text_cover_every_piece_and_are_full(length, room, stride):
    cuts = cut(length, room, stride)
    assert {place for begin, end in cuts for place in range(begin, end)} == set(range(length))
    assert all(end - begin == min(length, room) for begin, end in cuts)
    assert all(0 < after - before <= stride for (before, _), (after, _) in pairwise(cuts))


@given(st.integers(0, 80), st.integers(0, 80), ROOMS, st.integers(1, 30))
def test_windows_of_two_texts_cover_every_piece_of_both(first, second, room, stride):
    cuts = cut_pair(first, second, room, stride)
    for side, length in ((0, first), (1, second)):
        assert {place for spans in cuts for place in range(*spans[side])} == set(range(length))
    for (begin_a, end_a), (begin_b, end_b) in cuts:
        assert end_a - begin_a + end_b - begin_b <= room
    if first <= room // 2:  # a question stays whole beside each part of a long text
        assert {spans[0] for spans in cuts} == {(0, first)}


def furthest(lengths, cuts):
    """Window of each word by the definition, place by place."""
    chosen = []
    for word in range(len(lengths)):
        distances = []
        for begin, end in cuts:
            if not begin <= word < end:
                distances.append(-1)
                continue
            ends = []
            if begin > 0:
                ends.append(sum(lengths[begin:word]))
            if end < len(lengths):
                ends.append(sum(lengths[word + 1 : end]))
            distances.append(min(ends, default=10**9))
        chosen.append(distances.index(max(distances)))
    return chosen


@given(st.data(), ROOMS, st.integers(1, 30))
def test_each_word_is_decided_in_one_window_the_one_where_it_is_furthest_from_a_cut(data, room, stride):
    lengths = data.draw(st.lists(st.integers(1, room), max_size=60))
    cuts = cut_words(lengths, room, stride)
    assert all(sum(lengths[begin:end]) <= room for begin, end in cuts)
    decided = decide(lengths, cuts)
    window_of = {word: number for number, words in enumerate(decided) for word in words}
    assert sorted(word for words in decided for word in words) == list(range(len(lengths)))
    assert [window_of[word] for word in range(len(lengths))] == furthest(lengths, cuts)


def test_a_worked_example():
    """Seven words, of which the third has three tokens, in rows with room for five, two tokens apart."""
    lengths = [1, 1, 3, 1, 1, 1, 1]
    assert cut_words(lengths, 5, 2) == [(0, 3), (2, 5), (3, 7)]
    assert decide(lengths, [(0, 3), (2, 5), (3, 7)]) == [[0, 1, 2], [3], [4, 5, 6]]


def test_rows_are_what_the_model_reads(tokenizer):
    maker = WindowMaker(tokenizer, 16, 7, token_types=True)
    text = "the old man sees an old book in the morning near the station and the cat"
    ids = tokenizer.encode(text)[1:-1]
    windows = maker.from_texts([text, ""], [None, None])
    assert [window.ids for window in windows[1]] == [[tokenizer.cls_id, tokenizer.sep_id]]
    assert len(windows[0]) > 1
    for window in windows[0]:
        assert window.ids[0] == tokenizer.cls_id
        assert window.ids[-1] == tokenizer.sep_id
        assert len(window.ids) == 16
    assert windows[0][0].ids[1:-1] == ids[:14]
    assert windows[0][-1].ids[1:-1] == ids[-14:]


def test_a_pair_is_the_row_of_the_tokenizer_with_its_token_types(tokenizer):
    window = WindowMaker(tokenizer, 32, 15, token_types=True).from_texts(["the cat"], ["a red phone"])[0][0]
    encoding = tokenizer.backend.encode("the cat", "a red phone")
    assert (window.ids, window.token_types) == (encoding.ids, encoding.type_ids)


@pytest.mark.hf
def test_where_the_encoder_has_no_token_types_those_of_a_pair_still_tell_its_texts_apart(tmp_path):
    tokenizer = Tokenizer.load(FOLDERS["roberta"](tmp_path))
    assert tokenizer.second_type == 0
    ((window,),) = WindowMaker(tokenizer, 32, 15, token_types=False).from_texts(["the cat"], ["a red phone"])
    second = len(tokenizer.encode("a red phone")) - 1  # its [SEP], but no [CLS]
    assert window.token_types == [0] * (len(window.ids) - second) + [1] * second


@pytest.mark.hf
@pytest.mark.parametrize("name", ["bert-uncased", "roberta", "roberta-prefix", "modernbert", "xlm-roberta"])
def test_a_pair_is_the_row_of_transformers_in_every_family(name, tmp_path):
    """RoBERTa's rows have two separators between the texts and no second token type."""
    transformers = pytest.importorskip("transformers")
    folder = FOLDERS[name](tmp_path)
    tokenizer, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    texts, pairs = ["the cat", "", "我吃苹果"], ["a red phone, the dog", "second", ""]
    rows = WindowMaker(tokenizer, 64, 31, token_types=True).from_texts(texts, pairs)
    expected = theirs(texts, pairs, return_token_type_ids=True, padding=False)
    assert [window.ids for (window,) in rows] == expected["input_ids"]
    assert [window.token_types for (window,) in rows] == expected["token_type_ids"]
    long = WindowMaker(tokenizer, 16, 7, token_types=True).from_texts(["the quick dog"], ["and the dog sleeps " * 9])[0]
    between = tokenizer.pair_separators
    assert len(long) > 1
    for window in long:
        assert len(window.ids) <= 16
        inner = window.ids[1:-1]
        at = inner.index(tokenizer.sep_id)
        assert inner[at:].count(tokenizer.sep_id) == len(between)
        assert tuple(inner[at : at + len(between)]) == between


def test_the_place_of_a_word_is_its_first_token(tokenizer):
    words = ["the", "gardeners", "cat", "remembering", "sees", "neighbourhood", "bread", "the", "unlikely", "book"]
    tokens = tokenizer.word_tokens(words)
    windows = WindowMaker(tokenizer, 16, 5, token_types=False).from_sentences([words])[0]
    assert len(windows) > 1
    for window in windows:
        assert len(window.ids) <= 16
        for word, place in zip(window.words, window.starts, strict=True):
            assert window.ids[place : place + len(tokens[word])] == tokens[word]


def test_a_word_longer_than_a_row_is_read_in_part_and_said_so(tokenizer):
    maker = WindowMaker(tokenizer, 8, 3, token_types=False)
    with pytest.warns(
        UserWarning,
        match="^the word 'forgetsremembersforgetsremembersforgets…' has [0-9]+ tokens and a sequence holds 6",
    ):
        windows = maker.from_sentences([["the", "forgetsremembers" * 5, "cat"]])[0]
    assert sorted(word for window in windows for word in window.words) == [0, 1, 2]
    assert all(len(window.ids) <= 8 for window in windows)


@pytest.mark.parametrize(
    ("given", "longest", "expected"),
    [
        (WindowsConfig(), 512, (128, 63)),
        (WindowsConfig(), 64, (64, 31)),
        (WindowsConfig(32, 10), 64, (32, 10)),
    ],
)
def test_open_fields_of_rows_follow_from_the_model(tokenizer, given, longest, expected):
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 16}
    encoder = Encoder(EncoderConfig(vocab_size=tokenizer.vocab_size, max_length=longest, **shape))
    encoder.tokenizer = tokenizer
    maker = window_maker(given, encoder, "encoder")
    assert (maker.sequence_length, maker.stride) == expected


def test_a_model_folder_keeps_its_rows(tokenizer, tmp_path):
    """From a run through `load` and `save` to the next one; a folder without them has the defaults."""
    config = EncoderConfig(tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16)
    model = SequenceClassifier(config, task_head(config, ("a", "b")))
    model.tokenizer = tokenizer
    model.save(tmp_path / "bare")
    assert not (tmp_path / "bare" / "windows.json").exists()
    assert Settings.read(SequenceClassifier.load(tmp_path / "bare").settings) == Settings()
    model.settings = Settings(WindowsConfig(64, 20)).written()
    model.save(tmp_path / "first")
    SequenceClassifier.load(tmp_path / "first").save(tmp_path / "second")
    again = SequenceClassifier.load(tmp_path / "second").settings
    assert Settings.read(again) == Settings(WindowsConfig(64, 20))
    assert load_predictor(tmp_path / "second").maker.sequence_length == 64
    (tmp_path / "second" / "windows.json").write_text("[")
    with pytest.raises(InputError, match=r"second/windows\.json"):
        SequenceClassifier.load(tmp_path / "second")
