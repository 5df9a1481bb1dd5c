"""Run one config under several named overrides, and tabulate what came out."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from configs import finetune as finetune_config
from vtl import records
from vtl.evaluation import metrics
from vtl.tasks import finetune

Overrides = dict[str, Any]

records.commit()  # before the first table makes the checkout a dirty one


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
    scored = np.load(run / f"scores_{role}.npz")
    scores, labels = scored["scores"], scored["labels"]
    aps = [
        metrics.average_precision(scores[:, c], labels[:, c], None, "lab")
        for c in frequent_classes(run, role)
    ]
    return float(np.mean(np.array(aps, np.float64)))


def outcome(run: Path) -> dict[str, Any]:
    """results.json of a run, {} where it isn't there yet."""
    path = run / "results.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV, with the commit of this code where they name none; some may lack keys."""
    rows = [{**row, "commit": row.get("commit", records.commit())} for row in rows]
    fields = max((list(row) for row in rows), key=len)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
