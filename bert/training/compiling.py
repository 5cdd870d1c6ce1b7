"""Whether the step of a run is compiled, as one graph without breaks and with fixed shapes.

Compilation takes about a minute on a few CPU cores, more for deeper models, and makes each step faster. It counts towards a budget in
minutes, so short runs are not compiled.
"""

import math
from importlib.util import find_spec

import torch

from bert.errors import InputError

SECONDS_WORTH = 600.0
"""seconds of training from which compilation is assumed to pay off"""
CPU_RATE, GPU_RATE = 3e11, 1e14
"""assumed FLOPs per second, for budgets that are not in minutes; not measured, so that a resumed run decides as before"""


def compiles(
    wanted: bool | None, device: torch.device, minutes: float | None, operations: float | None
) -> tuple[bool, str]:
    """Whether to compile, and why, in a few words. By default (`wanted` None), if it pays off within a budget of `minutes`, of `operations`
    (FLOPs, forward and backward), or the smaller of both.

    Raises InputError if it is wanted and not available.
    """
    missing = _missing_compiler(device)
    if wanted and missing:
        raise InputError(f"compile true needs {missing}: install it, or leave compile out")
    if wanted is not None:
        return wanted, "as requested"
    if missing:
        return False, f"this machine lacks {missing}"
    rate = CPU_RATE if device.type == "cpu" else GPU_RATE
    seconds = min(math.inf if minutes is None else 60 * minutes, math.inf if operations is None else operations / rate)
    return seconds >= SECONDS_WORTH, f"the budget is about {seconds / 60:.0f} minutes"


def expect_graphs(phases: int) -> None:
    """Allow two graphs per function for each of `phases`, which have different shapes: one for training and one for validation. PyTorch's
    default limit is 8. Graphs of earlier runs in this process no longer count."""
    from torch._dynamo import config

    torch.compiler.reset()
    config.recompile_limit = max(config.recompile_limit, 2 * phases + 2)


def _missing_compiler(device: torch.device) -> str:
    """What PyTorch's compiler lacks on this machine; an empty string if nothing."""
    if device.type == "cuda":
        return "" if find_spec("triton") else "triton"
    if device.type != "cpu":
        return f"a compiler for {device.type}"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "a C++ compiler"
    return ""
