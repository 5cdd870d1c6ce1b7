"""The highest memory in use since a moment: of the process on a CPU, of the allocator on a GPU."""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak(device: torch.device) -> None:
    """The highest mark begins anew. Where a system other than Linux has no such thing, that of the process stays."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # the heap keeps what earlier cells freed: see bert.memory
    with suppress(OSError):
        _CLEAR.write_text("5")  # man 5 proc: resets the peak of the resident set


def peak(device: torch.device) -> int:
    """Bytes at the highest mark: resident memory on a CPU, mapped files of the page cache among it."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError, StopIteration, ValueError):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
