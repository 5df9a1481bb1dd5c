"""Signals and kill -9 in every phase of every command: the same command ends with the same bytes.

More moments, and a table of the outcomes by phase:
VTL_STOPS=4 VTL_KILLS=43 python -m pytest -n 0 -s -m full tests/faults/test_stops_everywhere.py
"""

import dataclasses
import hashlib
import os
import random
import re
import shutil
import signal
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from tests.faults.commands import Command, make, serve_slowly, what_is_left
from tests.faults.processes import Running, Warm, make_directory, start_cold
from tests.tiny import write_weights

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, SIGHUP and SIGKILL"),
]

NUM_PROCESSES = 2
STOPS_PER_PHASE = int(os.environ.get("VTL_STOPS", 1))
NUM_KILLS = int(os.environ.get("VTL_KILLS", 6))
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COLD_EVERY = 4
"""Every so many is a process of its own; the others are forked from one that has imported vtl."""

AGAIN_S = 0.05
"""Every third time the signal comes a second time, so long after the first."""

# A progress bar may stand before it.
TOLD = re.compile(r"(vtl: stopped|^stopped).*$", re.MULTILINE)
DOWNLOAD_S = 1.5
NOTHING = {"hashes": {}, "metrics": [], "names": ["cache", "cache/xla"]}


@dataclasses.dataclass
class Bench:
    """The commands, what each one leaves when it is undisturbed, and its seconds in each phase."""

    directory: Path
    xla: Path
    commands: dict[str, Command]
    warm: SimpleQueue[Warm]
    left: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    lasts: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)

    def new_directory(self, name: str) -> Path:
        return make_directory(self.directory / name, self.xla)

    @contextmanager
    def started_warm(self, command: Command, directory: Path) -> Iterator[Running]:
        """A command, which another may follow once it has ended."""
        warm = self.warm.get()
        process = warm.start(command, directory)
        try:
            yield process
        finally:
            process.wait()
            self.warm.put(warm)

    def run_warm(self, command: Command, directory: Path) -> int:
        with self.started_warm(command, directory) as process:
            return process.wait()

    def measure(self, name: str) -> None:
        """Run a command undisturbed."""
        directory = self.new_directory(f"undisturbed {name}")
        timed = start_cold(self.commands[name], directory)
        lasts: dict[str, float] = defaultdict(float)
        before = time.monotonic()
        while timed.poll() is None:
            time.sleep(0.01)
            now = time.monotonic()
            lasts[timed.phase()] += now - before
            before = now
        assert timed.wait() == 0, timed.log()
        self.lasts[name] = lasts
        self.left[name] = what_is_left(directory)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("stops")
    weights = write_weights(directory / "served.safetensors").read_bytes()
    server, url = serve_slowly(weights, DOWNLOAD_S)
    (directory / "data").mkdir()
    commands = make(directory / "data", url, hashlib.sha256(weights).hexdigest())
    xla = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    warm: SimpleQueue[Warm] = SimpleQueue()
    processes = [Warm() for _ in range(NUM_PROCESSES)]
    for process in processes:
        warm.put(process)
    made = Bench(directory, xla, commands, warm)
    made.measure("finetune")
    shutil.copytree(directory / "undisturbed finetune" / "run", directory / "data" / "finished")
    in_parallel([lambda name=name: made.measure(name) for name in commands if name != "finetune"])
    yield made
    for process in processes:
        process.end()
    server.shutdown()
    server.server_close()


