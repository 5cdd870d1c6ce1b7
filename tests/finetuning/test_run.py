"""`bert finetune` from the outside: what it learns, says and leaves; `bert evaluate` and `bert predict` on what it left."""

import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from bert.cli import main
from bert.finetuning.config import FinetuneRecipe
from bert.model.heads import SequenceClassifier, TokenClassifier
from bert.recipe import read_recipe
from tests.conftest import run_quietly

from .synthetic import FAST, save_encoder, sentences, texts, write_tagged, write_texts


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    """A folder with an encoder and the files of both tasks."""
    folder = tmp_path_factory.mktemp("finetune")
    save_encoder(tiny_run, folder / "encoder")
    for name, count, seed in (("train", 160, 1), ("dev", 30, 2)):
        write_texts(folder / f"{name}.tsv", texts(count, seed))
        write_tagged(folder / f"{name}.conll", sentences(count, seed))
    return folder


def arguments(place, task, out, *extra):
    suffix = "tsv" if task == "classify" else "conll"
    files = ["--train", str(place / f"train.{suffix}"), "--dev", str(place / f"dev.{suffix}")]
    return ["finetune", task, "--model", str(place / "encoder"), *files, "--out", str(out), *FAST, *extra]


@pytest.fixture(scope="module")
def classifier(place):
    """The folder of a finished classification run."""
    run_quietly(arguments(place, "classify", place / "classify", "--epochs=12", "--data.batch_size=8"))
    return place / "classify"


@pytest.fixture(scope="module")
def tagger(place):
    """The folder of a finished tagging run."""
    run_quietly(arguments(place, "tag", place / "tag", "--epochs=12", "--data.batch_size=8"))
    return place / "tag"


