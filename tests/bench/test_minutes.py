"""Both sides trained by the clock and scored alike."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bert.bench.minutes import PeerTraining, cut_masked, minutes_until, train_peer
from bert.cli import main
from bert.pretraining.score import read_masked

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


def test_the_rows_of_a_curve_are_the_first_of_the_file(masked, tmp_path):
    cut, whole = read_masked(cut_masked(masked, tmp_path / "cut.npz", rows=4)), read_masked(masked)
    assert all(torch.equal(part, all_of_it[:4]) for part, all_of_it in zip(cut, whole))


@pytest.mark.hf
@pytest.mark.parametrize("family", RECIPES)
def test_the_peer_learns_within_its_seconds_and_says_what_it_saw(family, masked):
    pytest.importorskip("transformers", reason="transformers is not installed")
    training = PeerTraining(minutes=1.5 / 60, rows=8, row_length=LENGTH)
    recipe = RECIPES[family]
    value = train_peer(recipe, TEXT, training, masked, masked, torch.device("cpu"), "32-true", seed=3)
    assert value["steps"] > 0
    assert value["tokens"] == value["steps"] * 8 * LENGTH
    assert value["seed"] == 3
    assert value["targets"] == int((read_masked(masked)[1] >= 0).sum())
    assert value["curve"][-1] == (pytest.approx(value["seconds"] / 60), pytest.approx(value["loss"]))
    assert len(value["curve"]) >= 2
    assert [minute for minute, _ in value["curve"]] == sorted(minute for minute, _ in value["curve"])
    untrained = replace(training, lr=1e-12)
    fresh = train_peer(recipe, TEXT, untrained, masked, masked, torch.device("cpu"), "32-true", seed=3)
    assert fresh["loss"] == pytest.approx(np.log(SIZE), abs=0.3)
    assert value["loss"] != fresh["loss"]


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
    assert [cell["side"] for cell in metrics["cells"]] == ["peer", "ours"]
    for cell in metrics["cells"]:
        assert {"loss", "accuracy", "tokens", "seed", "steps", "curve"} <= set(cell)
        assert 5 < cell["seconds"] < 60
        assert len(cell["curve"]) > 2
    assert len(metrics["minutes"]["minutes_until"]) == 1
    assert metrics["minutes"]["fresh weights"] == pytest.approx(np.log(256), abs=0.3)
    assert (out / "minutes.png").stat().st_size > 1000
    assert main(command) == 0
    assert json.loads((out / "metrics.json").read_text())["cells"] == metrics["cells"]
