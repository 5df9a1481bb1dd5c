"""Disks that are full, read-only or gone: a short message, and the same scores once mended."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.devices import environment
from tests.devkit import write_devkit
from tests.faults.disks import Server, each
from tests.faults.killed import what_is_left
from tests.review.runs import write_run
from tests.tiny import write_weights

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount disks"
    ),
]

NUM_SERVERS = 2
VANISHING_EVERY = int(os.environ.get("VTL_VANISHING_EVERY", 2))
"""Of the operations at which a directory vanishes, the first and every so many is tried."""

# What breaks.


class Broken(NamedTuple):
    """Where a command writes, and how that is put right."""

    place: Path
    mend: Callable[[], Any]
    mended: Path | None = None
    """Another place, if that puts it right."""
    cache: Path | None = None
    vanishing: tuple[Path, str, int] | None = None
    once_begun: Callable[[], Any] | None = None
    """Breaks the disk further, once the command has failed for the first time."""


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
            broken = Broken(path / "run", lambda: remount(path, mended))
            yield broken._replace(place=directory / "run", cache=path) if of_cache else broken

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
def read_only_once_begun(directory: Path) -> Iterator[Broken]:
    with disk(directory / "disk", "size=12k") as path:
        yield Broken(
            path / "run",
            lambda: remount(path, "rw"),
            once_begun=lambda: remount(path, "ro,size=64m"),
        )


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

    def mend() -> None:
        path.unlink()
        path.mkdir()

    yield Broken(path / "run", mend)


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
                # What orbax made anew, and whoever puts the run back removes.
                shutil.rmtree(path, ignore_errors=True)
                gone.rename(path)

        yield Broken(path, mend, vanishing=(path, how, number))

    return fault


ODD_PLACES: dict[str, Fault] = {
    "read-only parent": in_what_is_read_only,
    "a file": a_file,
    "below a file": below_a_file,
    "a dangling link": a_dangling_link,
    "a link to itself": a_link_to_itself,
    "too long a name": too_long_a_name,
}
OF_FILES = ODD_PLACES | {"full": full(8), "no inode": without_inodes(1)}
OF_DIRECTORIES: dict[str, Fault] = {
    "read-only": read_only,
    "config.json a directory": a_directory_in_place_of("config.json"),
    "metrics.jsonl a directory": a_directory_in_place_of("metrics.jsonl"),
    "full, 4 kB": full(4),
    "2 inodes": without_inodes(2),
}
ONCE_BEGUN: dict[str, Fault] = {
    "read-only once begun": read_only_once_begun,
    "full, 12 kB": full(12),
    "6 inodes": without_inodes(6),
}
OF_CACHES: dict[str, Fault] = {
    "read-only cache": read_only_cache,
    "a file as cache": a_cache_that_is_a_file,
    "full cache, 48 kB": full(48, of_cache=True),
    "7 inodes for the cache": without_inodes(7, of_cache=True),
}


MOST_VANISHING = 3
"""Of five such operations, how many are left out by default."""


def times(*numbers: int) -> dict[str, Fault]:
    """Directories that vanish at these operations of a run in it, one way or the other."""
    ways = ("renamed", "removed")
    return {f"{ways[n % 2]} at {n}": vanishing(ways[n % 2], n) for n in numbers[::VANISHING_EVERY]}


# What is run.


class Task(NamedTuple):
    """A command that leaves something in a place, and what breaks under it."""

    faults: dict[str, Fault]
    least: int
    """How many of the faults at least must end it with a message."""
    config: str = ""
    """Of a task of `vtl.main`; else the command is one of `COMMANDS`."""


TASKS = {
    "finetune": Task(
        ONCE_BEGUN
        | {f"full, {size} kB": full(size) for size in (1900, 2400)}
        | {"225 inodes": without_inodes(225), "read-only cache": read_only_cache}
        | times(20, 24, 27, 30, 33),
        10,
        "finetune.py",
    ),
    "features": Task(
        ONCE_BEGUN | OF_CACHES | {"9 inodes": without_inodes(9)} | times(14, 17, 20),
        8,
        "deep_features.py",
    ),
    "probe": Task(
        ODD_PLACES
        | OF_DIRECTORIES
        | ONCE_BEGUN
        | {"full, 20 kB": full(20)}
        | times(7, 11, 14, 17, 20),
        20,
        "linear_probe.py",
    ),
    "relu_study": Task(
        {"read-only once begun": read_only_once_begun, "full, 20 kB": full(20)}
        | {"6 inodes": without_inodes(6)}
        | times(14, 17),
        5,
        "relu_study.py:digits",
    ),
    "learning_curve": Task(
        {"read-only once begun": read_only_once_begun, "full, 1200 kB": full(1200)} | times(40),
        3,
        "learning_curve.py",
    ),
    "report": Task(OF_FILES, 5),
    "review": Task(OF_FILES, 5),
    # Its log takes the 4 kB.
    "review apply": Task(OF_FILES | {"full": full(4)}, 8),
    "weights convert": Task(OF_FILES, 5),
}


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """The options of runs that take seconds and write all that there is."""
    directory = tmp_path_factory.mktemp("data")
    splits = {"train": 8, "val": 6, "test": 4}
    root = write_devkit(directory, splits, classes=("cat", "dog"), size=48)
    photos = {
        "data.root": root,
        "data.train_split": "train",
        "data.image_size": 32,
        "batch_size": 4,
        "weights": write_weights(directory / "w.safetensors"),
    }
    rng = np.random.default_rng(0)
    labels = np.tile(np.eye(2, dtype=np.float32), (8, 1))
    features = directory / "features.npz"
    arrays = {f"X_{role}": rng.normal(size=(16, 5)) for role in ("train", "test")}
    np.savez(features, **arrays, Y_train=labels, Y_test=labels)
    return {
        "finetune": photos
        | {"data.val_split": "val", "eval_batch_size": 4, "num_epochs": 1.0, "head": "zeros"},
        "features": photos,
        "learning_curve": photos
        | {
            "data.root": write_devkit(directory / "curve", {"train": 20, "test": 6}, size=48),
            "eval_batch_size": 4,
            "fractions": (0.5, 1.0),
            "draws": 1,
            "num_epochs": 1.0,
            "held_out": 0.0,
            "head_l2": 0.01,
        },
        "probe": {"features": features},
        "relu_study": {
            "networks": ("perceptron",),
            "activations": ("sigmoid", "relu"),
            "seeds": (1,),
            "perceptron.num_epochs": 1.0,
            "perceptron.learning_rates": (0.3,),
            "thresholds": (0.5,),
            "main_threshold": 0.5,
            "num_resamples": 10,
        },
    }


Command = Callable[[Path], list[object]]


@pytest.fixture(scope="module")
def commands(options, servers, tmp_path_factory) -> dict[str, Command]:
    """Each task's command that leaves something in a place."""

    def of_task(name: str) -> Command:
        knobs = [f"--config.{knob}={value}" for knob, value in options[name].items()]
        config = f"--config=configs/{TASKS[name].config}"
        return lambda place: ["vtl.main", config, f"--workdir={place}", *knobs]

    made = {name: of_task(name) for name, task in TASKS.items() if task.config}
    run = tmp_path_factory.mktemp("runs") / "probe"
    assert servers[0].run(made["probe"](run)).status == 0
    weights = options["finetune"]["weights"]
    reviewed = write_run(tmp_path_factory.mktemp("reviewed"))
    table = reviewed.parent / "photos" / "labels.csv"
    corrections = reviewed.parent / "corrections.csv"
    corrections.write_text("photo,class,label,was\n0003.png,cat,1,0\n")
    return made | {
        "review": lambda place: ["vtl.review", reviewed, "-o", place],
        "review apply": lambda place: ["vtl.review", "apply", corrections, table, "-o", place],
        "report": lambda place: ["vtl.report", run, "-o", place],
        "weights convert": lambda place: ["vtl.weights", "convert", weights, "-o", place],
    }


