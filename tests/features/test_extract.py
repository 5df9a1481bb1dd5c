import json
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtl.data import deep_features
from vtl.data.split import Split
from vtl.features import extract
from vtl.training.state import by_batch, make_mesh


def run_extract(photos, partial, name="photos", weights="a", stop_after=None):
    """Mean colours; a stop comes after so many calls of the step, one of them eval_shape's."""
    calls = []

    def step(images):
        calls.append(1)
        if stop_after and len(calls) > stop_after:
            raise KeyboardInterrupt
        return jnp.mean(images.astype(jnp.float32), axis=(1, 2))

    return extract.extract(
        step,
        photos,
        partial,
        photos_name=name,
        batch_size=2,
        sharding=by_batch(make_mesh()),
        weights_sha256=weights,
    )


@pytest.mark.parametrize("change", ["weights", "photos", "fewer", "more"])
def test_what_was_left_by_other_photos_or_weights_is_done_again(tmp_path, monkeypatch, change):
    """A run resumes only from features of the same photos and weights."""

    def call(num_photos, value, weights="a", stop_after=None):
        photos = np.lib.format.open_memmap(
            tmp_path / f"{num_photos}_{value}.npy",
            mode="w+",
            dtype=np.uint8,
            shape=(num_photos, 4, 4, 3),
        )
        photos[:] = value
        partial = tmp_path / "unfinished"
        return run_extract(photos, partial, f"{num_photos}_{value}", weights, stop_after)

    monkeypatch.setattr(extract, "BATCHES_BETWEEN_SAVES", 1)
    with pytest.raises(KeyboardInterrupt):
        call(6, 10, stop_after=2)  # one call is eval_shape's
    assert json.loads((tmp_path / "unfinished.json").read_text())["done"] == 2
    arguments = {"weights": (6, 10, "b"), "photos": (6, 20), "fewer": (4, 30), "more": (9, 40)}
    extracted, count = call(*arguments[change])
    num_photos, value = arguments[change][:2]
    assert count == num_photos
    np.testing.assert_array_equal(extracted, np.full((num_photos, 3), value))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_record(**changes):
    def change(path):
        path = path.with_suffix(".json")
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def replace_json(content):
    return lambda path: path.with_suffix(".json").write_text(content)


DAMAGES = {
    "a flipped bit": flip_a_bit,
    "an array that is too short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "no array": lambda path: path.unlink(),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: (path.unlink(), path.symlink_to("/etc/hostname")),
    "a count beyond all": change_record(done=10**9),
    "a count of rows that aren't there": change_record(done=6),
    "a count that is none": change_record(done="4"),
    "an empty record": replace_json(""),
    "a cut record": replace_json('{"done": 4'),
    "a record of another kind": replace_json("[]"),
    "a record of vtl 0.1": replace_json('{"done": 4}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_can_t_be_believed_is_computed_again(tmp_path, monkeypatch, caplog, damage):
    photos = np.lib.format.open_memmap(
        tmp_path / "photos.npy", mode="w+", dtype=np.uint8, shape=(6, 4, 4, 3)
    )
    photos[:] = np.arange(6)[:, None, None, None]
    expected = np.repeat(np.arange(6, dtype=np.float32)[:, None], 3, axis=1)
    monkeypatch.setattr(extract, "BATCHES_BETWEEN_SAVES", 1)

    partial = tmp_path / "unfinished_train"
    with pytest.raises(KeyboardInterrupt):
        run_extract(photos, partial, stop_after=3)
    DAMAGES[damage](tmp_path / "unfinished_train.npy")
    found, count = run_extract(photos, partial)
    assert count == 6
    np.testing.assert_array_equal(found, expected)
    assert "computed again" in caplog.text
    # And what is whole is believed.
    _, count = run_extract(photos, partial)
    assert count == 0


def test_memory_does_not_grow_with_the_photos(tmp_path):
    """Features are streamed to the disk and into the .npz: 60 MB cost no more than 20."""
    mesh = make_mesh()
    to_features = jax.jit(lambda images: jnp.tile(jnp.mean(images, axis=(1, 2)), (1, 1000)))

    def peak(num_photos):
        shape = (num_photos, 8, 8, 3)
        photos = np.lib.format.open_memmap(
            tmp_path / f"{num_photos}.npy", mode="w+", dtype=np.uint8, shape=shape
        )
        ids = tuple(f"{i:06d}" for i in range(num_photos))
        flags = np.zeros((num_photos, 1), np.uint8)
        paths = (Path("photo.jpg"),) * num_photos
        split = Split(
            name="trainval",
            ids=ids,
            paths=paths,
            classes=("bird",),
            labels=flags,
            label_mask=1 - flags,
            difficult=flags,
            ids_sha256="",
        )
        tracemalloc.start()
        extracted, _ = extract.extract(
            to_features,
            photos,
            tmp_path / f"unfinished_{num_photos}",
            photos_name="photos",
            batch_size=50,
            sharding=by_batch(mesh),
            weights_sha256="",
        )
        path = tmp_path / f"{num_photos}.npz"
        deep_features.write(path, {"train": extracted}, {"train": split}, {})
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert path.stat().st_size > num_photos * 12_000
        return highest

    peak(50)  # compiled
    assert peak(5000) < peak(1700) + 4e6
