"""Scores of training examples by models that have not seen them, and the command that finds suspect labels with them."""

import csv
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bert.data.examples import Example
from bert.errors import InputError, InterruptedRun
from bert.finetuning import folds
from bert.finetuning import run as running
from bert.finetuning.config import DataConfig, FinetuneOptimizer, FinetuneRecipe
from bert.finetuning.folds import FOLDS, folds_of, out_of_fold
from bert.finetuning.run import prepare
from bert.finetuning.tasks.index import task_named
from bert.signals import handled
from bert.training.callbacks import StopOnSignal
from bert.training.config import LogConfig
from bert.training.folder import Launch
from tests.conftest import run_quietly

from .synthetic import FAST, save_encoder, sentences, texts, write_tagged, write_texts


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tiny_run):
    return save_encoder(tiny_run, tmp_path_factory.mktemp("folds") / "encoder")


def recipe_of(encoder, file, **fields):
    given = {"epochs": 1.0, "optimizer": FinetuneOptimizer(lr=3e-3), "data": DataConfig(train=file, batch_size=8)}
    trainer = {"accelerator": "cpu", "precision": "32-true"}
    return FinetuneRecipe(model=encoder, log=LogConfig(progress_bar=False), trainer=trainer, **(given | fields))


def scores_of(task, recipe, folder, watch=lambda items: None):
    """(data, out-of-fold scores); `watch` sees the examples of each training."""
    with handled() as signals:
        resolved, data = prepare(task_named(task), recipe)
        launch = Launch(folder, signals, False, lambda: None)

        def trained(items):
            watch(items)
            return running.trained_on(launch, data, resolved, items)

        return data, out_of_fold(data, recipe.seed, folder, trained)


words = st.lists(st.sampled_from(["a b", "A  b", "c", "d", "e", "f", "g", "h", "i", "j"]), min_size=1, max_size=40)


@given(words, st.integers(0, 2**63 - 1), st.randoms(use_true_random=False))
def test_equal_texts_are_in_one_fold_and_folds_have_equal_numbers_of_texts(given_texts, seed, random):
    examples = [Example(text, label="x") for text in given_texts]
    distinct = {text.lower().replace("  ", " ") for text in given_texts}
    if len(distinct) < FOLDS:
        with pytest.raises(InputError, match=r"different training texts; must be at least 5"):
            folds_of(examples, seed)
        return
    found = folds_of(examples, seed).tolist()
    of_text = {}
    for text, fold in zip(given_texts, found):
        of_text.setdefault(text.lower().replace("  ", " "), set()).add(fold)
    assert all(len(one) == 1 for one in of_text.values())
    counts = np.bincount([one.pop() for one in of_text.values()], minlength=FOLDS)
    assert counts.max() - counts.min() <= 1
    order = list(range(len(examples)))
    random.shuffle(order)
    assert folds_of([examples[number] for number in order], seed).tolist() == [found[number] for number in order]


def test_another_seed_makes_other_folds():
    examples = [Example(f"text {number}") for number in range(50)]
    assert folds_of(examples, 0).tolist() != folds_of(examples, 1).tolist()


@pytest.mark.parametrize("task", ["classify", "tag"])
def test_each_example_is_scored_once_by_a_model_that_was_not_trained_on_its_text(task, encoder, tmp_path, monkeypatch):
    if task == "tag":
        rows = sentences(30, 3)
        file = write_tagged(tmp_path / "train.conll", rows + rows[:5])
    else:
        rows = texts(30, 3)
        file = write_texts(tmp_path / "train.tsv", rows + rows[:5])
    learned, asked, score = [], [], folds.window_scores

    def watched(task, model, windows, bf16):
        asked.append([tuple(one[0].ids) for one in windows])
        return score(task, model, windows, bf16)

    monkeypatch.setattr(folds, "window_scores", watched)
    data, scores = scores_of(task, recipe_of(encoder, file), tmp_path / "folds", learned.append)
    learned = [{tuple(item.windows[0].ids) for item in items} for items in learned]
    assert len(learned) == len(asked) == FOLDS
    assert all(not side & set(other) for side, other in zip(learned, asked))
    assert sorted(one for side in asked for one in side) == sorted(tuple(item.windows[0].ids) for item in data.train)
    assert [len(one) for one in scores] == [len(item.labels) if task == "tag" else 1 for item in data.train]
    assert len(data.examples) == len(data.train)


