"""kill -9 at every rename and fsync: the same command afterwards ends with the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.devices import environment
from tests.devkit import write_devkit
from tests.tiny import write_weights

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
]

ROOT = Path(__file__).parents[2]
NUM_PROCESSES = 2
EVERY = int(os.environ.get("VTL_KILL_EVERY", 24))
"""Of the places, in their order, the first and every so many is one of a kill."""

PHOTOS = {
    "data.train_split": "train",
    "data.image_size": 32,
    "model.depth": 18,
    "model.width": 0.125,
    "batch_size": 4,
}


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> dict[str, dict]:
    """Name in MODULES -> the options of a run that takes seconds and writes all that there is."""
    directory = tmp_path_factory.mktemp("data")
    splits = {"train": 8, "val": 6, "test": 4}
    root = write_devkit(directory, splits, classes=("cat", "dog"), size=48)
    weights = write_weights(directory / "w.safetensors")
    photos = PHOTOS | {"data.root": str(root), "weights": str(weights)}
    trained = photos | {"eval_batch_size": 4, "head": "zeros"}
    rng = np.random.default_rng(0)
    labels = np.tile(np.eye(2, dtype=np.float32), (8, 1))
    features = directory / "features.npz"
    arrays = {f"X_{role}": rng.normal(size=(16, 5)) for role in ("train", "test")}
    np.savez(features, **arrays, Y_train=labels, Y_test=labels)
    return {
        # Three epochs, so that older checkpoints go.
        "finetune": trained | {"data.val_split": "val", "num_epochs": 3.0},
        "finetune held out": trained | {"held_out": 0.4, "num_epochs": 1.0},
        "features": photos,
        "learning_curve": trained
        | {
            "data.root": str(write_devkit(directory / "curve", {"train": 20, "test": 6}, size=48)),
            "head": "probe",
            "head_l2": 0.01,
            "held_out": 0.0,
            "fractions": (0.5, 1.0),
            "draws": 1,
            "num_epochs": 1.0,
        },
        "probe": {"features": str(features)},
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


MODULES = {
    "finetune": ("vtl.tasks.finetune", "configs.finetune"),
    "finetune held out": ("vtl.tasks.finetune", "configs.finetune"),
    "features": ("vtl.tasks.features", "configs.deep_features"),
    "learning_curve": ("vtl.tasks.learning_curve", "configs.learning_curve"),
    "probe": ("vtl.tasks.probe", "configs.linear_probe"),
    "relu_study": ("vtl.relu_study.task", "configs.relu_study:digits"),
}
"""What is killed -> its task's module and its config."""

LEAST = {
    "finetune": 50,
    "finetune held out": 50,
    "features": 12,
    "learning_curve": 50,
    "probe": 10,
    "relu_study": 10,
}
"""The places at least at which a run can be killed."""


def kill_everywhere(name: str, options: dict, directory: Path) -> list[dict]:
    command = [sys.executable, "-m", "tests.faults.killed", *MODULES[name]]
    command += [json.dumps(options), str(directory)]
    step = NUM_PROCESSES * EVERY
    processes = [
        subprocess.Popen(
            [*command, f"{first}/{step}"],
            cwd=ROOT,
            env=environment(1),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in range(1, step + 1, EVERY)
    ]
    results = []
    for process in processes:
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stderr
        lines = [line for line in stdout.splitlines() if line.startswith("RESULT ")]
        results += [json.loads(line.removeprefix("RESULT ")) for line in lines]
    return results


@pytest.mark.parametrize("name", MODULES)
def test_a_run_killed_anywhere_ends_as_it_would_have(options, tmp_path, name):
    directory = tmp_path / "runs"
    directory.mkdir()
    results = kill_everywhere(name, options[name], directory)
    whole = [result for result in results if not result["at"]]
    killed = [result for result in results if result["at"]]
    print(f"{name}: killed at {len(killed)} places")
    assert len(killed) >= LEAST[name] // EVERY
    for result in whole + killed:
        assert result["killed"] == (-9 if result["at"] else 0), result["at"]
        assert result["again"] == 0, result["at"]
        assert result["litter"] == [], result["at"]
        for what in ("outputs", "metrics"):
            assert result[what] == whole[0][what], result["at"]
