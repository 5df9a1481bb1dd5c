"""What is freed is kept, in a process of its own: the setting is for a process's whole life."""

import platform
import subprocess
import sys

import pytest

FAULTS_OF_THE_SECOND_ARRAY = """
import resource, sys
import numpy as np
from vtl import memory

if sys.argv[1] == "kept":
    memory.keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is meant")
def test_what_is_freed_is_used_again_instead_of_cleared_pages():
    faults = {}
    for name in ("kept", "freed"):
        command = [sys.executable, "-c", FAULTS_OF_THE_SECOND_ARRAY, name]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        faults[name] = int(output)
    # 128 MiB, in pages of up to 2 MiB.
    assert faults["kept"] < 16 < 64 <= faults["freed"]


def test_main_keeps_freed_memory_before_it_does_anything():
    command = """
import sys, jax
from vtl import main

main._read_config = lambda: sys.exit(jax.config.jax_cpu_enable_async_dispatch)
main.main(["vtl.main"])
"""
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0
