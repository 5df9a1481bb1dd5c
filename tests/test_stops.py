"""A stop at any moment is exit status 130 and no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 120

BEGIN = "import sys, time; from vtl import stops; stops.{}(); print('ready', flush=True)"
"""What a process does first, by one of the functions of stops."""


def start(code):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_before_anything_is_begun_a_stop_ends_the_process(name):
    code = BEGIN.format("exit_at_once") + "\ntry:\n    time.sleep(60)\nexcept BaseException: pass"
    with start(code) as process:
        process.stdout.readline()
        process.send_signal(getattr(signal, name))
        _, error = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert error == "vtl: stopped\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_in_a_run_a_stop_clears_away_what_is_half_done(name):
    code = BEGIN.format("interrupt").replace("print", "pass\ntry:\n    print") + (
        "\n    time.sleep(60)\nfinally:\n    print('cleared', flush=True)"
    )
    with start(code) as process:
        process.stdout.readline()
        process.send_signal(getattr(signal, name))
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert output == "cleared\n"


def test_what_nohup_ignores_stays_ignored():
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + (
        BEGIN.format("interrupt") + "; time.sleep(0.5); print('whole')"
    )
    with start(code) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output) == (0, "whole\n")


def test_a_stop_while_importing(tmp_path):
    command = [sys.executable, "-m", "vtl.main", "--config=configs/finetune.py:demo"]
    environment = os.environ | {"VTL_CACHE": str(tmp_path)}
    with subprocess.Popen(
        [*command, f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        time.sleep(0.5)  # JAX alone takes longer
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert error == "vtl: stopped\n"
    assert not (tmp_path / "run").exists()
