"""Ctrl-C, SIGTERM and a terminal that goes away: a stop in one line, with exit status 130.

Nothing here is slow to import, so that a stop counts from the first moment on.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, TextIO

EXIT_STATUS = 130
"""As a shell has it for what Ctrl-C ended."""

NUMBERS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
"""The signals that stop a run; Windows has no SIGHUP."""

TOLD = "vtl: stopped"

_AGAIN_S = 0.1
"""How often it is looked whether a stop was swallowed."""


class Interrupted(Exception):
    """A signal of `NUMBERS` came, and the state is saved: the same command resumes from it."""


Handler = Callable[[int, FrameType | None], Any]

_is_stopping = False


def exit_at_once() -> None:
    """From here on a stop ends the process at once: nothing has been begun yet.

    What was told to be ignored, as `nohup` does with SIGHUP, stays ignored.
    """
    _set(_leave)
    # What is registered first comes last. After it Python would let signals kill the process.
    atexit.register(_set, signal.SIG_IGN)


@contextmanager
def interrupting() -> Iterator[None]:
    """Within it a stop raises KeyboardInterrupt, so that what is half done is cleared away.

    A second stop ends the process at once.
    """
    global _is_stopping
    _is_stopping = False
    before = {number: signal.getsignal(number) for number in NUMBERS}
    _set(_raise)
    try:
        with _nothing_swallowed():
            yield
    except Exception:
        if _is_stopping:  # compiled code may turn a stop into an error of its own
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _nothing_swallowed() -> Iterator[None]:
    """Raise a stop again where something caught it and went on, for as long as it takes.

    JAX's callbacks of the garbage collector do so: Python prints what they raise, and that is all.
    Windows has no timer to raise it again.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return
    before = sys.unraisablehook

    def hook(ignored: Any) -> None:
        if ignored.exc_type is not KeyboardInterrupt:
            before(ignored)

    signal.signal(signal.SIGALRM, _raise_unless_clearing)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = before


def _raise_unless_clearing(number: int, frame: FrameType | None) -> None:
    handled = sys.exc_info()[1]  # in a `finally` too
    while handled:
        if isinstance(handled, KeyboardInterrupt):
            return
        handled = handled.__context__
    raise KeyboardInterrupt


def is_stopping() -> bool:
    """Whether a stop has come that is still being cleared away."""
    return _is_stopping


def _set(handler: Handler | signal.Handlers) -> None:
    for number in NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(sys.stderr.fileno() if sys.stderr else 2, f"{TOLD}\n".encode())
    os._exit(EXIT_STATUS)


def _leave_untold(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_STATUS)


def _raise(number: int, frame: FrameType | None) -> None:
    global _is_stopping
    if _is_stopping:
        _leave(number, frame)
    _is_stopping = True
    _silence_threads()
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
    raise KeyboardInterrupt


def _silence_threads() -> None:
    """From here on no error of a thread is printed: the stop has cut it off from the others."""
    before = sys.excepthook

    def hook(*error: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            before(*error)

    sys.excepthook = hook
    threading.excepthook = lambda error: None


@contextmanager
def in_one_line() -> Iterator[None]:
    """As `interrupting`; a stop then ends the process in one line."""
    try:
        with interrupting():
            yield
    except KeyboardInterrupt:
        leave(TOLD, sys.stderr)


def leave(message: str, stream: TextIO, status: int = EXIT_STATUS) -> NoReturn:
    """End the process with a message, whatever threads are still at work."""
    with suppress(ValueError):  # another stop; only the main thread may say so
        _set(_leave_untold)
    with suppress(OSError, ValueError):  # its reader has gone, or it is closed
        stream.write(f"{message}\n")
    leave_quietly(status)


def leave_quietly(status: int = 0) -> NoReturn:
    """End the process, whatever threads are still at work."""
    for each in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            each.flush()
    os._exit(status)
