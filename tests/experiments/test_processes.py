import os
import sys

import numpy as np
import PIL
import pytest

from experiments import processes

ALLOCATE = "import time; held = b'x' * (100 << 20); time.sleep(1)"
AS_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ALLOCATE!r}])"


@pytest.mark.parametrize("program", [ALLOCATE, AS_A_CHILD])
def test_the_peak_counts_children(program):
    seconds, peak = processes.watch([sys.executable, "-c", program], dict(os.environ))
    assert 1 < seconds < 60
    assert 100 < peak < 160


def test_a_command_that_fails_is_named():
    with pytest.raises(SystemExit, match=r"-c 1/0 failed"):
        processes.watch([sys.executable, "-c", "1/0"], dict(os.environ))


def test_a_process_that_is_gone_holds_nothing():
    assert processes.anonymous_mib(1 << 30) == 0
    assert processes.family(1 << 30) == [1 << 30]


def test_the_machine_names_processor_and_versions():
    found = processes.machine("numpy", "pillow")
    assert found["hardware"]
    assert found["cores"] >= 1
    assert found["versions"] == f"numpy {np.__version__}, pillow {PIL.__version__}"
