"""Whether the step of a run is compiled; the training module then does it: one graph without a break, every shape fixed.

Compiling takes a minute or so on a few CPU cores, more for deeper models, and then makes each step shorter. It is part of the
budget of a run in minutes, so a short run goes without.
"""

import math

import torch

from bert.errors import InputError

SECONDS_WORTH = 600.0
"""from so many seconds of training on compiling is taken to pay"""
CPU_RATE, GPU_RATE = 3e11, 1e14
"""floating-point operations a second that are reckoned with, where a budget is no time; never measured, so that a run that is
resumed decides as it did before"""


def compiles(
    wanted: bool | None, device: torch.device, minutes: float | None, operations: float | None
) -> tuple[bool, str]:
    """Whether to compile, and why, in a few words. `wanted` decides where it is given; otherwise what pays within a budget of
    `minutes`, of `operations` (floating-point, both directions), or of the smaller of both.

    Raises InputError where it is wanted and cannot be had.
    """
    missing = _missing_compiler(device)
    if wanted and missing:
        raise InputError(f"compile true needs {missing}: install it, or leave compile out")
    if wanted is not None:
        return wanted, "as asked for"
    if missing:
        return False, f"this machine lacks {missing}"
    rate = CPU_RATE if device.type == "cpu" else GPU_RATE
    seconds = min(math.inf if minutes is None else 60 * minutes, math.inf if operations is None else operations / rate)
    return seconds >= SECONDS_WORTH, f"the budget is about {seconds / 60:.0f} minutes"


def expect_graphs(phases: int) -> None:
    """Let a function have graphs for each of `phases`, each of shapes of its own: one, or where training and validation share it two.
    PyTorch gives up at 8 unless told, and takes more for a mistake. Those of earlier runs in this process no longer count."""
    from torch._dynamo import config

    torch.compiler.reset()
    config.recompile_limit = max(config.recompile_limit, 2 * phases + 2)


def _missing_compiler(device: torch.device) -> str:
    """What the compiler of PyTorch lacks on this machine, or an empty string."""
    if device.type == "cuda":
        try:
            import triton  # noqa: F401
        except ImportError:
            return "triton"
        return ""
    if device.type != "cpu":
        return f"a compiler for {device.type}"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "a C++ compiler"
    return ""
