"""A recipe measured: shares are operations over time over the rate beside it, and what does not run is said."""

from dataclasses import replace

import pytest

from bert.bench import steps
from bert.bench.ceilings import Ceilings
from bert.bench.cells import Cells
from bert.bench.rounds import Turn
from bert.bench.steps import best_micro_batch, choices, measure_steps, step_cell
from bert.errors import InputError

from .synthetic import RECIPE, TEXT

LIMITS = Ceilings(bf16=2e9, fp32=1e9, best_shape=(16, 16, 16), copy=1.0, triad=1.0)


def test_a_share_is_operations_a_token_times_tokens_over_the_rate_of_its_round(monkeypatch):
    rates = iter([4e9, 5e9])
    monkeypatch.setattr(steps, "matrix_rate", lambda *_: next(rates))
    turns = [Turn(2.0, 1000, 1250), Turn(1.0, 800, 1000)]

    def two_rounds(contenders, rounds, seconds, between):
        for _ in turns:
            between()
        return [turns]

    monkeypatch.setattr(steps, "alternate", two_rounds)
    cell = step_cell(RECIPE, TEXT, "sdpa", False, LIMITS, 2, 1.0)
    operations = cell["operations_per_token"]
    assert cell["rounds"] == [500.0, 800.0]
    share = cell["share_of_matrix_rate"]
    assert share["least"] == pytest.approx(operations * 500 / 4e9)
    assert share["greatest"] == pytest.approx(operations * 800 / 5e9)
    assert cell["tokens_per_second"]["median"] == 650
    assert cell["fill"] == 1800 / 2250
    assert cell["rows"] == [8, 4, 16]
    assert cell["peak_bytes"] > 0
    assert set(cell["seconds"]) == {"data", "forward", "backward", "optimizer"}


def test_a_backend_that_does_not_run_is_a_cell_that_says_so(monkeypatch):
    def broken(*_, **__):
        raise NotImplementedError("no kernel for this device\nand more")

    monkeypatch.setattr(steps, "OurSteps", broken)
    cells, said = Cells(None, {}), []
    measure_steps(RECIPE, TEXT, cells, LIMITS, ("sdpa",), 1, 0.01, said.append)
    assert said == ["sdpa: does not run here: NotImplementedError: no kernel for this device"]
    assert next(iter(cells))[1] == {"fails": "NotImplementedError: no kernel for this device"}


def test_a_backend_that_cannot_be_here_says_why_in_the_place_of_the_compiler(monkeypatch):
    tried = []

    def broken(recipe, split, compiled, backend):
        tried.append((backend, compiled))
        raise RuntimeError("out of room: can't allocate memory" if backend == "plain" else "needs CUDA")

    monkeypatch.setattr(steps, "OurSteps", broken)
    cells = Cells(None, {})
    measure_steps(replace(RECIPE, compile=None), TEXT, cells, LIMITS, ("varlen", "plain"), 1, 0.01, lambda line: None)
    assert tried == [("varlen", False), ("plain", False), ("plain", True)]  # what had no room may have it compiled
    assert [value["fails"] for key, value in cells if key["backend"] == "varlen"] == ["RuntimeError: needs CUDA"] * 2


def test_both_ways_are_tried_where_the_recipe_leaves_it_open():
    assert list(choices(RECIPE, ("eager", "sdpa"))) == [("eager", False), ("sdpa", False)]
    assert list(choices(replace(RECIPE, compile=None), ("sdpa",))) == [("sdpa", False), ("sdpa", True)]
    with pytest.raises(InputError, match="--backends sdqa: give some of auto, eager"):
        list(choices(RECIPE, ("sdqa",)))


def test_the_fastest_micro_batch_is_taken_unless_the_recipe_names_one(monkeypatch):
    assert best_micro_batch(RECIPE, TEXT, Cells(None, {}), 0.01)[1].micro_batch_rows == 4
    speed = {32: 1.0, 16: 3.0, 8: 2.0}
    tried = []

    def measured(contenders, rounds, seconds):
        tried.append(contenders[0].positions[0])
        rows = [32, 16, 8][len(tried) - 1]
        return [[Turn(1.0, int(speed[rows]), 1)]]

    monkeypatch.setattr(steps, "alternate", measured)
    open_recipe = replace(RECIPE, data=replace(RECIPE.data, batch_rows=32, micro_batch_rows=None))
    recipe, split = best_micro_batch(open_recipe, TEXT, Cells(None, {}), 0.01)
    assert len(tried) == 3
    assert (recipe.data.micro_batch_rows, split.micro_batch_rows, split.accumulation) == (16, 16, 2)
