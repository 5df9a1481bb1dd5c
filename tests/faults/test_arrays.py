"""Thousands of damaged files of features, digits and curves: read, or one line on each."""

import gzip
import struct

import numpy as np
import pytest

from tests.faults import NUM_FAULTS, mutations
from tests.faults.mutate import mutated
from vtl.data import deep_features
from vtl.relu_study import mnist

NUM_CASES = 3 * NUM_FAULTS // 10


def sound_features():
    rng = np.random.default_rng(0)
    arrays = {}
    for role in ("train", "test"):
        arrays[f"X_{role}"] = rng.random((8, 5)).astype(np.float32)
        arrays[f"Y_{role}"] = rng.integers(0, 2, (8, 3)).astype(np.float32)
        arrays[f"difficult_{role}"] = np.zeros((8, 3), np.uint8)
        arrays[f"ids_{role}"] = np.array([f"{role}{row}" for row in range(8)])
    arrays["classes"] = np.array(["cat", "dog", "cow"])
    arrays["meta"] = np.array('{"layer": "layer4", "data": {"splits": {"train": "trainval"}}}')
    return arrays


@pytest.mark.full
def test_damaged_features_are_read_or_named(tmp_path):
    path, outcomes = tmp_path / "f.npz", mutations.Outcomes()
    for seed in range(NUM_CASES):
        rng = np.random.default_rng(seed)
        content = mutations.npz_bytes(mutations.mutated_arrays(sound_features(), rng))
        if seed % 4 == 0:
            content = mutated(mutations.npz_bytes(sound_features()), rng)
        path.unlink(missing_ok=True)
        path.write_bytes(content)

        def read():
            found = deep_features.read(path)
            for split in found.splits.values():
                assert split.features.dtype == np.float32
                assert np.isfinite(split.features).all()
                assert set(np.unique(split.labels)) <= {0, 1}
                assert split.labels.shape == (len(split.features), len(found.classes))
            assert all(isinstance(name, str) for name in found.classes)
            return "right"

        outcomes.note(seed, read)
    print(dict(outcomes.counts))
    assert not outcomes.bad, "\n".join(outcomes.bad[:30])
    assert min(outcomes.counts["line"], outcomes.counts["right"]) > NUM_CASES / 20


def idx(array):
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.mark.full
def test_damaged_digits_are_read_or_named(tmp_path):
    rng = np.random.default_rng(0)
    contents = {}
    for prefix, count in (("train", 9), ("t10k", 5)):
        images = rng.integers(0, 256, (count, 4, 4), np.uint8)
        contents[f"{prefix}-images-idx3-ubyte"] = idx(images)
        contents[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(
            idx(np.arange(count, dtype="u1"))
        )
    outcomes = mutations.Outcomes()
    for seed in range(NUM_CASES):
        rng = np.random.default_rng(seed)
        for name, content in contents.items():
            path = tmp_path / name
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            path.unlink(missing_ok=True)
            path.write_bytes(content)
        name = list(contents)[rng.integers(len(contents))]
        kind = rng.integers(4)
        if kind == 0:
            mutations.replace_file(tmp_path / name, rng, tmp_path / "train-images-idx3-ubyte")
        elif kind == 1:
            inside = mutated(gzip.decompress(gzip.compress(contents[name])), rng)
            (tmp_path / name).write_bytes(gzip.compress(inside))
        else:
            (tmp_path / name).write_bytes(mutated(contents[name], rng))

        def read():
            found = mnist.read("mnist", str(tmp_path))
            for split in found.values():
                assert len(split.images) == len(split.labels) > 0
                assert split.labels.max() < 10
            return "right"

        outcomes.note(seed, read)
    print(dict(outcomes.counts))
    assert not outcomes.bad, "\n".join(outcomes.bad[:30])
    assert min(outcomes.counts["line"], outcomes.counts["right"]) > NUM_CASES / 20
