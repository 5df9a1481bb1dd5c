"""One process that gives one reader damaged files, and says what comes of each.

It says the case before it is begun and its outcome after it, so that whoever listens knows which
one hangs or ends the process.
"""

import os
import resource
import shutil
import sys
import sysconfig
import tempfile
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.mutate import mutated
from tests.faults.readers import READERS, silenced
from vtl.errors import UserError

MAX_LINES, MAX_CHARACTERS = 3, 700
MAX_GROWTH_BYTES = 2 << 30

WATCHED = ("open", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")

_TRUSTED = [
    Path(path).resolve()
    for path in {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix}
    if path
] + [Path(__file__).resolve().parents[2], Path("/dev"), Path("/proc"), Path("/sys")]


class Watch:
    """What Python says that the reading does: files it opens elsewhere, programs it starts."""

    def __init__(self) -> None:
        self.allowed: list[Path] = []
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.allowed or event not in WATCHED:
            return
        if event != "open":
            self.seen.append(event)
            return
        path, mode, flags = arguments
        if not isinstance(path, str | bytes | Path):
            return
        where = Path(path.decode() if isinstance(path, bytes) else path).resolve()
        is_write = bool(flags & 3) if isinstance(flags, int) else "r" not in str(mode)
        trusted = self.allowed if is_write else [*self.allowed, *_TRUSTED]
        if not any(where.is_relative_to(directory) for directory in trusted):
            self.seen.append(f"{'wrote' if is_write else 'read'} outside: {where}")


def outcome_of(name: str, number: int, sound: Path, watch: Watch) -> dict[str, Any]:
    """What comes of one case: a copy of the sound files with one of them damaged."""
    reader = READERS[name]
    directory = Path(tempfile.mkdtemp(prefix="case-"))
    case = directory / "case"
    shutil.copytree(sound, case)
    damaged = case / reader.damaged
    rng = np.random.default_rng((sorted(READERS).index(name), number))
    damaged.write_bytes(mutated(damaged.read_bytes(), rng))
    before, began = _peak_bytes(), time.perf_counter()
    watch.seen.clear()
    watch.allowed = [directory.resolve()]
    try:
        with silenced(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(case)
        kind, text = "read", ""
    except UserError as error:
        text = str(error)
        lines = text.splitlines()
        is_short = len(lines) <= MAX_LINES and len(text) <= MAX_CHARACTERS
        kind = "refused" if is_short and all(line.isprintable() for line in lines) else "raw text"
    except BaseException as error:
        kind, text = "traceback", f"{type(error).__name__}: {error}"
    finally:
        watch.allowed = []
        shutil.rmtree(directory, ignore_errors=True)
    if _peak_bytes() - before > MAX_GROWTH_BYTES:
        kind = "memory"
    if watch.seen:
        kind, text = "elsewhere", watch.seen[0]
    seconds = round(time.perf_counter() - began, 3)
    return {"case": number, "outcome": kind, "text": text[:300], "seconds": seconds}


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(name: str, first: int, count: int, directory: Path, results: Connection) -> None:
    """Go through the cases, in a new process whose files are all in `directory`."""
    os.environ["VTL_CACHE"] = str(directory / "cache")
    tempfile.tempdir = str(directory)
    sound = Path(tempfile.mkdtemp(prefix="sound-"))
    READERS[name].write(sound)
    with silenced():
        READERS[name].read(sound)  # sound files are read, and what is imported late is there
    watch = Watch()
    for number in range(first, first + count):
        results.send({"begins": number})
        results.send(outcome_of(name, number, sound, watch))
