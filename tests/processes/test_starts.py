"""Jobs that can't begin: all processes end with status 1, and the first says why."""

import os
import re
import signal
import time

import pytest

from tests.processes import together

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGINT"),
]

OPTIONS = (
    "--config=configs/finetune.py",
    "--config.data.image_size=32",
    "--config.batch_size=8",
    "--config.held_out=0.0",
    "--config.head=zeros",
    "--config.optim.rules=(('fc/.*',1.0),('.*',None))",
)


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_nobody_joins_says_so(photos, tmp_path, index):
    command = [*OPTIONS, *photos, f"--workdir={tmp_path}/run", "--initialization_timeout=3"]
    with together.started(tmp_path / "job", command, num_processes=2, indices=(index,)) as job:
        (ended,) = job.wait()
    assert ended.status == 1
    assert ended.stdout == ""
    assert re.fullmatch(
        r"vtl: the processes did not find each other at 127\.0\.0\.1:\d+ within \d+ s.*\n"
        r"Start all of them, with the same --coordinator and --num_processes, .*\n",
        ended.stderr,
    )
    assert not (tmp_path / "run").exists()


def test_a_stop_ends_the_wait_for_the_others(photos, tmp_path):
    command = [*OPTIONS, *photos, f"--workdir={tmp_path}/run"]
    with together.started(tmp_path / "job", command, num_processes=2, indices=(0,)) as job:
        job.until(job.listens)
        time.sleep(0.5)
        job.send(signal.SIGINT, 0)
        (ended,) = job.wait()
    assert (ended.status, ended.stdout, ended.stderr) == (130, "", "vtl: stopped\n")
    assert ended.seconds < 5


def test_the_second_job_in_a_workdir_is_told_of_the_first(photos, tmp_path):
    command = [*OPTIONS, *photos, f"--workdir={tmp_path}/run"]
    slow = "vtl.data.batches:place:0.3"
    with together.started(tmp_path / "one", command, num_processes=2, slow=slow) as one:
        one.until((tmp_path / "run" / "config.json").exists)
        with together.started(tmp_path / "other", command, num_processes=2) as other:
            first, second = other.wait()
        assert (first.status, second.status) == (1, 1)
        assert second.stdout + second.stderr == ""
        (told,) = re.findall(r"^vtl: .*", first.stderr, re.MULTILINE)
        assert f"run is in use by process {one.pid(0)} on " in told
        assert together.noise(first.stderr) == []
        one.send(signal.SIGTERM, 1)
        assert [ended.status for ended in one.wait()] == [130, 130]


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--config.weights=missing.safetensors", "missing.safetensors"),
        ("--config.seed=7", "process 1 has another"),
    ],
)
def test_what_is_wrong_with_one_process_the_first_says(photos, tmp_path, option, told):
    command = [*OPTIONS, *photos, f"--workdir={tmp_path}/run"]
    with together.started(tmp_path / "job", [command, [*command, option]], num_processes=2) as job:
        first, second = job.wait()
    assert (first.status, second.status) == (1, 1)
    assert second.stdout + second.stderr == ""
    messages = re.findall(r"^vtl: .*", first.stderr, re.MULTILINE)
    assert len(messages) == 1, first.stderr
    assert told in messages[0]
    assert not (tmp_path / "run" / "results.json").exists()
