"""Which copies of a photo are found by its pixels, and which by its deep features.

    python -m experiments.near_duplicates --root=DEVKIT --weights=FILE --out=runs/partitions

Of 40 of the 1,200 photos with animals copies are made: flipped, cropped, compressed and so on. Of
each kind the table has the share of the copies that `vtl.data.duplicates` takes for their original,
by grey thumbnails and by features (averages of photos squashed to 224 pixels), and the least and
the median cosine of the features, along the axes that the 1,200 photos have. The last row is of
these 1,200: how many have another one that is taken for the same, and the median and the highest
cosine of a photo with the one most like it; the pairs of the highest are printed. Features lie in
OUT, as experiments/partitions.py leaves them there; those of the copies take minutes on 2 CPU
cores. Writes experiments/near_duplicates.csv.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageEnhance, ImageOps

from experiments import partitions, tables
from vtl.data import batches, duplicates, images
from vtl.data.split import Split
from vtl.training import steps
from vtl.training.state import by_batch, make_mesh
from vtl.weights import network

NUM_COPIED = 40


def cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    """Keeps the middle, of this share of each side."""

    def crop(image: Image.Image) -> Image.Image:
        left, top = (round(side * (1 - share) / 2) for side in image.size)
        return image.crop((left, top, image.width - left, image.height - top))

    return crop


CHANGES: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "compressed": (lambda image: image, 30),
    "half the size": (lambda image: image.resize((image.width // 2, image.height // 2)), 90),
    "brighter by 1.3": (lambda image: ImageEnhance.Brightness(image).enhance(1.3), 90),
    "grey": (lambda image: image.convert("L").convert("RGB"), 90),
    "flipped": (ImageOps.mirror, 90),
    "middle 95 %": (cropped(0.95), 90),
    "middle 90 %": (cropped(0.9), 90),
    "middle 80 %": (cropped(0.8), 90),
    "middle 80 %, flipped": (lambda image: ImageOps.mirror(cropped(0.8)(image)), 90),
    "turned by 5 degrees": (lambda image: image.rotate(5, Image.Resampling.BILINEAR), 90),
}
"""What is done to a photo, and the quality of the JPEG that is then written."""


def main() -> None:
    """Make the copies, compare them, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/partitions"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    splits = partitions.sample_photos(options.root)
    every = partitions.features(partitions.BASELINE.size, splits, options)["average"][:, 0]
    originals = splits["test"].rows(np.linspace(0, len(splits["test"]) - 1, NUM_COPIED).astype(int))
    step = feature_step(options.weights)
    with tempfile.TemporaryDirectory() as folder:
        copies = {name: changed(originals, name, Path(folder)) for name in CHANGES}
        features = {name: step.features(its) for name, its in copies.items()}
        small = {name: step.thumbnails(its) for name, its in copies.items()}
    mean, axes = duplicates.principal_axes({"every": every})
    places = {name: duplicates.along(its, mean, axes) for name, its in features.items()}
    of_originals = duplicates.along(step.features(originals), mean, axes)
    thumbnails, rows = step.thumbnails(originals), []
    for name in CHANGES:
        cosines = np.sum(of_originals * places[name], axis=1)
        correlations = np.sum(thumbnails * small[name], axis=1)
        found = {
            "found_by_thumbnails": np.mean(correlations >= duplicates.LEAST_CORRELATION),
            "found_by_features": np.mean(cosines >= duplicates.LEAST_COSINE),
        }
        rows.append({"copy": name} | found | summary(cosines))
        tables.show(rows[-1])
    of_all = duplicates.along(every, mean, axes)
    between = of_all @ of_all.T
    np.fill_diagonal(between, -1)
    nearest = between.max(axis=1)
    found = {"found_by_features": np.mean(nearest >= duplicates.LEAST_COSINE)}
    rows.append({"copy": "none: another photo"} | found | summary(nearest))
    tables.show(rows[-1])
    ids = [photo_id for split in splits.values() for photo_id in split.ids]
    for place in np.argsort(-np.triu(between).ravel())[:5]:
        one, other = np.unravel_index(place, between.shape)
        tables.show({"photo": ids[one], "and": ids[other], "cosine": between[one, other]})
    tables.write_csv(
        Path(__file__).with_suffix(".csv"),
        [{k: v if isinstance(v, str) else round(float(v), 3) for k, v in r.items()} for r in rows],
    )


def summary(cosines: np.ndarray) -> tables.Row:
    """Of cosines [N]."""
    return {
        "least_cosine": cosines.min(),
        "median_cosine": np.median(cosines),
        "highest_cosine": cosines.max(),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """What becomes of a split's photos, as the network gets them."""

    net: network.Network
    compute: Callable[[jax.Array], jax.Array]

    def thumbnails(self, split: Split) -> np.ndarray:
        """As near-duplicates are found by, [N, D]."""
        return duplicates.thumbnails(self._decoded(split))

    def features(self, split: Split) -> np.ndarray:
        """[N, D]."""
        batched = batches.eval_batches(self._decoded(split), 20, by_batch(make_mesh()))
        return np.concatenate([np.asarray(self.compute(batch))[:n] for batch, n in batched])

    def _decoded(self, split: Split) -> batches.Images:
        return images.decode_splits({"train": split}, self.net.preprocessing, crops=False)["train"]


def feature_step(weights: str) -> Step:
    """Computes the features of photos as the partitions' baseline has them."""
    rule, pixels = partitions.SIZES[partitions.BASELINE.size]
    config = ConfigDict(
        {
            "weights": weights,
            "data": {"resize": rule, "image_size": pixels},
            "model": {"dtype": "float32"},
        }
    )
    net = network.from_config(config, num_classes=1)
    variables = network.starting_variables(net.model, net.weights, head="zeros", seed=0)
    step = steps.make_feature_step(
        net.model, net.preprocessing, make_mesh(), layer="layer4", grid=1
    )
    return Step(net, lambda batch: step(variables, batch))


def changed(split: Split, name: str, folder: Path) -> Split:
    """A split of copies of the photos, which are written below `folder`."""
    change, quality = CHANGES[name]
    ids, paths = tuple(f"{name} {photo_id}" for photo_id in split.ids), []
    for photo_id, path in zip(ids, split.paths, strict=True):
        paths.append(folder / f"{photo_id}.jpg")
        with Image.open(path) as image:
            change(image.convert("RGB")).save(paths[-1], quality=quality)
    return dataclasses.replace(split, ids=ids, paths=paths, ids_sha256=name)


if __name__ == "__main__":
    main()
