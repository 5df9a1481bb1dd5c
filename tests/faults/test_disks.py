"""Disks that are full, read-only or gone: a short message, and the same scores once mended."""

import collections
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.devices import environment
from tests.devkit import write_devkit
from tests.faults.disks import Ended, Server, each
from tests.faults.killed import what_is_left
from tests.tiny import write_weights

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and mounts"),
]

NUM_SERVERS = 2


class Broken(NamedTuple):
    """Where a command writes, and how that is put right."""

    workdir: Path
    mend: Callable[[], Any]
    mended: Path | None = None
    """Another workdir, if that puts it right."""
    cache: Path | None = None
    vanishing: tuple[Path, str, int] | None = None
    before: bool = False
    """Whether a run was begun there, and stopped for want of space, before the disk broke."""


Fault = Callable[[Path], AbstractContextManager[Broken]]
"""Breaks something in an empty directory for as long as the context lasts."""


def mount(path: Path, options: str) -> None:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


@contextmanager
def disk(path: Path, options: str) -> Iterator[Path]:
    mount(path, options)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def small(options: str, mended: str, *, of_cache: bool = False) -> Fault:
    """A disk with too little of something for the run, or for the cache."""

    @contextmanager
    def fault(directory: Path) -> Iterator[Broken]:
        with disk(directory / "disk", options) as path:
            place = Broken(path / "run", lambda: remount(path, mended))
            yield place._replace(workdir=directory / "run", cache=path) if of_cache else place

    return fault


def full(kilobytes: int, **of: bool) -> Fault:
    return small(f"size={kilobytes}k", "size=64m", **of)


def without_inodes(number: int, **of: bool) -> Fault:
    return small(f"nr_inodes={number}", "nr_inodes=9999", **of)


@contextmanager
def in_what_is_read_only(directory: Path) -> Iterator[Broken]:
    with disk(directory / "disk", "size=64m") as path:
        remount(path, "ro")
        yield Broken(path / "run", lambda: remount(path, "rw"))


@contextmanager
def read_only(directory: Path) -> Iterator[Broken]:
    with disk(directory / "run", "size=64m") as path:
        remount(path, "ro")
        yield Broken(path, lambda: remount(path, "rw"))


@contextmanager
def read_only_when_begun(directory: Path) -> Iterator[Broken]:
    with disk(directory / "disk", "size=64m") as path:
        yield Broken(path / "run", lambda: remount(path, "rw"), before=True)


@contextmanager
def read_only_cache(directory: Path) -> Iterator[Broken]:
    with disk(directory / "cache", "size=64m") as path:
        remount(path, "ro")
        yield Broken(directory / "run", lambda: remount(path, "rw"), cache=path)


@contextmanager
def a_file(directory: Path) -> Iterator[Broken]:
    path = directory / "run"
    path.write_text("precious")
    yield Broken(path, path.unlink)


@contextmanager
def below_a_file(directory: Path) -> Iterator[Broken]:
    path = directory / "file"
    path.write_text("precious")
    yield Broken(path / "run", path.unlink)


@contextmanager
def a_cache_that_is_a_file(directory: Path) -> Iterator[Broken]:
    path = directory / "cache"
    path.write_text("precious")
    yield Broken(directory / "run", path.unlink, cache=path)


@contextmanager
def a_dangling_link(directory: Path) -> Iterator[Broken]:
    path = directory / "run"
    path.symlink_to(directory / "nowhere")
    yield Broken(path, path.unlink)


@contextmanager
def a_link_to_itself(directory: Path) -> Iterator[Broken]:
    path = directory / "run"
    path.symlink_to(path)
    yield Broken(path, path.unlink)


def a_directory_in_place_of(name: str) -> Fault:
    @contextmanager
    def fault(directory: Path) -> Iterator[Broken]:
        path = directory / "run" / name
        path.mkdir(parents=True)
        yield Broken(path.parent, path.rmdir)

    return fault


@contextmanager
def too_long_a_name(directory: Path) -> Iterator[Broken]:
    yield Broken(directory / ("run" * 100), lambda: None, mended=directory / "run")


def vanishing(how: str, number: int) -> Fault:
    @contextmanager
    def fault(directory: Path) -> Iterator[Broken]:
        path, gone = directory / "run", directory / "gone"

        def mend() -> None:
            if gone.exists():
                assert not path.exists(), f"{list(path.iterdir())} made where there was no run"
                gone.rename(path)

        yield Broken(path, mend, vanishing=(path, how, number))

    return fault
