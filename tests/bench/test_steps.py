"""A recipe measured: MFU is FLOPs over time relative to the matrix rate of the same round, and failures are results. A sweep doubles the
micro-batch until memory runs out, and resumes where it was interrupted."""

from dataclasses import replace

import pytest
import torch

from bert.bench import machine, steps
from bert.bench.measurement import Measurement, TimedRun
from bert.bench.results import OUT_OF_MEMORY, attempt, findings, is_out_of_memory, tables
from bert.bench.steps import bench_steps, bench_sweep, step_result, sweep_result, ways
from bert.errors import InputError

from .synthetic import RECIPE, TEXT, Stop


def measurement_of(recipe=RECIPE, **settings):
    return Measurement(recipe, TEXT, **{"rounds": 1, "seconds": 0.01} | settings)


def test_mfu_is_flops_a_token_times_tokens_over_the_rate_of_its_round(monkeypatch):
    rates = iter([4e9, 5e9])
    monkeypatch.setattr(machine, "matrix_rate", lambda *_: next(rates))
    runs = [TimedRun(2.0, 1000, 1250), TimedRun(1.0, 800, 1000)]

    def two_rounds(sides, rounds, seconds, between):
        for _ in runs:
            between()
        return [runs]

    monkeypatch.setattr(steps, "alternate", two_rounds)
    result = step_result(measurement_of(rounds=2, seconds=1.0), RECIPE)
    flops = result["flops_per_token"]
    assert result["rounds"] == [500.0, 800.0]
    mfu = result["mfu"]
    assert mfu["min"] == pytest.approx(flops * 500 / 4e9)
    assert mfu["max"] == pytest.approx(flops * 800 / 5e9)
    assert result["tokens_per_second"]["median"] == 650
    assert result["fill"] == 1800 / 2250
    assert result["sequences"] == [8, 4, 16]
    assert result["peak_gib"] > 0
    assert set(result["share"]) == {"data", "forward", "backward", "optimizer"}
    assert sum(result["share"].values()) == pytest.approx(1)


def test_a_backend_that_does_not_run_is_a_result_that_says_so(monkeypatch, said):
    def broken(*_, **__):
        raise NotImplementedError("no kernel for this device\nand more")

    monkeypatch.setattr(steps, "Candidate", broken)
    measurement = measurement_of()
    bench_steps(measurement, ["sdpa"])
    assert said[0] == "sdpa: does not run here: NotImplementedError: no kernel for this device"
    assert measurement.results.of("step", failed=True)[0]["error"] == "NotImplementedError: no kernel for this device"


def test_a_backend_that_cannot_run_here_gives_its_own_reason_not_that_of_the_compiler(monkeypatch):
    tried = []

    def broken(recipe):
        tried.append((recipe.attention, recipe.compile))
        raise RuntimeError("no memory: can't allocate memory" if recipe.attention == "plain" else "needs CUDA")

    monkeypatch.setattr(steps, "Candidate", broken)
    measurement = measurement_of(replace(RECIPE, compile=None))
    bench_steps(measurement, ["varlen", "plain"])
    assert tried == [("varlen", False), ("plain", False), ("plain", True)]  # compiled, it may need less memory
    assert [one["error"] for one in measurement.results.of("step", failed=True) if one["backend"] == "varlen"] == [
        "RuntimeError: needs CUDA"
    ] * 2


def test_both_ways_are_tried_where_the_recipe_leaves_it_open():
    def found(recipe, *backends):
        return [(way.attention, way.compile) for way in ways(recipe, backends)]

    assert found(RECIPE, "eager", "sdpa") == [("eager", False), ("sdpa", False)]
    assert found(replace(RECIPE, compile=None), "sdpa") == [("sdpa", False), ("sdpa", True)]
    with pytest.raises(InputError, match="sdqa is unknown; must be some of auto, eager"):
        found(RECIPE, "sdqa")


def result_of(sequences):
    if sequences > 8:
        return {"error": OUT_OF_MEMORY}
    return {"tokens_per_second": 100.0 * (sequences if sequences < 8 else 3), "peak_gib": sequences, "batch_size": 8}


def test_sizes_double_until_memory_ends_it_and_the_best_is_found(monkeypatch):
    seen = []
    monkeypatch.setattr(steps, "sweep_result", lambda _, recipe, size: seen.append(size) or result_of(size))
    measurement = measurement_of()
    bench_sweep(measurement, ["sdpa"], smallest=2, largest=64)
    assert seen == [2, 4, 8, 16]  # not 32, which needs more memory
    found = findings(measurement.results)
    assert (found["fastest"]["sequences"], found["fastest"]["tokens_per_second"]) == (4, 400.0)
    assert found["largest"] == {"sequences": 8, "backend": "sdpa", "compile": "no", "limit": True}
    assert "the largest that fits: 8 sequences" in "".join(tables(measurement.results))
    measurement = measurement_of()
    bench_sweep(measurement, ["sdpa"], smallest=2, largest=8)
    assert findings(measurement.results)["largest"]["limit"] is False  # not known yet


def test_an_interrupted_sweep_skips_what_is_finished(monkeypatch, tmp_path):
    seen = []

    def stopping(measurement, recipe, size):
        if len(seen) == 2:
            seen.append("stop")
            raise Stop
        seen.append(size)
        return result_of(size)

    monkeypatch.setattr(steps, "sweep_result", stopping)
    with pytest.raises(Stop):
        bench_sweep(measurement_of(out=tmp_path), ["sdpa"], smallest=1, largest=8)
    bench_sweep(measurement_of(out=tmp_path), ["sdpa"], smallest=1, largest=8)
    assert seen == [1, 2, "stop", 4, 8]


def test_a_result_of_a_sweep_is_of_a_whole_step():
    found = sweep_result(measurement_of(), RECIPE, 2)
    assert found["batch_size"] == 8
    assert found["tokens_per_second"] > 0
    assert sweep_result(measurement_of(), RECIPE, 16)["batch_size"] == 16  # larger than the recipe's


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
        assert attempt(lambda: sweep_result(measurement_of(), RECIPE, 2)) == {"error": said}


def test_this_processor_says_so_as_a_sweep_expects():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
