"""Finished runs of a tiny network, and photos for it."""

import json
from pathlib import Path

import jax
import numpy as np

from configs import deep_features as deep_features_config
from configs import linear_probe as probe_config
from configs.finetune import get_config
from tests.data.layouts.photos import write_photo
from vtl.tasks import features, finetune, probe

BATCH_SIZE = 8


def write_table(directory: Path, *, one_label: bool) -> tuple[Path, Path]:
    """37 photos, 13 of them of test, and a table of their labels, by one of two columns."""
    rng = np.random.default_rng(0)
    lines = ["photo,split,labels"]
    for number in range(37):
        write_photo(directory / "photos" / f"{number:02d}.png", number, size=40)
        names = ["cat", "dog", "emu"]
        names = [names[number % 3]] if one_label else rng.permutation(names)[: number % 3]
        lines.append(f"{number:02d}.png,{'train' if number < 24 else 'test'},{';'.join(names)}")
    table = directory / "labels.csv"
    table.write_text("\n".join(lines))
    return directory / "photos", table


def fine_tune(workdir: Path, weights: Path, root: Path, labels: Path, **changes: object) -> Path:
    """A finished run of one pass, scored in batches of BATCH_SIZE."""
    config = get_config()
    own = {"weights": str(weights), "data.root": str(root), "data.labels": str(labels)}
    own |= {"data.image_size": 32, "batch_size": 8, "eval_batch_size": BATCH_SIZE}
    own |= {"num_epochs": 1.0, "held_out": 0.0, "head_l2": 0.01, "gallery_photos": 0}
    config.update_from_flattened_dict(own | changes)
    with jax.default_matmul_precision(config.precision):
        finetune.run(config, workdir)
    return workdir


def fit_probe(workdir: Path, weights: Path, root: Path, labels: Path) -> Path:
    """A finished probe on the network's features."""
    config = deep_features_config.get_config()
    own = {"weights": str(weights), "data.root": str(root), "data.labels": str(labels)}
    config.update_from_flattened_dict(own | {"data.image_size": 32, "batch_size": 4})
    features.run(config.lock(), workdir / "features")
    (path,) = (workdir / "features").glob("DF_*.npz")
    config = probe_config.get_config("lbfgs")
    config.update_from_flattened_dict({"features": str(path), "l2s": (0.01,)})
    probe.run(config.lock(), workdir / "probe")
    return workdir / "probe"


def scores(run: Path) -> dict[str, np.ndarray]:
    """What scores_test.npz of a run holds."""
    with np.load(run / "scores_test.npz", allow_pickle=False) as file:
        return dict(file)


def json_rows(path: Path) -> list[dict]:
    """The rows of JSON lines."""
    return list(map(json.loads, path.read_text().splitlines()))
