"""What splitting a batch over processes costs on one machine, on the CPU.

    python -m experiments.speed.many_processes

Extraction of features, and training of everything with BatchNorm frozen, of a ResNet with random
weights: by one process on all cores, by two on half of them each, and by four, which share the
cores. The batch is the same for all, and so is the work. What takes longer than with one process is
what splitting costs: smaller products on each device, and copies through Gloo. Nothing here tells
how fast a network is: all bytes go through this machine's memory.

All take turns, and a ratio is of the same turn, so that what else the machine does falls on all.
Where it does much, the clock flatters many processes, since a system shares its cores out by
process and thread; the seconds of the processors tell what was computed. `all_reduced_bytes` are
those of a compiled training step; in a ring each process sends up to twice as many. Writes
experiments/speed/many_processes.csv.
"""

import argparse
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import tables
from experiments.speed.processes import machine

COUNTS = (1, 2, 4)
STEPS = ("extraction", "training")
Turn = dict[str, Any]
"""Step -> clock -> seconds a step; and `all_reduced`, in bytes."""

TIMEOUT_S = 600


def main() -> None:
    """Measure each number of processes in turn, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--steps", type=int, default=3, help="of each kind and turn")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    turns = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.turns):
            turns.append({count: run(count, options, Path(scratch)) for count in COUNTS})
            tables.show({"turn": number + 1, "seconds a step": turns[-1]})
    rows = [row(step, count, turns, options) for step in STEPS for count in COUNTS]
    for each in rows:
        tables.show(each)
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


def run(count: int, options: argparse.Namespace, scratch: Path) -> Turn:
    """What the first of so many processes writes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = [f"--coordinator=127.0.0.1:{free.getsockname()[1]}", f"--num_processes={count}"]
    target = scratch / "seconds.json"
    sizes = (options.depth, options.batch_size, options.side, options.steps)
    numbers = [str(size) for size in sizes]
    command = [sys.executable, "-m", "experiments.speed.parts.shared_steps", *numbers, str(target)]
    started = [
        subprocess.Popen(
            [*command, *place, f"--process_id={index}"],
            env=os.environ
            | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(scratch / "programs")},
            stdout=subprocess.DEVNULL,
            preexec_fn=functools.partial(os.sched_setaffinity, 0, cores(index, count)),
        )
        for index in range(count)
    ]
    try:
        statuses = [process.wait(TIMEOUT_S) for process in started]
    finally:
        for process in started:
            process.kill()
    if any(statuses):
        raise SystemExit(f"{count} processes ended with statuses {statuses}")
    return json.loads(target.read_text())


def cores(index: int, count: int) -> set[int]:
    """The cores of one of so many processes: its share, or one that others have, too."""
    free = sorted(os.sched_getaffinity(0))
    first = index * len(free) // count
    return set(free[first : max(first + 1, (index + 1) * len(free) // count)])


def row(
    step: str,
    count: int,
    turns: Sequence[dict[int, Turn]],
    options: argparse.Namespace,
) -> tables.Row:
    """One row: medians and ranges over the turns."""
    rates = [options.batch_size / turn[count][step]["wall"] for turn in turns]
    processors = [turn[count][step]["processors"] / options.batch_size for turn in turns]
    return {
        "step": step,
        "processes": count,
        "cores_each": len(cores(0, count)),
        "depth": options.depth,
        "side": options.side,
        "photos_each": options.batch_size // count,
        "photos_per_second": round(float(np.median(rates)), 2),
        "range": f"{min(rates):.2f} to {max(rates):.2f}",
        "times_one_process": ratio(turns, step, count, "wall"),
        "processor_seconds_a_photo": round(float(np.median(processors)), 3),
        "processors_over_one_process": ratio(turns, step, count, "processors"),
        "all_reduced_bytes": turns[0][count]["all_reduced"] if step == "training" else 0,
        "turns": options.turns,
        "load": round(os.getloadavg()[2], 1),
        **machine("jax", "jaxlib", "numpy"),
    }


def ratio(turns: Sequence[dict[int, Turn]], step: str, count: int, clock: str) -> str:
    """How often as fast as one process, or how many times the processors, with the range."""
    ratios = [turn[count][step][clock] / turn[1][step][clock] for turn in turns]
    if clock == "wall":
        ratios = [1 / each for each in ratios]
    return f"{np.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


if __name__ == "__main__":
    main()
