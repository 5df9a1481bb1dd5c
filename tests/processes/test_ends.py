"""Stops and kill -9 of one process: all end in one line, and the same command goes on."""

import dataclasses
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import together

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGTERM and SIGKILL"),
]

NUM_STEPS = 24
OPTIONS = (
    "--config=configs/finetune.py",
    "--config.data.image_size=32",
    "--config.batch_size=8",
    "--config.eval_batch_size=8",
    f"--config.num_epochs={NUM_STEPS * 8 / 37}",
    "--config.log_every_steps=1",
    "--config.held_out=0.0",
    "--config.gallery_photos=0",
    "--config.head=zeros",
    "--config.optim.rules=(('fc/.*',1.0),('.*',None))",
)

SLOW_DECODING = "vtl.data.images:load_resized:0.4"
SLOW_STEPS = "vtl.data.batches:place:0.1"
SLOW_DISK = "os:fsync:0.4"

STOP_S = 30
"""A step and a save, on a machine that has other things to do."""

KILL_S = 60
"""The heartbeat, and the time to clear away what is half done."""


@dataclasses.dataclass(frozen=True)
class End:
    """How a job is ended: what is slow, after which sign which processes get which signal."""

    slow: str
    sign: Callable[[Path, Path], object]
    signal: signal.Signals
    indices: tuple[int, ...]


def is_decoding(workdir: Path, cache: Path) -> bool:
    return any(cache.glob("images/.*.tmp"))


def is_at(step: int) -> Callable[[Path, Path], bool]:
    return lambda workdir, cache: together.last_step(workdir) >= step


def is_saving_after(step: int) -> Callable[[Path, Path], bool]:
    def is_saving(workdir: Path, cache: Path) -> bool:
        marks = workdir.glob("checkpoints/.*.unsealed")
        return any(int(mark.name.split(".")[1]) > step for mark in marks)

    return is_saving


def is_evaluating(workdir: Path, cache: Path) -> bool:
    return (workdir / f"checkpoints/{NUM_STEPS}/sha256.json").exists()


ENDS = {
    "SIGTERM to the second in a decode": End(SLOW_DECODING, is_decoding, signal.SIGTERM, (1,)),
    "kill -9 of the second in a decode": End(SLOW_DECODING, is_decoding, signal.SIGKILL, (1,)),
    "kill -9 of the first in a decode": End(SLOW_DECODING, is_decoding, signal.SIGKILL, (0,)),
    "SIGTERM to the second at a step": End(SLOW_STEPS, is_at(2), signal.SIGTERM, (1,)),
    "Ctrl-C to all at a step": End(SLOW_STEPS, is_at(5), signal.SIGINT, (0, 1)),
    "kill -9 of the second at a step": End(SLOW_STEPS, is_at(8), signal.SIGKILL, (1,)),
    "kill -9 of the first in a save": End(
        f"{SLOW_STEPS} {SLOW_DISK}", is_saving_after(8), signal.SIGKILL, (0,)
    ),
    "Ctrl-C to the first at a step": End(SLOW_STEPS, is_at(18), signal.SIGINT, (0,)),
    "SIGTERM to the second as it evaluates": End(SLOW_STEPS, is_evaluating, signal.SIGTERM, (1,)),
}


@pytest.fixture
def caches(tmp_path) -> list[Path]:
    """Two that have only the compiled programs."""
    directories = [tmp_path / "cache", tmp_path / "other cache"]
    for directory in directories:
        directory.mkdir()
        (directory / "xla").symlink_to(os.environ["JAX_COMPILATION_CACHE_DIR"])
    return directories


def test_a_job_that_is_ended_in_all_ways_ends_as_an_undisturbed_one(photos, tmp_path, caches):
    expected, workdir = tmp_path / "undisturbed", tmp_path / "run"
    command = [*OPTIONS, *photos]
    together.run(
        tmp_path / "whole", [*command, f"--workdir={expected}"], num_processes=2, cache=caches[0]
    )
    command.append(f"--workdir={workdir}")
    for name, end in ENDS.items():
        with together.started(
            tmp_path / name, command, num_processes=2, slow=end.slow, cache=caches[1]
        ) as job:
            job.until(lambda end=end: end.sign(workdir, caches[1]))
            time.sleep(0.2)
            job.send(end.signal, *end.indices)
            ended = job.wait()
        try:
            check_end(end, ended, workdir)
        except AssertionError as error:
            raise AssertionError(name, *ended) from error
    together.run(tmp_path / "last", command, num_processes=2, cache=caches[1])
    assert together.metrics(workdir) == together.metrics(expected)
    for file in ("model.safetensors", "scores_test.npz", "scores_train.npz"):
        assert (workdir / file).read_bytes() == (expected / file).read_bytes()
    names = [{path.name for path in directory.iterdir()} for directory in (expected, workdir)]
    assert names[0] == names[1]
    assert together.litter(workdir) == []
    images = [sorted(p.name for p in cache.glob("images/*")) for cache in caches]
    assert images[0] == images[1]


def check_end(end: End, ended: list[together.Ended], workdir: Path) -> None:
    first, second = ended
    told = first.stdout + first.stderr if 0 not in gone(end) else second.stdout + second.stderr
    if end.signal == signal.SIGKILL:
        (killed,) = end.indices
        assert ended[killed].status == -signal.SIGKILL
        left = ended[1 - killed]
        assert left.status == 1
        assert left.seconds < KILL_S
        line = f"vtl: process {killed} is gone; the same commands go on from what is saved"
        assert told.count(line) == 1
    else:
        assert [one.status for one in ended] == [130, 130]
        assert max(one.seconds for one in ended) < STOP_S
        (line,) = re.findall("^stopped.*", told, re.MULTILINE)
        assert line.endswith("run the same command again to resume")
        if found := re.search(r"after step (\d+), which is saved", line):
            steps = [int(p.parent.name) for p in workdir.glob("checkpoints/*/sha256.json")]
            assert max(steps) == int(found[1]) == together.last_step(workdir)
        assert together.litter(workdir) == [".lock"] * workdir.exists()
    if not gone(end):
        assert second.stdout + second.stderr == ""
    for one in ended:
        assert together.noise(one.stderr) == []


def gone(end: End) -> tuple[int, ...]:
    return end.indices if end.signal == signal.SIGKILL else ()
