"""`evaluate` of a fine-tuned model: its metrics and those of each label, counted again by scikit-learn from `predict`'s predictions."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, classification_report, matthews_corrcoef

from bert.cli import main
from bert.data.examples import Example, read_examples
from bert.data.tagged import read_tagged
from bert.errors import InputError
from bert.finetuning.assess import assess
from bert.finetuning.config import DataConfig
from bert.finetuning.evaluate import Evaluation, evaluate
from bert.finetuning.evaluation.page import write_report
from bert.finetuning.evaluation.scored import Scored
from bert.finetuning.predict import load_predictor
from bert.finetuning.tasks.classify import TASK as CLASSIFY

from .synthetic import fine_tune_both, sentences, texts, write_tagged, write_texts


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    """A classifier and a tagger that have learned a little, so that they make mistakes."""
    folder = tmp_path_factory.mktemp("measure")
    fine_tune_both(tiny_run, folder, texts(80, 1), sentences(60, 1))
    write_texts(folder / "dev.tsv", texts(90, 2))
    write_tagged(folder / "dev.conll", sentences(50, 2))
    return folder


def test_the_figures_of_a_classifier_are_those_of_its_predictions(place):
    model, file = place / "classify" / "model", place / "dev.tsv"
    found = evaluate(model, str(file), DataConfig())
    results = list(load_predictor(model)(read_examples(file)))
    right = [example.label for example, _ in results]
    guessed = [found.label for _, found in results]
    report = classification_report(right, guessed, output_dict=True, zero_division=0)
    assert found.size == "90 examples"
    assert list(found.metrics) == ["accuracy", "macro_f1", "mcc"]
    assert found.metrics["accuracy"] == pytest.approx(accuracy_score(right, guessed))
    assert found.metrics["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert found.metrics["mcc"] == pytest.approx(matthews_corrcoef(right, guessed))
    for part in found.labels:
        expected = report[part.label]
        assert (part.precision, part.recall, part.f1) == pytest.approx(
            (expected["precision"], expected["recall"], expected["f1-score"])
        )
        assert part.count == expected["support"]
    most = max(right.count(label) for label in set(right))
    assert found.baseline["accuracy"] == pytest.approx(most / 90)


def test_the_figures_of_a_tagger_are_by_word_and_by_type_of_span(place):
    model, file = place / "tag" / "model", place / "dev.conll"
    found = evaluate(model, str(file), DataConfig())
    right = [tag for example in read_tagged(file) for tag in example.tags]
    guessed = [tag for _, one in load_predictor(model)(read_tagged(file)) for tag in one.tags]
    assert found.size == f"50 sentences, {len(right):,} words"
    assert found.metrics["accuracy"] == pytest.approx(accuracy_score(right, guessed))
    assert [part.label for part in found.labels] == ["WHAT", "WHO"]
    assert [part.count for part in found.labels] == [right.count("B-WHAT"), right.count("B-WHO")]


def test_an_evaluation_is_shown_as_a_table(place):
    found = evaluate(place / "tag" / "model", str(place / "dev.conll"), DataConfig())
    lines = str(found).splitlines()
    assert lines[0] == found.size
    assert [line.split("  ")[0] for line in lines[2:5]] == ["span F1", "strict span F1", "accuracy"]
    assert f"{found.metrics['span_f1']:.1%}" in lines[2]
    assert [line.split()[0] for line in lines[-2:]] == ["WHAT", "WHO"]


def test_sentences_without_a_word_measure_nothing(place, tmp_path):
    file = tmp_path / "none.jsonl"
    file.write_text('{"words": [], "tags": []}\n')
    with pytest.raises(InputError, match="no words: give at least one sentence with a word"):
        evaluate(place / "tag" / "model", str(file), DataConfig())


def test_spans_are_measured_unless_most_tags_of_the_model_mark_none(place, tmp_path):
    shutil.copytree(place / "tag" / "model", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    file = write_tagged(tmp_path / "dev.conll", [(["a", "cat"], ["O", "B-WHO"])] * 3)
    with_spans = ["span_f1", "strict_span_f1", "accuracy"]
    for old, new, metrics in (("I-WHAT", "X", with_spans), ("I-WHO", "Y", with_spans), ("B-WHAT", "Z", ["accuracy"])):
        config.write_text(config.read_text().replace(old, new))
        assert list(evaluate(tmp_path / "model", file, DataConfig()).metrics) == metrics


def test_a_label_that_the_model_does_not_know_is_named_with_its_line(place, tmp_path):
    file = tmp_path / "other.tsv"
    file.write_text("text\tlabel\nthe cat\tearly\nthe dog\tnever\n")
    with pytest.raises(InputError, match="line 3: label 'never' is not one of the model's labels"):
        evaluate(place / "classify" / "model", str(file), DataConfig())


def test_an_interval_of_a_label_is_that_of_the_rows_with_it():
    """None of 25 rows found among 500: at most about one in seven (Clopper and Pearson), not one in 140."""
    right = torch.tensor([0] * 475 + [1] * 25)
    decided = torch.nn.functional.one_hot(torch.tensor([0] * 499 + [0]), 2).float()
    decided[3] = torch.tensor([0.0, 1.0])  # one wrong prediction of the rare label
    examples = [Example(str(number), label="ab"[one]) for number, one in enumerate(right.tolist())]
    rare = Evaluation(Scored(CLASSIFY, "ab", examples, decided, [1] * 500), np.arange(500)).labels[1]
    assert (rare.count, rare.predicted, rare.correct, rare.recall) == (25, 1, 0, 0.0)
    assert rare.intervals["recall"] == pytest.approx(binomtest(0, 25).proportion_ci(0.95), abs=1e-9)


def test_rows_of_a_group_are_resampled_together(place, tmp_path):
    """Each row twice: with the copies as groups the intervals are those of the single rows, without they are narrower."""
    rows = texts(90, 2)
    for copies in (1, 2):
        lines = [f"{text}\t{label}\t{number}\n" for number, (text, label) in enumerate(rows) for _ in range(copies)]
        (tmp_path / f"{copies}.tsv").write_text("text\tlabel\tuser\n" + "".join(lines))
    model = place / "classify" / "model"
    single, grouped = (evaluate(model, str(tmp_path / f"{n}.tsv"), DataConfig(), "user") for n in (1, 2))
    apart = evaluate(model, str(tmp_path / "2.tsv"), DataConfig())
    assert grouped.intervals["accuracy"] == pytest.approx(single.intervals["accuracy"])
    width = [high - low for low, high in (one.intervals["accuracy"] for one in (apart, grouped))]
    assert width[0] < 0.8 * width[1]
    with pytest.raises(
        InputError, match=r"users: is no column of .*line 2; name one of text, label, user\. Did you mean"
    ):
        evaluate(model, str(tmp_path / "2.tsv"), DataConfig(), "users")


def test_slices_are_evaluations_of_their_rows(place, tmp_path):
    rows = texts(90, 2)
    lines = [f"{text}\t{label}\t{'ab'[number % 3 == 0]}\n" for number, (text, label) in enumerate(rows)]
    head = "text\tlabel\tsource\n"
    (tmp_path / "all.tsv").write_text(head + "".join(lines))
    (tmp_path / "b.tsv").write_text(head + "".join(lines[::3]))
    found = evaluate(place / "classify" / "model", str(tmp_path / "all.tsv"), DataConfig())
    part = evaluate(place / "classify" / "model", str(tmp_path / "b.tsv"), DataConfig())
    slices = found.by_column("source")
    assert [(one.name, one.count) for one in slices] == [("a", 60), ("b", 30)]
    assert slices[1].value == pytest.approx(part.metrics["accuracy"])
    assert slices[1].interval == pytest.approx(part.intervals["accuracy"])
    assert sum(one.count for one in found.by_length()) == 90
    mean = sum(one.value * one.count for one in found.by_length()) / 90
    assert mean == pytest.approx(found.metrics["accuracy"])


@pytest.mark.parametrize("name", ["classify", "tag"])
def test_parts_by_length_count_the_characters_of_the_text(place, name):
    file = place / ("dev.tsv" if name == "classify" else "dev.conll")
    found = evaluate(place / name / "model", str(file), DataConfig())
    rows = texts(90, 2) if name == "classify" else [(" ".join(words), tags) for words, tags in sentences(50, 2)]
    lengths = sorted(len(text) for text, _ in rows)
    names = [one.name.removesuffix(" characters").split("–") for one in found.by_length()]
    assert [names[0][0], names[-1][-1]] == [str(lengths[0]), str(lengths[-1])]


def test_what_only_the_report_shows_is_refused_without_one(capsys):
    for flags in (["--slice", "text"], ["--explain"]):
        assert main(["evaluate", "model", "dev.tsv", *flags]) == 2
        assert f"{flags[0]} is shown in the report only: add --report DIR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"slice": "source"}, "slice is 'source'; must be Sequence"),
        ({"model": ["a", "b"]}, r"model is \['a', 'b'\]; must be str"),
        ({"data": None}, "data is None; must be DataConfig"),
        ({"group": 3}, "group is 3; must be str"),
    ],
)
def test_arguments_of_another_type_are_refused(given, line):
    arguments = {"model": "model", "file": "dev.tsv", "data": DataConfig()} | given
    with pytest.raises(InputError, match=line):
        assess(**arguments)


def test_a_report_is_made_and_written_with_paths_or_strings(place, tmp_path):
    model, file = place / "classify" / "model", place / "dev.tsv"
    for number, kind in enumerate((str, Path)):
        report = assess(kind(model), kind(file), DataConfig())
        write_report(report, kind(tmp_path / str(number)))
    assert (tmp_path / "0" / "metrics.json").read_text() == (tmp_path / "1" / "metrics.json").read_text()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc")
def test_a_folder_that_cannot_be_written_is_refused_before_the_measurement(capsys):
    assert main(["evaluate", "missing", "missing.tsv", "--report", "/proc"]) == 2
    assert "/proc: cannot be written" in capsys.readouterr().err


def test_a_report_stays_in_its_folder_and_touches_nothing_else(place, tmp_path, monkeypatch, capsys):
    """Also in the current folder, which must stay the one that the shell is in."""
    model, file = str(place / "classify" / "model"), str(place / "dev.tsv")
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    for _ in range(2):  # an earlier report is replaced
        assert main(["evaluate", model, file, "--report", "."]) == 0
    assert tmp_path.stat().st_ino == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.json",
        "mine.txt",
        "predictions.jsonl",
        "report.html",
    ]
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 90
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metrics.json").write_text("mine")
    for folder, why in (
        ("other", "would replace metrics.json; give another folder"),
        (str(place / "classify" / "report"), "would replace the report of a run; give another folder"),
        (str(place / "classify"), "is the folder of a run or a model; give another folder"),
        (model, "is the folder of a run or a model; give another folder"),
        ("mine.txt/x", "cannot be written (Not a directory); give another --report"),
        ("mine.txt", "cannot be written (File exists); give another --report"),
    ):
        assert main(["evaluate", model, "missing.tsv", "--report", folder]) == 2
        assert why in capsys.readouterr().err
    assert (tmp_path / "other" / "metrics.json").read_text() == "mine"
    shutil.copytree(place / "classify", tmp_path / "begun", ignore=shutil.ignore_patterns("model"))
    assert main(["evaluate", "begun", file]) == 2
    assert capsys.readouterr().err == "bert: begun: has no model yet: run the same command again to continue\n"


def test_a_group_without_a_name_is_refused_and_a_slice_without_one_is_shown(place, tmp_path):
    rows = [{"text": text, "label": label, "user": user} for (text, label), user in zip(texts(3, 2), ("a", None, ""))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, file = place / "classify" / "model", str(tmp_path / "rows.jsonl")
    with pytest.raises(InputError, match=r"line 2: column 'user' is empty; fill it in, as groups are resampled"):
        evaluate(model, file, DataConfig(), "user")
    assert [(one.name, one.count) for one in evaluate(model, file, DataConfig()).by_column("user")] == [
        ("(none)", 2),
        ("a", 1),
    ]
