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

PHOTOS = {
    "data.train_split": "train",
    "data.image_size": 32,
    "model.depth": 18,
    "model.width": 0.125,
    "batch_size": 4,
}


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> dict[str, dict]:
    """Module of a task -> the options of a run that takes seconds and writes all that there is."""
    directory = tmp_path_factory.mktemp("data")
    splits = {"train": 8, "val": 6, "test": 4}
    root = write_devkit(directory, splits, classes=("cat", "dog"), size=48)
    weights = write_weights(directory / "w.safetensors")
    photos = PHOTOS | {"data.root": str(root), "weights": str(weights)}
    rng = np.random.default_rng(0)
    labels = np.tile(np.eye(2, dtype=np.float32), (8, 1))
    features = directory / "features.npz"
    arrays = {f"X_{role}": rng.normal(size=(16, 5)) for role in ("train", "test")}
    np.savez(features, **arrays, Y_train=labels, Y_test=labels)
    return {
        # Three epochs, so that older checkpoints go.
        "vtl.tasks.finetune": photos
        | {"data.val_split": "val", "eval_batch_size": 4, "num_epochs": 3.0, "head": "zeros"},
        "vtl.tasks.features": photos,
        "vtl.tasks.probe": {"features": str(features)},
        "vtl.relu_study.task": {
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


CONFIGS = {
    "vtl.tasks.finetune": "configs.finetune",
    "vtl.tasks.features": "configs.deep_features",
    "vtl.tasks.probe": "configs.linear_probe",
    "vtl.relu_study.task": "configs.relu_study:digits",
}
LEAST = {
    "vtl.tasks.finetune": 50,
    "vtl.tasks.features": 12,
    "vtl.tasks.probe": 10,
    "vtl.relu_study.task": 10,
}
"""The places at least at which a run is killed."""


def kill_everywhere(module: str, options: dict, directory: Path) -> list[dict]:
    command = [sys.executable, "-m", "tests.faults.killed", module, CONFIGS[module]]
    command += [json.dumps(options), str(directory)]
    processes = [
        subprocess.Popen(
            [*command, f"{first}/{NUM_PROCESSES}"],
            cwd=ROOT,
            env=environment(1),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in range(1, NUM_PROCESSES + 1)
    ]
    results = []
    for process in processes:
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stderr
        lines = [line for line in stdout.splitlines() if line.startswith("RESULT ")]
        results += [json.loads(line.removeprefix("RESULT ")) for line in lines]
    return results


@pytest.mark.parametrize("module", CONFIGS)
def test_a_run_killed_anywhere_ends_as_it_would_have(options, tmp_path, module):
    directory = tmp_path / "runs"
    directory.mkdir()
    results = kill_everywhere(module, options[module], directory)
    whole = [result for result in results if not result["at"]]
    killed = [result for result in results if result["at"]]
    assert len(killed) >= LEAST[module]
    for result in whole + killed:
        assert result["killed"] == (-9 if result["at"] else 0), result["at"]
        assert result["again"] == 0, result["at"]
        assert result["litter"] == [], result["at"]
        for what in ("outputs", "metrics"):
            assert result[what] == whole[0][what], result["at"]
