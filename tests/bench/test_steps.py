"""A recipe measured: shares are operations over time over the rate beside it, and what does not run is said. A sweep doubles the
micro-batch until memory ends it, and goes on where it was interrupted."""

from dataclasses import replace

import pytest
import torch

from bert.bench import steps
from bert.bench.cells import OUT_OF_MEMORY, Cells, attempt, is_out_of_memory
from bert.bench.plan import Bench, Plan
from bert.bench.rounds import Turn
from bert.bench.steps import best_micro_batch, measure_steps, step_cell, sweep, sweep_cell, ways
from bert.bench.table import findings, tables
from bert.errors import InputError

from .synthetic import RECIPE, TEXT, Stop

PRODUCT = (16, 16, 16)


def bench_of(recipe=RECIPE, cells=None, say=lambda line: None, **plan):
    return Bench(recipe, TEXT, Plan(**{"rounds": 1, "seconds": 0.01} | plan), cells or Cells(None, {}), say)


def test_a_share_is_operations_a_token_times_tokens_over_the_rate_of_its_round(monkeypatch):
    rates = iter([4e9, 5e9])
    monkeypatch.setattr(steps, "matrix_rate", lambda *_: next(rates))
    turns = [Turn(2.0, 1000, 1250), Turn(1.0, 800, 1000)]

    def two_rounds(contenders, rounds, seconds, between):
        for _ in turns:
            between()
        return [turns]

    monkeypatch.setattr(steps, "alternate", two_rounds)
    cell = step_cell(bench_of(rounds=2, seconds=1.0), RECIPE, PRODUCT)
    operations = cell["flops_per_token"]
    assert cell["rounds"] == [500.0, 800.0]
    share = cell["mfu"]
    assert share["least"] == pytest.approx(operations * 500 / 4e9)
    assert share["greatest"] == pytest.approx(operations * 800 / 5e9)
    assert cell["tokens_per_second"]["median"] == 650
    assert cell["fill"] == 1800 / 2250
    assert cell["sequences"] == [8, 4, 16]
    assert cell["peak_bytes"] > 0
    assert set(cell["seconds"]) == {"data", "forward", "backward", "optimizer"}


def test_a_backend_that_does_not_run_is_a_cell_that_says_so(monkeypatch):
    def broken(*_, **__):
        raise NotImplementedError("no kernel for this device\nand more")

    monkeypatch.setattr(steps, "Candidate", broken)
    said = []
    bench = bench_of(say=said.append, backends=("sdpa",))
    measure_steps(bench, PRODUCT)
    assert said == ["sdpa: does not run here: NotImplementedError: no kernel for this device"]
    assert next(iter(bench.cells))["fails"] == "NotImplementedError: no kernel for this device"


def test_a_backend_that_cannot_be_here_says_why_in_the_place_of_the_compiler(monkeypatch):
    tried = []

    def broken(recipe):
        tried.append((recipe.attention, recipe.compile))
        raise RuntimeError("out of room: can't allocate memory" if recipe.attention == "plain" else "needs CUDA")

    monkeypatch.setattr(steps, "Candidate", broken)
    bench = bench_of(replace(RECIPE, compile=None), backends=("varlen", "plain"))
    measure_steps(bench, PRODUCT)
    assert tried == [("varlen", False), ("plain", False), ("plain", True)]  # what had no room may have it compiled
    assert [cell["fails"] for cell in bench.cells if cell["backend"] == "varlen"] == ["RuntimeError: needs CUDA"] * 2


def test_both_ways_are_tried_where_the_recipe_leaves_it_open():
    def found(recipe, *backends):
        return [(way.attention, way.compile) for way in ways(bench_of(recipe, backends=backends))]

    assert found(RECIPE, "eager", "sdpa") == [("eager", False), ("sdpa", False)]
    assert found(replace(RECIPE, compile=None), "sdpa") == [("sdpa", False), ("sdpa", True)]
    with pytest.raises(InputError, match="--backends sdqa: give some of auto, eager"):
        found(RECIPE, "sdqa")


