"""Run commands as processes of their own: their time, their memory, and the machine they ran on.

Memory is the anonymous resident memory of a process and its children, from Linux' /proc. It leaves
out what is mapped from files, such as the cache of decoded photos, because Linux can drop that at
any time.
"""

import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path


def watch(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command: its wall time in seconds and its peak anonymous memory in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(anonymous_mib(pid) for pid in family(process.pid)))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with status {process.returncode}")
    return time.perf_counter() - start, peak


def seconds_of(action: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call, all threads of this process counted."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    members = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        members += [member for child in children for member in family(int(child))]
    return members


def anonymous_mib(pid: int) -> float:
    """Anonymous resident memory of one process; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(lines.get("RssAnon", "0").split()[0]) / 1024


def machine(*packages: str) -> dict[str, object]:
    """What a measurement on the CPU depends on besides code, with versions of `packages`."""
    return {
        "hardware": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": ", ".join(f"{name} {metadata.version(name)}" for name in packages),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
    }


def processor() -> str:
    """The processor's model as Linux names it, or the architecture if Linux does not name it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
