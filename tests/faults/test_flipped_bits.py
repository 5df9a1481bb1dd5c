"""One flipped bit in a file that vtl wrote: it is found before it is used, or it is harmless."""

import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from tests.tiny import write_weights
from tests.training import test_checkpoint
from vtl.data import deep_features, images
from vtl.data.split import Split
from vtl.errors import UserError
from vtl.files import write_npz
from vtl.models.resnet import Architecture
from vtl.preprocessing import TORCHVISION
from vtl.report import run_files
from vtl.training.checkpoint import Checkpoints
from vtl.weights import heads, sources

pytestmark = pytest.mark.full

CLASSES = ("cat", "dog")
STEPS = (1, 2)


class Kind(NamedTuple):
    """A file, or several, that vtl writes; how they are read back, and how often one is damaged."""

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    """Everything that vtl uses of what it reads."""
    damaged: str
    """A pattern of the files of which one is damaged."""
    num_flips: int


def _arrays(directory: Path) -> dict[str, np.ndarray]:
    """A few photos' labels and scores."""
    rng = np.random.default_rng(0)
    return {
        "scores": rng.random((6, 2), np.float32),
        "logits": rng.normal(size=(6, 2)).astype(np.float32),
        "labels": rng.integers(0, 2, (6, 2)).astype(np.uint8),
        "difficult": np.zeros((6, 2), np.uint8),
        "ids": np.array([f"{i:06d}" for i in range(6)]),
        "classes": np.array(CLASSES),
    }


def write_scores(directory: Path) -> None:
    write_npz(directory / "scores_test.npz", _arrays(directory))


def read_scores(directory: Path) -> Any:
    return vars(run_files.read_scores(directory, "test", list(CLASSES)))


def write_features(directory: Path) -> None:
    rng, found = np.random.default_rng(0), _arrays(directory)
    split = Split(
        ids=tuple(found["ids"]),
        paths=(directory / "no.jpg",) * 6,
        labels=found["labels"],
        label_mask=np.ones_like(found["labels"]),
        difficult=found["difficult"],
        classes=CLASSES,
        name="train",
        ids_sha256="",
    )
    features = {"train": rng.normal(size=(6, 5)).astype(np.float32)}
    meta = {"layer": "layer4", "pool": 1, "weights": None}
    deep_features.write(directory / "DF.npz", features, {"train": split}, meta)


def read_features(directory: Path) -> Any:
    found = deep_features.read(directory / "DF.npz")
    return vars(found.splits["train"]), found.classes, found.meta


def write_tiny_weights(directory: Path) -> None:
    write_weights(directory / "model.safetensors")


def read_weights(directory: Path) -> Any:
    found = sources.load(str(directory / "model.safetensors"))
    network = found.architecture, found.preprocessing, found.classes, found.multi_label
    return network, found.tensors


def write_head(directory: Path) -> None:
    rng = np.random.default_rng(0)
    kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((8, 2), (2,)))
    features = {"weights": {"sha256": "0" * 64}, "layer": "layer4", "pool": 1}
    heads.save(directory, kernel, bias, classes=CLASSES, features=features)


def read_head(directory: Path) -> Any:
    return heads.load(
        directory,
        classes=CLASSES,
        weights_sha256="0" * 64,
        architecture=Architecture(18, 1 / 64, "v1.5", 1e-5, num_classes=None),
        preprocessing=TORCHVISION,
    )


def write_photos(directory: Path) -> None:
    """Photos beside the directory, which other cases share, decoded into a cache in it."""
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(directory / f"{number}.jpg")
    read_photos(directory)


def read_photos(directory: Path) -> Any:
    paths = [directory / f"{number}.jpg" for number in range(3)]
    photos = images.decode_once(
        paths,
        [path.stem for path in paths],
        size=16,
        rule="squash",
        interpolation="bilinear",
        directory=directory / "cache",
    )
    # The second time what was read and found right is believed.
    return np.asarray(photos), np.asarray(photos)


def write_checkpoints(directory: Path) -> None:
    test_checkpoint.save_all(directory, dict.fromkeys(STEPS, 0.5))


