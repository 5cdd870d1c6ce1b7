"""Ours against the peer: ratios of a round, the best setting of the peer counts, and what is asked of ragged documents."""

import pytest
import torch

from bert.bench import against, steps
from bert.bench.against import race, verdict
from bert.bench.ceilings import Ceilings
from bert.bench.cells import Cells
from bert.bench.peers import PeerSettings
from bert.bench.rounds import Turn

from .synthetic import RECIPES, TEXT

LIMITS = Ceilings(2e9, 1e9, (16, 16, 16), 1.0, 1.0)


def test_the_demand_follows_from_the_best_peer_and_its_padding():
    cells = Cells(None, {})

    def add(work, attention, median, positions):
        key = {"what": "against hf", "work": work, "attention": attention, "compile": "no"}
        ratio = {"median": median, "least": median, "greatest": median}
        cells.measured(key, lambda: {"ratio": ratio, "peer_positions_over_tokens": positions})

    add("full rows", "eager", 3.0, 1.0)
    add("full rows", "sdpa", 2.0, 1.0)
    add("padded", "eager", 5.5, 2.5)
    add("padded", "sdpa", 4.0, 2.5)
    cells.measured({"what": "against hf", "work": "padded", "attention": "x", "compile": "no"}, lambda: {"fails": "no"})
    found = verdict(cells)
    assert found["full rows"]["against"] == "sdpa"
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
    monkeypatch.setattr(against, "_FULL_STEPS", 2)
    cells, said = Cells(None, {}), []
    settings = [PeerSettings("sdpa"), PeerSettings("flash_attention_2")]
    bouts = [(work, setting) for work in against.WORKS for setting in settings]
    race(RECIPES[family], TEXT, TEXT, cells, LIMITS, bouts, rounds=2, seconds=0.01, say=said.append)
    found = {(key["work"], key["attention"]): value for key, value in cells}
    assert list(found) == [(work, setting.attention) for work, setting in bouts]
    for (_, attention), value in found.items():
        if attention == "sdpa":
            assert value["ratio"] == {"median": 3.5, "least": 3.0, "greatest": 4.0}
            assert value["rounds"] == {"ours": [30.0, 20.0], "peer": [10.0, 5.0]}
            share = value["share_of_matrix_rate"]
            assert share["ours"] / share["peer"] == pytest.approx(25 / 7.5)
            assert value["matrix_rate"] == 1e9
        else:
            assert value["side"] == "peer"
            assert value["fails"]  # not installed here: a row that says so, and no end of the measurement
    assert len(said) == 6


def test_what_does_not_run_of_ours_is_a_cell_that_says_so(monkeypatch):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore lines")

    monkeypatch.setattr(against, "OurSteps", fails)
    cells, said = Cells(None, {}), []
    race(RECIPES["bert"], TEXT, TEXT, cells, LIMITS, [("full rows", PeerSettings("sdpa"))], say=said.append)
    assert said[-1] == "full rows, sdpa: ours does not run so here: out of memory"
    assert [value["side"] for _, value in cells if "fails" in value] == ["ours"]


@pytest.mark.hf
def test_a_peer_without_room_takes_half_the_rows_until_it_has(monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed")
    tried = []

    def fighting(recipe, ours, bout, *_):
        tried.append(len(bout.peer[0].input_ids))
        return {"fails": "out of memory", "side": "peer"} if tried[-1] > 2 else {"ratio": 1.0}

    monkeypatch.setattr(against, "duel", fighting)
    monkeypatch.setattr(against, "line_of", lambda *_: "")
    cells = Cells(None, {})
    race(RECIPES["bert"], TEXT, TEXT, cells, LIMITS, [("full rows", PeerSettings("sdpa"))], peer_rows=8)
    assert tried == [8, 4, 2]
    tried.clear()
    monkeypatch.setattr(against, "duel", lambda *_: tried.append(1) or {"fails": "out of memory", "side": "peer"})
    race(RECIPES["bert"], TEXT, TEXT, Cells(None, {}), LIMITS, [("full rows", PeerSettings("sdpa"))], peer_rows=4)
    assert len(tried) == 3  # 4, 2, 1


@pytest.mark.hf
@pytest.mark.slow
def test_against_hugging_face_compiled_on_both_sides():
    """The real thing at a tiny size: compiled, bf16, every work."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    from dataclasses import replace

    torch._dynamo.reset()
    for recipe in RECIPES.values():
        recipe = replace(recipe, compile=True, trainer={"accelerator": "cpu", "precision": "bf16-mixed"})
        cells = Cells(None, {})
        settings = [PeerSettings("sdpa", "yes"), PeerSettings("eager")]
        bouts = [(work, setting) for work in against.WORKS for setting in settings]
        race(recipe, TEXT, TEXT, cells, LIMITS, bouts, rounds=2, seconds=0.05)
        values = [value for _, value in cells]
        assert len(values) == 6
        assert all(value["ratio"]["least"] > 0 for value in values)
