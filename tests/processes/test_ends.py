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

NUM_STEPS = 36
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
class Scene:
    """A job that is at work, and what it has begun to write `since` a time."""

    job: together.Job
    workdir: Path
    cache: Path
    since: float

    def wrote(self, path: Path) -> bool:
        return path.exists() and path.stat().st_mtime > self.since

    @property
    def first_step(self) -> int:
        resumed = re.search(r"going on from step (\d+)", self.job.printed(0))
        return int(resumed[1]) if resumed else 0


@dataclasses.dataclass(frozen=True)
class End:
    """How a job is ended: what is slow, after which sign which processes get which signal."""

    slow: str
    sign: Callable[[Scene], object]
    signal: signal.Signals
    indices: tuple[int, ...]

    @property
    def is_kill(self) -> bool:
        return self.signal == signal.SIGKILL


def is_decoding(scene: Scene) -> bool:
    return any(scene.wrote(path) for path in scene.cache.glob("images/.*.tmp"))


def is_training(scene: Scene) -> bool:
    if not scene.wrote(scene.workdir / "metrics.jsonl"):  # what is not saved is not yet cut off
        return False
    return together.last_step(scene.workdir) >= scene.first_step + 2


def is_saving(scene: Scene) -> bool:
    return any(scene.wrote(mark) for mark in scene.workdir.glob("checkpoints/.*.unsealed"))


def is_evaluating(scene: Scene) -> bool:
    return (scene.workdir / f"checkpoints/{NUM_STEPS}/sha256.json").exists()


ENDS = {
    "SIGTERM to the second in a decode": End(SLOW_DECODING, is_decoding, signal.SIGTERM, (1,)),
    "kill -9 of the second in a decode": End(SLOW_DECODING, is_decoding, signal.SIGKILL, (1,)),
    "kill -9 of the first in a decode": End(SLOW_DECODING, is_decoding, signal.SIGKILL, (0,)),
    "SIGTERM to the second at a step": End(SLOW_STEPS, is_training, signal.SIGTERM, (1,)),
    "Ctrl-C to all at a step": End(SLOW_STEPS, is_training, signal.SIGINT, (0, 1)),
    "kill -9 of the second at a step": End(SLOW_STEPS, is_training, signal.SIGKILL, (1,)),
    "kill -9 of the first in a save": End(
        f"{SLOW_STEPS} {SLOW_DISK}", is_saving, signal.SIGKILL, (0,)
    ),
    "SIGTERM to the second as it evaluates": End(SLOW_STEPS, is_evaluating, signal.SIGTERM, (1,)),
}
"""In the order in which one job meets them."""


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
        since = time.time()
        with together.started(
            tmp_path / name, command, num_processes=2, slow=end.slow, cache=caches[1]
        ) as job:
            scene = Scene(job, workdir, caches[1], since)
            job.until(lambda end=end, scene=scene: end.sign(scene))
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
    for one in ended:
        assert together.noise(one.stderr) == []
    if end.is_kill:
        (killed,) = end.indices
        assert ended[killed].status == -signal.SIGKILL
        left = ended[1 - killed]
        assert left.status == 1
        assert left.seconds < KILL_S
        line = f"vtl: process {killed} is gone; the same commands go on from what is saved\n"
        assert (left.stdout + left.stderr).count(line) == 1
    else:
        assert [one.status for one in ended] == [130, 130]
        assert max(one.seconds for one in ended) < STOP_S
        (line,) = re.findall("^stopped.*", first.stdout + first.stderr, re.MULTILINE)
        assert line.endswith("run the same command again to resume")
        assert second.stdout + second.stderr == ""
        if end.sign is is_training:
            step = int(re.search(r"after step (\d+), which is saved", line)[1])
            sealed = [int(p.parent.name) for p in workdir.glob("checkpoints/*/sha256.json")]
            assert max(sealed) == step == together.last_step(workdir)
        if workdir.exists():
            assert together.litter(workdir) == [".lock"]
