"""One of many processes, with a time limit, and with functions that tests slow down.

    python -m tests.processes.one ARGUMENTS_OF_VTL.MAIN

$VTL_TEST_SLOW, as in `os:fsync:0.5 PIL.Image:open:0.1`, has each call of a function take so many
seconds longer. After $VTL_TEST_LIMIT_S the process writes where each thread is into the file
$VTL_TEST_TRACES, and ends; it ends at once when the test that started it does.
"""

import ctypes
import faulthandler
import functools
import importlib
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1


def _slowed(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    @functools.wraps(function)
    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return function(*arguments, **named)

    return slow


def main() -> None:
    """Run `vtl.main` as if by `python -m`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    traces = open(os.environ["VTL_TEST_TRACES"], "w")  # noqa: SIM115 - for as long as it runs
    faulthandler.dump_traceback_later(float(os.environ["VTL_TEST_LIMIT_S"]), exit=True, file=traces)
    for each in os.environ.get("VTL_TEST_SLOW", "").split():
        name, function, seconds = each.split(":")
        module = importlib.import_module(name)
        setattr(module, function, _slowed(getattr(module, function), float(seconds)))
    runpy.run_module("vtl.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
