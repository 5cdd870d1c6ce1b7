"""Explanations: leave-one-out by its definition, integrated gradients as in captum, and a check that can fail."""

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.cli import main
from bert.data.columns import Columns
from bert.data.examples import Example
from bert.data.tokenizer import Tokenizer
from bert.errors import InputError
from bert.finetuning import predict as predicting
from bert.finetuning.config import WindowsConfig
from bert.finetuning.explanation import DRAWS, MOST_LEFT_OUT, by_gradients, explain, without
from bert.finetuning.predict import predictor_of
from bert.finetuning.tasks.index import task_named
from bert.finetuning.windows import Settings
from bert.model.config import EncoderConfig, TaskHeadConfig
from bert.model.heads import SequenceClassifier
from tests.conftest import run_quietly
from tests.report.reader import Reader
from tests.strategies import TEXTS

from .synthetic import save_random

TEXT = "The cat sees the river, at night"
LABELS = ("early", "late", "other")


@pytest.fixture(scope="module")
def tokenizer(tiny_run):
    return Tokenizer.load(tiny_run / "tokenizer")


def predictor_with(tokenizer, task="classify", length=64, pooling="mean", pairs=False, **shape):
    """A small model whose scores are smooth functions of the embeddings."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64, "max_length": 64} | shape
    config = EncoderConfig(vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id, **sizes)
    labels = ("value",) if task == "regression" else LABELS
    model = SequenceClassifier(
        config, TaskHeadConfig(labels=labels, pooling=pooling, problem_type=task_named(task).problem_type)
    )
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.15)
    model.tokenizer = tokenizer
    columns = Columns("a", "b") if pairs else Columns("text")
    model.settings = Settings(WindowsConfig(length), columns).written()
    return predictor_of(model.eval())


def scores(predictor, example):
    """(C,): the probabilities of an example, from the windows of a prediction."""
    windows = predictor.maker.from_texts([example.text], [example.pair])[0]
    return probabilities(predictor, [window.ids for window in windows], windows[0].token_types)


def probabilities(predictor, ids, types=None):
    ids = torch.tensor(ids)
    types = None if types is None else torch.tensor(types).expand_as(ids)
    with torch.no_grad():
        return predictor.task.probabilities(predictor.model(ids, None, types).logits.mean(0, keepdim=True))[0]


def of_masks(predictor, example):
    """The probabilities of an example whose tokens are masks."""
    windows = predictor.maker.from_texts([example.text], [example.pair])[0]
    tokenizer = predictor.maker.tokenizer
    special = {tokenizer.cls_id, tokenizer.sep_id}
    masked = [[token if token in special else tokenizer.mask_id for token in window.ids] for window in windows]
    return probabilities(predictor, masked, windows[0].token_types)


# ── integrated gradients ──


@pytest.mark.parametrize(
    ("task", "pooling", "second", "shape"),
    [
        ("classify", "mean", None, {}),
        ("multilabel", "cls", None, {"positions": "learned", "positions_skip_padding": True}),
        ("regression", "mean", None, {"local_window": 4, "global_every": 2}),
        ("classify", "cls", "a red phone", {"token_types": 2, "embedding_size": 16}),
        ("classify", "siamese", "a red phone", {}),
    ],
)
def test_gradients_are_those_of_captum(tokenizer, task, pooling, second, shape):
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    predictor = predictor_with(tokenizer, task, pooling=pooling, pairs=second is not None, **shape)
    example, model = Example("the cat sees the river", second), predictor.model
    words = [(word, number) for number, text in enumerate([example.text, second or ""]) for word in text.split()]
    tokens = tokenizer.word_tokens([word for word, _ in words])
    ((window,),) = predictor.maker.from_texts([example.text], [second])
    assert [i for i in window.ids if i not in (tokenizer.cls_id, tokenizer.sep_id)] == [
        i for some in tokens for i in some
    ]
    ids = torch.tensor([window.ids])
    special = (ids == tokenizer.cls_id) | (ids == tokenizer.sep_id)
    types = None if window.token_types is None else torch.tensor([window.token_types])

    def forward(ids, types):
        return predictor.task.probabilities(model(ids, None, types).logits)

    for label, steps in ((0, 7), (len(model.labels) - 1, 16)):
        reference = captum.LayerIntegratedGradients(forward, model.encoder.embeddings.tokens).attribute(
            ids, torch.where(special, ids, tokenizer.mask_id), label, (types,), steps, "gausslegendre"
        )
        of_tokens = reference[~special].sum(-1).split([len(some) for some in tokens])
        found = by_gradients(predictor, example, explain(predictor, example, 0).words, label, steps)
        assert found == pytest.approx([float(some.sum()) for some in of_tokens], abs=1e-4)
        assert max(map(abs, found)) > 1e-3


@settings(max_examples=12, deadline=None)
@given(text=TEXTS, pair=st.none() | TEXTS)
def test_weights_sum_to_the_score_minus_that_of_masks(tokenizer, text, pair):
    """That is, the tokens are those of the prediction; also of texts of several windows, and of pairs."""
    predictor = predictor_with(tokenizer, length=16, token_types=2, num_layers=1, pairs=pair is not None)
    example = predictor.task.example(text, pair)
    found = explain(predictor, example, most=0, steps=32)
    if found.words:
        label = LABELS.index(found.label)
        lost = scores(predictor, example)[label] - of_masks(predictor, example)[label]
        assert sum(word.weight for word in found.words) == pytest.approx(float(lost), abs=1e-3)


def test_weights_are_complete_where_activations_are_computed_again(tokenizer, monkeypatch):
    predictor = predictor_with(tokenizer, length=16)
    example = Example("the cat sees the river at night " * 4)
    whole = explain(predictor, example, most=0)
    assert len(predictor.maker.from_texts([example.text], [None])[0]) == 3
    monkeypatch.setattr("bert.finetuning.explanation._TOKENS_AT_ONCE", 32)
    parts = explain(predictor, example, most=0)
    assert [word.weight for word in parts.words] == pytest.approx([word.weight for word in whole.words], abs=2e-6)


class Linear(SequenceClassifier):
    """The score is the mean of one number for each token, which is 10 for those of a word and 1 for others."""

    word = "river"

    def __init__(self, tokenizer):
        config = EncoderConfig(tokenizer.vocab_size, 32, num_layers=1, num_heads=2, intermediate_size=32, max_length=64)
        super().__init__(config, TaskHeadConfig(labels=("value",), pooling="mean", problem_type="regression"))
        self.tokenizer = tokenizer
        table = self.encoder.embeddings.tokens.weight
        with torch.no_grad():
            table.fill_(1 / 32)[tokenizer.mask_id] = 0.0
            table[tokenizer.word_tokens([self.word])[0]] = 10 / 32

    def forward(self, ids, mask=None, types=None):
        values = self.encoder.embeddings.tokens(ids).sum(-1, keepdim=True)  # (B, T, 1)
        mask = torch.ones_like(ids) if mask is None else mask
        output = super().forward(ids, mask)
        output.logits = (values * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return output


def test_a_linear_model_has_weights_in_closed_form(tokenizer):
    predictor = replace(predictor_with(tokenizer, "regression"), model=Linear(tokenizer))
    example = Example("the cat sees the river at night")
    words = example.text.split()
    sizes = [len(some) for some in tokenizer.word_tokens(words)]
    values = [size * (10 if word == "river" else 1) for word, size in zip(words, sizes)]
    length, total = 2 + sum(sizes), 2 + sum(values)  # with [CLS] and [SEP]
    by_gradient = explain(predictor, example, most=0)
    assert [word.weight for word in by_gradient.words] == pytest.approx([value / length for value in values], abs=1e-5)
    left_out = explain(predictor, example)
    without_each = [(total - value) / (length - size) for value, size in zip(values, sizes)]
    expected = [total / length - score for score in without_each]
    assert [word.weight for word in left_out.words] == pytest.approx(expected, abs=1e-5)
    for found in (by_gradient, left_out):
        assert max(found.words, key=lambda word: word.weight).text == "river"
        assert found.is_better
        assert found.top().startswith("river +")
        assert found.drop == pytest.approx(expected[words.index("river")], abs=1e-5)


# ── leaving words out ──


def test_a_weight_is_what_is_lost_without_the_word(tokenizer):
    predictor = predictor_with(tokenizer)
    found = explain(predictor, Example(TEXT))
    assert [word.text for word in found.words] == ["The", "cat", "sees", "the", "river", ",", "at", "night"]
    assert all(TEXT[word.start : word.end] == word.text and not word.pair for word in found.words)
    label = LABELS.index(found.label)
    assert found.score == pytest.approx(float(scores(predictor, Example(TEXT))[label]), abs=1e-6)
    shorter = ["cat sees the river, at night", "The sees the river, at night", "The cat the river, at night",
               "The cat sees river, at night", "The cat sees the, at night", "The cat sees the river at night",
               "The cat sees the river, night", "The cat sees the river, at "]  # fmt: skip
    left = [float(scores(predictor, Example(text))[label]) for text in shorter]
    assert [word.weight for word in found.words] == pytest.approx([found.score - score for score in left], abs=2e-6)


@given(st.data(), TEXTS, st.none() | TEXTS)
@settings(max_examples=20, deadline=None)
def test_words_are_slices_and_without_them_the_rest_is_left(tokenizer, data, text, pair):
    """In any text: emoji, Chinese without spaces, newlines, marks; nothing but words and spaces goes."""
    predictor = predictor_with(tokenizer, pairs=pair is not None, num_layers=1)
    example = Example(text, pair)
    words = explain(predictor, example, most=3, steps=1).words
    assert all((pair if word.pair else text)[word.start : word.end] == word.text for word in words)
    gone = data.draw(st.lists(st.sampled_from(words), unique=True)) if words else []
    left = without(example, gone)
    for number, (before, after) in enumerate(((text, left.text), (pair, left.pair))):
        if before is None:
            assert after is None
            continue
        kept, end = "", 0
        for word in sorted((word for word in gone if word.pair == number), key=lambda word: word.start):
            kept, end = kept + before[end : word.start], word.end
        assert "".join(after.split()) == "".join((kept + before[end:]).split())
    assert without(example, []) == example


def test_one_space_stays_between_the_neighbors_of_a_word(tokenizer):
    predictor = predictor_with(tokenizer)
    left = {}
    for text in ("the cat, at night", "the  cat"):
        left |= {
            (text, word.text): without(Example(text), [word]).text for word in explain(predictor, Example(text)).words
        }
    assert [*left.values()] == ["cat, at night", "the , at night", "the cat at night", "the cat, night", "the cat, at ",
                                "cat", "the  "]  # fmt: skip
    assert without(Example("苹果很好"), explain(predictor, Example("苹果很好")).words[1:3]).text == "苹好"


def test_each_ideograph_is_a_word(tokenizer):
    found = explain(predictor_with(tokenizer), Example("苹果很好。"))
    assert [word.text for word in found.words] == ["苹", "果", "很", "好", "。"]


def test_words_of_both_texts_of_a_pair_are_weighed(tokenizer):
    predictor = predictor_with(tokenizer, pairs=True, token_types=2)
    found = explain(predictor, Example("the cat", "a dog sees"))
    assert [(word.text, word.pair) for word in found.words] == [
        ("the", False), ("cat", False), ("a", True), ("dog", True), ("sees", True)]  # fmt: skip
    label = LABELS.index(found.label)
    left = float(scores(predictor, Example("the cat", "a sees"))[label])
    assert found.words[3].weight == pytest.approx(found.score - left, abs=2e-6)


def test_beyond_64_words_weights_are_gradients(tokenizer):
    predictor = predictor_with(tokenizer, num_layers=1)
    for count in (MOST_LEFT_OUT, MOST_LEFT_OUT + 1):
        example = Example(" ".join(["the", "cat", "sees", "river", "night"] * 13)[:-1])
        words = example.text.split()[:count]
        example = Example(" ".join(words))
        found, gradients = (explain(predictor, example, most).words for most in (MOST_LEFT_OUT, 0))
        assert (found == gradients) == (count > MOST_LEFT_OUT)


# ── the check ──


def test_the_check_is_the_loss_without_the_top_words_and_without_random_ones(tokenizer):
    """Of two words one goes: the random drop is the mean of 20 draws of two values."""
    predictor = predictor_with(tokenizer)
    found = explain(predictor, Example("river night"))
    low, high = sorted(word.weight for word in found.words)
    assert found.drop == high
    draws = (found.random_drop - low) / (high - low) * DRAWS
    assert draws == pytest.approx(round(draws), abs=1e-2)
    assert 0 < round(draws) < DRAWS
    ten = explain(predictor, Example("the cat sees a dog and the river at night"))
    gone = sorted(ten.words, key=lambda word: -word.weight)[:2]  # a fifth
    left = scores(predictor, without(Example(ten.text), gone))[LABELS.index(ten.label)]
    assert ten.drop == pytest.approx(ten.score - float(left), abs=2e-6)


def test_an_explanation_is_the_same_again(tokenizer):
    predictor = predictor_with(tokenizer)
    first = explain(predictor, Example(TEXT))
    explain(predictor, Example("another text"))
    assert explain(predictor, Example(TEXT)) == first


@pytest.mark.parametrize("most", [0, 64])
def test_a_constant_model_is_no_better_than_random(tokenizer, most):
    predictor = predictor_with(tokenizer)
    torch.nn.init.zeros_(predictor.model.head.output.weight)
    found = explain(predictor, Example(TEXT), most)
    assert (found.drop, found.random_drop, found.is_better) == (0, 0, False)
    assert found.top() == "(no better than random words)"
    assert "no better than random words" in Reader(found.picture()).text


@pytest.mark.parametrize("text", ["", "\u200b", "cat"])
def test_texts_of_one_word_or_none_are_no_better_than_random(tokenizer, text):
    found = explain(predictor_with(tokenizer), Example(text))
    assert found.drop == found.random_drop
    assert not found.is_better
    assert len(found.words) == (text == "cat")


def test_bf16_does_not_enter_the_differences(tokenizer):
    predictor = predictor_with(tokenizer)
    assert explain(replace(predictor, bf16=True), Example(TEXT)) == explain(
        replace(predictor, bf16=False), Example(TEXT)
    )


# ── the command ──


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    folder = tmp_path_factory.mktemp("explained")
    for name, labels in {"classify": LABELS, "multilabel": LABELS, "regression": ("value",), "tag": ("A", "O")}.items():
        save_random(tiny_run, folder / name, name, labels)
    save_random(tiny_run, folder / "pairs", "classify", LABELS, Settings(columns=Columns("a", "b", "label")).written())
    return folder


HOSTILE = ['the <b>cat</b> "sees" </p><script>alert(1)</script>', " the cat\r\nsees 😀 ", "", "the cat at night"]


@pytest.mark.parametrize("name", ["classify", "multilabel", "regression", "pairs"])
def test_json_lines_hold_what_python_gives(place, tmp_path, name):
    model, seconds = SequenceClassifier.load(place / name), HOSTILE[::-1] if name == "pairs" else None
    rows = [{"text": text} for text in HOSTILE]
    if seconds:
        rows = [{"a": first, "b": second} for first, second in zip(HOSTILE, seconds)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out, run = tmp_path / "out.jsonl", ["predict", str(place / name), str(tmp_path / "in.jsonl"), "--explain"]
    run_quietly([*run, "--out", str(out)])
    found = model.predict(HOSTILE, seconds, explain=True)
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [row | json.loads(json.dumps(one.record(None))) for row, one in zip(rows, found, strict=True)] == written
    for row in written:
        why = row["explanation"]
        texts = {False: why["text"], True: why["pair"]}
        assert all(texts[word["pair"]][word["start"] : word["end"]] == word["text"] for word in why["words"])
        assert why["is_better"] == (why["drop"] > why["random_drop"])
    run_quietly([*run, "--out", str(tmp_path / "out.csv")])
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        cells = [row["explanation"] for row in csv.DictReader(file)]
    assert cells == [one.explanation.top() for one in found]
    assert all(
        one.explanation is None and "explanation" not in one.record(None) for one in model.predict(HOSTILE, seconds)
    )


def test_what_is_explained_is_the_most_probable_label(place):
    (one,) = SequenceClassifier.load(place / "multilabel").predict([TEXT], explain=True)
    label = max(one.probabilities, key=one.probabilities.get)
    assert (one.explanation.label, one.explanation.score) == (label, pytest.approx(one.probabilities[label], abs=2e-2))


class Marks(HTMLParser):
    """The paragraphs of a page that hold marked words: each text, and its marked words with their classes."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.marks, self.tags, self.inside = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.inside.append(tag)
        if self.inside[-2:] == ["figure", "p"]:
            self.texts.append("")
        if tag == "mark":
            self.marks.append((dict(attributes)["class"], ""))

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "figure" in self.inside and "p" in self.inside:
            self.texts[-1] += data
            if "mark" in self.inside:
                self.marks[-1] = (self.marks[-1][0], self.marks[-1][1] + data)


