"""Where many processes meet: as the command line, JAX's variables or a cluster say."""

import argparse
import functools
import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from vtl.errors import UserError
from vtl.untrusted import printable

HEARTBEAT_S = 20
INITIALIZATION_TIMEOUT_S = 300


class Flag(NamedTuple):
    """An option of the commands that many processes may share: its type, default and meaning."""

    name: str
    type: type
    default: Any
    meaning: str
    least: int | None = None


FLAGS = (
    Flag("coordinator", str, None, "Of many processes: HOST:PORT of the first one."),
    Flag("num_processes", int, None, "Of many processes: how many."),
    Flag("process_id", int, None, "Of many processes: which this is, from 0."),
    Flag(
        "heartbeat_seconds",
        int,
        HEARTBEAT_S,
        "Of many processes: how long one may be silent before the others take it for dead.",
        2,
    ),
    Flag(
        "initialization_timeout",
        int,
        INITIALIZATION_TIMEOUT_S,
        "Of many processes: how many seconds they wait for each other at the start.",
        1,
    ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `FLAGS` to a parser."""
    group = parser.add_argument_group("many processes", "see docs/clusters.md")
    for name, kind, default, meaning, least in FLAGS:
        help_text = meaning.removeprefix("Of many processes: ")
        group.add_argument(
            f"--{name}",
            type=kind if least is None else functools.partial(_at_least, least),
            default=default,
            metavar="N" if kind is int else "HOST:PORT",
            help=help_text if default is None else f"{help_text} The default is {default}.",
        )


def _at_least(least: int, text: str) -> int:
    if int(text) < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
    return int(text)


class Place(NamedTuple):
    """Where the job's first process listens, HOST:PORT, how many there are, and which this is."""

    coordinator: str | None
    num_processes: int | None
    process_id: int | None


def find_place(asked: Place, environment: Mapping[str, str] = os.environ) -> Place | None:
    """Where to join others: as asked, or as JAX's variables or a cluster say; None if nowhere.

    A cluster is a Slurm step, an Open MPI job or a Kubernetes job of several processes. What is
    None in the answer is left to JAX to find.

    Raises:
        UserError: what is asked for is incomplete, or a number is none.
    """
    if any(value is not None for value in asked):
        given: list[Any] = list(asked)
    else:
        names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        given = [environment.get(name) or None for name in names]
    for ranks in (("SLURM_NTASKS", "SLURM_PROCID"), _OPEN_MPI):
        if given[0] and all(name in environment for name in ranks):
            found = [environment[name] for name in ranks]
            given[1:] = [a if a is not None else b for a, b in zip(given[1:], found, strict=True)]
    if any(value is not None for value in given):
        if None in given:
            raise UserError(
                "many processes need --coordinator=HOST:PORT, --num_processes and --process_id "
                "in each of them\n(or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID)"
            )
        return _checked(*given)
    return Place(None, None, None) if _is_cluster(environment) else None


_OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")


def _checked(coordinator: str, num_processes: Any, process_id: Any) -> Place:
    host, _, port = coordinator.rpartition(":")
    try:
        place = Place(coordinator, int(num_processes), int(process_id))
        is_right = host and 0 < int(port) < 1 << 16 and 0 <= int(process_id) < int(num_processes)
    except ValueError:
        is_right = False
    if not is_right:
        raise UserError(
            f"process {printable(str(process_id), 20)} of {printable(str(num_processes), 20)} at "
            f"{printable(coordinator, 80)} is no place\nGive the first process's HOST:PORT, how "
            "many processes there are, and which this is, from 0."
        )
    return place


def _is_cluster(environment: Mapping[str, str]) -> bool:
    """Whether JAX would find a job of several processes here."""

    def several(name: str) -> bool:
        return environment.get(name, "1").isdigit() and int(environment.get(name, "1")) > 1

    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if all(name in environment for name in slurm) and several("SLURM_NTASKS"):
        return True
    if several("OMPI_COMM_WORLD_SIZE"):
        if "OMPI_MCA_orte_hnp_uri" in environment:
            return True
        raise UserError(  # as Open MPI 5 does
            "Open MPI says how many processes there are, but not where the first one is\n"
            "Give --coordinator=HOST:PORT of the first process."
        )
    is_in_job = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys()
    return is_in_job and importlib.util.find_spec("kubernetes") is not None


def local_gpus(environment: Mapping[str, str]) -> list[int] | None:
    """This process's share of the GPUs that it sees, where Slurm has several tasks a node.

    JAX takes it for granted that there are as many tasks as GPUs, and each task sees all of them.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    num_tasks = _tasks_here(environment)
    if "JAX_LOCAL_DEVICE_IDS" in environment or not visible or not num_tasks:
        return None
    num_gpus = len(visible.split(","))
    each = num_gpus // num_tasks
    if not each:  # each task sees its own
        return list(range(num_gpus))
    first = int(environment.get("SLURM_LOCALID", 0)) * each
    return list(range(first, first + each))


def _tasks_here(environment: Mapping[str, str]) -> int:
    """How many tasks Slurm has on this node, of `2(x3),1` for four nodes; 0 if it doesn't say."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", ""))
    counts = [
        int(number)
        for number, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
        for _ in range(int(times or 1))
    ]
    return dict(enumerate(counts)).get(int(environment.get("SLURM_NODEID", 0)), 0)
