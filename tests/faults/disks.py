"""Commands on disks that fail: small ones, read-only ones, and directories that vanish.

    python -m tests.faults.disks

is a server that has imported what is slow to import. For each line of JSON that it reads it forks
a child, which runs `python -m MODULE ARGUMENTS`, and prints the child's exit status.
"""

import contextlib
import dataclasses
import faulthandler
import importlib
import json
import os
import queue
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HANG_S = 60

IMPORTS = (
    "relu_study.task",
    "tasks.finetune",
    "tasks.features",
    "tasks.probe",
    "tasks.learning_curve",
    "report.page",
    "review.page",
    "weights.verify",
)
"""What is imported once. `vtl.main` isn't: it defines its flags when it is."""

OPERATIONS = ("open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.scandir")
"""Python's names for what a run does in its directory."""

_BAR = re.compile(r"[^:\r\n]*: +\d+%\|.*")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended, and what it wrote."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """Stderr without progress bars."""
        lines = re.split(r"[\r\n]+", self.stderr)
        return [line for line in lines if line.strip() and not _BAR.fullmatch(line)]

    def flaw(self) -> str:
        """What is wrong with how it failed or did without; empty where nothing is."""
        if self.status == -signal.SIGALRM:
            return f"hangs: {self.stderr[-300:]}"
        if self.status not in (0, 1):
            return f"status {self.status}: {self.stderr[-300:]}"
        if "Traceback" in self.stderr:
            return f"traceback: {self.stderr[-3000:]}"
        messages = [list(message) for message in _messages(self.lines)]
        if self.status == 1 and not messages:
            return "fails without a word"
        for message in messages:
            if not message[0].startswith("vtl: "):
                return f"no message of vtl's: {message[0]}"
            if len(message) > 3 or max(map(len, message)) > 400:
                return f"long: {message}"
            if not all(line.isprintable() for line in message):
                return f"unprintable: {message}"
        return ""


def _messages(lines: Sequence[str]) -> Iterator[list[str]]:
    """Lines of stderr, each message of vtl's with what belongs to it."""
    message: list[str] = []
    for line in lines:
        if line.startswith("vtl: ") and message:
            yield message
            message = []
        message.append(line)
    if message:
        yield message


class Server:
    """A process that runs commands, one at a time."""

    def __init__(self, directory: Path, environment: dict[str, str]):
        directory.mkdir()
        self._directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.disks"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, command: Sequence[object], vanishing: tuple[Path, str, int] | None = None, **env: Any
    ) -> Ended:
        """Run MODULE ARGUMENTS.

        `vanishing` is a directory, how it goes (renamed or removed), and right before which of the
        operations in it.
        """
        assert self._process.stdin
        assert self._process.stdout
        task = {
            "command": list(map(str, command)),
            "environment": {name: str(value) for name, value in env.items()},
            "directory": str(self._directory),
            "vanishing": vanishing and [str(vanishing[0]), *vanishing[1:]],
        }
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        texts = [(self._directory / name).read_text() for name in ("stdout", "stderr")]
        return Ended(status, *texts)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def each(servers: Sequence[Server], calls: Sequence[Callable[[Server], None]]) -> None:
    """Make all the calls, as many at a time as there are servers."""
    left: queue.SimpleQueue[Callable[[Server], None]] = queue.SimpleQueue()
    for call in calls:
        left.put(call)
    failures: list[BaseException] = []

    def work(server: Server) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                call = left.get_nowait()
                try:
                    call(server)
                except BaseException as error:
                    failures.append(error)

    threads = [threading.Thread(target=work, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _vanish_at(directory: Path, how: str, number: int) -> None:
    """Before its operation of this number in it, the directory is renamed away or removed."""
    count, lock = 0, threading.RLock()

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if count >= number or event not in OPERATIONS:
            return
        path = arguments[0]
        if not isinstance(path, str | os.PathLike) or not Path(path).is_relative_to(directory):
            return
        with lock:
            count += 1
            if count != number:
                return
            gone = directory.with_name("gone")
            with contextlib.suppress(FileNotFoundError):
                directory.rename(gone)
                if how == "removed":
                    shutil.rmtree(gone)

    sys.addaudithook(hear)


def _child(task: dict[str, Any]) -> None:
    faulthandler.dump_traceback_later(HANG_S - 1)  # says where it hangs
    signal.alarm(HANG_S)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number, name in ((1, "stdout"), (2, "stderr")):
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY
        os.dup2(os.open(Path(task["directory"]) / name, flags), number)
    os.environ.update(task["environment"])
    module, *arguments = task["command"]
    sys.argv = [module, *arguments]
    if task["vanishing"]:
        directory, how, number = task["vanishing"]
        _vanish_at(Path(directory), how, number)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _serve() -> None:
    for name in IMPORTS:
        importlib.import_module(f"vtl.{name}")
    task = _next_task()
    # Outside of all that could catch what it raises: it ends as a command ends.
    if task:
        _child(task)


def _next_task() -> dict[str, Any] | None:
    """Returns in a child, with what it is to do, and at the end in the server, with nothing."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


if __name__ == "__main__":
    _serve()
