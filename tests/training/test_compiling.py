"""When a step is compiled."""

import pytest
import torch

from bert.errors import InputError
from bert.training import compiling

CPU = torch.device("cpu")


def test_the_recipe_decides_and_the_budget_where_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_missing_compiler", lambda device: "")
    long, short = compiling.SECONDS_WORTH, compiling.SECONDS_WORTH - 1
    work = compiling.CPU_RATE
    assert compiling.compiles(True, CPU, 0.01, None)[0]
    assert not compiling.compiles(False, CPU, 1000, None)[0]
    assert compiling.compiles(None, CPU, long / 60, None)[0]
    assert not compiling.compiles(None, CPU, short / 60, None)[0]
    assert compiling.compiles(None, CPU, None, long * work)[0]
    assert not compiling.compiles(None, CPU, None, short * work)[0]
    assert not compiling.compiles(None, CPU, 1000, short * work)[0]  # it ends with the first


def test_without_a_compiler_nothing_is_compiled_and_whoever_asks_for_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiling, "_missing_compiler", lambda device: "a C++ compiler")
    assert compiling.compiles(None, CPU, 1000, None) == (False, "this machine lacks a C++ compiler")
    with pytest.raises(InputError, match=r"compile true needs a C\+\+ compiler: install it, or leave compile out"):
        compiling.compiles(True, CPU, 1000, None)


def test_what_this_machine_lacks_is_found_out() -> None:
    assert compiling._missing_compiler(torch.device("meta")) == "a compiler for meta"
    assert compiling._missing_compiler(CPU) in ("", "a C++ compiler")
