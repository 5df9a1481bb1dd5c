"""Freed memory is kept. In processes of their own, because the setting lasts a process's life."""

import platform
import subprocess
import sys

import pytest

from configs.finetune import get_config
from tests.devkit import write_devkit
from vtl.tasks import finetune
from vtl.training import memory

FAULTS_OF_THE_SECOND_ARRAY = """
import resource, sys
import numpy as np
from vtl.training import memory

if sys.argv[1] == "kept":
    memory.keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_freed_memory_is_reused_without_clearing_pages_again():
    faults = {}
    for name in ("kept", "freed"):
        command = [sys.executable, "-c", FAULTS_OF_THE_SECOND_ARRAY, name]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        faults[name] = int(output)
    # 128 MiB, in pages of up to 2 MiB.
    assert faults["kept"] < 16 < 64 <= faults["freed"]


@pytest.mark.full
def test_fine_tuning_keeps_freed_memory_once_it_trains(monkeypatch, tmp_path):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(memory, "keep_freed_memory", stop)
    config = get_config("demo")
    config.weights, config.head = "", "zeros"
    config.model.depth, config.model.width = 18, 0.125
    config.held_out = 0.0
    config.data.root = str(write_devkit(tmp_path, {"trainval": 4, "test": 2}))
    with pytest.raises(KeyboardInterrupt):
        finetune.run(config, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
