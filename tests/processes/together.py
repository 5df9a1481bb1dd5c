"""Starts the processes of a job on this machine, stops or kills some, and sees how all end."""

import dataclasses
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.devices import environment
from tests.faults.killed import LITTER

ROOT = Path(__file__).parents[2]
LIMIT_S = 150
"""No job takes nearly as long: one that does hangs."""

HEARTBEAT_S = 6
_POLL_S = 0.01


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended, and what it printed; `seconds` since `Job.wait` was called."""

    status: int
    stdout: str
    stderr: str
    seconds: float


class Job:
    """Processes that were started with the same command."""

    def __init__(self, directory: Path, port: int, processes: Sequence[subprocess.Popen[bytes]]):
        self._directory = directory
        self._port = port
        self._processes = processes

    def pid(self, index: int) -> int:
        """The id that the system knows a process by."""
        return self._processes[index].pid

    def listens(self) -> bool:
        """Whether the first process can be reached."""
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self._port)) == 0

    def printed(self, index: int) -> str:
        """All that a process has printed so far on stdout and stderr."""
        paths = (self._directory / f"{name}.{index}" for name in ("stdout", "stderr"))
        return "".join(path.read_text(errors="replace") for path in paths)

    def until(self, sign: Callable[[], object]) -> None:
        """Wait for a sign of what they are at; they must live to see it."""
        while not sign():
            gone = [i for i, process in enumerate(self._processes) if process.poll() is not None]
            assert not gone, (gone, [self.printed(i) for i in range(len(self._processes))])
            time.sleep(_POLL_S)

    def send(self, number: signal.Signals, *indices: int) -> None:
        """Send a signal to some of the processes."""
        for index in indices:
            self._processes[index].send_signal(number)

    def wait(self) -> list[Ended]:
        """How all of them end; a test fails where one hangs."""
        began = time.monotonic()
        seconds: dict[int, float] = {}
        while len(seconds) < len(self._processes):
            for index, process in enumerate(self._processes):
                if index not in seconds and process.poll() is not None:
                    seconds[index] = time.monotonic() - began
            time.sleep(_POLL_S)
        traces = [path.read_text() for path in self._directory.glob("traces.*")]
        assert not any(traces), "\n".join(["a process hangs", *traces])

        def read(name: str, index: int) -> str:
            return (self._directory / f"{name}.{index}").read_text(errors="replace")

        return [
            Ended(process.returncode, read("stdout", i), read("stderr", i), seconds[i])
            for i, process in enumerate(self._processes)
        ]


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def started(
    directory: Path,
    arguments: Sequence[str] | Sequence[Sequence[str]],
    *,
    num_processes: int,
    num_devices: int = 1,
    indices: Sequence[int] | None = None,
    slow: str = "",
    cache: Path | None = None,
) -> Iterator[Job]:
    """The processes of a job with so many devices each; none of them is left afterwards.

    `arguments` are the same for all, or one list for each; of the `indices` alone where given.
    `slow` is as `tests.processes.one` has it. What they print goes to the new `directory`.
    """
    directory.mkdir(parents=True)
    port = free_port()
    processes = []
    try:
        for place, index in enumerate(indices or range(num_processes)):
            mine = arguments if isinstance(arguments[0], str) else arguments[place]
            join = [
                f"--coordinator=127.0.0.1:{port}",
                f"--num_processes={num_processes}",
                f"--process_id={index}",
                f"--heartbeat_seconds={HEARTBEAT_S}",
            ]
            caches = {} if cache is None else {"VTL_CACHE": str(cache)}
            with (
                (directory / f"stdout.{place}").open("wb") as stdout,
                (directory / f"stderr.{place}").open("wb") as stderr,
            ):
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.processes.one", *mine, *join],
                    cwd=ROOT,
                    env=environment(num_devices)
                    | caches
                    | {
                        "VTL_TEST_SLOW": slow,
                        "VTL_TEST_LIMIT_S": str(LIMIT_S),
                        "VTL_TEST_TRACES": str(directory / f"traces.{place}"),
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                )
            processes.append(process)
        yield Job(directory, port, processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def run(directory: Path, arguments: Sequence[str], **options: Any) -> list[Ended]:
    """Run a job undisturbed to its end."""
    with started(directory, arguments, **options) as job:
        ended = job.wait()
    for one in ended:
        assert one.status == 0, (one.stdout, one.stderr)
    return ended


def noise(text: str) -> list[str]:
    """Lines of stderr that are neither vtl's nor a progress bar's."""
    lines = re.split(r"[\r\n]+", text)
    return [line for line in lines if line.strip() and not re.match(r"vtl: |[a-z ]+: +\d+%", line)]


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl but for how fast it was."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    for line in lines:
        line.pop("images_per_second", None)
    return lines


def last_step(workdir: Path) -> int:
    """The step that metrics.jsonl has come to."""
    return max((line["step"] for line in metrics(workdir)), default=-1)


def litter(directory: Path) -> list[str]:
    """What is only there while processes are at work."""
    paths = [path for path in directory.rglob("*") if LITTER.fullmatch(path.name)]
    return sorted(path.relative_to(directory).as_posix() for path in paths)
