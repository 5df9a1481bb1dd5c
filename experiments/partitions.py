"""Heads on frozen features, compared on five partitions of 1,200 VOC2012 photos with animals.

    python -m experiments.partitions --root=DEVKIT --weights=FILE --out=runs/partitions

Near-duplicates stay together; each partition has about 700 photos to train on and 500 to test on,
and each head's L2 is chosen by cross-validation within the 700. A head is compared with a plain
logistic regression on photos squashed to 224 pixels, on the same photos: "gain" is the mean of the
five differences in mAP on test, and its interval that of a bootstrap over the photos within each
partition. mAP is scikit-learn's AP, averaged over the classes with at least five positives in both
parts; it is no VOC2007 figure. Features are computed once a size, in minutes on 2 CPU cores, and
lie in OUT; the heads take minutes more. Writes experiments/partitions.csv.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from sklearn.model_selection import GroupShuffleSplit

from experiments import tables
from vtl import files
from vtl.data import batches, images, readers
from vtl.data.held_out import near_duplicates
from vtl.data.splits import Split
from vtl.evaluation import metrics
from vtl.models import head
from vtl.preprocessing import normalise
from vtl.training import augment, fit_head
from vtl.training.state import by_batch, make_mesh
from vtl.weights import network

NUM_PARTITIONS = 5
NUM_TEST = 500
LEAST_POSITIVES = 5
REGIONS = 3

SIZES: dict[str, tuple[str, int]] = {
    "crop 224": ("resize_crop", 224),
    "squash 224": ("squash", 224),
    "squash 352": ("squash", 352),
    "squash 448": ("squash", 448),
}


class Recipe(NamedTuple):
    """A size of `SIZES`, and a head of `models.head`."""

    size: str
    pooling: str = "average"
    transform: str = "none"
    regions: int = 0


BASELINE = Recipe("squash 224")
RECIPES = [
    BASELINE,
    Recipe("crop 224"),
    Recipe("squash 352"),
    Recipe("squash 352", transform="sqrt_l2"),
    Recipe("squash 352", transform="sqrt_l2", regions=REGIONS),
    Recipe("squash 448"),
    Recipe("squash 448", transform="l2"),
    Recipe("squash 448", transform="sqrt_l2"),
    Recipe("squash 448", pooling="maximum", transform="sqrt_l2"),
    Recipe("squash 448", pooling="both", transform="sqrt_l2"),
    Recipe("squash 448", pooling="cells"),
    Recipe("squash 448", pooling="cells", transform="sqrt_l2"),
    Recipe("squash 448", regions=REGIONS),
    Recipe("squash 448", transform="l2", regions=REGIONS),
    Recipe("squash 448", transform="sqrt_l2", regions=REGIONS),
    Recipe("squash 448", pooling="cells", transform="sqrt_l2", regions=REGIONS),
]

Pooled = dict[str, np.ndarray]
"""By pooling, the whole photo, then each of REGIONS x REGIONS cells: [N, 1 + 9, D]."""


def main() -> None:
    """Compute the features that are missing, compare the heads, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/partitions"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = {"train": "trainval", "test": "test"}
    splits = readers.read_splits(readers.find_root("voc2012", options.root), names)
    pooled = {size: features(size, splits, options) for size in SIZES}
    labels = np.concatenate([split.labels for split in splits.values()])
    parts = list(partitions(groups_of(splits, options)))
    logits = {}
    rows = []
    for recipe in RECIPES:
        logits[recipe] = [
            scores(pooled[recipe.size], recipe, labels, train, test) for train, test in parts
        ]
        rows.append(row(recipe, logits[recipe], logits[BASELINE], labels, parts))
        tables.show(rows[-1])
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


