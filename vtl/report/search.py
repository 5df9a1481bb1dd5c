"""The run directories below a directory, which anybody may have filled."""

import os
from pathlib import Path
from typing import NamedTuple

from vtl.errors import UserError
from vtl.report import run_files
from vtl.report.runs import SHOWN_TASKS
from vtl.untrusted import printable, reason_of

MAX_DEPTH = 6
"""Levels of directories below the one that is given: course/group/student/runs/task is five."""

MAX_RUNS, MAX_ENTRIES = 1000, 1_000_000
"""Where a search ends: some seconds, however many photos lie between the runs."""

OF_A_RUN = ("config.json", "results.json")
"""What makes a directory a run, finished or not; nothing is searched for in one."""


class Found(NamedTuple):
    """Run directories, sorted, and one line about each place that could not be searched."""

    paths: list[Path]
    problems: list[str]


def runs_in(directory: Path) -> Found:
    """The directory itself if it holds a run, or else all below it whose runs the page can show.

    A directory without any is returned as it is, for `runs.read` to say what is wrong. Links are
    not followed; one that leads to a run outside of the directory is a problem.
    """
    if _holds_a_run(directory):
        return Found([directory], [])
    found = _below(directory)
    paths = sorted(path for path in found.paths if _is_shown(path))
    return Found(paths or ([] if found.problems else [directory]), found.problems)


def _below(directory: Path) -> Found:
    """Level by level, so that what is deep or large hides nothing that isn't."""
    found = Found([], [])
    level, num_entries = [directory], 0
    for _ in range(MAX_DEPTH):
        deeper: list[Path] = []
        for parent in level:
            try:
                with os.scandir(parent) as entries:
                    names = []
                    for entry in entries:
                        num_entries += 1
                        if num_entries > MAX_ENTRIES or len(found.paths) > MAX_RUNS:
                            return _cut_off(directory, found)
                        if entry.is_symlink() or entry.is_dir():
                            names.append(entry.name)
            except OSError as error:
                if parent != directory:  # `runs.read` says what is wrong with that one
                    found.problems.append(f"{printable(parent)} can't be read: {reason_of(error)}")
                continue
            for path in (parent / name for name in sorted(names) if not name.startswith(".")):
                if path.is_symlink():
                    if _holds_a_run(path) and not _leads_into(path, directory):
                        found.problems.append(
                            f"{printable(path)} is a link that leads out of "
                            f"{printable(directory)}: not followed"
                        )
                elif _holds_a_run(path):
                    found.paths.append(path)
                else:
                    deeper.append(path)
        level = deeper
    return found


def _cut_off(directory: Path, found: Found) -> Found:
    problem = (
        f"{printable(directory)} holds more than {MAX_RUNS:,} runs or {MAX_ENTRIES:,} files: give "
        "the directories in it, some at a time"
    )
    return Found(found.paths[:MAX_RUNS], [*found.problems, problem])


def _leads_into(link: Path, directory: Path) -> bool:
    return Path(os.path.realpath(link)).is_relative_to(os.path.realpath(directory))


def _holds_a_run(directory: Path) -> bool:
    return any(os.path.lexists(directory / name) for name in OF_A_RUN)


def _is_shown(path: Path) -> bool:
    """Deep features and trained networks that were given no test have nothing to show."""
    if not os.path.lexists(path / "config.json"):
        return True  # `runs.read` says that it is missing
    try:
        return run_files.read_config(path).get("task") in SHOWN_TASKS
    except UserError:
        return True
