"""What this hardware computes best in: the precision, and memory that the process keeps. No Lightning: plain inference uses it too."""

import ctypes
import sys
from contextlib import suppress

import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt, from malloc.h of the GNU C library
_NEVER = -1  # the largest int means 2 GB: a step that frees more would return its memory


def best_precision(accelerator: str = "auto") -> str:
    """bf16-mixed where the hardware multiplies bf16 matrices, otherwise 32-true (16-mixed on older GPUs).

    On a CPU that requires AVX512-BF16 or AMX: without them, bf16 autocast is slower than fp32 (PyTorch issue 86550).
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return "32-true"
    return "bf16-mixed" if cpu_multiplies_bf16() else "32-true"


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has AVX512-BF16 or AMX instructions."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def keep_freed_memory() -> bool:
    """Let this process keep and reuse the large blocks that it frees, if its C library is GNU's. Returns whether it does.

    By default, each large tensor is new memory from the kernel, zeroed page by page, and is returned when freed. A training step
    on a CPU frees and allocates the same hundreds of megabytes every time, which costs 5 to 15 % of the step.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return mallopt(_MMAP_MAX, 0) == 1 and mallopt(_TRIM_THRESHOLD, _NEVER) == 1


def return_freed_memory() -> None:
    """Return freed memory to the kernel, also after `keep_freed_memory`, if the C library is GNU's.

    For a process that keeps it while the sizes of its tensors change: what no longer fits together is never used again.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
