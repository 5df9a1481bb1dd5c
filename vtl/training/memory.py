"""What this process does with memory that it has freed."""

import ctypes
import platform

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for reuse, from now until the process ends.

    A training step on a CPU frees gigabytes. glibc would return them to Linux, which clears every
    page again for the next step: that takes a fifth of a step's time or more. Does nothing without
    glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        # Every block goes on the heap, however large, and the heap never shrinks.
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
