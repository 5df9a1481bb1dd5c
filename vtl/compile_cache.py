"""The cache of compiled programs, which mends itself.

JAX writes an entry in place, so a full disk or a kill leaves half of one. JAX then warns about that
program in every later run, compiles it again, and never writes it again because the entry exists.
"""

import time
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from absl import logging

_COMPLAINT = "Error reading persistent compilation cache entry"
_BEING_WRITTEN_S = 60.0
"""Another process may be writing an entry that is younger."""


def use(directory: Path) -> None:
    """Keep compiled programs in `directory`; remove damaged entries as soon as JAX meets one."""
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # A run has dozens of programs that compile in under a second, which JAX would not cache.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    show, is_mended = warnings.showwarning, False

    def show_or_mend(message: Warning | str, *args: Any, **options: Any) -> None:
        nonlocal is_mended
        if not str(message).startswith(_COMPLAINT):
            show(message, *args, **options)
        elif not is_mended:
            is_mended = True
            if count := _remove_damaged(directory):
                logging.warning("%d damaged programs in %s are compiled again", count, directory)

    warnings.showwarning = show_or_mend


def _remove_damaged(directory: Path) -> int:
    """Remove the entries that can't be unpacked, and count them.

    If the package zstandard is installed, JAX packs by it, and all entries go.
    """
    count = 0
    for entry in directory.glob("*-cache"):
        with suppress(OSError):
            if time.time() - entry.stat().st_mtime > _BEING_WRITTEN_S and _is_damaged(entry):
                entry.unlink()
                count += 1
    return count


def _is_damaged(entry: Path) -> bool:
    try:
        zlib.decompress(entry.read_bytes())
    except zlib.error:
        return True
    return False
