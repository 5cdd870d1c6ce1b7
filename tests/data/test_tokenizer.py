"""The tokenizer: ids, words and pieces, files, and what is refused. Training is in test_vocabulary.py."""

import json
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from bert.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from bert.data.vocabulary import KINDS, train_tokenizer
from bert.errors import InputError

from ..encoders import as_published

REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "enwiki" / "tokenizer-8192.json"
TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps.",
    "An apple a day keeps the doctor away; 我每天吃一个苹果。",
    "Café crème and naïve résumés: the doctor's apple fell (quickly).",
] * 3
SIZES = {"wordpiece": 120, "bpe": 300, "unigram": 60}
TRAINED = {kind: train_tokenizer(TEXTS, kind, SIZES[kind]) for kind in KINDS}
ODD_WORDS = [
    "",
    " ",
    "\u200b",
    "\x00",
    "\u0301",
    "😀",
    "👩‍👩‍👧",
    "e\u0301",
    "ﬁ",
    "a" * 3000,
    "苹果",
    "\ud800",
    "\ufeff",
    "[MASK]",
    "x y",
]


@pytest.fixture(params=KINDS)
def tokenizer(request) -> Tokenizer:
    return TRAINED[request.param]


def refused(load) -> str:
    with pytest.raises(InputError) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ── ids ──


def test_special_tokens_come_first_and_stand_around_a_text_and_a_pair(tokenizer):
    assert [tokenizer.token(i) for i in range(5)] == list(SPECIAL_TOKENS)
    ids = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    assert ids == (0, 1, 2, 3, 4) == tokenizer.special_ids
    a, b = (tokenizer.encode_documents([text])[0].tolist() for text in TEXTS[:2])
    assert tokenizer.encode(TEXTS[0]) == [2, *a, 3]
    assert tokenizer.encode(TEXTS[0], TEXTS[1]) == [2, *a, 3, *b, 3]
    assert tokenizer.backend.encode(TEXTS[0], TEXTS[1]).type_ids == [0] * (len(a) + 2) + [1] * (len(b) + 1)


def test_a_mask_is_a_token_in_encode_and_text_in_documents_and_words(tokenizer):
    assert tokenizer.encode("an [MASK] a day").count(4) == 1
    for token in (*SPECIAL_TOKENS, *(tokenizer.token(i) for i in tokenizer.unused_ids)):
        reserved = set(tokenizer.special_ids) - {tokenizer.unk_id} | set(tokenizer.unused_ids)
        assert not reserved & set(tokenizer.encode_documents([f"an {token} a day", token])[0].tolist())
        assert not reserved & set(tokenizer.word_tokens([token])[0])


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40), st.sampled_from(KINDS))
@example("[MASK] the dog", "wordpiece")
@example(" the  dog\u3000sleeps ", "bpe")
@example("我吃 \U0001f469\u200d\U0001f467 e\u0301\ud800", "bpe")
def test_offsets_are_the_characters_of_the_pieces(text, kind):
    tokenizer = TRAINED[kind]
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids[1:-1] == tokenizer.encode_documents([text])[0].tolist()  # what looks like a special token is text
    assert (ids[0], offsets[0], ids[-1], offsets[-1]) == (tokenizer.cls_id, (0, 0), tokenizer.sep_id, (0, 0))
    inner = offsets[1:-1]
    assert all(0 <= start <= end <= len(text) for start, end in inner)
    assert all(before[0] <= after[0] for before, after in pairwise(inner))
    for start, end in inner:
        assert text[start:end] == text[start:end].strip()
    covered = {place for start, end in inner for place in range(start, end)}
    letters = {place for place, character in enumerate(text) if character.isascii() and character.isalnum()}
    assert letters <= covered


def test_a_blank_that_the_tokenizer_puts_before_a_text_is_no_character_of_it():
    tokenizer = TRAINED["bpe"]
    ids, offsets = tokenizer.encode_with_offsets("Zz")
    assert tokenizer.token(ids[1]) == "Ġ"
    assert offsets[1:-1] == [(0, 0), (0, 1), (1, 2)]


