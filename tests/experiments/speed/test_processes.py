import os
import sys

import pytest

from experiments.speed import processes

ALLOCATE = "import time; held = b'x' * (100 << 20); time.sleep(1)"
AS_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ALLOCATE!r}])"


@pytest.mark.parametrize("program", [ALLOCATE, AS_A_CHILD])
def test_the_peak_counts_children(program):
    seconds, peak = processes.watch([sys.executable, "-c", program], dict(os.environ))
    assert seconds > 1
    assert 100 < peak < 160


def test_a_process_that_is_gone_holds_nothing():
    assert processes.anonymous_mib(1 << 30) == 0
    assert processes.family(1 << 30) == [1 << 30]
