"""The doctor of fine-tuning: labels against the text, labels that are never predicted, the loss without a look at the input."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from bert import cli
from bert.data.examples import Example
from bert.data.tagged import TaggedExample
from bert.finetuning.config import FinetuneRecipe, LossConfig
from bert.finetuning.doctor import expected, of_labels, of_report
from bert.finetuning.tasks.index import task_named
from tests.conftest import run_quietly

GOOD, BAD = ("apple", "river", "garden", "letter"), ("phone", "book", "bridge", "bread")


def texts(count: int, seed: int = 0) -> list[Example]:
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        label = draw.choice(("yes", "no"))
        words = [draw.choice(GOOD if label == "yes" else BAD), "sees", str(number), draw.choice(("today", "again"))]
        rows.append(Example(" ".join(words), label=label))
    return rows


def shifted(rows: list[Example], by: int) -> list[Example]:
    return [Example(one.text, label=rows[(number + by) % len(rows)].label) for number, one in enumerate(rows)]


@pytest.mark.parametrize(("by", "where"), [(1, "previous"), (-1, "next")])
def test_labels_that_are_shifted_by_a_row_are_named(by: int, where: str):
    (found,) = of_labels(shifted(texts(300), by))
    assert found.name == "labels shifted"
    assert f"of the {where} row" in found.text


def test_tags_that_are_shifted_by_a_word_are_named():
    draw = random.Random(0)
    words = [draw.choice(("the", "a", "old", "red", "man", "dog", "sees", "likes")) for _ in range(600)]
    tags = {"the": "DET", "a": "DET", "old": "ADJ", "red": "ADJ", "man": "NOUN", "dog": "NOUN"}
    right = [tags.get(word, "VERB") for word in words]
    cuts = range(0, 600, 12)
    assert not list(of_labels([TaggedExample(tuple(words[n : n + 12]), tuple(right[n : n + 12])) for n in cuts]))
    moved = right[1:] + right[:1]
    (found,) = of_labels([TaggedExample(tuple(words[n : n + 12]), tuple(moved[n : n + 12])) for n in cuts])
    assert found.name == "labels shifted"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [30, 60, 300])
def test_labels_that_fit_or_tell_nothing_are_silent(count: int, seed: int):
    rows = texts(count, seed)
    assert not list(of_labels(rows))
    assert not list(of_labels(sorted(rows, key=lambda one: str(one.label))))
    draw = random.Random(seed)
    assert not list(of_labels([Example(one.text, label=draw.choice("ab")) for one in rows]))
    assert not list(of_labels([Example(one.text, label=draw.random()) for one in rows]))


@pytest.mark.parametrize("name", ["classify", "multilabel", "regression", "tag"])
def test_the_loss_without_the_input_is_that_of_the_best_constant_scores(name: str):
    draw, task = random.Random(0), task_named(name)
    labels = {
        "classify": lambda: draw.choice("aabc"),
        "multilabel": lambda: tuple(one for one in "abc" if draw.random() < 0.3),
        "regression": lambda: draw.gauss(3, 2),
    }
    if name == "tag":
        rows = [TaggedExample(("a",) * 5, tuple(draw.choice("XXYZ") for _ in range(5))) for _ in range(40)]
    else:
        rows = [Example("x", label=labels[name]()) for _ in range(200)]
    classes = task.labels(rows)
    units = [torch.tensor(task.numbers(one, {c: n for n, c in enumerate(classes)})) for one in rows]
    right = torch.cat(units)
    count = len(rows) if name != "tag" else len(right)
    scores = torch.zeros(len(classes), requires_grad=True)
    fit = torch.optim.LBFGS([scores], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        fit.zero_grad()
        total = task.loss(scores.expand(count, -1), right).sums["loss"] / len(right)
        total.backward()
        return total

    fit.step(loss)
    known = expected(task, FinetuneRecipe(), rows, classes)
    assert known is not None
    assert known.constant == pytest.approx(float(loss().detach()), abs=1e-4)
    assert known.highest > known.constant
    assert expected(task, FinetuneRecipe(loss=LossConfig(label_smoothing=0.1)), rows, classes) is None


def test_the_checks_draw_no_number_from_the_generators_of_a_training():
    task, rows = task_named("classify"), texts(100)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    list(of_labels(rows))
    expected(task, FinetuneRecipe(), rows, task.labels(rows))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def record(**predicted: int) -> dict:
    counts = {"a": 60, "b": 38, "c": 2}
    labels = [{"label": name, "count": count, "predicted": predicted.get(name, 0)} for name, count in counts.items()]
    return {"data": "dev.tsv", "labels": labels}


def test_a_label_that_is_never_predicted_is_named_unless_it_is_rare():
    assert not list(of_report(record(a=60, b=40)))
    (found,) = of_report(record(a=100))
    assert found.name == "never predicted"
    assert "'b' (38 rows)" in found.text
    assert "'c'" not in found.text
    assert not list(of_report({}))


@pytest.mark.parametrize("fault", ["none", "dev among train", "labels shifted"])
def test_a_run_is_looked_at_before_it_trains_and_afterwards(
    tmp_path: Path, tiny_run: Path, said: list[str], capsys: pytest.CaptureFixture[str], fault: str
):
    rows, files = texts(200), {}
    train = shifted(rows, 1) if fault == "labels shifted" else rows
    for name, some in (("train", train), ("dev", rows[:60] if fault == "dev among train" else texts(60, seed=1))):
        files[name] = tmp_path / f"{name}.tsv"
        lines = (f"{one.text}{' ' + name if fault != 'dev among train' else ''}\t{one.label}" for one in some)
        files[name].write_text("\n".join(["text\tlabel", *lines]) + "\n", encoding="utf-8")
    run = tmp_path / "run"
    given = ["--model", str(tiny_run / "model"), "--train", str(files["train"]), "--dev", str(files["dev"])]
    how = [
        f"--epochs={12 if fault == 'none' else 1}",
        "--optimizer.lr=2e-2",
        "--trainer.accelerator=cpu",
        "--out",
        str(run),
    ]
    run_quietly(["finetune", "classify", *given, *how])
    capsys.readouterr()
    assert cli.main(["doctor", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = [line.partition(": ")[0] for line in lines]
    if fault == "none":
        assert lines == [f"{run}: nothing looks wrong in its loss, its rows and its report"]
    else:
        assert fault in found
        assert lines[found.index(fault)].partition(": ")[2] in said
    files["train"].unlink()
    assert cli.main(["doctor", str(run)]) == 0
    assert "the rows were not looked at" in capsys.readouterr().out


def test_a_damaged_report_is_no_error(tmp_path: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "recipe.yaml").write_text("task: classify\nmodel: nowhere\ndata:\n  train: gone.tsv\n")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "metrics.json").write_text('{"labels": [1, {"count": "x"}]}')
    assert cli.main(["doctor", str(tmp_path)]) == 0
    assert "nothing looks wrong" in capsys.readouterr().out
