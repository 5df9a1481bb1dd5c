"""The dtype that a network's activations have, and where the faster one is chosen."""

import functools
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vtl import processes
from vtl.console import say

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
AUTO = "auto"
"""The name that `settled` replaces."""

_CPU_INFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}


@processes.by_first
def settled(name: str, before: Any = None) -> str:
    """A name of `DTYPES` as it is; for `auto` what it is in the run that goes on, if one does.

    `before` is that value, or None. Otherwise it is bfloat16 if networks are computed by a CPU that
    multiplies it, which is said, and float32 elsewhere.
    """
    if name != AUTO:
        return name
    if before in DTYPES:
        return str(before)
    if jax.default_backend() != "cpu" or not cpu_multiplies_bfloat16():
        return "float32"
    say("bfloat16: this CPU multiplies it faster than float32")
    return "bfloat16"


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has the instructions, as Linux lists them."""
    if platform.machine() != "x86_64":
        return False
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _INSTRUCTIONS.isdisjoint(flags.split())
