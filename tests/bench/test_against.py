"""Ours against the peer: ratios of a round, the best setting of the peer counts, and what is asked of ragged documents."""

from dataclasses import replace

import pytest
import torch

from bert.bench import against, peers, plan, steps
from bert.bench.against import race
from bert.bench.cells import Cells
from bert.bench.peers import WORKS, BaselineSettings
from bert.bench.plan import Bench, Plan
from bert.bench.rounds import Turn
from bert.bench.table import verdict

from .synthetic import RECIPES, TEXT

PRODUCT = (16, 16, 16)


def race_in(recipe, bouts, say=print, **settings):
    """The cells of a race on the text."""
    bench = Bench(recipe, TEXT, Plan("against", bouts=bouts, **settings), Cells(None, {}), say)
    race(bench, PRODUCT, TEXT)
    return list(bench.cells)


def test_the_demand_follows_from_the_best_peer_and_its_padding():
    cells = Cells(None, {})

    def add(work, attention, median, positions):
        key = {"what": "against hf", "work": work, "setting": attention}
        ratio = {"median": median, "least": median, "greatest": median}
        cells.measured(key, lambda: {"ratio": ratio, "peer_positions_over_tokens": positions})

    add("full sequences", "eager", 3.0, 1.0)
    add("full sequences", "sdpa", 2.0, 1.0)
    add("padded", "eager", 5.5, 2.5)
    add("padded", "sdpa", 4.0, 2.5)
    cells.measured({"what": "against hf", "work": "padded", "setting": "x"}, lambda: {"fails": "no"})
    found = verdict(cells)
    assert found["full sequences"]["against"] == "sdpa"
    assert found["padded"]["ratio"]["median"] == 4.0
    assert found["padded"]["demand"] == pytest.approx(0.95 * 2.0 * 2.5)


@pytest.mark.hf
@pytest.mark.parametrize("family", RECIPES)
def test_a_cell_for_each_work_and_setting_with_the_ratio_of_each_round(family, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed")

    def race_of(contenders, rounds, seconds, between):
        between(), between()
        for contender in contenders:
            contender.turn(1)  # both really step
        return [[Turn(1.0, 30, 40), Turn(1.0, 20, 40)], [Turn(1.0, 10, 40), Turn(2.0, 10, 40)]]

    monkeypatch.setattr(steps, "alternate", race_of)
    monkeypatch.setattr(steps, "matrix_rate", lambda *_: 1e9)
    monkeypatch.setattr(peers, "_FULL_STEPS", 2)
    said = []
    settings = [BaselineSettings("sdpa"), BaselineSettings("flash_attention_2")]
    bouts = [(work, setting) for work in WORKS for setting in settings]
    cells = race_in(RECIPES[family], bouts, said.append, rounds=2, seconds=0.01)
    found = {(cell["work"], cell["attention"]): cell for cell in cells}
    assert list(found) == [(work, setting.attention) for work, setting in bouts]
    for (_, attention), value in found.items():
        if attention == "sdpa":
            assert value["ratio"] == {"median": 3.5, "least": 3.0, "greatest": 4.0}
            assert value["rounds"] == {"ours": [30.0, 20.0], "peer": [10.0, 5.0]}
            share = value["mfu"]
            assert share["ours"] / share["peer"] == pytest.approx(25 / 7.5)
            assert value["matrix_rate"] == 1e9
        else:
            assert value["side"] == "peer"
            assert value["fails"]  # not installed here: a sequence that says so, and no end of the measurement
    assert len(said) == 6


def test_what_does_not_run_of_ours_is_a_cell_that_says_so(monkeypatch):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore lines")

    monkeypatch.setattr(against, "Candidate", fails)
    said = []
    cells = race_in(RECIPES["bert"], [("full sequences", BaselineSettings("sdpa"))], said.append)
    assert said[-1] == "full sequences, sdpa: ours does not run here: out of memory"
    assert [cell["side"] for cell in cells if "fails" in cell] == ["ours"]


@pytest.mark.hf
def test_a_peer_without_room_takes_half_the_sequences_until_it_has(monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed")
    tried = []

    def fighting(bench, ours, bout, *_):
        tried.append(len(bout[1][0].input_ids))
        if tried[-1] > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return {"ratio": 1.0}

    monkeypatch.setattr(against, "duel", fighting)
    monkeypatch.setattr(plan, "line_of", lambda *_: "")
    room, bouts = 2, [("full sequences", BaselineSettings("sdpa"))]
    (cell,) = race_in(RECIPES["bert"], bouts, baseline_batch_size=8)
    assert tried == [8, 4, 2]
    assert cell["ratio"] == 1.0
    tried.clear()
    room = 0
    (cell,) = race_in(RECIPES["bert"], bouts, baseline_batch_size=4)
    assert tried == [4, 2, 1]
    assert (cell["fails"], cell["side"]) == ("out of memory", "peer")


@pytest.mark.hf
@pytest.mark.slow
def test_against_hugging_face_compiled_on_both_sides():
    """The real thing at a tiny size: compiled, bf16, every work."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    torch._dynamo.reset()
    for recipe in RECIPES.values():
        recipe = replace(recipe, compile=True, trainer={"accelerator": "cpu", "precision": "bf16-mixed"})
        settings = [BaselineSettings("sdpa", "yes"), BaselineSettings("eager")]
        bouts = [(work, setting) for work in WORKS for setting in settings]
        cells = race_in(recipe, bouts, rounds=2, seconds=0.05)
        assert len(cells) == 6
        assert all(cell["ratio"]["least"] > 0 for cell in cells)
