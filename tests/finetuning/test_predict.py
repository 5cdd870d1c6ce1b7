"""Prediction: whatever the batch and the order, the same; equal to transformers on short texts; long ones through windows."""

import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bert.cli import main
from bert.data.examples import Example
from bert.data.tagged import TaggedExample
from bert.finetuning import predict as module
from bert.finetuning.config import WindowsConfig
from bert.finetuning.predict import load_predictor
from bert.finetuning.tasks.tag import Tag

from .synthetic import (
    fine_tune_both,
    joined,
    long_texts,
    sentences,
    texts,
)


def example(text, pair=None):
    return Example(text, pair, None, "")


def tagged(words):
    return TaggedExample(tuple(words), None, "")


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    """A classifier and a tagger that have learned a little task, with rows of 24 tokens."""
    folder = tmp_path_factory.mktemp("predict")
    examples, tagged = long_texts(300, 1), joined(sentences(240, 1))
    fine_tune_both(tiny_run, folder, examples, tagged, "--windows.sequence_length=24", epochs=(20, 16))
    return folder


@pytest.fixture(scope="module")
def classify(place):
    return load_predictor(place / "classify" / "model", bf16=False)


@pytest.fixture(scope="module")
def tag(place):
    return load_predictor(place / "tag" / "model", bf16=False)


def test_rows_are_cut_as_in_learning(classify, tag):
    assert classify.maker.sequence_length == tag.maker.sequence_length == 24


def test_a_cue_beyond_the_first_row_decides(classify):
    """Nothing in the first row says which label it is, so that a model which reads that alone is right half the time."""
    encode = classify.model.tokenizer.encode
    rows = [(text, label) for text, label in long_texts(200, 7) if len(encode(text)) > 24 + 6]
    assert len(rows) > 20
    hits = [found.label == label for (_, label), (_, found) in zip(rows, classify(example(t) for t, _ in rows))]
    assert sum(hits) / len(hits) > 0.85


def test_the_probability_of_a_text_is_that_of_the_mean_over_its_windows(classify):
    text = long_texts(1, 3)[0][0] + " the cat sees the river" * 5
    windows = classify.maker.from_texts([text], [None])[0]
    assert len(windows) > 2
    with torch.no_grad():
        logits = [classify.model(torch.tensor([window.ids])).logits[0] for window in windows]
    highest = float(torch.stack(logits).mean(0).softmax(-1).max())
    assert next(iter(classify([example(text)])))[1].probability == pytest.approx(highest, abs=1e-5)


def test_words_beyond_the_first_row_are_tagged(tag):
    rows = sentences(6, 9)
    words = [word for row, _ in rows for word in row]
    right = [label for _, labels in rows for label in labels]
    found = next(iter(tag([tagged(words)])))[1]
    assert len(found.tags) == len(found.probabilities) == len(words) > 3 * 12
    hits = [tag == label for tag, label in zip(found.tags, right)]
    assert sum(hits) / len(hits) > 0.9
    assert sum(hits[-8:]) >= 7


def test_predictions_are_the_same_in_any_order_and_batch(classify, tag, monkeypatch):
    rows = [example(text) for text, _ in texts(20, 4)]
    forward = {one.text: found for one, found in classify(rows)}
    monkeypatch.setattr(module, "chunks", lambda things: ([thing] for thing in things))
    for one, found in classify(rows[::-1]):
        assert found.label == forward[one.text].label
        assert found.probabilities == pytest.approx(forward[one.text].probabilities, abs=1e-5)
    monkeypatch.undo()
    sentence = tagged(sentences(1, 8)[0][0])
    alone = next(iter(tag([sentence])))[1]
    many = [found for one, found in tag([tagged(words) for words, _ in sentences(30, 5)] + [sentence])][-1]
    assert (many.text, many.offsets, many.tags) == (alone.text, alone.offsets, alone.tags)
    assert many.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_short_texts_get_what_transformers_gives(place, classify, tag):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(place / "classify" / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "classify" / "model")
    short = [" ".join(words[:5]) for words, _ in sentences(5, 6)]
    for one, found in classify([example(text) for text in short]):
        inputs = tokenizer(one.text, return_tensors="pt")
        with torch.no_grad():
            probabilities = model(inputs["input_ids"], inputs["attention_mask"]).logits.softmax(-1)[0]
        assert found.label == model.config.id2label[int(probabilities.argmax())]
        assert found.probability == pytest.approx(float(probabilities.max()), abs=1e-5)
        expected = {model.config.id2label[i]: p for i, p in enumerate(probabilities.tolist())}
        assert found.probabilities == pytest.approx(expected, abs=1e-5)
    tagger = transformers.AutoModelForTokenClassification.from_pretrained(place / "tag" / "model").eval()
    words = sentences(1, 7)[0][0][:5]
    inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    first = {word: place for place, word in reversed(list(enumerate(inputs.word_ids()))) if word is not None}
    with torch.no_grad():
        logits = tagger(inputs["input_ids"], inputs["attention_mask"]).logits[0]
    ((_, scores),) = tag.scores([tagged(words)])
    assert torch.allclose(scores, logits[[first[word] for word in range(len(words))]], atol=1e-4)
    ((_, free),) = replace(tag, task=Tag())([tagged(words)])  # the most probable tags, legal or not
    assert [*free.tags] == [tagger.config.id2label[number] for number in scores.argmax(1).tolist()]


