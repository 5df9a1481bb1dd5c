"""The dtype that a network's activations have, and where the faster one is chosen."""

import functools
import platform
import time
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
_WORTH_IT = 1.2
"""How many times as fast products must be in bfloat16 for `settled` to choose it."""


@processes.by_first
def settled(name: str, before: Any = None) -> str:
    """A name of `DTYPES` as it is; for `auto` what it is in the run that goes on, if one does.

    `before` is that value, or None. Otherwise it is bfloat16 if networks are computed by a CPU that
    multiplies it faster than float32, which is said, and float32 elsewhere.
    """
    if name != AUTO:
        return name
    if before in DTYPES:
        return str(before)
    if jax.default_backend() != "cpu" or not cpu_has_bfloat16():
        return "float32"
    speed = speed_of_bfloat16()
    if speed < _WORTH_IT:
        return "float32"
    say(f"bfloat16: this CPU multiplies it {speed:.1f} times as fast as float32")
    return "bfloat16"


def cpu_has_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for it, as Linux lists them."""
    if platform.machine() != "x86_64":
        return False
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _INSTRUCTIONS.isdisjoint(flags.split())


@functools.cache
def speed_of_bfloat16() -> float:
    """How many times as fast as float32 JAX multiplies bfloat16 here, by a product in both.

    Instructions don't tell: with AVX512_BF16 alone an AMD EPYC is twice as fast in it, and an Intel
    Xeon half as fast (docs/performance.md).
    """
    product = jax.jit(functools.partial(jnp.dot, preferred_element_type=jnp.float32))
    factors = {
        dtype: (jnp.ones((3136, 256), dtype), jnp.ones((256, 1024), dtype))
        for dtype in DTYPES.values()
    }
    seconds: dict[Any, float] = {}
    for round_ in range(6):
        for dtype, of in factors.items():
            start = time.perf_counter()
            jax.block_until_ready(product(*of))
            taken = time.perf_counter() - start
            if round_:  # the first compiles
                seconds[dtype] = min(taken, seconds.get(dtype, taken))
    return seconds[jnp.float32] / seconds[jnp.bfloat16]
