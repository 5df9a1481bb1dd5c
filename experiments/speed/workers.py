"""Run a peer's steps in a process of its own, so that no peer finds what another left behind.

In one process they would share threads and an allocator, whose habits change with what it was asked
for. A process ends when nobody holds what it made.
"""

import multiprocessing
import sys
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from experiments.speed.bench import PACKAGES, Makers, Step


class PeerError(Exception):
    """A peer can't be loaded, or a step of it fails; the message is one line."""


def start(load: Callable[[], Makers]) -> tuple[Makers, list[str]]:
    """What `load` makes in a new process, and which of `PACKAGES` that imports.

    `load` must be picklable. A worker holds one step at a time, the last that was made.

    Raises:
        PeerError: whatever goes wrong in the worker, here and in the steps.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=serve, args=(load, there), daemon=True).start()
    there.close()

    def answer() -> Any:
        try:
            outcome, error = here.recv()
        except (EOFError, OSError):
            raise PeerError("its process ended") from None
        if error:
            raise PeerError(error)
        return outcome

    def do(name: str = "") -> Any:
        try:
            here.send(name)
        except OSError:
            raise PeerError("its process ended") from None
        return answer()

    def make(name: str) -> Step:
        do(name)
        return do

    names, packages = answer()
    return {name: partial(make, name) for name in names}, packages


def serve(load: Callable[[], Makers], pipe: Connection) -> None:
    """Load; then make the step that a message names, and take it at every empty message.

    Every answer is a pair of an outcome and an error; one of them is empty.
    """
    makers: Makers = {}
    step: Step = _nothing

    def names() -> tuple[list[str], list[str]]:
        nonlocal makers
        makers = load()
        return list(makers), [package for package in PACKAGES if package in sys.modules]

    def make(name: str) -> None:
        nonlocal step
        step = _nothing  # frees the one before it
        step = makers[name]()

    action: Callable[[], Any] = names
    while True:
        try:
            outcome, error = action(), ""
        except Exception as fault:  # whatever a peer's package raises
            if not isinstance(fault, ImportError):
                traceback.print_exc()
            outcome, error = None, f"{type(fault).__name__}: {fault}".splitlines()[0]
        pipe.send((outcome, error))
        try:
            name = pipe.recv()
        except EOFError:
            return
        action = partial(make, name) if name else step


def _nothing() -> None:
    """The step before there is one."""
