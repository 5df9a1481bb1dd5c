"""What splitting a batch over processes costs on one machine, on the CPU.

    python -m experiments.speed.many_processes

Extraction of features, and training of everything with BatchNorm frozen, of a ResNet-50 with random
weights: by one process on all cores, by two on half of them each, and by four, which share the
cores. The batch is the same for all, and so is the work. What is slower than one process is what
splitting costs: smaller products on each device, copies through Gloo, and waiting for the slowest.
Nothing here tells how fast a network is: all bytes go through this machine's memory.

All take turns, and a ratio is of the same turn, so that what else the machine does falls on all.
`all_reduced_bytes` are those of a compiled training step; in a ring each process sends up to twice
as many. Writes experiments/speed/many_processes.csv.
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

import numpy as np

from experiments import tables
from experiments.speed.processes import machine

COUNTS = (1, 2, 4)
STEPS = ("extraction", "training")
TIMEOUT_S = 600


def main() -> None:
    """Measure each number of processes in turn, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
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


def run(count: int, options: argparse.Namespace, scratch: Path) -> dict[str, float]:
    """The median seconds a step of so many processes, and the bytes that they all-reduce."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = [f"--coordinator=127.0.0.1:{free.getsockname()[1]}", f"--num_processes={count}"]
    target = scratch / "seconds.json"
    numbers = [str(number) for number in (options.batch_size, options.side, options.steps)]
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
    found = json.loads(target.read_text())
    medians = {step: float(np.median(found[step])) for step in STEPS}
    return medians | {"all_reduced": found["all_reduced"]}


def cores(index: int, count: int) -> set[int]:
    """The cores of one of so many processes: its share, or one that others have, too."""
    free = sorted(os.sched_getaffinity(0))
    first = index * len(free) // count
    return set(free[first : max(first + 1, (index + 1) * len(free) // count)])


def row(
    step: str,
    count: int,
    turns: Sequence[dict[int, dict[str, float]]],
    options: argparse.Namespace,
) -> tables.Row:
    """One row: medians and ranges over the turns."""
    rates = [options.batch_size / turn[count][step] for turn in turns]
    ratios = [turn[1][step] / turn[count][step] for turn in turns]
    return {
        "step": step,
        "processes": count,
        "cores_each": len(cores(0, count)),
        "photos_each": options.batch_size // count,
        "side": options.side,
        "photos_per_second": round(float(np.median(rates)), 2),
        "range": f"{min(rates):.2f} to {max(rates):.2f}",
        "times_one_process": round(float(np.median(ratios)), 3),
        "range_of_times": f"{min(ratios):.3f} to {max(ratios):.3f}",
        "all_reduced_bytes": turns[0][count]["all_reduced"] if step == "training" else 0,
        "turns": options.turns,
        **machine("jax", "jaxlib", "numpy"),
    }


if __name__ == "__main__":
    main()
