"""Both sides trained by the clock and scored in the same way."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from bert.bench import minutes
from bert.bench.comparison import score_baseline
from bert.bench.measurement import Measurement
from bert.bench.minutes import (
    Curve,
    baseline_recipe,
    bench_minutes,
    cut_masked,
    fastest_setting,
    minutes_until,
    train_baseline,
)
from bert.bench.settings import BaselineSettings, baseline_settings
from bert.cli import main
from bert.errors import InputError
from bert.pretraining.config import PhaseConfig
from bert.pretraining.module import PretrainingModule
from bert.pretraining.score import Score, read_masked
from bert.training.config import StopConfig
from bert.training.schedules import Progress

from .synthetic import LENGTH, RECIPES, SIZE, TEXT


@pytest.fixture
def masked(tmp_path):
    rng = np.random.default_rng(0)
    ids = rng.integers(5, SIZE, (20, LENGTH))
    file = tmp_path / "masked.npz"
    np.savez(file, input_ids=ids, labels=np.where(rng.random(ids.shape) < 0.2, ids, -100))
    return file


def test_the_minute_at_which_a_curve_is_at_a_loss_lies_between_its_points():
    curve = [(1.0, 6.0), (2.0, 4.0), (3.0, 4.5), (4.0, 3.0)]
    assert minutes_until(curve, 5.0) == 1.5
    assert minutes_until(curve, 7.0) == 1.0
    assert minutes_until(curve, 3.0) == 4.0
    assert minutes_until(curve, 2.9) is None
    assert minutes_until([], 1.0) is None
    assert minutes_until([(2.0, 1.0)], 1.0) == 2.0


def test_the_sequences_of_a_curve_are_the_first_of_the_file(masked, tmp_path):
    cut, whole = read_masked(cut_masked(masked, tmp_path / "cut.npz", sequences=4)), read_masked(masked)
    assert all(torch.equal(part, all_of_it[:4]) for part, all_of_it in zip(cut, whole))


@pytest.mark.hf
@pytest.mark.parametrize("family", RECIPES)
def test_the_baseline_learns_within_its_seconds_and_says_what_it_saw(family, masked):
    pytest.importorskip("transformers", reason="transformers is not installed")
    recipe = replace(baseline_recipe(RECIPES[family], 1.5 / 60, batch_size=8), seed=3)
    value = train_baseline(TEXT, recipe, BaselineSettings(), Curve(score_baseline, masked, masked, 1.5 / 60))
    assert value["steps"] > 0
    assert value["tokens"] == value["steps"] * 8 * LENGTH
    assert value["targets"] == int((read_masked(masked)[1] >= 0).sum())
    assert value["curve"][-1] == (value["minutes"], pytest.approx(value["loss"]))
    assert len(value["curve"]) >= 2
    assert [minute for minute, _ in value["curve"]] == sorted(minute for minute, _ in value["curve"])
    untrained = replace(recipe, optimizer=replace(recipe.optimizer, lr=1e-12))
    control = train_baseline(TEXT, untrained, BaselineSettings(), Curve(score_baseline, masked, masked, 1.5 / 60))
    assert control["loss"] == pytest.approx(np.log(SIZE), abs=0.3)
    assert value["loss"] < control["loss"]


def test_the_fastest_setting_of_the_baseline_is_taken_and_one_alone_is_not_timed():
    def fastest(rates, settings=baseline_settings("cpu")):
        measurement = Measurement(RECIPES["bert"], TEXT)
        for setting, value in rates.items():
            key = {"kind": "baseline setting", **asdict(BaselineSettings(*setting))}
            measurement.results.measured(key, lambda value=value: value)
        return fastest_setting(measurement, baseline_recipe(measurement.recipe, 1.0, batch_size=8), settings)

    slow, fast, fails = {"tokens_per_second": 1.0}, {"tokens_per_second": 2.0}, {"error": "OSError: no"}
    every = {("eager", "no"): slow, ("sdpa", "no"): slow, ("eager", "yes"): fast, ("sdpa", "yes"): fails}
    assert fastest(every) == BaselineSettings("eager", "yes")
    assert fastest({}, [BaselineSettings("sdpa", "yes")]) == BaselineSettings("sdpa", "yes")
    with pytest.raises(InputError, match="the baseline does not run here: OSError: no"):
        fastest(dict.fromkeys(every, fails))


@pytest.mark.hf
def test_a_setting_that_does_not_run_is_passed_over():
    pytest.importorskip("transformers", reason="transformers is not installed")
    settings, measurement = (
        (BaselineSettings("flash_attention_2"), BaselineSettings("eager")),
        Measurement(RECIPES["bert"], TEXT),
    )
    recipe = baseline_recipe(measurement.recipe, 0.1 / 60, batch_size=8)
    assert fastest_setting(measurement, recipe, settings) == BaselineSettings("eager")
    found = [{"error", "tokens_per_second"} & set(result) for result in measurement.results]
    assert found == [{"error"}, {"tokens_per_second"}]


def test_the_clock_of_a_run_stands_still_while_a_curve_is_scored(monkeypatch):
    module = Mock(spec=PretrainingModule, model=Mock(), device=torch.device("cpu"))
    module.progress = Progress(StopConfig(minutes=1))
    module.progress.start()
    clock = iter([10.0, 25.0])
    monkeypatch.setattr(minutes, "now", lambda device: next(clock))
    before = module.progress.elapsed()
    curve = Curve(lambda model, file: Score(1.5, 0.5, 3), Path("masked.npz"), Path("points.npz"), 0.0)
    curve.on_train_batch_end(Mock(), module)
    assert module.progress.elapsed() < before - 14
    assert [loss for _, loss in curve.points] == [1.5]


def bench_with(monkeypatch, masked, out, recipe=RECIPES["modernbert"]):
    """`bench_minutes` with a stub for the training of the candidate; returns the recipes passed to it."""
    trained = []

    def stand_in(recipe, *_):
        trained.append(recipe)
        return {"loss": 1.0, "curve": [[1.0, 1.0]]}

    monkeypatch.setattr(minutes, "train_candidate", stand_in)
    monkeypatch.setattr("bert.bench.measurement.line_of", str)
    monkeypatch.setattr("bert.bench.measurement.report", lambda *_: {})
    bench_minutes(Measurement(recipe, TEXT, out), baseline_recipe(recipe, 1.0), [], masked, sides=["candidate"])
    return trained


def test_the_candidate_is_trained_by_the_whole_recipe_phases_included(masked, tmp_path, monkeypatch):
    phases = [PhaseConfig(tokens=256.0, sequence_length=8), PhaseConfig()]
    (trained,) = bench_with(monkeypatch, masked, tmp_path / "out", replace(RECIPES["modernbert"], phases=phases))
    assert trained.phases == phases


def test_results_of_other_sequences_are_refused(masked, tmp_path, monkeypatch):
    assert len(bench_with(monkeypatch, masked, tmp_path / "out")) == 1
    assert not bench_with(monkeypatch, masked, tmp_path / "out")  # finished results are not measured again
    ids, labels = (table.numpy() for table in read_masked(masked))
    np.savez(masked, input_ids=ids, labels=np.where(np.arange(LENGTH) == 3, ids, labels))
    with pytest.raises(InputError, match="results of another measurement"):
        bench_with(monkeypatch, masked, tmp_path / "out")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"minutes": 0.0}, "stop.minutes is 0.0: give more than 0"),
        ({"minutes": 1.0, "lr": -1.0}, "optimizer.lr is -1.0: give more than 0"),
        ({"minutes": 1.0, "warmup": 1.5}, "schedule.warmup is 1.5: give a share from 0 to 1"),
    ],
)
def test_a_training_of_the_baseline_that_cannot_be_is_refused(fields, message):
    with pytest.raises(InputError) as caught:
        baseline_recipe(RECIPES["bert"], **fields)
    assert str(caught.value) == message


@pytest.mark.hf
@pytest.mark.slow
def test_both_sides_by_the_command(tiny_run, tmp_path, capsys):
    """With the recipe and text of a run; the second call measures nothing again."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 256, (20, 32))
    file = tmp_path / "masked.npz"
    np.savez(file, input_ids=ids, labels=np.where(rng.random(ids.shape) < 0.2, ids, -100))
    out = tmp_path / "minutes"
    command = ["bench", "minutes", str(tiny_run), "--minutes", "0.1", "--masked", str(file), "--out", str(out)]
    assert main(command) == 0, capsys.readouterr().err
    metrics = json.loads((out / "metrics.json").read_text())
    settings = [result for result in metrics["results"] if result["kind"] == "baseline setting"]
    assert len(settings) == 4
    baseline, candidate = trained = [result for result in metrics["results"] if result["kind"] == "minutes"]
    assert (baseline["side"], candidate["side"]) == ("baseline", "candidate")
    fastest = max(settings, key=lambda result: result.get("tokens_per_second", 0))
    assert baseline["setting"] == str(BaselineSettings(fastest["attention"], fastest["compile"]))
    for result in trained:
        assert {"loss", "accuracy", "tokens", "seed", "steps", "curve"} <= set(result)
        assert 5 < 60 * result["minutes"] < 60
        assert len(result["curve"]) > 2
    assert len(metrics["minutes"]["minutes_until"]) == 1
    assert metrics["minutes"]["random initialization"] == pytest.approx(np.log(256), abs=0.3)
    assert (out / "minutes.png").stat().st_size > 1000
    assert main(command) == 0
    assert json.loads((out / "metrics.json").read_text())["results"] == metrics["results"]
