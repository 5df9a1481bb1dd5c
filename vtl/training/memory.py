"""What this process does with memory that it has freed."""

import ctypes
import platform

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1


def keep_freed_memory() -> None:
    """Have glibc keep what is freed from now on for what is asked for next, to the process's end.

    A training step on a CPU frees gigabytes, and glibc would hand them back to Linux, which clears
    every page anew for the next step: a fifth of a step's time and more. Elsewhere than with glibc
    nothing is done.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        # All of it on the heap, however large, which then never shrinks.
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