@pytest.fixture(scope="module")
def servers(tmp_path_factory, vtl_cache):
    directory = tmp_path_factory.mktemp("servers")
    servers = [Server(directory / str(i), environment(1)) for i in range(NUM_SERVERS)]
    yield servers
    for server in servers:
        server.close()


def left_at(place: Path) -> Any:
    """All that must be as in an undisturbed run; a page names the place where it is."""
    if place.is_dir():
        left = what_is_left(place)
        # What orbax wrote where there was no run any more is kept, and not believed.
        left["litter"] = [x for x in left["litter"] if not x.startswith("damaged_checkpoint_")]
        return left
    return place.read_bytes().replace(str(place).encode(), b"PLACE")


@pytest.mark.parametrize("name", TASKS)
def test_on_a_broken_disk(name, servers, commands, tmp_path, capsys):
    """A short message and no hang; once mended, the same command leaves the same scores."""
    task, command = TASKS[name], commands[name]
    undisturbed = servers[0].run(command(tmp_path / "undisturbed"))
    assert undisturbed.status == 0, undisturbed.stderr
    expected = left_at(tmp_path / "undisturbed")
    counts: Counter[str] = Counter()
    flaws: list[str] = []

    def call(what: str, number: int, server: Server) -> None:
        directory = tmp_path / str(number)
        directory.mkdir()
        with task.faults[what](directory) as broken:
            environment = {} if broken.cache is None else {"VTL_CACHE": broken.cache}
            if broken.once_begun:
                server.run(command(broken.place))
                broken.once_begun()
            ended = server.run(command(broken.place), broken.vanishing, **environment)
            counts["a message" if ended.status else "without"] += 1
            if flaw := ended.flaw():
                flaws.append(f"{what}: {flaw}")
            broken.mend()
            place = broken.mended or broken.place
            again = server.run(command(place), **environment)
            if again.status or again.flaw():
                flaws.append(f"{what}, mended: status {again.status}: {again.stderr[-1000:]}")
            elif left_at(place) != expected:
                flaws.append(f"{what}, mended: another outcome")

    each(
        servers,
        [
            lambda server, what=what, number=number: call(what, number, server)
            for number, what in enumerate(task.faults)
        ],
    )
    with capsys.disabled():
        print(f"\n{name}: {dict(counts)}")
    assert not flaws, "\n".join(flaws)
    left_out = 0 if VANISHING_EVERY == 1 else MOST_VANISHING
    assert counts["a message"] >= task.least - left_out
