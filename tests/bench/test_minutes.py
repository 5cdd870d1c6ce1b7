"""Both sides trained by the clock and scored alike."""

import json
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from bert.bench import minutes
from bert.bench.cells import Cells
from bert.bench.minutes import (
    BaselineTraining,
    CurveCallback,
    cut_masked,
    fastest_setting,
    minutes_until,
    train_baseline,
)
from bert.bench.peers import BaselineSettings
from bert.bench.plan import Bench, Plan
from bert.bench.run import bench_minutes
from bert.cli import main
from bert.errors import InputError
from bert.pretraining.config import PhaseConfig
from bert.pretraining.module import PretrainingModule
from bert.pretraining.score import Score, read_masked
from bert.training.config import StopConfig
from bert.training.schedules import Progress

from .synthetic import LENGTH, RECIPES, SIZE, TEXT


def bench_of(recipe, cells=None):
    return Bench(recipe, TEXT, Plan("against"), cells or Cells(None, {}))


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
def test_the_peer_learns_within_its_seconds_and_says_what_it_saw(family, masked):
    pytest.importorskip("transformers", reason="transformers is not installed")
    training = BaselineTraining(minutes=1.5 / 60, sequences=8, sequence_length=LENGTH)
    bench, setting = bench_of(RECIPES[family]), BaselineSettings()
    value = train_baseline(bench, training, setting, 3, masked, masked)
    assert value["steps"] > 0
    assert value["tokens"] == value["steps"] * 8 * LENGTH
    assert value["seed"] == 3
    assert value["targets"] == int((read_masked(masked)[1] >= 0).sum())
    assert value["curve"][-1] == (pytest.approx(value["seconds"] / 60), pytest.approx(value["loss"]))
    assert len(value["curve"]) >= 2
    assert [minute for minute, _ in value["curve"]] == sorted(minute for minute, _ in value["curve"])
    untrained = replace(training, lr=1e-12)
    fresh = train_baseline(bench, untrained, setting, 3, masked, masked)
    assert fresh["loss"] == pytest.approx(np.log(SIZE), abs=0.3)
    assert value["loss"] < fresh["loss"]


def test_the_fastest_setting_of_the_peer_is_taken_and_one_alone_is_not_timed():
    def fastest(rates, **training):
        cells = Cells(None, {})
        for (attention, compile), value in rates.items():
            key = {"what": "peer setting", "attention": attention, "compile": compile}
            cells.measured(key, lambda value=value: value)
        training = BaselineTraining(minutes=1, sequence_length=LENGTH, sequences=8, **training)
        return fastest_setting(bench_of(RECIPES["bert"], cells), training)

    slow, fast, fails = {"tokens_per_second": 1.0}, {"tokens_per_second": 2.0}, {"fails": "OSError: no"}
    every = {("eager", "no"): slow, ("sdpa", "no"): slow, ("eager", "yes"): fast, ("sdpa", "yes"): fails}
    assert fastest(every) == BaselineSettings("eager", "yes")
    assert fastest({}, settings=(BaselineSettings("sdpa", "yes"),)) == BaselineSettings("sdpa", "yes")
    with pytest.raises(InputError, match="the peer does not run here: OSError: no"):
        fastest(dict.fromkeys(every, fails))


@pytest.mark.hf
def test_a_setting_that_does_not_run_is_passed_over():
    pytest.importorskip("transformers", reason="transformers is not installed")
    settings, cells = (BaselineSettings("flash_attention_2"), BaselineSettings("eager")), Cells(None, {})
    training = BaselineTraining(minutes=0.1 / 60, sequences=8, sequence_length=LENGTH, settings=settings)
    found = fastest_setting(bench_of(RECIPES["bert"], cells), training)
    assert found == BaselineSettings("eager")
    assert [{"fails", "tokens_per_second"} & set(cell) for cell in cells] == [{"fails"}, {"tokens_per_second"}]


