"""Fine-tuning beside transformers' Trainer: both see the same examples, steps and validations, and their seconds make the table."""

import json

import numpy as np
import pytest
import torch

from bert.bench import finetuning
from bert.bench.finetuning import IGNORED, baseline_trainer, bench_finetune
from bert.cli import main
from bert.errors import InputError
from bert.finetuning.config import DataConfig, FinetuneOptimizer, FinetuneRecipe, ValidationConfig, WindowsConfig
from bert.finetuning.inputs import prepare
from bert.finetuning.tasks.index import task_named
from bert.training.config import LogConfig
from tests.finetuning.synthetic import save_encoder, sentences, texts, write_tagged, write_texts


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    folder = tmp_path_factory.mktemp("bench")
    save_encoder(tiny_run, folder / "encoder")
    for name, count, seed in (("train", 40, 1), ("dev", 20, 2)):
        write_texts(folder / f"{name}.tsv", texts(count, seed))
        long = (["the", "remorningest", "market"], ["O", "O", "B-PLACE"])  # a word of several tokens
        write_tagged(folder / f"{name}.conll", [*sentences(count - 1, seed), long])
        lines = [f"{text}\t{number / 10}" for number, (text, _) in enumerate(texts(count, seed))]
        (folder / f"{name}-numbers.tsv").write_text("text\tscore\n" + "\n".join(lines) + "\n")
        rows = [
            {"text": text, "labels": [label, "all"][number % 2 :]}
            for number, (text, label) in enumerate(texts(count, seed))
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


FILES = {"classify": "{}.tsv", "tag": "{}.conll", "regression": "{}-numbers.tsv", "multilabel": "{}.jsonl"}


def recipe_of(place, task="classify", **fields):
    files = {name: str(place / FILES[task].format(name)) for name in ("train", "dev")}
    data = DataConfig(**files, batch_size=8)
    trainer = {"accelerator": "cpu", "precision": "32-true"}
    log = LogConfig(progress_bar=False)
    return FinetuneRecipe(model=str(place / "encoder"), data=data, log=log, trainer=trainer, epochs=3, **fields)


# ── what the Trainer learns from ──


@pytest.mark.hf
@pytest.mark.parametrize("task", FILES)
def test_the_trainer_reads_the_tokens_and_labels_of_the_recipe(place, tmp_path, task):
    pytest.importorskip("transformers", reason="transformers is not installed")
    recipe, data = prepare(task_named(task), recipe_of(place, task))
    trainer = baseline_trainer(data, recipe, {"output_dir": str(tmp_path), "use_cpu": True, "eval_steps": 1})
    several = []
    for side, items in ((trainer.train_dataset, data.train), (trainer.eval_dataset, data.dev)):
        for row, item in zip(side, items, strict=True):
            (window,) = item.windows
            assert list(row["input_ids"]) == list(window.ids)
            if task == "tag":
                labels = np.full(len(window.ids), IGNORED)
                labels[list(window.starts)] = item.labels
                assert row["labels"] == labels.tolist()
                several.append(len(window.ids) - 2 > len(item.labels))
            else:
                assert tuple(np.atleast_1d(row["labels"])) == item.labels
    assert any(several) == (task == "tag")
    batch = next(iter(trainer.get_train_dataloader()))
    assert bool(torch.isfinite(trainer.model(**batch).loss))
    assert len(batch["input_ids"]) == 8


@pytest.mark.hf
def test_long_texts_are_truncated_and_the_arguments_are_those_of_the_recipe(place, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    given = recipe_of(place, seed=3, windows=WindowsConfig(sequence_length=8), optimizer=FinetuneOptimizer(lr=2e-5))
    recipe, data = prepare(task_named("classify"), given)
    trainer = baseline_trainer(data, recipe, {"output_dir": str(tmp_path), "use_cpu": True, "max_steps": 7})
    assert max(len(row["input_ids"]) for row in trainer.train_dataset) == 8
    assert trainer.args.per_device_train_batch_size == 8
    assert (trainer.args.learning_rate, trainer.args.seed, trainer.args.max_steps) == (2e-5, 3, 7)


# ── the measurement ──


def bench_with(monkeypatch, place, out, times, **more):
    """`bench_finetune` with given seconds of the candidate and the settings of the baseline; returns (metrics, ways in order)."""
    order, left = [], {way: iter(some) for way, some in times.items()}

    def of_candidate(data, recipe, every):
        order.append(("candidate", round(recipe.epochs * -(-len(data.train) // 8)), every))
        return {"seconds": next(left["candidate"])}

    def of_baseline(data, recipe, arguments):
        way = "bf16" if arguments["bf16"] else "fp32", arguments["train_sampling_strategy"]
        order.append((way, arguments["max_steps"], arguments["eval_steps"]))
        return {"seconds": next(left[way])}

    monkeypatch.setattr(finetuning, "seconds_of_candidate", of_candidate)
    monkeypatch.setattr(finetuning, "seconds_of_baseline", of_baseline)
    return bench_finetune("classify", recipe_of(place), out, **more), order


FAST, TRIED = ("fp32", "group_by_length"), [("bf16", "random"), ("bf16", "group_by_length"), ("fp32", "random")]
TIMES = {"candidate": [2.0, 3.0, 6.0], **{way: [20.0] for way in TRIED}, FAST: [9.0, 4.0, 10.0, 10.0]}


def test_the_fastest_setting_is_compared_in_alternating_pairs(place, tmp_path, monkeypatch):
    metrics, order = bench_with(monkeypatch, place, tmp_path / "out", TIMES)
    assert [way for way, _, _ in order] == [*TRIED, FAST, FAST, "candidate", "candidate", FAST, FAST, "candidate"]
    assert {(steps, every) for _, steps, every in order} == {(15, 5)}  # three epochs, each validated
    *_, found = metrics["results"]
    assert found["setting"] == "fp32, group_by_length"
    assert found["ratio"] == {"median": 0.5, "min": 0.3, "max": 0.6}
    assert found["seconds"] == [{"median": 3.0, "min": 2.0, "max": 6.0}, {"median": 10.0, "min": 4.0, "max": 10.0}]
    assert (found["steps"], found["validations"], found["pairs"]) == (15, 3, 3)
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| classify | fp32, group_by_length | 0.50 (0.30–0.60) | 3.0 | 10.0 | 15 | 3 | 3 |" in table
    assert metrics["environment"]["cpu"]["threads"] == torch.get_num_threads()
    assert metrics["precision"] == "32-true"
    again, order = bench_with(monkeypatch, place, tmp_path / "out", {})  # nothing is measured twice
    assert not order
    assert again["results"] == metrics["results"]


@pytest.mark.parametrize(("steps", "given", "expected"), [(12, None, (10, 5)), (3, None, (3, 3)), (20, 7, (14, 7))])
def test_the_last_step_is_validated(place, tmp_path, monkeypatch, steps, given, expected):
    order = []
    recipe = recipe_of(place, validation=ValidationConfig(every_steps=given))
    monkeypatch.setattr(finetuning, "seconds_of_candidate", lambda data, recipe, every: {"seconds": 1.0})
    monkeypatch.setattr(finetuning, "seconds_of_baseline", lambda *given: order.append(given[2]) or {"seconds": 1.0})
    bench_finetune("classify", recipe, tmp_path / "out", steps, pairs=1)
    assert {(one["max_steps"], one["eval_steps"]) for one in order} == {expected}


@pytest.mark.hf
@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "tag"])
def test_both_sides_by_the_command(place, tmp_path, capsys, monkeypatch, task):
    """Both take all steps and validations, and the next call measures nothing again."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers import Trainer, TrainerCallback

    steps, validations = [], []

    class Count(TrainerCallback):
        def on_step_end(self, *_, **__):
            steps.append(1)

        def on_evaluate(self, *_, **__):
            validations.append(1)

    real, taken = finetuning.baseline_trainer, finetuning.trained_on
    monkeypatch.setattr(finetuning, "baseline_trainer", lambda *given: watched(real(*given)))

    def watched(trainer: Trainer):
        trainer.add_callback(Count())
        return trainer

    modules = []
    monkeypatch.setattr(finetuning, "trained_on", lambda *given: modules.append(taken(*given)) or modules[-1])
    files = [f"--{name}={place / FILES[task].format(name)}" for name in ("train", "dev")]
    command = ["bench", "finetune", task, f"--model={place / 'encoder'}", *files, f"--out={tmp_path / 'out'}"]
    command += [
        "--data.batch_size=8",
        "--steps=10",
        "--pairs=1",
        "--trainer.accelerator=cpu",
        "--log.progress_bar=false",
    ]
    assert main(command) == 0, capsys.readouterr().err
    assert (len(steps), len(validations)) == (5 * 10, 5 * 2)
    assert [(module.progress.step, bool(module.validation)) for module in modules] == [(10, True)]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["results"][-1]["ratio"]["median"] > 0
    assert "| baseline seconds |" in capsys.readouterr().out
    assert main(command) == 0
    assert len(modules) == 1


def test_a_model_that_transformers_lacks_is_refused(place, tmp_path, monkeypatch):
    recipe, data = prepare(task_named("classify"), recipe_of(place))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match=r"encoder: no baseline \(import of transformers halted.*\): pip install"):
        baseline_trainer(data, recipe, {"output_dir": str(tmp_path)})


def test_a_command_without_a_task_or_a_folder_is_refused(place, capsys):
    for arguments, words in (([], "TASK"), (["classify"], "--out"), (["sort", "--out=o"], "sort")):
        assert main(["bench", "finetune", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert words in error