def features(size: str, splits: dict[str, Split], options: argparse.Namespace) -> Pooled:
    """What every head sees of all photos at a size; from OUT, or into it."""
    path = options.out / f"{size.replace(' ', '_')}.npz"
    if not path.exists():
        rule, pixels = SIZES[size]
        config = ConfigDict(
            {
                "weights": options.weights,
                "data": {"resize": rule, "image_size": pixels},
                "model": {"dtype": "float32"},
            }
        )
        net = network.from_config(config, num_classes=1)
        assert net.weights is not None
        variables = network.starting_variables(net.model, net.weights, head="zeros", seed=0)

        @jax.jit
        def step(pixels: jax.Array) -> dict[str, jax.Array]:
            crops = augment.centre_crop(pixels, net.preprocessing.crop_size)
            normalised = normalise(crops, net.preprocessing)
            _, outputs = net.model.apply(variables, normalised, norms_by_batch=())
            maps = outputs["layer4"]
            return {pooling: head.views(maps, pooling, REGIONS) for pooling in head.POOLINGS}

        photos = images.decode_splits(splits, net.preprocessing, crops=False)
        sharding = by_batch(make_mesh())
        outputs = [
            {name: np.asarray(x)[:count] for name, x in step(batch).items()}
            for role in splits
            for batch, count in batches.eval_batches(photos[role], 32, sharding)
        ]
        files.write_npz(
            path,
            {name: np.concatenate([out[name] for out in outputs]) for name in head.POOLINGS},
            compressed=False,
        )
    with np.load(path) as file:
        return dict(file)


def groups_of(splits: dict[str, Split], options: argparse.Namespace) -> np.ndarray:
    """Which photos [N] are near-duplicates of each other."""
    preprocessing = network.TORCHVISION.override(resize="squash", image_size=224)
    photos = images.decode_splits(splits, preprocessing, crops=False)
    return near_duplicates(np.concatenate([np.asarray(photos[role]) for role in splits]))


def partitions(groups: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows to train on and to test on of each partition."""
    share = NUM_TEST / len(groups)
    splitter = GroupShuffleSplit(NUM_PARTITIONS, test_size=share, random_state=0)
    yield from splitter.split(groups, groups=groups)


def scores(
    pooled: Pooled, recipe: Recipe, labels: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """The logits [T, C] of the test photos under a head that is fitted to the others."""
    num_views = 1 + recipe.regions**2
    seen = pooled[recipe.pooling][:, :num_views]
    seen = np.asarray(head.transformed(jnp.asarray(seen), recipe.transform))
    mask = np.ones_like(labels)
    fitted, _ = fit_head.fit(seen[train], labels[train], mask[train], l2=0.0, seed=0)
    return np.asarray(head.logits_of(seen[test] @ np.asarray(fitted.kernel)) + fitted.bias)


def row(
    recipe: Recipe,
    logits: list[np.ndarray],
    baseline: list[np.ndarray],
    labels: np.ndarray,
    parts: list[tuple[np.ndarray, np.ndarray]],
) -> tables.Row:
    """One line of the table, in percent."""
    maps, gains, samples = [], [], []
    for place, (train, test) in enumerate(parts):
        positives = np.minimum(labels[train].sum(axis=0), labels[test].sum(axis=0))
        columns = np.flatnonzero(positives >= LEAST_POSITIVES)
        pair = (logits[place][:, columns], baseline[place][:, columns])
        truth = labels[test][:, columns]
        gain, of_resamples = metrics.paired_samples(*pair, truth, None, "lab", seed=place)
        names = [str(column) for column in columns]
        mean_ap = metrics.mean_average_precision(pair[0], truth, None, names, "lab")
        maps.append(100 * (mean_ap or 0))
        gains.append(100 * gain)
        samples.append(100 * of_resamples)
    low, high = np.percentile(np.mean(samples, axis=0), [2.5, 97.5])
    return {
        **recipe._asdict(),
        "map": round(float(np.mean(maps)), 1),
        "map_least": round(min(maps), 1),
        "map_most": round(max(maps), 1),
        "gain": round(float(np.mean(gains)), 1),
        "gain_low": round(float(low), 1),
        "gain_high": round(float(high), 1),
        "gain_least": round(min(gains), 1),
        "gain_most": round(max(gains), 1),
    }


if __name__ == "__main__":
    main()
