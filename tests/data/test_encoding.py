"""The table of words gives exactly what the tokenizer gives, whatever the text, and forgets before it grows too large."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from bert.data import encoding
from bert.data.encoding import WordTable, cuts_words_apart, document_encoder
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import train_tokenizer

from ..encoders import as_published

TEXTS = [f"Document {i} of many: the quick brown fox, an Äpfel and {'word ' * (i % 30)}苹果." for i in range(300)]
LOWER = train_tokenizer(TEXTS, "wordpiece")
CASED = train_tokenizer(TEXTS, "wordpiece", lowercase=False)
STRIPPED = train_tokenizer(TEXTS, "wordpiece", strip_accents=True)
PUBLISHED = [as_published(LOWER), as_published(CASED, lowercase=False)]
BY_KIND = {"wordpiece": LOWER} | {kind: train_tokenizer(TEXTS, kind) for kind in ("bpe", "unigram")}
# blanks of every kind, marks that combine, what a normaliser drops, surrogates, what looks like a special token
PARTS = st.sampled_from(
    [" ", "  ", "\n", "\t", "\r\n", "\x00", "\x1c", "\x85", "\xa0", "\u2028", "\u3000", "\u200b", "\ufeff", "\ufffd"]
    + [
        "\u0301",
        "a\u0301",
        "Σ",
        "ΟΔΟΣ",
        "İ",
        "ß",
        "ﬁ",
        "苹果",
        "가",
        "\ud800",
        "😀",
        "[MASK]",
        "[",
        "word",
        "WORD",
        "fox,",
        "x" * 120,
        "don't",
        "=\u0338",
        "<\u0338b",
        "i\u0307",
        "か\u3099",
        "한",
        "\u1112\u1161\u11ab",
        "กำลัง" * 25,
        "x" * 60 + "-" + "x" * 60,
        "𰻞𰻞面",
        "می\u200cخواهم",
        "\u06dd",
        "豈",
    ]
)
TEXT = st.one_of(st.lists(PARTS, max_size=12).map("".join), st.text(max_size=20))


def encoder_of(tokenizer):
    return document_encoder(tokenizer.encode_documents, json.loads(tokenizer.backend.to_str()))


def same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.tolist() == b.tolist()


@pytest.mark.parametrize(
    "tokenizer", [LOWER, CASED, STRIPPED, *PUBLISHED], ids=["lower", "cased", "stripped", "bert-lower", "bert-cased"]
)
@settings(max_examples=200, deadline=None)
@given(batches=st.lists(st.lists(TEXT, max_size=6), min_size=1, max_size=3))
def test_the_ids_are_those_of_the_whole_text(tokenizer, batches):
    encode = encoder_of(tokenizer)
    assert encode != tokenizer.encode_documents
    for texts in batches:
        same(encode(texts), tokenizer.encode_documents(texts))


def test_a_word_is_tokenised_once():
    asked: list[str] = []

    def encode_words(words):
        asked.extend(words)
        return LOWER.encode_documents(words)

    table = WordTable(encode_words, "!-/", lowercase=True)
    for _ in range(3):
        same(table.encode(TEXTS), LOWER.encode_documents(TEXTS))
    words = {
        word for text in TEXTS for word in text.replace("D", "d").replace(",", " , ").replace(".", " . ").split(" ")
    }
    assert sorted(asked) == sorted(words)


def test_a_full_table_is_begun_anew_and_gives_the_same_ids():
    for limit in ({"words": 10}, {"characters": 100}):
        table = WordTable(LOWER.encode_documents, "!-/", lowercase=True, **limit)
        for text in TEXTS[:40]:
            same(table.encode([text]), LOWER.encode_documents([text]))
            assert len(table._number) <= 10 + len(text)
            assert table._length <= 100 + len(text)
            assert len(table._lengths) == len(table._starts) == len(table._number)


def test_only_tokenizers_that_cut_at_blanks_are_asked_word_by_word():
    others = [BY_KIND["bpe"], BY_KIND["unigram"]]
    with_words = Tokenizer(LOWER.backend.from_str(LOWER.backend.to_str()))
    with_words.backend.add_tokens([AddedToken("quick brown", normalized=False)])
    kinds = [json.loads(tokenizer.backend.to_str()) for tokenizer in (LOWER, CASED, *PUBLISHED, *others, with_words)]
    assert list(map(cuts_words_apart, kinds)) == [True] * 4 + [False] * 3
    for tokenizer in (*others, with_words):
        same(encoder_of(tokenizer)(TEXTS), tokenizer.encode_documents(TEXTS))


def test_no_texts_are_no_ids():
    values, lengths = encoder_of(LOWER)([])
    assert (len(values), len(lengths), values.dtype) == (0, 0, np.uint16)


@settings(max_examples=100, deadline=None)
@example(words=["the", "fox,", *[" "] * 80, "x" * 150, *[" ", "\n\n"] * 30, "x" * 150, "the"])
@given(
    words=st.lists(st.sampled_from(["the", "quick", "fox,", " ", "\n\n", "苹果", "x" * 150]), min_size=40, max_size=80)
)
@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_long_text_has_the_same_ids_in_pieces(words, kind):
    text = " ".join(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_LONGEST_PIECE", 250)
        assert "".join(encoding.pieces(text)) == text
        assert max(len(piece.lstrip()) for piece in encoding.pieces(text)) <= 250
        same(encoder_of(BY_KIND[kind])([text, "short"]), BY_KIND[kind].encode_documents([text, "short"]))


def test_a_text_without_spaces_is_encoded_in_pieces_too():
    text = "ab" * 1_200_000
    lengths = list(map(len, encoding.pieces(text)))
    assert lengths == [100_000] * 24
    values, (length,) = encoder_of(LOWER)([text])
    assert len(values) == length >= len(text) / 100
