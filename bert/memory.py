"""What a process does with memory that it has freed. No torch here."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt, from malloc.h of the GNU C library
_NEVER = -1  # the largest int would do for 2 GB: a step that frees more would give them back


def keep_freed_memory() -> bool:
    """Have this process keep large blocks that it frees and use them again, where its C library is GNU's; whether it does.

    Otherwise each large tensor is fresh memory of the kernel, page by page, filled with zeros, and goes back when it is freed: a
    training step on a CPU frees and takes the same hundreds of megabytes each time, which costs 5 to 15 % of it.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return mallopt(_MMAP_MAX, 0) == 1 and mallopt(_TRIM_THRESHOLD, _NEVER) == 1
