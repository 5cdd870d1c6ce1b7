"""Words added to a tokenizer: they are hit, everything else stays."""

import itertools

import pytest

from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import add_words, read_words, train_tokenizer

from ..conftest import make_text
from ..encoders import as_published

WORDS = ["Nanobot", "covid-19", "zürichsee", "c++"]
AWKWARD = [
    "Nanobots, xnanobot and nanobotic things; nano bot.",
    "covid-193 covid_19 covid 19",
    "c+ c++x ac++",
    "[MASK] [SEP] café 中国 🙂 \u200b ¯",
    "",
    "a" * 120,
]


@pytest.fixture(scope="module", params=["lower", "cased"])
def tokenizers(request):
    old = train_tokenizer(make_text(40).split("\n\n"), vocab_size=256, lowercase=request.param == "lower")
    new, added = add_words(old, WORDS)
    return old, new, added


def test_text_without_the_words_keeps_its_ids(tokenizers):
    old, new, _ = tokenizers
    for text in [*AWKWARD, *make_text(20, seed=5).split("\n\n")]:
        assert new.encode(text) == old.encode(text), text
        assert new.encode_documents([text])[0].tolist() == old.encode_documents([text])[0].tolist()


def test_each_word_is_one_new_token_behind_the_old_ones(tokenizers):
    old, new, added = tokenizers
    ids = [new.word_tokens([word])[0] for word in added]
    assert ids == [[old.vocab_size + place] for place in range(len(added))]
    assert new.vocab_size == old.vocab_size + len(added)
    assert [new.token(i) for i in range(old.vocab_size)] == [old.token(i) for i in range(old.vocab_size)]


def test_a_word_is_hit_in_running_text_between_anything_but_letters_and_digits(tokenizers):
    old, new, added = tokenizers
    for word, (before, after) in itertools.product(
        added, [("", ""), ("the ", " is"), ("(", "), "), ("\n", "."), ("the ", "'s")]
    ):
        ids = new.encode(before + word + after)[1:-1]
        assert ids == [
            *new.encode(before)[1:-1],
            old.vocab_size + added.index(word),
            *new.encode(after)[1:-1],
        ]


def test_case_and_accents_count_as_they_do_for_the_tokenizer(tokenizers):
    _, new, added = tokenizers
    lower = "nanobot" in added
    word = added[0]
    assert (new.encode("NANOBOT") == new.encode(word)) is lower
    assert new.encode("zurichsee") != new.encode("zürichsee")
    assert new.encode("zu\u0308richsee") == new.encode("zürichsee")
    published, _ = add_words(as_published(tokenizers[0], lower), WORDS)
    assert (published.encode("zurichsee") == published.encode("zürichsee")) is lower


def test_offsets_are_those_of_the_word_in_the_text(tokenizers):
    _, new, _ = tokenizers
    text = "Two covid-19 tests."
    ids, offsets = new.encode_with_offsets(text)
    start, end = offsets[ids.index(new.word_tokens(["covid-19"])[0][0])]
    assert text[start:end] == "covid-19"


def test_a_new_token_begins_a_word_and_may_be_hidden(tokenizers):
    old, new, _ = tokenizers
    ids = range(old.vocab_size, new.vocab_size)
    assert all(new.word_starts[i] for i in ids)
    assert set(ids) <= set(new.replacement_ids.tolist())
    assert new.special_ids == old.special_ids


def test_known_words_are_left_out_however_they_are_spelt(tokenizers):
    old, new, added = tokenizers
    assert add_words(old, ["the", old.token(old.vocab_size - 1), "[unused0]"])[1] == []
    again, none = add_words(new, added)
    assert none == []
    assert again.hash == new.hash
    if "nanobot" in added:
        assert add_words(old, ["Nanobot", "nanobot", "NANOBOT"])[1] == ["nanobot"]


def test_a_single_unknown_character_can_be_added():
    old = train_tokenizer(["我 们 吃 苹 果 。"] * 4, vocab_size=64)
    assert old.unk_id in old.encode("我囧我")
    new, _ = add_words(old, ["囧"])
    assert new.encode("我囧我")[1:-1] == [old.encode("我")[1], old.vocab_size, old.encode("我")[1]]


@pytest.mark.parametrize("mark", ["”", "…", "——", "€", "«"])
def test_a_mark_is_a_word_beside_letters_digits_and_ideographs_alike(mark):
    old = train_tokenizer(["我 们 吃 苹 果 。 the cat and the dog 2022"] * 4, vocab_size=64)
    new, added = add_words(old, [mark])
    assert added == [mark]
    for before, after in itertools.product(["", "the", "我", "2022", "the "], ["", "dog", "果", "2", "."]):
        sides = [new.encode(side)[1:-1] for side in (before, after)]
        assert new.encode(before + mark + after)[1:-1] == [*sides[0], old.vocab_size, *sides[1]]


def test_a_file_has_a_word_a_line(tmp_path):
    file = tmp_path / "words.txt"
    file.write_bytes("\ufeffone\r\n\n  two\t\nuno\u0301\none\n".encode())
    assert read_words(file) == ["one", "two", "uno\u0301"]


@pytest.mark.hf
def test_auto_tokenizer_gives_the_same_ids(tokenizers, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    _, new, added = tokenizers
    new.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*AWKWARD[:3], "", f"We met {added[0]}, {added[1]}'s {added[2]}!", "ZÜRICHSEE NANOBOT C++"]:
        assert theirs(text)["input_ids"] == new.encode(text) == Tokenizer.load(tmp_path).encode(text)


def test_added_words_are_no_entries_of_the_vocabulary_file(tokenizers, tmp_path):
    """There they would be pieces of longer words too."""
    old = as_published(tokenizers[0])
    new, _ = add_words(old, WORDS)
    new.save(tmp_path)
    lines = (tmp_path / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [old.token(i) for i in range(old.vocab_size)]