def test_offsets_of_plain_words_are_the_words(tokenizer):
    text = "The doctor, 苹果"
    for token, (start, end) in list(zip(*tokenizer.encode_with_offsets(text)))[1:-1]:
        piece = tokenizer.token(token)
        if piece.isascii() and start < end and token not in tokenizer.special_ids:
            assert text[start:end].lower() == piece.removeprefix("##").lstrip("Ġ▁").lower()


def test_documents_are_flat_values_and_lengths(tokenizer):
    values, lengths = tokenizer.encode_documents([TEXTS[0], "", TEXTS[1]])
    assert values.dtype == np.uint16
    assert lengths.dtype == np.int64
    one, two = tokenizer.encode_documents([TEXTS[0]])[0], tokenizer.encode_documents([TEXTS[1]])[0]
    assert lengths.tolist() == [len(one), 0, len(two)]
    np.testing.assert_array_equal(values, np.concatenate([one, two]))
    nothing, no_lengths = tokenizer.encode_documents([])
    assert (len(nothing), len(no_lengths), nothing.dtype) == (0, 0, np.uint16)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=80), max_size=5), st.sampled_from(KINDS))
@example(["lone \ud800 surrogate", "\x00"], "wordpiece")
def test_documents_have_the_ids_of_encode_without_the_special_tokens(texts, kind):
    tokenizer = TRAINED[kind]
    values, lengths = tokenizer.encode_documents(texts)
    rows = np.split(values, np.cumsum(lengths)[:-1]) if texts else []
    for text, row in zip(texts, rows):
        if not any(token in text for token in SPECIAL_TOKENS):
            assert tokenizer.encode(text)[1:-1] == row.tolist()


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_byte_level_pieces_lose_nothing(text):
    tokenizer = TRAINED["bpe"]
    ids = tokenizer.encode_documents([text])[0]
    blank = "" if not text or text[0].isspace() else " "  # a text begins with a blank, as each of its words does
    assert tokenizer.decode(ids).lstrip(" ") == unicodedata.normalize("NFC", blank + text).lstrip(" ")


def test_decoding_gives_the_text_back():
    assert (
        TRAINED["wordpiece"].decode(TRAINED["wordpiece"].encode("The quick dog, quickly.")) == "the quick dog, quickly."
    )
    assert TRAINED["unigram"].decode(TRAINED["unigram"].encode("The quick dog")) == "The quick dog"
    ids = np.array(TRAINED["wordpiece"].encode("an [MASK]"))
    assert TRAINED["wordpiece"].decode(ids, skip_special_tokens=False) == "[CLS] an [MASK] [SEP]"


def test_replacements_are_what_a_text_can_hold(tokenizer):
    reserved = {*tokenizer.special_ids, *tokenizer.unused_ids}
    assert tokenizer.replacement_ids.dtype == np.int64
    assert reserved.isdisjoint(tokenizer.replacement_ids.tolist())
    assert len(reserved) + len(tokenizer.replacement_ids) == tokenizer.vocab_size
    assert all(tokenizer.token(i).startswith("[unused") for i in tokenizer.unused_ids)
    assert tokenizer.unused_ids


def test_ids_past_two_bytes_are_uint32():
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *(f"w{i}" for i in range(65_532))])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert Tokenizer(backend).vocab_size == 65_537
    assert Tokenizer(backend).encode_documents(["w65531"])[0].tolist() == [65_536]
    assert Tokenizer(backend).dtype is np.uint32


# ── words and pieces ──


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=8), st.sampled_from(KINDS))
@example(ODD_WORDS, "wordpiece")
@example(ODD_WORDS, "bpe")
@example(ODD_WORDS, "unigram")
def test_every_word_has_a_piece_whatever_its_characters(words, kind):
    tokenizer = TRAINED[kind]
    pieces = tokenizer.word_tokens(words)
    assert len(pieces) == len(words)
    assert all(pieces)
    assert pieces == [tokenizer.word_tokens([word])[0] for word in words]  # each by itself: nothing shifts


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text(alphabet="abcdelopqru苹果éT'", min_size=1, max_size=8), min_size=1, max_size=8),
    st.sampled_from(KINDS),
)
def test_words_have_the_pieces_that_they_have_in_running_text(words, kind):
    tokenizer = TRAINED[kind]
    pieces = [i for word in tokenizer.word_tokens(words) for i in word]
    assert pieces == tokenizer.encode_documents([" ".join(words)])[0].tolist()


