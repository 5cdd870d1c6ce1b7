"""The table of words gives exactly what the tokenizer gives, whatever the text, and forgets before it grows too large."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from bert.data.encoding import WordTable, cuts_words_apart, document_encoder
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import train_tokenizer

TEXTS = [f"Document {i} of many: the quick brown fox, an Äpfel and {'word ' * (i % 30)}苹果." for i in range(300)]
LOWER = train_tokenizer(TEXTS, "wordpiece")
CASED = train_tokenizer(TEXTS, "wordpiece", lowercase=False)
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
    ]
)
TEXT = st.one_of(st.lists(PARTS, max_size=12).map("".join), st.text(max_size=20))


def encoder_of(tokenizer):
    return document_encoder(tokenizer.encode_documents, json.loads(tokenizer.backend.to_str()))


def same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.tolist() == b.tolist()


@pytest.mark.parametrize("tokenizer", [LOWER, CASED], ids=["lower", "cased"])
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
    others = [train_tokenizer(TEXTS, kind) for kind in ("bpe", "unigram")]
    with_words = Tokenizer(LOWER.backend.from_str(LOWER.backend.to_str()))
    with_words.backend.add_tokens([AddedToken("quick brown", normalized=False)])
    kinds = [json.loads(tokenizer.backend.to_str()) for tokenizer in (LOWER, CASED, *others, with_words)]
    assert list(map(cuts_words_apart, kinds)) == [True, True, False, False, False]
    for tokenizer in (*others, with_words):
        same(encoder_of(tokenizer)(TEXTS), tokenizer.encode_documents(TEXTS))


def test_no_texts_are_no_ids():
    values, lengths = encoder_of(LOWER)([])
    assert (len(values), len(lengths), values.dtype) == (0, 0, np.uint16)
