"""The bench as a command and as functions: what it says, what it leaves, what it refuses. No time is asserted."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from bert.bench import run
from bert.bench.documents import text_of_arrays
from bert.bench.run import Plan, bench, bench_arrays, fingerprint
from bert.cli import main
from bert.pretraining.config import PhaseConfig
from bert.training.config import ScheduleConfig
from bert.training.folder import environment

from .synthetic import LENGTHS, RECIPE, TEXT, VALUES

QUICK = ["--rounds", "1", "--seconds", "0.02", "--compile", "false", "--backends", "sdpa"]


def test_bench_measures_a_run_without_changing_it(tiny_run, capsys):
    before = sorted(path.name for path in tiny_run.rglob("*"))
    assert main(["bench", str(tiny_run), *QUICK]) == 0
    output = capsys.readouterr().out
    for words in ("bf16 matrix rate", "memory, copy", "tokens/s"):
        assert words in output
    assert sorted(path.name for path in tiny_run.rglob("*")) == before


def test_figures_are_whole_and_are_not_measured_twice(tmp_path, monkeypatch):
    plan = Plan(rounds=2, seconds=0.02, backends=("sdpa", "eager"))
    metrics = bench_arrays(
        VALUES, np.concatenate(([0], np.cumsum(LENGTHS))), RECIPE, plan, out=tmp_path, say=lambda line: None
    )
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert {"environment", "precision", "recipe", "text", "cells"} <= set(metrics)
    assert metrics["text"] == {"documents": len(LENGTHS), "tokens": len(VALUES), "vocabulary": 96}
    ceilings, *steps = metrics["cells"]
    assert {"bf16", "fp32", "copy", "triad", "own_shapes"} <= set(ceilings)
    assert [step["backend"] for step in steps] == ["sdpa", "eager"]
    for step in steps:
        spread = step["tokens_per_second"]
        assert 0 < spread["least"] <= spread["median"] <= spread["greatest"]
        assert step["mfu"]["median"] > 0
    table = (tmp_path / "table.md").read_text()
    assert table.count("| sdpa | no |") == table.count("| eager | no |") == 1
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr("bert.bench.steps.step_cell", never)
    monkeypatch.setattr("bert.bench.steps.measure_peaks", never)
    assert bench(RECIPE, TEXT, plan, out=tmp_path, say=lambda line: None)["cells"] == metrics["cells"]


@pytest.mark.parametrize(
    "change",
    [
        {"initialization": "structured"},
        {"schedule": ScheduleConfig(kind="cosine")},
        {"attention": "plain"},
        {"data": replace(RECIPE.data, window_documents=8)},
        {"phases": [PhaseConfig(tokens=64.0, sequence_length=8), PhaseConfig()]},
        {"seed": 1},
    ],
    ids=lambda change: "".join(change),
)
def test_another_recipe_is_another_measurement(change):
    assert known(replace(RECIPE, **change)) != known(RECIPE)


def test_another_text_is_another_measurement_but_not_where_it_lies():
    values = VALUES.copy()
    values[7] += 1
    other = text_of_arrays(values, np.concatenate(([0], np.cumsum(LENGTHS))), 96)
    assert known(RECIPE, other) != known(RECIPE)
    elsewhere = replace(RECIPE, data=replace(RECIPE.data, store="there", tokenizer="here"))
    assert known(elsewhere) == known(RECIPE)


def test_another_machine_is_another_measurement(monkeypatch):
    here = known(RECIPE)
    monkeypatch.setattr(run, "environment", lambda: {**environment(), "cuda_devices": ["another card"]})
    assert known(RECIPE) != here


def known(recipe, text=TEXT):
    return fingerprint("steps", recipe, [text])


def test_phases_are_left_aside_and_that_is_said(tmp_path):
    said = []
    plan = Plan(rounds=1, seconds=0.01, backends=("sdpa",))
    phased = replace(RECIPE, phases=[PhaseConfig(tokens=64.0, sequence_length=8), PhaseConfig()])
    bench(phased, TEXT, plan, say=said.append)
    assert said[0].startswith("the recipe's 2 phases are left aside: measured are 8 sequences of 16")


def test_one_text_of_a_run_that_reads_several(tiny_run, tmp_path, capsys):
    store = str(tiny_run / "store")
    recipe = yaml.safe_load((tiny_run / "recipe.yaml").read_text())
    recipe["data"] |= {"corpus": [], "store": None, "mixture": {store: 1.0, str(tmp_path / "b"): 2.0}}
    run = tmp_path / "mixed"
    run.mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (run / "tokenizer").symlink_to(tiny_run / "tokenizer")
    assert main(["bench", str(run), *QUICK]) == 2
    assert "give one of them as --store" in capsys.readouterr().err
    assert main(["bench", str(run), "--store", store, *QUICK]) == 0, capsys.readouterr().err


def test_a_sweep_by_the_command(tiny_run, tmp_path, capsys):
    out = tmp_path / "sweep"
    command = ["bench", str(tiny_run), *QUICK, "--sweep", "--smallest", "2", "--largest", "4", "--out", str(out)]
    assert main(command) == 0, capsys.readouterr().err
    metrics = json.loads((out / "metrics.json").read_text())
    assert [cell["sequences"] for cell in metrics["cells"] if cell["what"] == "sweep"] == [2, 4]
    assert metrics["sweep"]["largest"]["sequences"] == 4
    assert "all sizes fit, the largest tried: 4 sequences" in (output := capsys.readouterr().out)
    assert "sweep.png" in output
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sweep", "--against", "hf"], "--sweep beside --against"),
        (["--against", "fairseq"], "--against fairseq: give hf"),
        (["--minutes", "2"], "--minutes 2: trains beside a peer: give --against hf"),
        (["--minutes", "2", "--against", "hf"], "--minutes 2 needs --masked: give it"),
        (
            ["--works", "sequences", "--against", "hf"],
            "--works sequences: give one of full-sequences, concatenated, padded",
        ),
        (["--backends", "flash"], "--backends flash: give some of"),
        (["--vocab-size", "5"], "--vocab-size 5: the tokenizer has"),
        (["--rounds", "1", "--seconds", "0"], "--rounds 1 --seconds 0: give more than 0"),
        (["--sweep", "--smallest", "8", "--largest", "4"], "--smallest 8 --largest 4"),
        (
            ["--against", "hf", "--baseline-compile", "maybe"],
            "--baseline-compile maybe: give one of no, yes, cuda-graphs",
        ),
        (
            ["--against", "hf", "--baseline-attention", "flash9"],
            "--baseline-attention flash9: give one of eager, sdpa, ",
        ),
        (["--against", "hf", "--baseline-lr", "-1"], "--baseline-lr -1: give more than 0"),
        (["--against", "hf", "--baseline-warmup", "1"], "--baseline-warmup 1: give a share from 0 to less than 1"),
        (["--against", "hf", "--baseline-batch-size", "0"], "--baseline-batch-size 0: give 1 or more"),
        (["--works", "padded"], "--works padded is for a comparison: give --against hf"),
        (["--baseline-batch-size", "8"], "--baseline-batch-size 8 is for a comparison: give --against hf"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_what_does_not_go_together_is_one_line(tiny_run, capsys, flags, message):
    assert main(["bench", str(tiny_run), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_recipe_without_text_is_refused(capsys):
    assert main(["bench"]) == 2
    assert "needs a text: give a RUN, --store with --tokenizer, or --tokens" in capsys.readouterr().err