def rows_of(run):
    with (run / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_folder_holds_everything_that_repeats_it(classifier):
    names = {path.name for path in classifier.iterdir()}
    assert names == {
        "recipe.yaml",
        "given.yaml",
        "environment.json",
        "ready",
        "metrics.csv",
        "best.json",
        "report",
        "model",
    }
    recipe = read_recipe(classifier / "recipe.yaml", FinetuneRecipe)
    assert (recipe.windows.sequence_length, recipe.windows.stride) == (64, 31)  # what the encoder takes
    assert SequenceClassifier.load(classifier / "model").labels == ("early", "late", "other")


@pytest.mark.parametrize("task", ["classify", "tag"])
def test_a_small_task_is_learned_whole(task, request):
    run = request.getfixturevalue("classifier" if task == "classify" else "tagger")
    headline = "dev_accuracy" if task == "classify" else "dev_span_f1"
    metrics = [float(row[headline]) for row in rows_of(run) if row[headline]]
    assert len(metrics) == 12  # once an epoch
    assert max(metrics) == 1


def test_the_log_has_a_row_a_step_and_a_row_a_validation(tagger):
    rows = rows_of(tagger)
    assert len([row for row in rows if row["loss"]]) == 12 * 20
    assert [float(row["epoch"]) for row in rows if row["dev_span_f1"]] == [float(epoch) for epoch in range(1, 13)]


def test_the_model_that_measured_best_stays(place, tmp_path, capsys):
    """A learning rate that ruins the model after the first epoch leaves the model of before."""
    flags = [
        "--epochs=4",
        "--data.batch_size=8",
        "--schedule.kind=wsd",
        "--schedule.decay=0",
        "--schedule.warmup=0",
    ]
    assert main(arguments(place, "classify", tmp_path / "run", *flags, "--optimizer.lr=0.02")) == 0
    metrics = [
        (float(row["dev_accuracy"]), float(row["dev_macro_f1"]))
        for row in rows_of(tmp_path / "run")
        if row["dev_accuracy"]
    ]
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run" / "model"), str(place / "dev.tsv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    accuracy = next(line for line in lines if line.startswith("accuracy")).split()[1]
    assert accuracy == f"{max(metrics)[0]:.1%}"


def test_running_twice_gives_the_same_bytes(place, tmp_path):
    runs = []
    for number in (1, 2):
        torch.manual_seed(number)
        run_quietly(arguments(place, "tag", tmp_path / f"run{number}", "--epochs=1"))
        runs.append(tmp_path / f"run{number}" / "model")
    assert (runs[0] / "model.safetensors").read_bytes() == (runs[1] / "model.safetensors").read_bytes()
    assert (runs[0] / "config.json").read_bytes() == (runs[1] / "config.json").read_bytes()


def test_the_recipe_of_a_run_repeats_it(place, classifier, tmp_path):
    again = tmp_path / "again"
    run_quietly(["finetune", "classify", "--config", str(classifier / "recipe.yaml"), "--out", str(again)])
    weights = "model/model.safetensors"
    assert (again / weights).read_bytes() == (classifier / weights).read_bytes()


def test_a_run_says_what_it_found(place, tmp_path, capsys):
    rows = texts(50, 3)
    long = " ".join(text for text, _ in rows[:9])
    train = write_texts(tmp_path / "train.tsv", [*rows, (long, "other"), (f"{long} {long}", "other")])
    model = ["--model", str(place / "encoder"), *FAST, "--epochs=1"]
    assert main(["finetune", "classify", *model, "--train", train, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "columns: 'text' → 'label'" in said
    assert "no --dev: validating on" in said
    assert re.search(r"[12] longer than a sequence: \d+ windows", said)
    assert "labels: other" in said
    assert "baseline: accuracy" in said
    assert f"next: bert predict {tmp_path / 'run' / 'model'}" in said


def test_the_card_tells_how_the_model_came_to_be(tagger):
    card = (tagger / "model" / "README.md").read_text()
    for part in ("train.conll", "dev.conll", "B-WHO", "span F1 100.0%", "baseline"):
        assert part in card
    assert str(tagger.parent) not in card


def test_examples_of_the_validation_split_follow_from_their_text_alone(place, tmp_path):
    """The order of the rows is no matter, and equal texts stand on one side."""
    from bert.finetuning.config import DataConfig, WindowsConfig
    from bert.finetuning.inputs import prepare_data, window_maker
    from bert.finetuning.tasks.classify import TASK
    from bert.model.encoder import Encoder

    encoder = Encoder.load(place / "encoder")
    maker = window_maker(WindowsConfig(), encoder, "encoder")
    rows = texts(80, 5)
    sides = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        file = write_texts(tmp_path / f"{name}.tsv", [*order, *order[:20]])
        data = prepare_data(TASK, DataConfig(train=file, validation_split=0.3), maker)
        sides.append([{tuple(item.windows[0].ids) for item in side} for side in (data.train, data.dev)])
        assert not sides[-1][0] & sides[-1][1]
    assert sides[0] == sides[1]


def test_weights_of_a_masked_lm_a_classifier_and_a_tagger_can_be_started_from(
    tiny_run, classifier, tagger, place, tmp_path
):
    for number, model in enumerate((tiny_run / "model", tagger / "model")):
        out = tmp_path / f"run{number}"
        flags = ["--model", str(model), "--train", str(place / "train.tsv"), "--dev", str(place / "dev.tsv")]
        run_quietly(["finetune", "classify", *flags, *FAST, "--epochs=1", "--out", str(out)])
        assert SequenceClassifier.load(out / "model").labels == ("early", "late", "other")
    flags = ["--model", str(classifier / "model"), "--train", str(place / "train.conll")]
    run_quietly(["finetune", "tag", *flags, *FAST, "--epochs=1", "--out", str(tmp_path / "tag")])
    assert "B-WHO" in TokenClassifier.load(tmp_path / "tag" / "model").labels


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_at_a_step_and_the_best_model_stays(place, tmp_path, number, code):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "bert", *arguments(place, "classify", run, "--epochs=2000")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 600
    while not (run / "model" / "windows.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == code, errors
    assert "holds the best model so far" in errors
    assert SequenceClassifier.load(run / "model").labels == ("early", "late", "other")


@pytest.mark.slow
def test_two_processes_learn_as_one_does(place, tmp_path):
    """7 examples a step: the shares of the processes are unequal, so a mean of means would differ."""
    for task in ("classify", "tag"):
        rows = []
        for devices in (1, 2):
            run = tmp_path / f"{task}{devices}"
            flags = [f"--trainer.devices={devices}", "--data.batch_size=7", "--epochs=2", "--head.dropout=0"]
            command = [sys.executable, "-m", "bert", *arguments(place, task, run, *flags)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=900)
            assert done.returncode == 0, done.stderr
            rows.append(rows_of(run))
        assert len(rows[0]) == len(rows[1])
        for one, two in zip(*rows):
            for column in ("loss", *(name for name in one if name.startswith("dev_"))):
                if one[column]:
                    assert float(two[column]) == pytest.approx(float(one[column]), abs=2e-3)


def test_an_overwritten_run_is_lost_only_when_told_so(place, classifier, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(classifier, run)
    assert main(arguments(place, "tag", run)) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(arguments(place, "tag", run, "--overwrite", "--epochs=1")) == 0
    assert TokenClassifier.load(run / "model").labels


def test_going_on_from_a_classifier_with_the_same_labels_keeps_its_output_layer(place, classifier, tmp_path, capsys):
    """A learning rate of almost 0 leaves the model as it was, in the order of its labels or in another."""
    model = tmp_path / "model"
    shutil.copytree(classifier / "model", model)
    keys = json.loads((model / "config.json").read_text())
    turned = {"0": "other", "1": "early", "2": "late"}
    keys |= {"id2label": turned, "label2id": {label: int(number) for number, label in turned.items()}}
    (model / "config.json").write_text(json.dumps(keys))
    before = SequenceClassifier.load(model).head.output
    flags = ["--model", str(model), "--train", str(place / "train.tsv"), "--dev", str(place / "dev.tsv")]
    flags += [*FAST, "--epochs=0.1", "--optimizer.lr=1e-12", "--optimizer.weight_decay=0"]
    assert main(["finetune", "classify", *flags, "--out", str(tmp_path / "same")]) == 0
    assert f"{model} has the same labels: its output layer is kept" in capsys.readouterr().out
    after = SequenceClassifier.load(tmp_path / "same" / "model")
    assert after.labels == ("early", "late", "other")
    temperature = json.loads((tmp_path / "same" / "model" / "windows.json").read_text())["temperature"]
    assert torch.allclose(after.head.output.weight * temperature, before.weight[[1, 2, 0]], atol=1e-6)
    assert torch.allclose(after.head.output.bias * temperature, before.bias[[1, 2, 0]], atol=1e-6)

    other = write_texts(tmp_path / "other.tsv", [(text, label.upper()) for text, label in texts(40, 1)])
    flags[3] = flags[5] = other
    assert main(["finetune", "classify", *flags, "--out", str(tmp_path / "other")]) == 0
    assert f"{model} has other labels: its output layer is not kept" in capsys.readouterr().out
    flags[3] = flags[5] = str(place / "train.tsv")
    assert main(["finetune", "multilabel", *flags, "--out", str(tmp_path / "several")]) == 0
    assert f"{model} has another task: its output layer is not kept" in capsys.readouterr().out
    flags[3] = flags[5] = str(place / "train.conll")
    assert main(["finetune", "tag", *flags, "--out", str(tmp_path / "tag")]) == 0
    assert "output layer" not in capsys.readouterr().out


def test_a_siamese_head_learns_a_comparison_and_every_command_reads_its_model(place, tmp_path, capsys):
    """Whether both texts speak of the same time of day; a head on a folder with another pooling starts anew."""
    rows = texts(120, 3)
    pairs = [(one, other, str(label == label_)) for (one, label), (other, label_) in itertools.pairwise(rows)]
    file = tmp_path / "pairs.tsv"
    file.write_text("text1\ttext2\tlabel\n" + "".join("\t".join(row) + "\n" for row in pairs), encoding="utf-8")
    command = ["finetune", "classify", "--train", str(file), "--dev", str(file), *FAST]
    columns, run = ["--text=text1", "--pair=text2"], tmp_path / "run"
    encoder = ["--model", str(place / "encoder"), "--head.pooling=siamese"]
    assert main([*command, *columns, *encoder, "--epochs=12", "--out", str(run)]) == 0
    model = SequenceClassifier.load(run / "model")
    assert (model.pooling, model.head.output.weight.shape) == ("siamese", (2, 64))
    capsys.readouterr()
    assert main(["evaluate", str(run / "model"), str(file)]) == 0
    accuracy = re.search(r"^Accuracy +([\d.]+)%", capsys.readouterr().out, re.MULTILINE | re.IGNORECASE)
    assert accuracy is not None
    assert float(accuracy[1]) > 95
    assert main(["predict", str(run / "model"), str(file)]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= len(pairs)
    more = ["--epochs=0.1", "--head.pooling=mean", "--out", str(tmp_path / "mean")]
    assert main([*command, *columns, *more, "--model", str(run / "model")]) == 0
    assert "has the same labels and another pooling: its output layer is not kept" in capsys.readouterr().out
    single = ["--train", str(place / "train.tsv"), "--dev", str(place / "dev.tsv"), "--out", str(tmp_path / "single")]
    assert main(["finetune", "classify", *FAST, *single, *encoder]) == 2
    message = "head.pooling siamese compares two texts: name the column of the second with --pair"
    assert message in capsys.readouterr().err
