"""The bench as a command and as functions: its output, its files and its errors. No time is asserted."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from bert.bench import measurement
from bert.bench.documents import text_of_arrays, write_tokens
from bert.bench.measurement import Measurement, fingerprint
from bert.bench.steps import bench_steps
from bert.cli import main
from bert.commands.benching import MODES
from bert.pretraining.config import PhaseConfig
from bert.training.config import ScheduleConfig
from bert.training.folder import environment

from .synthetic import LENGTHS, RECIPE, TEXT, VALUES

SHORT = ["--seconds", "0.02", "--compile", "false", "--backends", "sdpa"]
TRAINED = ["--masked", "m.npz", "--out", "o", "--minutes", "1"]
QUICK = ["--rounds", "1", *SHORT]


def test_bench_measures_a_run_without_changing_it(tiny_run, capsys):
    before = sorted(path.name for path in tiny_run.rglob("*"))
    assert main(["bench", "steps", str(tiny_run), *QUICK, "--profile"]) == 0
    output = capsys.readouterr().out
    for words in ("bf16 matrix rate", "memory copy", "tokens/s", "MFU", "**matrix products**"):
        assert words in output
    assert sorted(path.name for path in tiny_run.rglob("*")) == before


def test_results_are_whole_and_are_not_measured_twice(tmp_path, monkeypatch):
    def measured():
        quiet = Measurement(RECIPE, TEXT, tmp_path, rounds=2, seconds=0.02)
        return bench_steps(quiet, ["sdpa", "eager"])

    metrics = measured()
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert {"environment", "precision", "recipe", "text", "results"} <= set(metrics)
    assert metrics["text"] == {"documents": len(LENGTHS), "tokens": len(VALUES), "vocabulary": 96}
    peaks, *steps = metrics["results"]
    assert {"bf16", "fp32", "copy", "triad", "model_shapes"} <= set(peaks)
    assert [step["backend"] for step in steps] == ["sdpa", "eager"]
    for step in steps:
        spread = step["tokens_per_second"]
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
        assert step["mfu"]["median"] > 0
    table = (tmp_path / "table.md").read_text()
    assert table.count("| sdpa | no |") == table.count("| eager | no |") == 1
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr("bert.bench.steps.step_result", never)
    monkeypatch.setattr("bert.bench.machine.measure_peaks", never)
    assert measured()["results"] == metrics["results"]


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
    monkeypatch.setattr(measurement, "environment", lambda: {**environment(), "cuda_devices": ["another card"]})
    assert known(RECIPE) != here


def known(recipe, text=TEXT):
    return fingerprint("steps", recipe, [text])


def test_phases_are_ignored_and_that_is_said(said):
    phased = replace(RECIPE, phases=[PhaseConfig(tokens=64.0, sequence_length=8), PhaseConfig()])
    bench_steps(Measurement(phased, TEXT, rounds=1, seconds=0.01), ["sdpa"])
    assert said[0].startswith("the recipe's 2 phases are ignored: measuring 8 sequences of 16")


def test_one_text_of_a_run_that_reads_several(tiny_run, tmp_path, capsys):
    store = str(tiny_run / "store")
    recipe = yaml.safe_load((tiny_run / "recipe.yaml").read_text())
    recipe["data"] |= {"corpus": [], "store": None, "mixture": {store: 1.0, str(tmp_path / "b"): 2.0}}
    run = tmp_path / "mixed"
    run.mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (run / "tokenizer").symlink_to(tiny_run / "tokenizer")
    assert main(["bench", "steps", str(run), *QUICK]) == 2
    assert "select one with --store" in capsys.readouterr().err
    assert main(["bench", "steps", str(run), "--store", store, *QUICK]) == 0, capsys.readouterr().err


def test_a_sweep_by_the_command(tiny_run, tmp_path, capsys):
    out = tmp_path / "sweep"
    command = ["bench", "sweep", str(tiny_run), *SHORT, "--smallest", "2", "--largest", "4", "--out", str(out)]
    assert main(command) == 0, capsys.readouterr().err
    metrics = json.loads((out / "metrics.json").read_text())
    assert [result["sequences"] for result in metrics["results"] if result["kind"] == "sweep"] == [2, 4]
    assert metrics["sweep"]["largest"]["sequences"] == 4
    assert "all sizes fit, the largest tried: 4 sequences" in (output := capsys.readouterr().out)
    assert "sweep.png" in output
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.hf
def test_a_comparison_by_the_command(tiny_run, tmp_path, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed")
    write_tokens(tmp_path / "ragged.npz", TEXT)
    out, ragged = tmp_path / "compare", ["--ragged", str(tmp_path / "ragged.npz")]
    options = ["--workloads", "padded", "--baseline-attention", "eager", "--baseline-compile", "no", *ragged]
    short = ["--rounds", "1", "--seconds", "0.02", "--compile", "false", "--attention", "sdpa", "--out", str(out)]
    assert main(["bench", "compare", str(tiny_run), *short, *options]) == 0, capsys.readouterr().err
    metrics = json.loads((out / "metrics.json").read_text())
    (result,) = [result for result in metrics["results"] if result["kind"] == "compare"]
    assert (result["workload"], result["setting"]) == ("padded", "eager")
    assert metrics["best_baseline"]["padded"]["ratio"] == result["ratio"]
    assert result["positions_per_token"]["baseline"] > result["positions_per_token"]["candidate"] >= 1
    assert "padded, eager: " in capsys.readouterr().out
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("mode", "flags", "message"),
    [
        (
            "swep",
            [],
            "swep is not a mode of bert bench: use one of steps, sweep, compare, minutes, finetune. Did you mean `sweep`?",
        ),
        (
            "minutes",
            ["--masked", "m.npz", "--out", "o"],
            "bert bench minutes needs --minutes: see bert bench minutes --help",
        ),
        ("minutes", ["--minutes", "2"], "bert bench minutes needs --out and --masked: see bert bench minutes --help"),
        ("minutes", ["--tokens", "t.npz"], "--tokens is not an option of bert bench minutes."),
        ("compare", ["--workloads", "rows"], "--workloads rows: give one of full-sequences, concatenated, padded"),
        ("steps", ["--backends", "flash"], "--backends flash: give one of auto, eager, plain, sdpa, flex, varlen"),
        ("steps", ["--vocab-size", "5"], "--vocab-size 5: must be at least"),
        ("steps", ["--rounds", "1", "--seconds", "0"], "bench.seconds is 0.0: give more than 0"),
        (
            "sweep",
            ["--smallest", "8", "--largest", "4"],
            "smallest is 8 and largest 4; must be at least 1, and in this order",
        ),
        ("compare", ["--baseline-compile", "maybe"], "--baseline-compile maybe: give one of no, yes, cuda-graphs"),
        ("compare", ["--baseline-attention", "flash9"], "--baseline-attention flash9: give one of eager, sdpa, "),
        ("minutes", [*TRAINED, "--baseline-lr", "-1"], "optimizer.lr is -1.0: give more than 0"),
        ("minutes", [*TRAINED, "--baseline-warmup", "1.5"], "schedule.warmup is 1.5: give a share from 0 to 1"),
        ("compare", ["--baseline-batch-size", "0"], "--baseline-batch-size 0: give 1 or more"),
        ("steps", ["--workloads", "padded"], "--workloads is not an option of bert bench steps."),
        ("steps", ["--baseline-batch-size", "8"], "--baseline-batch-size is not an option of bert bench steps."),
        ("sweep", ["--profile"], "--profile is not an option of bert bench sweep."),
        ("compare", ["--smallest", "8"], "--smallest is not an option of bert bench compare."),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_a_wrong_option_of_a_mode_is_one_line(tiny_run, capsys, mode, flags, message):
    assert main(["bench", mode, str(tiny_run), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_a_mode_all_are_named(capsys):
    assert main(["bench"]) == 2
    assert (
        capsys.readouterr().err
        == "bert: bert bench needs a mode: use one of steps, sweep, compare, minutes, finetune.\n"
    )


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "finetune"])
def test_a_recipe_without_text_is_refused(capsys, mode):
    assert main(["bench", mode, *(TRAINED if mode == "minutes" else [])]) == 2
    error = capsys.readouterr().err
    assert f"bert bench {mode} needs a text: give a RUN, --store with --tokenizer" in error
    assert ("or --tokens" in error) == (mode != "minutes")
