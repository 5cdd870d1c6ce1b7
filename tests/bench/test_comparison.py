"""Candidate and baseline: ratios within a round, the best setting of the baseline, and the goal on ragged documents."""

from dataclasses import replace

import pytest
import torch

from bert.bench import comparison, machine, measurement, steps
from bert.bench.comparison import bench_compare
from bert.bench.measurement import Measurement, TimedRun
from bert.bench.results import Results, best_baseline
from bert.bench.settings import WORKLOADS, BaselineSettings

from .synthetic import RECIPES, TEXT


def compared(recipe, pairs, baseline_batch_size=None, **settings):
    """The results of a comparison on the text."""
    measured = Measurement(recipe, TEXT, **settings)
    bench_compare(measured, pairs, baseline_batch_size=baseline_batch_size)
    return measured.results.of("compare", failed=True)


def test_the_goal_follows_from_the_best_baseline_and_its_padding():
    results = Results(None, {})

    def add(workload, attention, median, positions):
        key = {"kind": "compare", "workload": workload, "setting": attention}
        ratio = {"median": median, "min": median, "max": median}
        results.measured(key, lambda: {"ratio": ratio, "positions_per_token": {"baseline": positions}})

    add("full-sequences", "eager", 3.0, 1.0)
    add("full-sequences", "sdpa", 2.0, 1.0)
    add("padded", "eager", 5.5, 2.5)
    add("padded", "sdpa", 4.0, 2.5)
    results.measured({"kind": "compare", "workload": "padded", "setting": "x"}, lambda: {"error": "no"})
    found = best_baseline(results)
    assert found["full-sequences"]["setting"] == "sdpa"
    assert found["padded"]["ratio"]["median"] == 4.0
    assert found["padded"]["goal"] == pytest.approx(0.95 * 2.0 * 2.5)


@pytest.mark.hf
@pytest.mark.parametrize("family", RECIPES)
def test_a_result_for_each_workload_and_setting_with_the_ratio_of_each_round(family, monkeypatch, said):
    pytest.importorskip("transformers", reason="transformers is not installed")

    def two_rounds(sides, rounds, seconds, between):
        between(), between()
        for side in sides:
            side.run(1)  # both really step
        candidate = [TimedRun(1.0, 30, 40), TimedRun(1.0, 20, 40)]
        return [candidate, [TimedRun(1.0, 10, 40), TimedRun(2.0, 10, 40)]]

    monkeypatch.setattr(steps, "alternate", two_rounds)
    monkeypatch.setattr(machine, "matrix_rate", lambda *_: 1e9)
    monkeypatch.setattr(comparison, "_FULL_STEPS", 2)
    settings = [BaselineSettings("sdpa"), BaselineSettings("flash_attention_2")]
    pairs = [(workload, setting) for workload in WORKLOADS for setting in settings]
    results = compared(RECIPES[family], pairs, rounds=2, seconds=0.01)
    found = {(result["workload"], result["attention"]): result for result in results}
    assert list(found) == [(workload, setting.attention) for workload, setting in pairs]
    for (_, attention), value in found.items():
        if attention == "sdpa":
            assert value["ratio"] == {"median": 3.5, "min": 3.0, "max": 4.0}
            assert value["rounds"] == {"candidate": [30.0, 20.0], "baseline": [10.0, 5.0]}
            mfu = value["mfu"]
            assert mfu["candidate"] / mfu["baseline"] == pytest.approx(25 / 7.5)
            assert value["matrix_rate"] == 1e9
        else:
            assert value["side"] == "baseline"
            assert value["error"]  # not installed here: a result that says so, and the measurement continues
    assert len(said) == 7  # a line each, and the tables


def test_a_candidate_that_does_not_run_is_a_result_that_says_so(monkeypatch, said):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore lines")

    monkeypatch.setattr(comparison, "Candidate", fails)
    results = compared(RECIPES["bert"], [("full-sequences", BaselineSettings("sdpa"))])
    assert said[0] == "full-sequences, sdpa: candidate does not run here: out of memory"
    assert [result["side"] for result in results if "error" in result] == ["candidate"]


@pytest.mark.hf
def test_a_baseline_without_memory_takes_half_the_sequences_until_it_has(monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed")
    tried = []

    def pair(measurement, candidate, steps, of_baseline, *_):
        tried.append(len(of_baseline[0].micro_batches[0]["input_ids"]))
        if tried[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return {"ratio": 1.0}

    monkeypatch.setattr(comparison, "compare_pair", pair)
    monkeypatch.setattr(measurement, "line_of", lambda *_: "")
    monkeypatch.setattr(measurement, "report", lambda *_: {})
    most, pairs = 2, [("full-sequences", BaselineSettings("sdpa"))]
    (result,) = compared(RECIPES["bert"], pairs, baseline_batch_size=8)
    assert tried == [8, 4, 2]
    assert result["ratio"] == 1.0
    tried.clear()
    most = 0
    (result,) = compared(RECIPES["bert"], pairs, baseline_batch_size=4)
    assert tried == [4, 2, 1]
    assert (result["error"], result["side"]) == ("out of memory", "baseline")


@pytest.mark.hf
@pytest.mark.slow
def test_comparison_with_hugging_face_compiled_on_both_sides():
    """A real comparison at a tiny size: compiled, bf16, every workload."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    torch._dynamo.reset()
    for recipe in RECIPES.values():
        recipe = replace(recipe, compile=True, trainer={"accelerator": "cpu", "precision": "bf16-mixed"})
        settings = [BaselineSettings("sdpa", "yes"), BaselineSettings("eager")]
        pairs = [(workload, setting) for workload in WORKLOADS for setting in settings]
        results = compared(recipe, pairs, rounds=2, seconds=0.05)
        assert len(results) == 6
        assert all(result["ratio"]["min"] > 0 for result in results)