ODD = ["", "   ", "😀😀", "\u200b\u200d", "the cat", "\x00", "[MASK] [CLS]", "苹果"]


def test_empty_and_strange_texts_get_a_label_each(place, tmp_path, capsys):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ODD), encoding="utf-8")
    out = tmp_path / "labels.tsv"
    assert main(["predict", str(place / "classify" / "model"), str(file), "--out", str(out)]) == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "label\tprobability"
    assert len(lines) == 1 + len(ODD)
    assert all(0 < float(line.split("\t")[1]) <= 1 for line in lines[1:])


def test_a_line_of_texts_with_a_nul_byte_is_named(place, tmp_path, capsys):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(ODD) + "\n", encoding="utf-8")
    assert main(["predict", str(place / "classify" / "model"), str(file)]) == 2
    assert f"{file}, line {1 + ODD.index(chr(0))}: a NUL byte, not text" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["plain.txt", "words.jsonl"])
def test_every_input_word_gets_one_tag(place, tmp_path, monkeypatch, given):
    """One by one or in a text, in which a character that is not seen is no word by itself."""
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = ["the cat sees the river", "", "😀 \u200b dog", "苹果很好", "xyzzy" * 30]
    words = [list("苹果很好") if line == "苹果很好" else line.split() for line in lines]
    file, out = tmp_path / given, tmp_path / "tags.conll"
    content = "\n".join(lines if given == "plain.txt" else (json.dumps({"words": one}) for one in words))
    file.write_text(f"{content}\n", encoding="utf-8")
    assert main(["predict", str(place / "tag" / "model"), str(file), "--out=~/tags.conll"]) == 0
    sentence, found = [], []
    for line in out.read_text(encoding="utf-8").splitlines():
        if line:
            word, label, probability = line.split("\t")
            assert label in ("O", "B-WHO", "I-WHO", "B-WHAT", "I-WHAT")
            assert 0 < float(probability) <= 1
            sentence.append(word)
        else:
            found.append(sentence)
            sentence = []
    assert found == [*words[:2], ["😀", "dog"], *words[3:]] if given == "plain.txt" else words
    assert not list(tmp_path.glob(".*"))  # no partial file stays


def test_standard_input_and_output(place, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the cat sees a letter at night\n"), encoding="utf-8")
    )
    assert main(["predict", str(place / "classify" / "model"), "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "label\tprobability"
    assert lines[1].startswith("late\t")


def test_nothing_half_written_stays_where_a_row_is_bad(place, tmp_path, capsys):
    file = tmp_path / "texts.tsv"
    file.write_text("text\tlabel\nthe cat\ta\nthe dog\n")
    assert main(["predict", str(place / "classify" / "model"), str(file), "--out", str(tmp_path / "out.tsv")]) == 2
    assert "line 3" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["texts.tsv"]


def test_the_input_is_never_overwritten(place, tmp_path, capsys):
    file = tmp_path / "texts.tsv"
    file.write_text("text\tlabel\nthe cat\tlate\n")
    before = file.read_bytes()
    (tmp_path / "link.tsv").symlink_to(file)
    for out in (file, tmp_path / "link.tsv"):
        assert main(["predict", str(place / "classify" / "model"), str(file), "--out", str(out)]) == 2
        assert "would overwrite the input" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_a_link_is_followed_and_a_device_is_written_into(place, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("the cat\n")
    (tmp_path / "link.tsv").symlink_to(tmp_path / "target.tsv")
    for out in (tmp_path / "link.tsv", Path(os.devnull)):
        assert main(["predict", str(place / "classify" / "model"), str(file), "--out", str(out)]) == 0
    assert (tmp_path / "link.tsv").is_symlink()
    assert (tmp_path / "target.tsv").read_text().startswith("label\tprobability\n")
    assert Path(os.devnull).is_char_device()


def test_nothing_is_said_before_the_input_is_known_to_be_right(place, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("")
    assert main(["predict", str(place / "classify" / "model"), str(tmp_path / "empty.txt")]) == 2
    assert capsys.readouterr().out == ""


def test_memory_does_not_grow_with_the_input(classify):
    """Inputs are read as predictions are taken: never more than a chunk ahead."""
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield example("the cat sees the river")

    stream = classify(endless())
    for _ in range(3):
        next(stream)
    assert read <= 1024


def test_other_rows_can_be_asked_for(place):
    assert load_predictor(place / "classify" / "model", WindowsConfig(32, 10)).maker.sequence_length == 32
