"""Ctrl-C, SIGTERM and a terminal that goes away: a stop in one line, with exit status 130.

Nothing here is slow to import, so that a stop counts from the first moment on.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

EXIT_STATUS = 130
"""As a shell has it for what Ctrl-C ended."""

NUMBERS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
"""The signals that stop a run; Windows has no SIGHUP."""

Handler = Callable[[int, FrameType | None], Any]


def exit_at_once() -> None:
    """From here on a stop ends the process at once: nothing has been begun yet.

    What was told to be ignored, as `nohup` does with SIGHUP, stays ignored.
    """
    _set(_leave)


def interrupt() -> None:
    """From here on a stop raises KeyboardInterrupt, so that what is half done is cleared away."""
    _set(_raise)


def _set(handler: Handler) -> None:
    for number in NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"vtl: stopped\n")
    os._exit(EXIT_STATUS)


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def leave_quietly(status: int = EXIT_STATUS) -> NoReturn:
    """End the process, as stopped if nothing else is said, whatever threads are still at work."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