def read_checkpoints(directory: Path) -> Any:
    """The state that a run would go on from."""
    checkpoints = Checkpoints(directory / "checkpoints", best_by=test_checkpoint.BEST_BY)
    step = checkpoints.latest()
    state = None if step is None else test_checkpoint.restore(checkpoints, step)
    checkpoints.close()
    return step, jax.tree.map(np.asarray, state)


KINDS = {
    "scores_test.npz": Kind(write_scores, read_scores, "scores_test.npz", 1000),
    "features .npz": Kind(write_features, read_features, "DF.npz", 1000),
    "model.safetensors": Kind(write_tiny_weights, read_weights, "model.safetensors", 200),
    "head.safetensors": Kind(write_head, read_head, "head.safetensors", 500),
    "decoded photos": Kind(write_photos, read_photos, "cache/*.npy", 500),
    "decoded photos' .json": Kind(write_photos, read_photos, "cache/*.json", 300),
    "a checkpoint": Kind(write_checkpoints, read_checkpoints, "checkpoints/2/**/*", 60),
}


def flip_a_bit(path: Path, rng: np.random.Generator) -> None:
    """Flip one bit in place; half of the time within the first kilobyte, where headers are."""
    content = bytearray(path.read_bytes())
    end = len(content) if rng.random() < 0.5 else min(len(content), 1024)
    content[rng.integers(end)] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def same(ours: Any, theirs: Any) -> bool:
    """Whether two trees have the same structure, and arrays of the same types and bytes."""
    if jax.tree.structure(ours) != jax.tree.structure(theirs):
        return False
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return all(
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        if isinstance(a, np.ndarray)
        else a == b
        for a, b in pairs
    )


@pytest.fixture
def words():
    """What vtl warns of."""
    texts: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(record.getMessage())
    logger = logging.getLogger("absl")
    logger.addHandler(handler)
    yield texts
    logger.removeHandler(handler)


def _restore(directory: Path, sound: Path) -> None:
    """All but the photos, which are known by the times of their files."""
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".jpg":
            path.unlink()
    for path in sound.iterdir():
        if path.is_dir():
            shutil.copytree(path, directory / path.name)
        elif path.suffix != ".jpg":
            shutil.copy(path, directory)


def outcome(kind: Kind, directory: Path, allowed: list[Any], words: list[str]) -> str:
    """What comes of reading a damaged file, of which `allowed[0]` was written."""
    words.clear()
    before = {path: path.read_bytes() for path in directory.glob(kind.damaged) if path.is_file()}
    try:
        found = kind.read(directory)
    except UserError:
        return "refused"
    is_made_anew = any(path.exists() and path.read_bytes() != before[path] for path in before)
    if same(found, allowed[0]):
        return "mended" if words or is_made_anew else "harmless"
    if words and any(same(found, other) for other in allowed[1:]):
        return "the one before"
    return "changed, and said so" if words else "changed without a word"


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_is_found_or_harmless(name, tmp_path, words, capsys):
    kind, directory, sound = KINDS[name], tmp_path / "case", tmp_path / "sound"
    directory.mkdir()
    kind.write(directory)
    allowed = [kind.read(directory)]
    if name == "a checkpoint":
        shutil.copytree(directory, tmp_path / "first")
        shutil.rmtree(tmp_path / "first" / "checkpoints" / str(STEPS[-1]))
        allowed.append(kind.read(tmp_path / "first"))
    shutil.copytree(directory, sound)
    paths = sorted(path.relative_to(sound) for path in sound.glob(kind.damaged) if path.is_file())
    rng = np.random.default_rng(sorted(KINDS).index(name))
    counts: Counter[str] = Counter()
    for _ in range(kind.num_flips):
        flip_a_bit(directory / paths[rng.integers(len(paths))], rng)
        counts[outcome(kind, directory, allowed, words)] += 1
        _restore(directory, sound)
    with capsys.disabled():
        print(f"\n{name}: {dict(counts)}")
    assert counts.keys() <= {"refused", "mended", "harmless", "the one before"}
    assert counts["harmless"] < kind.num_flips / 2
