"""`evaluate` of a fine-tuned model: its metrics and those of each label, counted again by scikit-learn from `predict`'s predictions."""

import shutil

import pytest
from sklearn.metrics import accuracy_score, classification_report

from bert.data.examples import read_examples
from bert.data.tagged import read_tagged
from bert.errors import InputError
from bert.finetuning.config import DataConfig
from bert.finetuning.evaluate import evaluate
from bert.finetuning.predict import load_predictor

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
    assert list(found.metrics) == ["accuracy", "macro_f1"]
    assert found.metrics["accuracy"] == pytest.approx(accuracy_score(right, guessed))
    assert found.metrics["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"])
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
