"""What the fine-tuning experiments share: run a config with overrides, and read the outcome."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from configs import finetune as finetune_config
from vtl.evaluation import metrics
from vtl.tasks import finetune

Overrides = dict[str, Any]

OF_VERSION_0_1: Overrides = {"transform": "none", "regions": 0, "head_l2": 0.01, "held_out": 0.0}
"""The head of vtl 0.1, and nothing chosen by photos that are held out."""


def run_finetune(variant: str, overrides: Overrides, workdir: Path) -> None:
    """Run `configs/finetune.py:variant` with overrides such as {"optim.momentum": 0.0}."""
    config = finetune_config.get_config(variant)
    config.lock()
    config.update_from_flattened_dict(overrides)
    finetune.run(config, workdir)


def frequent_classes(run: Path, role: str, min_positives: int = 5) -> np.ndarray:
    """The columns of the classes with enough positives in both train and `role`."""
    labels = [np.load(run / f"scores_{r}.npz")["labels"] for r in ("train", role)]
    return np.flatnonzero(np.minimum(*(y.sum(axis=0) for y in labels)) >= min_positives)


def frequent_map(run: Path, role: str) -> float:
    """mAP, protocol `lab`, over the frequent classes."""
    arrays = np.load(run / f"scores_{role}.npz")
    scores, labels = arrays["scores"], arrays["labels"]
    aps = [
        metrics.average_precision(scores[:, column], labels[:, column], None, "lab")
        for column in frequent_classes(run, role)
    ]
    return float(np.mean(np.array(aps, np.float64)))


def outcome(run: Path) -> dict[str, Any]:
    """results.json of a run, or {} if it is not there yet."""
    path = run / "results.json"
    return json.loads(path.read_text()) if path.exists() else {}


def side_by_side(runs: list[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels, difficult [N, runs * C] on test: seeds side by side, like further classes.

    The mean over columns is then the mean over seeds, and the bootstrap draws an image for all
    seeds at once.
    """
    by_seed = [np.load(run / "scores_test.npz") for run in runs]
    scores, labels, difficult = (
        np.hstack([arrays[key] for arrays in by_seed]) for key in ("scores", "labels", "difficult")
    )
    return scores, labels, difficult
