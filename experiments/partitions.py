"""Heads on frozen features, compared on five partitions of 1,200 VOC2012 photos with animals.

    python -m experiments.partitions --root=DEVKIT --weights=FILE --out=runs/partitions

Near-duplicates stay together; each partition has about 700 photos to train on and 500 to test on,
and each head's L2 is chosen by cross-validation within the 700. A head is compared with a plain
logistic regression on photos squashed to 224 pixels, on the same photos: "gain" is the mean of the
five differences in mAP on test, and its interval that of a bootstrap over the 1,200 photos, drawn
for all partitions at once. mAP is scikit-learn's AP, averaged over the classes with at least five
positives in both parts; it is no VOC2007 figure. Features are computed once a size, in minutes on
2 CPU cores, and lie in OUT; the heads take minutes more. Writes experiments/partitions.csv.
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
from vtl import files, identity
from vtl.data import batches, images
from vtl.data.duplicates import near_duplicates
from vtl.data.split import Split
from vtl.data.splits import find_root, read_splits
from vtl.evaluation import metrics
from vtl.models import head
from vtl.preprocessing import normalise
from vtl.training import augment, fit_head
from vtl.training.state import by_batch, make_mesh
from vtl.weights import network

NUM_PARTITIONS = 5
NUM_TEST = 500
NUM_RESAMPLES = 1000
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
    Recipe("squash 448"),
    Recipe("squash 448", transform="l2"),
    Recipe("squash 448", transform="sqrt_l2"),
    Recipe("squash 448", pooling="maximum", transform="sqrt_l2"),
    Recipe("squash 448", pooling="both", transform="sqrt_l2"),
    Recipe("squash 448", pooling="cells", transform="sqrt_l2"),
    Recipe("squash 448", regions=REGIONS),
    Recipe("squash 448", transform="sqrt_l2", regions=REGIONS),
    Recipe("squash 352", transform="sqrt_l2", regions=REGIONS),
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
    splits = sample_photos(options.root)
    pooled = {size: features(size, splits, options) for size in SIZES}
    labels = np.concatenate([split.labels for split in splits.values()])
    parts = list(partitions(groups_of(splits)))
    logits = {}
    rows = []
    for recipe in RECIPES:
        logits[recipe] = [
            scores(pooled[recipe.size], recipe, labels, train, test) for train, test in parts
        ]
        numbers = compared(logits[recipe], logits[BASELINE], labels, parts)
        rows.append(recipe._asdict() | numbers)
        tables.show(rows[-1])
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


def features(size: str, splits: dict[str, Split], options: argparse.Namespace) -> Pooled:
    """What every head sees of all photos at a size; from OUT, or into it."""
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
    made_of = identity.json_sha256([net.weights.sha256, identity.of_splits(splits)])[:8]
    path = options.out / f"{size.replace(' ', '_')}_{made_of}.npz"
    if not path.exists():
        files.write_npz(path, compute(net, splits), compressed=False)
    with np.load(path) as file:
        return dict(file)


def compute(net: network.Network, splits: dict[str, Split]) -> Pooled:
    """What every head sees of all photos."""
    variables = network.starting_variables(net.model, net.weights, head="zeros", seed=0)

    @jax.jit
    def step(pixels: jax.Array) -> dict[str, jax.Array]:
        crops = augment.centre_crop(pixels, net.preprocessing.crop_size)
        normalised = normalise(crops, net.preprocessing)
        _, outputs = net.model.apply(variables, normalised, norms_by_batch=())
        return {
            name: head.views(outputs["seen"], name, REGIONS) for name in net.architecture.poolings
        }

    photos = images.decode_splits(splits, net.preprocessing, crops=False)
    sharding = by_batch(make_mesh())
    outputs = [
        {name: np.asarray(x)[:count] for name, x in step(batch).items()}
        for role in splits
        for batch, count in batches.eval_batches(photos[role], 32, sharding)
    ]
    return {name: np.concatenate([out[name] for out in outputs]) for name in outputs[0]}


def sample_photos(root: str) -> dict[str, Split]:
    """The two splits of the devkit of 1,200 photos, train and test."""
    return read_splits(find_root("voc2012", root), {"train": "trainval", "test": "test"})


def groups_of(splits: dict[str, Split]) -> np.ndarray:
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
    views = jnp.asarray(pooled[recipe.pooling][:, : 1 + recipe.regions**2])
    seen = np.asarray(head.transformed(views, recipe.transform))
    fitted, _ = fit_head.fit(
        seen[train, 0], seen[train, 1:], labels[train], np.ones_like(labels[train]), l2=0.0, seed=0
    )
    of_views = seen[test] @ np.asarray(fitted.kernel)
    return np.asarray(head.logits_of(jnp.asarray(of_views)) + fitted.bias)


def compared(
    logits: list[np.ndarray],
    baseline: list[np.ndarray],
    labels: np.ndarray,
    parts: list[tuple[np.ndarray, np.ndarray]],
) -> tables.Row:
    """The mAP of logits [T, C] of each partition, and its gain over a baseline's, in percent."""
    draws = np.random.default_rng(0).multinomial(
        len(labels), np.full(len(labels), 1 / len(labels)), NUM_RESAMPLES
    )
    counts = np.concatenate([np.ones((len(labels), 1), int), draws.T], axis=1)  # first as it is
    maps, gains = [], []
    for ours, theirs, (train, test) in zip(logits, baseline, parts, strict=True):
        positives = np.minimum(labels[train].sum(axis=0), labels[test].sum(axis=0))
        columns = np.flatnonzero(positives >= LEAST_POSITIVES)
        by_head = [
            100
            * metrics.resampled_map(x[:, columns], labels[test][:, columns], "lab", counts[test])
            for x in (ours, theirs)
        ]
        maps.append(by_head[0][0])
        gains.append(by_head[0] - by_head[1])
    gain, *resampled = np.mean(gains, axis=0)
    low, high = np.percentile(resampled, [2.5, 97.5])
    each = [first for first, *_ in gains]
    numbers = {
        "map": np.mean(maps),
        "map_least": min(maps),
        "map_most": max(maps),
        "gain": gain,
        "gain_low": low,
        "gain_high": high,
        "gain_least": min(each),
        "gain_most": max(each),
    }
    return {name: round(float(x), 1) for name, x in numbers.items()}


if __name__ == "__main__":
    main()
