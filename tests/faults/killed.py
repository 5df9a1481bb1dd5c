"""Runs a task again and again, killed at one file operation after another: for `test_kills`.

python -m tests.faults.killed MODULE CONFIG OPTIONS_JSON DIRECTORY FIRST/STEP

A child of this process, which has imported everything and computed nothing, is killed by SIGKILL
right before its n-th fsync, or rename, mkdir or unlink in the run directory; another child then
runs the same command to its end. n goes from FIRST in steps of STEP, until a run ends before it.
Prints one JSON line each time: where it was killed, and what is left at the end.
"""

import hashlib
import importlib
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

OPERATIONS = ("fsync", "rename", "replace", "mkdir", "unlink")
REPORT = 100
"""The descriptor into which a child writes where it is killed."""

LITTER = re.compile(r"\..*|.*\.tmp|unfinished_.*|damaged_.*|.*orbax-checkpoint-tmp.*")
TIMED = re.compile(r"curves_.*")
"""Outputs that hold seconds, which differ from run to run."""


def digest(path: Path) -> str:
    """The sha256 of an output; of a learning curve's probes without their seconds."""
    if path.name == "logits_probe.npz":
        with np.load(path) as arrays:
            return hashlib.sha256(arrays["logits"].tobytes()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kill_at(number: int, workdir: Path) -> None:
    """From here on, kill this process right before its operation of this number."""
    count = 0

    def counted(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*args: Any, **options: Any) -> Any:
            nonlocal count
            path = Path(str(args[0]))
            # The temporary file that is unlinked last has been renamed before.
            is_gone = name == "unlink" and path.suffix == ".tmp"
            if name == "fsync" or (path.is_relative_to(workdir) and not is_gone):
                count += 1
                if count == number:
                    os.write(REPORT, f"{name} {args[0]}".encode())
                    os.kill(os.getpid(), signal.SIGKILL)
            return operation(*args, **options)

        return replacement

    for name in OPERATIONS:
        setattr(os, name, counted(name, getattr(os, name)))


def in_a_child(call: Callable[[], None]) -> tuple[int, str]:
    """The exit status of a fork that makes the call, and what it wrote into REPORT."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, REPORT)
        try:
            call()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        return os.waitstatus_to_exitcode(status), file.read()


def what_is_left(workdir: Path) -> dict[str, Any]:
    """The hash of every output, the metrics, and what no finished run should leave."""
    outputs = [p for p in workdir.rglob("*") if p.suffix in (".npz", ".safetensors")]
    metrics = workdir / "metrics.jsonl"
    lines = (
        [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    )
    for line in lines:
        line.pop("images_per_second", None)
    return {
        "outputs": {
            str(p.relative_to(workdir)): digest(p)
            for p in sorted(outputs)
            if not TIMED.fullmatch(p.name)
        },
        "metrics": lines,
        "litter": sorted(
            str(p.relative_to(workdir)) for p in workdir.rglob("*") if LITTER.fullmatch(p.name)
        ),
    }


def main(module: str, config_name: str, options: str, directory: str, numbers: str) -> None:
    """Kill at this process's share of the operations."""
    task = importlib.import_module(module)
    name, _, variant = config_name.partition(":")
    config = importlib.import_module(name).get_config(variant)
    config.update_from_flattened_dict(json.loads(options))
    config.lock()
    number, step = map(int, numbers.split("/"))
    is_over = False
    while not is_over:
        workdir = Path(directory) / str(number)

        def killed(number: int = number, workdir: Path = workdir) -> None:
            kill_at(number, workdir)
            task.run(config, workdir)

        status, place = in_a_child(killed)
        is_over = not place
        again = 0
        if not is_over:
            again, _ = in_a_child(lambda workdir=workdir: task.run(config, workdir))
        line = {"at": place, "killed": status, "again": again} | what_is_left(workdir)
        print("RESULT", json.dumps(line), flush=True)
        number += step


if __name__ == "__main__":
    main(*sys.argv[1:])