def test_the_clock_of_ours_stands_still_while_a_curve_is_scored(masked, tmp_path, monkeypatch):
    module = Mock(spec=PretrainingModule, model=Mock(), device=torch.device("cpu"))
    module.progress = Progress(StopConfig(minutes=1))
    module.progress.start()
    clock = iter([10.0, 25.0])
    monkeypatch.setattr(minutes, "now", lambda device: next(clock))
    monkeypatch.setattr(minutes, "score_masked", lambda *_: Score(1.5, 0.5, 3))
    before = module.progress.elapsed()
    CurveCallback(str(masked), 0.0, str(tmp_path / "curve.jsonl")).on_train_batch_end(Mock(), module)
    assert module.progress.elapsed() < before - 14
    assert json.loads((tmp_path / "curve.jsonl").read_text())[1] == 1.5


def test_ours_is_trained_by_the_whole_recipe_phases_included(masked, tmp_path, monkeypatch):
    trained = []

    def stand_in(bench, *_):
        trained.append(bench.recipe)
        return {"ours": {}}

    monkeypatch.setattr("bert.bench.run.compare_minutes", stand_in)
    phases = [PhaseConfig(tokens=256.0, sequence_length=8), PhaseConfig()]
    bench_minutes(
        replace(RECIPES["modernbert"], phases=phases), TEXT, BaselineTraining(1.0), masked, tmp_path, say=print
    )
    assert trained[0].phases == phases


def test_figures_of_other_sequences_are_refused(masked, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bert.bench.run.compare_minutes", lambda bench, *_: {"cell": bench.cells.measured({"what": "n"}, dict)}
    )
    arguments = RECIPES["modernbert"], TEXT, BaselineTraining(1.0)
    bench_minutes(*arguments, masked, tmp_path / "out", say=print)
    bench_minutes(*arguments, masked, tmp_path / "out", say=print)
    ids, labels = (table.numpy() for table in read_masked(masked))
    np.savez(masked, input_ids=ids, labels=np.where(np.arange(LENGTH) == 3, ids, labels))
    with pytest.raises(InputError, match="figures of another measurement"):
        bench_minutes(*arguments, masked, tmp_path / "out", say=print)


@pytest.mark.hf
@pytest.mark.slow
def test_both_sides_by_the_command(tiny_run, tmp_path, capsys):
    """A run's own recipe and text; the second call measures nothing again."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 256, (20, 32))
    file = tmp_path / "masked.npz"
    np.savez(file, input_ids=ids, labels=np.where(rng.random(ids.shape) < 0.2, ids, -100))
    out = tmp_path / "minutes"
    command = ["bench", str(tiny_run), "--against", "hf", "--minutes", "0.1", "--masked", str(file), "--out", str(out)]
    assert main(command) == 0, capsys.readouterr().err
    metrics = json.loads((out / "metrics.json").read_text())
    settings = [cell for cell in metrics["cells"] if cell["what"] == "peer setting"]
    assert len(settings) == 4
    peer, ours = trained = [cell for cell in metrics["cells"] if cell["what"] == "minutes"]
    assert (peer["side"], ours["side"]) == ("peer", "ours")
    fastest = max(settings, key=lambda cell: cell.get("tokens_per_second", 0))
    assert peer["setting"] == str(BaselineSettings(fastest["attention"], fastest["compile"]))
    for cell in trained:
        assert {"loss", "accuracy", "tokens", "seed", "steps", "curve"} <= set(cell)
        assert 5 < cell["seconds"] < 60
        assert len(cell["curve"]) > 2
    assert len(metrics["minutes"]["minutes_until"]) == 1
    assert metrics["minutes"]["fresh weights"] == pytest.approx(np.log(256), abs=0.3)
    assert (out / "minutes.png").stat().st_size > 1000
    assert main(command) == 0
    assert json.loads((out / "metrics.json").read_text())["cells"] == metrics["cells"]
