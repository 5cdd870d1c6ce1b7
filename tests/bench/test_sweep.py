"""A sweep doubles the micro-batch until memory ends it, and goes on where it was interrupted."""

import pytest
import torch

from bert.bench import sweep as module
from bert.bench.cells import Cells
from bert.bench.steps import OUT_OF_MEMORY, is_out_of_memory
from bert.bench.sweep import findings, sweep, sweep_cell
from bert.bench.table import tables

from .synthetic import RECIPE, TEXT, Stop

WHAT = {"what": "a sweep"}


def cell(rows):
    if rows > 8:
        return {"fails": OUT_OF_MEMORY}
    return {"tokens_per_second": 100.0 * (rows if rows < 8 else 3), "peak_bytes": rows, "batch_rows": 8}


def test_sizes_double_until_memory_ends_it_and_the_best_is_found(monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, "sweep_cell", lambda recipe, text, backend, compiled, rows, seconds: seen.append(rows) or cell(rows)
    )
    cells = Cells(None, WHAT)
    sweep(RECIPE, TEXT, cells, ("sdpa",), smallest=2, largest=64, say=lambda line: None)
    assert seen == [2, 4, 8, 16]  # not 32: it needs more
    found = findings(cells)
    assert (found["fastest"]["rows"], found["fastest"]["tokens_per_second"]) == (4, 400.0)
    assert found["largest"] == {"rows": 8, "backend": "sdpa", "compiled": False, "limit": True}
    assert "the largest that fits: 8 rows" in "".join(tables(cells))
    cells = Cells(None, WHAT)
    sweep(RECIPE, TEXT, cells, ("sdpa",), smallest=2, largest=8, say=lambda line: None)
    assert findings(cells)["largest"]["limit"] is False  # nobody knows yet


def test_an_interrupted_sweep_skips_what_is_finished(monkeypatch, tmp_path):
    seen = []

    def stopping(recipe, text, backend, compiled, rows, seconds):
        if len(seen) == 2:
            seen.append("stop")
            raise Stop
        seen.append(rows)
        return cell(rows)

    monkeypatch.setattr(module, "sweep_cell", stopping)
    with pytest.raises(Stop):
        sweep(RECIPE, TEXT, Cells(tmp_path, WHAT), ("sdpa",), 1, 8, say=lambda line: None)
    sweep(RECIPE, TEXT, Cells(tmp_path, WHAT), ("sdpa",), 1, 8, say=lambda line: None)
    assert seen == [1, 2, "stop", 4, 8]


def test_a_cell_reckons_with_a_whole_step():
    found = sweep_cell(RECIPE, TEXT, "sdpa", False, 2, 0.01)
    assert found["batch_rows"] == 8
    assert found["tokens_per_second"] > 0
    assert sweep_cell(RECIPE, TEXT, "sdpa", False, 16, 0.01)["batch_rows"] == 16  # larger than the recipe's


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

        monkeypatch.setattr(module, "OurSteps", fail)
        assert sweep_cell(RECIPE, TEXT, "sdpa", False, 2, 0.01) == {"fails": said}


def test_this_processor_says_so_as_a_sweep_expects():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