def test_the_fastest_micro_batch_is_taken_unless_the_recipe_names_one(monkeypatch):
    assert best_micro_batch(bench_of()) == RECIPE
    speed = {32: 1.0, 16: 3.0, 8: 2.0}
    tried = []

    def measured(contenders, rounds, seconds):
        tried.append(contenders[0].positions[0])
        sequences = [32, 16, 8][len(tried) - 1]
        return [[Turn(1.0, int(speed[sequences]), 1)]]

    monkeypatch.setattr(steps, "alternate", measured)
    open_recipe = replace(RECIPE, data=replace(RECIPE.data, batch_size=32, micro_batch_size=None))
    recipe = best_micro_batch(bench_of(open_recipe))
    assert len(tried) == 3
    assert recipe == replace(open_recipe, data=replace(open_recipe.data, micro_batch_size=16))


WHAT = {"what": "a sweep"}


def cell(sequences):
    if sequences > 8:
        return {"fails": OUT_OF_MEMORY}
    return {"tokens_per_second": 100.0 * (sequences if sequences < 8 else 3), "peak_bytes": sequences, "batch_size": 8}


def test_sizes_double_until_memory_ends_it_and_the_best_is_found(monkeypatch):
    seen = []
    monkeypatch.setattr(steps, "sweep_cell", lambda bench, recipe, sequences: seen.append(sequences) or cell(sequences))
    cells = Cells(None, WHAT)
    sweep(bench_of(cells=cells, backends=("sdpa",), smallest=2, largest=64))
    assert seen == [2, 4, 8, 16]  # not 32: it needs more
    found = findings(cells)
    assert (found["fastest"]["sequences"], found["fastest"]["tokens_per_second"]) == (4, 400.0)
    assert found["largest"] == {"sequences": 8, "backend": "sdpa", "compiled": False, "limit": True}
    assert "the largest that fits: 8 sequences" in "".join(tables(cells))
    cells = Cells(None, WHAT)
    sweep(bench_of(cells=cells, backends=("sdpa",), smallest=2, largest=8))
    assert findings(cells)["largest"]["limit"] is False  # nobody knows yet


def test_an_interrupted_sweep_skips_what_is_finished(monkeypatch, tmp_path):
    seen = []

    def stopping(bench, recipe, sequences):
        if len(seen) == 2:
            seen.append("stop")
            raise Stop
        seen.append(sequences)
        return cell(sequences)

    monkeypatch.setattr(steps, "sweep_cell", stopping)
    with pytest.raises(Stop):
        sweep(bench_of(cells=Cells(tmp_path, WHAT), backends=("sdpa",), smallest=1, largest=8))
    sweep(bench_of(cells=Cells(tmp_path, WHAT), backends=("sdpa",), smallest=1, largest=8))
    assert seen == [1, 2, "stop", 4, 8]


def test_a_cell_reckons_with_a_whole_step():
    found = sweep_cell(bench_of(), RECIPE, 2)
    assert found["batch_size"] == 8
    assert found["tokens_per_second"] > 0
    assert sweep_cell(bench_of(), RECIPE, 16)["batch_size"] == 16  # larger than the recipe's


def test_memory_that_is_used_up_is_told_from_other_failures(monkeypatch):
    for error, said in (
        (torch.OutOfMemoryError("CUDA out of memory."), OUT_OF_MEMORY),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"
                " tried to allocate 9 bytes."
            ),
            OUT_OF_MEMORY,
        ),
        (RuntimeError("no"), "RuntimeError: no"),
    ):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(steps, "Candidate", fail)
        assert attempt(lambda: sweep_cell(bench_of(), RECIPE, 2)) == {"fails": said}


def test_this_processor_says_so_as_a_sweep_expects():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