def test_a_page_shades_the_words_of_each_text_and_hostile_text_is_text(place, tmp_path, monkeypatch):
    monkeypatch.setattr(predicting, "MOST_ON_PAGE", len(HOSTILE))
    texts = [*HOSTILE, "not shown"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    page, model = tmp_path / "page.html", place / "classify"
    run = ["predict", str(model), str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.tsv")]
    run_quietly([*run, "--explain", "--html", str(page)])
    content = page.read_text(encoding="utf-8")
    read, found = Marks(content), SequenceClassifier.load(model).predict(HOSTILE, explain=True)
    assert Reader(content).text.count("no better than random words") == sum(
        not one.explanation.is_better for one in found
    )
    assert read.texts == [one.explanation.text for one in found]
    expected = []
    for one in found:
        most = max((abs(word.weight) for word in one.explanation.words), default=0)
        expected += [("for" if word.weight > 0 else "against", word.text) for word in one.explanation.words
                     if abs(word.weight) >= 0.05 * most]  # fmt: skip
    assert read.marks == expected
    assert read.tags.count("script") == 1  # that of every page
    assert "4 of 5 texts" in content


def test_a_tagger_is_refused(place, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the cat\n")
    out = ["--out", str(tmp_path / "out.jsonl"), "--html", str(tmp_path / "page.html")]
    assert main(["predict", str(place / "tag"), str(tmp_path / "a.txt"), "--explain", *out]) == 2
    assert capsys.readouterr().err == "bert: --explain: tag predicts no labels of whole texts; remove it\n"
    assert [*tmp_path.iterdir()] == [tmp_path / "a.txt"]
    with pytest.raises(InputError, match="tag predicts no labels of whole texts"):
        from bert.model.heads import TokenClassifier

        TokenClassifier.load(place / "tag").predict(["the cat"], explain=True)