def test_a_run_that_is_stopped_goes_on_at_its_fold_to_equal_scores(encoder, tmp_path, monkeypatch):
    file = write_texts(tmp_path / "train.tsv", texts(40, 3))
    recipe = recipe_of(encoder, file)
    _, whole = scores_of("classify", recipe, tmp_path / "whole")
    steps = []

    class Stopping(StopOnSignal):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            steps.append(pl_module.progress.step)
            if len(steps) == 12:  # in the third fold of four steps and one call at the start each
                self.signals.received = signal.SIGTERM
            super().on_train_batch_end(trainer, pl_module, *rest)

    monkeypatch.setattr(running, "StopOnSignal", Stopping)
    with pytest.raises(InterruptedRun) as stopped:
        scores_of("classify", recipe, tmp_path / "stopped")
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    finished = sorted(path.name for path in (tmp_path / "stopped").iterdir())
    assert finished == [f"fold-{number}.npz" for number in range(len(finished))]
    assert 0 < len(finished) < FOLDS
    trained = []
    _, resumed = scores_of("classify", recipe, tmp_path / "stopped", trained.append)
    assert len(trained) == FOLDS - len(finished)
    assert all(torch.equal(one, other) for one, other in zip(whole, resumed, strict=True))


@pytest.mark.parametrize("damage", ["cut", "labels"])
def test_scores_of_other_labels_and_damaged_ones_are_not_used(encoder, tmp_path, damage):
    rows = texts(30, 3)
    recipe = recipe_of(encoder, write_texts(tmp_path / "train.tsv", rows))
    _, scores = scores_of("classify", recipe, tmp_path / "folds")
    file = tmp_path / "folds" / "fold-2.npz"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        arrays = dict(np.load(file))
        np.savez(file, **arrays | {"labels": arrays["labels"][::-1], "scores": arrays["scores"] + 1})
    _, again = scores_of("classify", recipe, tmp_path / "folds")
    assert all(torch.equal(one, other) for one, other in zip(scores, again, strict=True))


def rows_of(file):
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_command_finds_flipped_labels(encoder, tmp_path, said):
    rows = [row for row in texts(300, 5) if row[1] != "other"][:96]
    flipped = range(0, len(rows), 16)
    for number in flipped:
        text, label = rows[number]
        rows[number] = text, "late" if label == "early" else "early"
    file = write_texts(tmp_path / "train.tsv", rows)
    dev = write_texts(tmp_path / "dev.tsv", [row for row in texts(60, 2) if row[1] != "other"])
    flags = ["--model", encoder, "--train", file, "--dev", dev, *FAST, "--data.batch_size=8", "--epochs=8"]
    run_quietly(["finetune", "classify", *flags, "--out", str(tmp_path / "run"), "--label-errors"])
    found = rows_of(tmp_path / "run" / "label-errors.csv")
    assert [int(row["rank"]) for row in found] == list(range(1, len(found) + 1))
    assert [float(row["score"]) for row in found] == sorted(float(row["score"]) for row in found)
    lines = {f"train.tsv, line {number + 2}" for number in flipped}
    assert len(lines & {row["where"].rpartition("/")[2] for row in found[: len(lines)]}) >= 0.8 * len(lines)
    assert all({row["given"], row["suggested"]} == {"early", "late"} for row in found)
    assert all((row["start"], row["end"]) == ("", "") for row in found)
    assert any(line.startswith(f"label errors: {len(found)} suspect in {len(rows)} examples") for line in said)
    assert (tmp_path / "run" / "model" / "config.json").exists()


@pytest.mark.slow
def test_the_rows_of_a_tagger_have_places(encoder, tmp_path):
    rows = sentences(96, 3)
    for _, tags in rows[::12]:  # the subject is dropped
        tags[:] = ["O" if tag.endswith("WHO") else tag for tag in tags]
    flags = ["--model", encoder, "--train", write_tagged(tmp_path / "train.conll", rows), *FAST]
    flags += ["--data.batch_size=8", "--epochs=4", "--out", str(tmp_path / "run"), "--label-errors"]
    run_quietly(["finetune", "tag", *flags])
    found = rows_of(tmp_path / "run" / "label-errors.csv")
    missing = [row for row in found if row["given"] == "O"]
    assert missing
    for row in missing:
        assert row["suggested"] == f"WHO: {row['text'][int(row['start']) : int(row['end'])]}"
