"""Starts processes of `vtl`, cold or as forks of a warm one, and watches what they are at."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.devices import environment
from tests.faults.commands import ROOT, Command

HANG_S = 120
"""No run takes nearly as long: what does hangs."""

PYTHON = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
_POLL_S = 0.01


def make_directory(directory: Path, xla: Path) -> Path:
    """A new directory for a command, with a cache in it that has only the compiled programs."""
    (directory / "cache").mkdir(parents=True)
    (directory / "cache" / "xla").symlink_to(xla)
    return directory


def environment_in(command: Command, directory: Path) -> dict[str, str]:
    """The environment of a command whose files are all in the directory."""
    caches = {"VTL_CACHE": str(directory / "cache"), "PYTHONPATH": str(ROOT)}
    return environment(1) | caches | command.environment | PYTHON


class Running:
    """A process that runs a command in a directory, and prints into the file `log` there."""

    def __init__(self, command: Command, directory: Path, pid: int, poll: Callable[[], int | None]):
        self._command = command
        self._directory = directory
        self.pid = pid
        self.poll = poll
        self.started = time.monotonic()

    def log(self) -> str:
        """All that it has printed so far, and what was printed before."""
        return (self._directory / "log").read_text(errors="replace")

    def phase(self) -> str:
        """What it is at."""
        return self._command.phase(self._directory, self.log())

    def wait(self) -> int:
        """Its exit status; a process that hangs is ended, and prints where it was."""
        while (status := self.poll()) is None:
            if time.monotonic() - self.started > HANG_S:
                self.send(signal.SIGABRT)
                self.started = time.monotonic()
            time.sleep(_POLL_S)
        return status

    def reach(self, phase: str, delay_s: float) -> None:
        """Wait for a sign of the phase or a later one, and then so long; or until it has ended."""
        phases = ["starting", *self._command.phases]
        later = phases[phases.index(phase) :]
        while self.poll() is None and self.phase() not in later:
            time.sleep(_POLL_S)
        end = time.monotonic() + delay_s
        while self.poll() is None and time.monotonic() < end:
            time.sleep(_POLL_S)

    def send(self, number: signal.Signals) -> None:
        """Send the signal, unless the process has ended since it was last asked."""
        assert self.pid > 1  # others are groups of processes, its own among them
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def start_cold(command: Command, directory: Path) -> Running:
    """`python -m vtl.main ARGUMENTS`, or the console script for verbs and slow disks."""
    is_plain = command.arguments[0].startswith("-") and not command.environment
    module = "vtl.main" if is_plain else "tests.faults.slowly"
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *command.arguments],
            cwd=directory,
            env=environment_in(command, directory),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return Running(command, directory, process.pid, process.poll)


class Warm:
    """A process of `tests.faults.warm`, which runs one command at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.warm"],
            cwd=ROOT,
            env=environment(1) | PYTHON,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._read = b""

    def start(self, command: Command, directory: Path) -> Running:
        """Run the command in a fork."""
        job = {
            "arguments": command.arguments,
            "directory": str(directory),
            "log": str(directory / "log"),
            "environment": environment_in(command, directory),
        }
        (directory / "log").touch()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()
        while (pid := self._line()) is None:
            time.sleep(_POLL_S)
        status: list[int] = []

        def poll() -> int | None:
            if not status and (line := self._line()) is not None:
                status.append(line)
            return status[0] if status else None

        return Running(command, directory, pid, poll)

    def _line(self) -> int | None:
        assert self._process.stdout is not None
        self._read += self._process.stdout.read() or b""
        line, newline, rest = self._read.partition(b"\n")
        if not newline:
            assert self._process.poll() is None, "the warm process has ended"
            return None
        self._read = rest
        return int(line)

    def end(self) -> None:
        """End the process."""
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
