"""One process or several: the same losses, scores and features, and the same files."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.processes import together

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGTERM"),
]

WAYS = ((1, 4), (2, 2), (4, 1))
"""Processes, and the devices of each."""

NUM_STEPS = 20
# With photos of 32 pixels, batches of 8 and a rate of 0.1, training is chaotic: rounding, which
# differs by what is added up where, grows to 4e-4 of the loss within ten steps.
OPTIONS = (
    "--config=configs/finetune.py",
    "--config.data.image_size=64",
    "--config.batch_size=16",
    "--config.eval_batch_size=16",
    f"--config.num_epochs={NUM_STEPS * 16 / 37}",
    "--config.log_every_steps=1",
    "--config.held_out=0.0",
    "--config.gallery_photos=0",
    "--config.head=zeros",
    "--config.augment=crop_flip",
    "--config.batch_norm=batch",
    "--config.optim.learning_rate=0.02",
    "--config.optim.rules=(('fc/.*',1.0),('layer4_.*',1.0),('.*',None))",
)
SLOW = "vtl.data.batches:place:0.05"


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory) -> dict[int, tuple[Path, list[together.Ended]]]:
    """By the number of processes, a run that they made, and how each of them ended."""
    directory = tmp_path_factory.mktemp("trained")
    runs = {}
    for num_processes, num_devices in WAYS:
        workdir = directory / f"run {num_processes}"
        ended = together.run(
            directory / str(num_processes),
            [*OPTIONS, *photos, f"--workdir={workdir}"],
            num_processes=num_processes,
            num_devices=num_devices,
        )
        runs[num_processes] = workdir, ended
    return runs


def check_same_training(workdir: Path, expected: Path) -> None:
    lines = together.metrics(workdir)
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, NUM_STEPS + 1))
    for line, other in zip(lines, together.metrics(expected), strict=True):
        assert line == pytest.approx(other, rel=0, abs=1e-5)
    for role in ("train", "test"):
        with (
            np.load(workdir / f"scores_{role}.npz") as one,
            np.load(expected / f"scores_{role}.npz") as other,
        ):
            assert one.files == other.files
            assert len(one["scores"]) == {"train": 37, "test": 10}[role]
            np.testing.assert_allclose(one["scores"], other["scores"], rtol=0, atol=1e-4)
            np.testing.assert_array_equal(one["ids"], other["ids"])


@pytest.mark.parametrize("num_processes", [2, 4])
def test_several_processes_train_as_one(trained, num_processes):
    check_same_training(trained[num_processes][0], trained[1][0])
    # It is no small thing: the network has learnt.
    losses = [line["loss"] for line in together.metrics(trained[1][0]) if "loss" in line]
    assert np.std(losses) > 1e-3


@pytest.mark.parametrize("num_processes", [2, 4])
def test_only_the_first_process_prints_and_writes(trained, num_processes):
    workdir, (first, *others) = trained[num_processes]
    assert first.stdout.startswith(f"{num_processes} processes with {4 // num_processes} device")
    assert first.stdout.count("mAP on test: ") == 1
    assert together.noise(first.stderr) == []
    assert [one.stdout + one.stderr for one in others] == [""] * (num_processes - 1)
    assert "mAP on test: " in (workdir / "process_1.log").read_text()
    logs = {f"process_{i}.log" for i in range(num_processes)}
    names = {path.name for path in workdir.iterdir()} - logs
    assert names == {path.name for path in trained[1][0].iterdir()} - {"process_0.log"}
    assert together.litter(workdir) == []
    assert together.litter(Path(os.environ["VTL_CACHE"]) / "images") == []


def test_another_number_of_processes_restores_the_same_arrays(trained, photos, tmp_path):
    saved_by_two = trained[2][0]
    workdir = shutil.copytree(saved_by_two, tmp_path / "run")
    for name in ("results.json", "model.safetensors"):
        (workdir / name).unlink()
    # With no step left the network is that of the checkpoint.
    command = [*OPTIONS, *photos, f"--workdir={workdir}"]
    together.run(tmp_path / "again", command, num_processes=4)
    assert json.loads((workdir / "results.json").read_text())["resumed_from"] == NUM_STEPS
    model = (workdir / "model.safetensors").read_bytes()
    assert model == (saved_by_two / "model.safetensors").read_bytes()


def test_what_two_began_one_goes_on_with_and_four_end(trained, photos, tmp_path):
    workdir = tmp_path / "run"
    command = [*OPTIONS, *photos, f"--workdir={workdir}"]
    for num_processes, num_devices, step in ((2, 1, 3), (1, 2, 9)):
        with together.started(
            tmp_path / str(num_processes),
            command,
            num_processes=num_processes,
            num_devices=num_devices,
            slow=SLOW,
        ) as job:
            job.until(lambda step=step: together.last_step(workdir) >= step)
            job.send(signal.SIGTERM, 0)
            assert [one.status for one in job.wait()] == [130] * num_processes
            assert step <= together.last_step(workdir) < NUM_STEPS
    together.run(tmp_path / "4", command, num_processes=4)
    check_same_training(workdir, trained[1][0])


def test_two_processes_extract_the_features_of_one(photos, tmp_path):
    arrays = {}
    for num_processes in (1, 2):
        workdir = tmp_path / f"run {num_processes}"
        ended = together.run(
            tmp_path / str(num_processes),
            [
                "--config=configs/deep_features.py",
                *photos,
                "--config.data.image_size=64",
                "--config.batch_size=8",
                f"--workdir={workdir}",
            ],
            num_processes=num_processes,
            num_devices=2 // num_processes,
        )
        assert [one.stdout + one.stderr for one in ended[1:]] == [""] * (num_processes - 1)
        assert together.litter(workdir) == []
        (path,) = workdir.glob("DF_*.npz")
        with np.load(path) as file:
            arrays[num_processes] = dict(file)
    one, two = arrays.values()
    assert one.keys() == two.keys()
    assert one["X_train"].shape == (37, 64)
    for name, array in one.items():
        if name.startswith("X_"):
            assert np.abs(array).max() > 0.1
            np.testing.assert_allclose(two[name], array, rtol=0, atol=1e-6)
        else:
            np.testing.assert_array_equal(two[name], array)


def test_two_processes_measure_the_learning_curve_of_one(photos, tmp_path):
    workdirs = {}
    for num_processes in (1, 2):
        workdirs[num_processes] = workdir = tmp_path / f"run {num_processes}"
        ended = together.run(
            tmp_path / str(num_processes),
            [
                "--config=configs/learning_curve.py",
                *photos,
                "--config.data.image_size=32",
                "--config.batch_size=8",
                "--config.eval_batch_size=8",
                "--config.fractions=(0.5,1.0)",
                "--config.draws=1",
                "--config.num_epochs=1.0",
                "--config.held_out=0.0",
                "--config.head_l2=0.01",
                "--config.optim.learning_rate=0.001",
                f"--workdir={workdir}",
            ],
            num_processes=num_processes,
            num_devices=2 // num_processes,
        )
        assert [one.stdout + one.stderr for one in ended[1:]] == [""] * (num_processes - 1)
        assert together.litter(workdir) == []
    one, two = workdirs.values()
    assert (one / "subsets.csv").read_bytes() == (two / "subsets.csv").read_bytes()
    for name in ("logits_probe", "fine_tuned/0.5_0/logits_test", "fine_tuned/1_0/logits_test"):
        logits = [np.load(run / f"{name}.npz")["logits"] for run in (one, two)]
        np.testing.assert_allclose(*logits, rtol=0, atol=1e-4)
        assert np.std(logits[0]) > 0.01
    curves = [json.loads((run / "results.json").read_text())["curve"] for run in (one, two)]
    for kind in ("probe", "fine_tuned", "difference"):
        assert curves[0][kind]["map"] == pytest.approx(curves[1][kind]["map"], abs=1e-3)
