"""Timing attention: the fastest first, and only what can be had."""

import pytest
import torch

from bert.model import tuning
from bert.model.attention import Case
from bert.model.tuning import candidates, fastest

CPU = torch.device("cpu")


@pytest.mark.parametrize("training", [True, False])
def test_the_backend_that_takes_least_comes_first(monkeypatch: pytest.MonkeyPatch, training: bool) -> None:
    """By a clock that goes on by a known time for every call; a slow round among the rest changes nothing."""
    cost, clock, calls = {"eager": 3.0, "plain": 1.0, "sdpa": 2.0}, [0.0], []
    original = tuning.attend

    def attend(*qkv: torch.Tensor, backend: str, **rest: object) -> torch.Tensor:
        calls.append(backend)
        clock[0] += cost[backend] + (100.0 if len(calls) == 8 else 0.0)
        return original(*qkv, backend=backend, **rest)

    monkeypatch.setattr(tuning, "attend", attend)
    monkeypatch.setattr(tuning, "now", lambda device: clock[0])
    found = fastest(["eager", "plain", "sdpa"], (2, 4, 8, 4), kv_heads=2, window=4, training=training, rounds=3)
    assert list(found.items()) == [("plain", 1.0), ("sdpa", 2.0), ("eager", 3.0)]
    assert calls[-6:] == ["eager", "plain", "sdpa"] * 2


def test_only_what_this_machine_can_do_is_timed() -> None:
    assert candidates(Case(CPU, torch.bfloat16, 64, 0.0, training=True), compiled=True) == ["sdpa", "plain"]
    assert candidates(Case(CPU, torch.bfloat16, 64, 0.1, training=False), compiled=True) == ["sdpa", "plain"]
    assert candidates(Case(CPU, torch.float32, 64, 0.0, training=False), compiled=True) == ["sdpa", "plain", "flex"]
    assert candidates(Case(CPU, torch.float32, 64, 0.0, training=False), compiled=False) == ["sdpa", "plain"]


def test_what_fails_at_a_shape_is_left_out_and_where_all_do_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tuning.attend

    def attend(*qkv: torch.Tensor, backend: str, **rest: object) -> torch.Tensor:
        if backend != "plain":
            raise NotImplementedError(f"{backend} cannot do this")
        return original(*qkv, backend=backend, **rest)

    monkeypatch.setattr(tuning, "attend", attend)
    assert set(fastest(["sdpa", "plain", "eager"], (2, 4, 8, 4), rounds=1)) == {"plain"}
    with pytest.raises(NotImplementedError, match="eager cannot do this"):
        fastest(["sdpa", "eager"], (2, 4, 8, 4), rounds=1)


@pytest.mark.slow
def test_timing_again_in_one_process_is_no_matter_of_the_limit_of_the_compiler() -> None:
    with torch._dynamo.config.patch(recompile_limit=2):
        for length in (16, 24):
            assert len(fastest(["sdpa", "plain"], (2, 4, length, 16), compiled=True, rounds=1)) == 2


@pytest.mark.slow
def test_what_is_timed_may_be_compiled() -> None:
    found = fastest(["sdpa", "plain"], (2, 4, 32, 16), dtype=torch.bfloat16, compiled=True, rounds=2)
    assert set(found) == {"sdpa", "plain"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_every_candidate_is_timed_in_a_graph() -> None:
    device = torch.device("cuda")
    asked = candidates(Case(device, torch.bfloat16, 64, 0.0, training=True), compiled=True)
    assert asked == ["sdpa", "varlen", "flex"]
    found = fastest(asked, (8, 4, 256, 64), dtype=torch.bfloat16, device=device, compiled=True, rounds=3)
    assert set(found) == set(asked)
