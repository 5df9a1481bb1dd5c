"""A stop at any moment is exit status 130 and no traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 120

BEGIN = """
import sys, time
from vtl import stops
stops.exit_at_once()
"""
"""What a process does first."""

IN_A_RUN = f"""{BEGIN}
with stops.in_one_line():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        CLEAR
"""


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
    code = f"{BEGIN}\ntry:\n    print('ready', flush=True); time.sleep(60)\nexcept: pass"
    with start(code) as process:
        process.stdout.readline()
        process.send_signal(getattr(signal, name))
        _, error = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert error == "vtl: stopped\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_in_a_run_a_stop_clears_away_what_is_half_done(name):
    with start(IN_A_RUN.replace("CLEAR", "print('cleared')")) as process:
        process.stdout.readline()
        process.send_signal(getattr(signal, name))
        output, error = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output, error) == (130, "cleared\n", "vtl: stopped\n")


def test_a_second_stop_does_not_wait_for_what_is_cleared_away():
    code = IN_A_RUN.replace("CLEAR", "print('clearing', flush=True); time.sleep(60)")
    with start(code) as process:
        for _ in range(2):
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, error) == (130, "vtl: stopped\n")


def test_a_stop_in_a_callback_is_not_lost():
    code = f"""{BEGIN}
import gc

def callback(phase, info):
    gc.callbacks.clear()
    print("ready", flush=True)
    time.sleep(60)

gc.callbacks.append(callback)
with stops.in_one_line():
    gc.collect()
    time.sleep(60)
"""
    with start(code) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, error) == (130, "vtl: stopped\n")


def test_a_stop_that_something_catches_is_raised_again():
    swallow = "except BaseException:\n        pass\n    try:\n        time.sleep(60)\n    finally:"
    code = IN_A_RUN.replace("finally:", swallow).replace("CLEAR", "print('cleared')")
    with start(code) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        output, error = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output, error) == (130, "cleared\n", "vtl: stopped\n")


def test_a_stop_that_becomes_another_error_is_one():
    become = "except BaseException:\n        raise ValueError('nonsense') from None\n    finally:"
    with start(IN_A_RUN.replace("finally:", become).replace("CLEAR", "pass")) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, error) == (130, "vtl: stopped\n")


def test_what_clears_away_is_given_its_time():
    code = IN_A_RUN.replace("CLEAR", "time.sleep(0.5); print('cleared')")
    with start(code) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        output, error = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output, error) == (130, "cleared\n", "vtl: stopped\n")


def test_threads_that_a_stop_cuts_off_print_nothing():
    code = IN_A_RUN.replace("CLEAR", "threading.Thread(target=lambda: 1 / 0).start()")
    with start(f"import threading\n{code}") as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, error) == (130, "vtl: stopped\n")


def test_what_nohup_ignores_stays_ignored():
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    work = "time.sleep(0.5); print('whole')"
    code = f"{ignore}\n{IN_A_RUN}".replace("time.sleep(60)", work).replace("CLEAR", "pass")
    with start(code) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output) == (0, "whole\n")


@pytest.mark.parametrize(
    "words",
    [
        ("vtl.export", "-h"),
        ("vtl.report", "-h"),
        ("vtl.weights", "-h"),
        ("vtl.main", "--config=configs/finetune.py:demo", "--workdir={}/run"),
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_program_is_stopped_while_it_imports(tmp_path, words, sent):
    slow = "import time; print('importing', flush=True); time.sleep(60)"
    (tmp_path / "numpy.py").write_text(slow)
    command = [sys.executable, "-m", *(word.format(tmp_path) for word in words)]
    environment = os.environ | {"VTL_CACHE": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(sent)
        output, error = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output, error) == (130, "", "vtl: stopped\n")
    assert not (tmp_path / "run").exists()