@pytest.mark.parametrize(
    "pre_tokenizer",
    [pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Metaspace(prepend_scheme="never")],
)
def test_a_tokenizer_without_leading_blank_gets_one_for_each_word(pre_tokenizer):
    blank = "Ġ" if isinstance(pre_tokenizer, pre_tokenizers.ByteLevel) else "▁"
    entries = [*SPECIAL_TOKENS, blank, *"dog", "do", f"{blank}d"]
    backend = tokenizers.Tokenizer(
        models.BPE({token: i for i, token in enumerate(entries)}, [("d", "o"), (blank, "d")])
    )
    backend.pre_tokenizer = pre_tokenizer
    tokenizer = Tokenizer(backend)
    text, words = tokenizer.encode("god dog")[1:-1], tokenizer.word_tokens(["god", "dog"])
    assert words[1] == text[3:]
    assert tokenizer.token(words[1][0]) != "do"


def test_words_begin_where_the_kind_says():
    starts = {kind: dict(zip(map(t.token, range(t.vocab_size)), t.word_starts)) for kind, t in TRAINED.items()}
    assert all(t.word_starts.shape == (t.vocab_size,) and t.word_starts.dtype == bool for t in TRAINED.values())
    assert starts["wordpiece"]["the"]
    assert not starts["wordpiece"]["##u"]
    assert starts["bpe"]["Ġthe"]
    assert not starts["bpe"]["u"]
    assert starts["bpe"][","]
    for piece, start in starts["unigram"].items():
        if piece.isascii() and piece.isalpha():
            assert not start
        if piece.startswith("▁"):
            assert start
    for kind in KINDS:
        assert all(starts[kind][token] for token in SPECIAL_TOKENS)
        tokenizer = TRAINED[kind]
        ids = tokenizer.encode_documents(["the dog, 苹果 jumps"])[0]
        words = [
            tokenizer.decode(part).strip()
            for part in np.split(ids, np.flatnonzero(tokenizer.word_starts[ids]))
            if len(part)
        ]
        assert words[:2] == ["the", "dog"]
        assert words[2].startswith(",")
        assert words[-1] == "jumps"
        assert not any("苹果" in word for word in words)  # each character by itself


# ── files ──


@pytest.mark.hf
def test_auto_tokenizer_gives_our_ids(tmp_path, tokenizer):
    transformers = pytest.importorskip("transformers")
    names = ("input_ids", "token_type_ids", "attention_mask")
    tokenizer.save(tmp_path, model_max_length=64, model_input_names=names)
    # beside the config of a type whose own class would rebuild the normaliser
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, *(word for word in ODD_WORDS if word != "\ud800"), "an [MASK] a day"]:
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
    pair = theirs(TEXTS[0], TEXTS[1])
    assert pair["input_ids"] == tokenizer.encode(TEXTS[0], TEXTS[1])
    assert pair["token_type_ids"] == tokenizer.backend.encode(TEXTS[0], TEXTS[1]).type_ids
    assert theirs.model_max_length == 64
    assert (theirs.pad_token_id, theirs.mask_token, len(theirs)) == (0, "[MASK]", tokenizer.vocab_size)


def test_saving_and_loading_changes_nothing(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "a" / "b")
    again = Tokenizer.load(tmp_path / "a" / "b")
    assert again.hash == tokenizer.hash == Tokenizer.load(tmp_path / "a" / "b" / "tokenizer.json").hash
    assert len(tokenizer.hash) == 64
    assert again.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}