def in_parallel(calls: list[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(NUM_PROCESSES) as pool:
        return list(pool.map(lambda call: call(), calls))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one disturbed run."""

    name: str
    phase: str
    how: str
    status: int
    seconds: float
    fault: str

    @property
    def outcome(self) -> str:
        return "FAULT" if self.fault else f"status {self.status}"


@contextmanager
def started_cold(command: Command, directory: Path) -> Iterator[Running]:
    yield start_cold(command, directory)


def stop(bench: Bench, name: str, phase: str, delay_s: float, number: int) -> Outcome:
    """Stop a command so long after a phase began, and run it again if it had begun to write."""
    command = bench.commands[name]
    directory = bench.new_directory(f"stop {number} {name} {phase}")
    sent = SIGNALS[number % len(SIGNALS)]
    is_cold = phase == "starting" or number % COLD_EVERY == 0
    start = started_cold if is_cold else bench.started_warm
    with start(command, directory) as process:
        process.reach(phase, delay_s)
        phase = process.phase()
        since = time.monotonic()
        if process.poll() is None:
            process.send(sent)
        if number % 3 == 0:
            time.sleep(AGAIN_S)
            if process.poll() is None:
                process.send(sent)
        status = process.wait()
        seconds = time.monotonic() - since
    log = process.log()
    # A signal may come before Python runs, and then ends the process by itself.
    is_early = phase == "starting" and status == -sent and not log
    fault = "" if is_early else bad_end(status, log, is_over=phase == "over")
    how = sent.name + (" twice" if number % 3 == 0 else "")
    if not fault and what_is_left(directory) != NOTHING:
        fault = run_again(bench, name, directory)
    return Outcome(name, phase, how, status, seconds, fault and f"{fault}\n{log}")


def bad_end(status: int, log: str, *, is_over: bool) -> str:
    """What is wrong with how a stopped process ended."""
    if "Traceback" in log or "Exception ignored" in log:
        return "a traceback"
    if status == 0:
        return "" if is_over else "the stop was swallowed"
    if status != 130:
        return f"status {status}"
    told = TOLD.findall(log)
    return "" if len(told) == 1 else f"told {len(told)} times that it stopped"


def run_again(bench: Bench, name: str, directory: Path) -> str:
    """What is wrong with how the same command ends afterwards."""
    status = bench.run_warm(bench.commands[name], directory)
    if status != 0:
        return f"status {status} of the next run: {(directory / 'log').read_text()}"
    left = what_is_left(directory)
    shutil.rmtree(directory)
    for what, expected in bench.left[name].items():
        if left[what] != expected:
            return f"other {what}: {left[what]} and not {expected}"
    return ""


def show(title: str, outcomes: list[Outcome]) -> None:
    """A line for each command and phase: outcomes, and the seconds until the process had ended."""
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.name, outcome.phase].append(outcome)
    print(f"\n{title}: {len(outcomes)}")
    for (name, phase), group in sorted(groups.items()):
        kinds = sorted({o.outcome for o in group})
        counts = ", ".join(f"{kind}: {sum(o.outcome == kind for o in group)}" for kind in kinds)
        seconds = [o.seconds for o in group]
        spread = f"{min(seconds):.2f} {statistics.median(seconds):.2f} {max(seconds):.2f} s"
        print(f"  {name:<16} {phase:<20} {counts:<30} {spread}")


def check(outcomes: list[Outcome]) -> None:
    faults = [o for o in outcomes if o.fault]
    assert not faults, "\n\n".join(f"{o.name}, {o.phase}, {o.how}: {o.fault}" for o in faults)


def test_a_stop_is_one_line_and_the_next_run_ends_as_it_would_have(bench):
    rng = random.Random(0)
    calls = []
    for name, command in bench.commands.items():
        for phase in ["starting", *command.phases] * STOPS_PER_PHASE:
            if phase == "over" or not bench.lasts[name].get(phase):
                continue  # too short to be seen
            delay_s = rng.uniform(0, bench.lasts[name][phase])
            number = len(calls)
            calls.append(
                lambda name=name, phase=phase, delay_s=delay_s, number=number: stop(
                    bench, name, phase, delay_s, number
                )
            )
    outcomes = in_parallel(calls)
    show("stops", outcomes)
    check(outcomes)


KILLED = ("finetune", "features", "probe", "relu_study", "weights fetch")


def kill(bench: Bench, name: str, number: int, at: float) -> Outcome:
    """Kill a command at a fraction of its time, or as soon as its directory has a file."""
    command = bench.commands[name]
    directory = bench.new_directory(f"kill {number} {name}")
    lasts = bench.lasts[name]
    with bench.started_warm(command, directory) as process:
        if at:
            total = sum(seconds for phase, seconds in lasts.items() if phase != "starting")
            process.reach("starting", at * total)
        else:
            while process.poll() is None and not any(directory.glob("run/*")):
                time.sleep(0.0005)
        phase = process.phase()
        if process.poll() is None:
            process.send(signal.SIGKILL)
        status = process.wait()
    fault = "" if status in (-signal.SIGKILL, 0) else f"status {status}"
    fault = fault or run_again(bench, name, directory)
    return Outcome(name, phase, "SIGKILL", status, 0.0, fault)


def test_a_killed_run_ends_as_it_would_have(bench):
    rng = random.Random(0)
    moments = [(name, 0.0) for name in KILLED if name != "weights fetch"]  # config.json is written
    while len(moments) < NUM_KILLS:
        moments.append((KILLED[len(moments) % len(KILLED)], rng.uniform(0.01, 0.99)))
    outcomes = in_parallel(
        [
            lambda name=name, number=number, at=at: kill(bench, name, number, at)
            for number, (name, at) in enumerate(moments)
        ]
    )
    show("kills", outcomes)
    check(outcomes)


def test_the_second_in_a_workdir_is_told_who_holds_it(bench):
    command = bench.commands["finetune"]
    directory = bench.new_directory("two in a workdir")
    first = start_cold(command, directory)
    first.reach("compiling", 0)
    assert first.poll() is None
    (directory / "log").rename(directory / "log of the first")
    second = bench.run_warm(command, directory)
    error = (directory / "log").read_text()
    assert second == 1, error
    assert re.fullmatch(r"vtl: run is in use by process \d+ on .* since .*: wait .*\n", error)
    assert str(first.pid) in error
    assert first.wait() == 0
    assert what_is_left(directory) == bench.left["finetune"]


def test_two_at_once_fill_one_cold_cache(bench):
    command = bench.commands["finetune"]
    directory = bench.new_directory("one cache")
    places = [directory, directory / "other"]
    places[1].mkdir()
    shared = dataclasses.replace(command, environment={"VTL_CACHE": str(directory / "cache")})
    threads = threading.Barrier(2)

    def run(place: Path) -> int:
        threads.wait()
        return bench.run_warm(shared, place)

    assert in_parallel([lambda place=place: run(place) for place in places]) == [0, 0]
    expected = bench.left["finetune"]["hashes"]
    runs = {name: sha256 for name, sha256 in expected.items() if name.startswith("run/")}
    hashes = what_is_left(directory)["hashes"]
    assert hashes == expected | {f"other/{name}": sha256 for name, sha256 in runs.items()}
