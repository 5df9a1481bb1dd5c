"""What this process does with memory that it has freed."""

import ctypes
import platform

import jax

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1


def keep_freed_memory() -> None:
    """Keep what is freed for what is asked for next; to be called before JAX's first use.

    A step on a CPU frees gigabytes, and glibc would hand them back to Linux, which clears every
    page anew for the next step: a fifth of a training step's time and more. And JAX would begin the
    next step before this one's memory is free, and so need it twice; on a CPU it waits now, which
    loses nothing, for there a step takes all cores. Where there is no glibc, that is all.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        # All of it on the heap, however large, which then never shrinks.
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