def test_vocab_txt_is_written_for_the_normalizer_of_bert_alone_with_the_entries_in_the_order_of_ids(tmp_path):
    """Readers of a vocab.txt normalize text as BERT does."""
    as_published(TRAINED["wordpiece"]).save(tmp_path)
    lines = (tmp_path / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [TRAINED["wordpiece"].token(i) for i in range(TRAINED["wordpiece"].vocab_size)]


def test_saved_truncation_and_padding_are_switched_off(tmp_path, tokenizer):
    file = tmp_path / "tokenizer.json"
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.enable_truncation(4)
    backend.enable_padding(length=4)
    backend.save(str(file))
    assert Tokenizer.load(file).encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert Tokenizer.load(file).hash == tokenizer.hash


def test_roberta_and_own_names_are_accepted(tmp_path):
    def vocabulary(*special):
        entries = [*special, "a", "b"]
        return tokenizers.Tokenizer(
            models.WordLevel({token: i for i, token in enumerate(entries)}, unk_token=special[3])
        )

    roberta = Tokenizer(vocabulary("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    ids = (roberta.pad_id, roberta.unk_id, roberta.cls_id, roberta.sep_id, roberta.mask_id)
    assert ids == (1, 3, 0, 2, 4)
    assert roberta.encode("a", "b") == [0, 5, 2, 6, 2]
    vocabulary("#C", "#P", "#S", "#U", "#M").save(str(tmp_path / "tokenizer.json"))
    assert "has no [PAD], [UNK], [CLS], [SEP], [MASK]" in refused(lambda: Tokenizer.load(tmp_path))
    names = {
        "pad_token": "#P",
        "unk_token": "#U",
        "cls_token": {"content": "#C"},
        "sep_token": "#S",
        "mask_token": "#M",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    assert Tokenizer.load(tmp_path).mask_id == 4
    roberta.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").hash == roberta.hash


def test_what_cannot_be_loaded_is_named(tmp_path):
    fix = "train one first"
    what = "no tokenizer in this folder (tokenizer.json, vocab.txt, or vocab.json with merges.txt)"
    assert refused(lambda: Tokenizer.load(tmp_path)) == f"{tmp_path}: {what}; {fix}"
    assert refused(lambda: Tokenizer.load("no/such")) == f"no/such: no such tokenizer file or folder; {fix}"
    file = tmp_path / "tokenizer.json"
    for content in (b"{", b"[]", b'{"model": {}}', b"\xff\xfe", b""):
        file.write_bytes(content)
        assert refused(lambda: Tokenizer.load(tmp_path)).startswith(f"{file}: not a tokenizer (")
    backend = tokenizers.Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2}, unk_token="[UNK]"))
    backend.save(str(file))
    assert refused(lambda: Tokenizer.load(tmp_path)) == (
        f"{file}: the vocabulary has no [SEP], [MASK]; name its own in tokenizer_config.json (cls_token, …), or train one"
    )
    TRAINED["bpe"].save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    assert refused(lambda: Tokenizer.load(tmp_path)).startswith(f"{tmp_path}/tokenizer_config.json: not valid JSON (")


def test_a_folder_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("x")
    message = refused(lambda: TRAINED["bpe"].save(tmp_path / "file"))
    assert message == f"{tmp_path}/file: is a file: give the path of a folder"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def definition_of(kind="wordpiece") -> dict:
    return json.loads(TRAINED[kind].backend.to_str())


def nested(depth: int) -> str:
    return '{"type": "Sequence", "normalizers": [' * depth + '{"type": "Lowercase"}' + "]}" * depth


TEMPLATE = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
PAIR = [*TEMPLATE, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
NO_TOKENS = {
    "type": "TemplateProcessing",
    "single": [*TEMPLATE, PAIR[2]],
    "pair": [*PAIR, PAIR[2]],
    "special_tokens": {},
}
SPECIAL = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in (("[CLS]", 2), ("[SEP]", 3))}
BEYOND = {"[X]": {"id": "[X]", "ids": [10**9], "tokens": ["[X]"]}}


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "Cannot parse precompiled_charsmap"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "/////w=="}, "precompiled_charsmap is cut off"),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}, "unmatched parenthesis"),
        ("normalizer", {"type": "Prepend", "prepend": "a" * 10**6}, "may make 1,000,000 characters of one"),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 40}, "characters of one"),
        ("normalizer", nested(100), "nested too deeply"),
        ("normalizer", nested(50_000), "nested too deeply"),
        ("post_processor", NO_TOKENS, "no entry found for key"),
        (
            "post_processor",
            {**NO_TOKENS, "special_tokens": SPECIAL | BEYOND, "pair": [*PAIR, {"SpecialToken": {"id": "[X]", "type_id": 0}}]},
            "around a text",
        ),
        (
            "pre_tokenizer",
            {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
            "retry-limit-in-match over",
        ),
        ("model", {**definition_of()["model"], "unk_token": "[NOPE]"}, "Missing [UNK] token"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_fails_in_rust_is_refused_in_one_line_when_it_is_loaded(tmp_path, capfd, key, value, why):
    file = tmp_path / "tokenizer.json"
    text = json.dumps({**definition_of(), key: "HERE"})
    file.write_text(text.replace('"HERE"', value if isinstance(value, str) else json.dumps(value)))
    message = refused(lambda: Tokenizer.load(file))
    assert message.startswith(f"{file}: not a tokenizer (")
    assert why in message
    assert capfd.readouterr().err == ""  # where Rust prints its panics


def test_a_text_on_which_a_pattern_never_ends_is_one_line_in_whatever_takes_a_text(tmp_path):
    pattern = {"type": "Split", "pattern": {"Regex": "(q+)+$"}, "behavior": "Isolated", "invert": False}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({**definition_of(), "pre_tokenizer": pattern}))
    tokenizer, text = Tokenizer.load(file), "q" * 40 + "!"
    for call in (
        lambda: tokenizer.encode(text),
        lambda: tokenizer.encode_documents([text]),
        lambda: tokenizer.encode_with_offsets(text),
        lambda: tokenizer.word_tokens([text]),
    ):
        assert refused(call).startswith(f"{file}: cannot encode or decode this text (")


@pytest.mark.parametrize("number", [20_000_000, 2**32 - 1, 50_000])
def test_ids_far_beyond_the_vocabulary_are_refused_before_a_list_of_that_length_is_made(tmp_path, number):
    definition = definition_of()
    entries = len(definition["model"]["vocab"]) + 1
    definition["model"]["vocab"]["zz"] = number
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    assert refused(lambda: Tokenizer.load(tmp_path)) == (
        f"{tmp_path}/tokenizer.json: 'zz' has id {number} in a vocabulary of {entries} entries: number the entries from 0"
    )


def test_saving_over_a_tokenizer_is_one_step_and_leaves_what_else_is_there(tmp_path, monkeypatch):
    folder = tmp_path / "tokenizer"
    TRAINED["wordpiece"].save(folder)
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.tex").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            TRAINED["bpe"].save(folder)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before
    TRAINED["bpe"].save(folder)
    assert {path.name for path in folder.iterdir()} == {"tokenizer.json", "tokenizer_config.json", "notes"}
    assert (folder / "notes" / "thesis.tex").read_text() == "mine"
    assert Tokenizer.load(folder).hash == TRAINED["bpe"].hash
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


def interrupted(self, folder, *options):
    (folder / "tokenizer.json").write_text("half")
    raise KeyboardInterrupt


@pytest.mark.data
def test_the_reference_tokenizer_keeps_its_ids():
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is absent")
    ours, theirs = Tokenizer.load(REFERENCE), tokenizers.Tokenizer.from_file(str(REFERENCE))
    for text in [*TEXTS, *(word for word in ODD_WORDS if word != "\ud800")]:
        assert ours.encode(text) == theirs.encode(text).ids
    assert (ours.vocab_size, ours.kind, ours.unused_ids) == (8192, "wordpiece", ())
    assert all(ours.word_tokens(ODD_WORDS))


def test_normalisers_that_drop_everything_leave_unknown():
    backend = tokenizers.Tokenizer.from_str(TRAINED["bpe"].backend.to_str())
    backend.normalizer = normalizers.Replace(tokenizers.Regex(".*"), "")
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert Tokenizer(backend).word_tokens(["all", "gone"]) == [[1], [1]]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize(
    ("sentence", "word"), [("the old man sees the river.", "river"), ("a dog , the cat", "dog"), ("the river", "the")]
)
def test_the_text_around_a_mask_is_cut_as_it_is_in_running_text(kind: str, sentence: str, word: str) -> None:
    """As it is where the word stands: its pieces, with their blank, give way to one mask."""
    documents = ["the old man sees the river.", "a dog , the cat", "my friend likes the red apple ."] * 40
    tokenizer = train_tokenizer(documents, kind)
    masked = tokenizer.encode(sentence.replace(word, "[MASK]", 1))
    whole = tokenizer.encode(sentence)
    before, after = masked[: masked.index(tokenizer.mask_id)], masked[masked.index(tokenizer.mask_id) + 1 :]
    assert whole[: len(before)] == before
    assert whole[len(whole) - len(after) :] == after
    assert tokenizer.decode(whole[len(before) : len(whole) - len(after)]).strip() == word
