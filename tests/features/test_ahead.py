"""Features that are computed while photos are decoded are those computed after it, bit for bit."""

import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.deep_features import get_config
from tests.devkit import write_devkit
from tests.tiny import write_weights
from vtl.data import batches, images
from vtl.features.ahead import Ahead
from vtl.features.extract import extract
from vtl.tasks import features
from vtl.training.state import by_batch, make_mesh

NUM_PHOTOS, BATCH_SIZE = 9, 2
IN_BATCHES = {"batch_size": BATCH_SIZE, "sharding": by_batch(make_mesh())}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(NUM_PHOTOS)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)
    return paths


class Step:
    """Mean colours. It counts its batches, and fails at one of them."""

    def __init__(self, fails_at=None, error=RuntimeError):
        self.num_batches, self._fails_at, self._error = 0, fails_at, error

    def __call__(self, photos):
        if not isinstance(photos, jax.core.Tracer):
            self.num_batches += 1
            if self.num_batches == self._fails_at:
                raise self._error("as it was told")
        return jnp.mean(photos.astype(jnp.float32), axis=(1, 2))


def decode(paths, cache, follow=None):
    """The legible photos."""
    options = {"size": 8, "rule": "squash", "interpolation": "bilinear", "skips_broken": True}
    names = [path.name for path in paths]
    found = images.decode_once(
        paths, names, **options, directory=cache / "images", num_threads=1, follow=follow
    )
    return found.rows(np.setdiff1d(np.arange(len(paths)), list(found.broken)))


def features_of(step, photos, partial, ahead=None):
    return extract(
        step, photos, partial, photos_name="p", **IN_BATCHES, weights_sha256="a", ahead=ahead
    )


@pytest.mark.parametrize("broken", [None, NUM_PHOTOS - 1, 4, 0])
def test_every_batch_is_computed_once_and_is_the_same(paths, cache, tmp_path, broken):
    if broken is not None:
        paths[broken].write_bytes(b"broken")
    step = Step()
    ahead = Ahead(step, **IN_BATCHES)
    photos = decode(paths, cache, ahead)
    if broken is None:
        assert step.num_batches == 5
    else:  # batches after it are others
        assert step.num_batches <= broken // BATCH_SIZE
    found, num_new = features_of(step, photos, tmp_path / "ahead", ahead)
    expected, _ = features_of(alone := Step(), photos, tmp_path / "alone")
    assert num_new == len(photos)
    assert step.num_batches == alone.num_batches
    np.testing.assert_array_equal(found, expected)
    assert (tmp_path / "ahead.json").read_bytes() == (tmp_path / "alone.json").read_bytes()


def test_what_fails_is_met_again_when_all_photos_are_decoded(paths, cache, tmp_path):
    ahead = Ahead(Step(fails_at=3), **IN_BATCHES)
    photos = decode(paths, cache, ahead)
    assert len(photos) == NUM_PHOTOS
    with pytest.raises(RuntimeError):
        features_of(Step(fails_at=1), photos, tmp_path / "failing", ahead)
    found, _ = features_of(step := Step(), photos, tmp_path / "ahead", ahead)
    assert step.num_batches == 3
    np.testing.assert_array_equal(found, features_of(Step(), photos, tmp_path / "alone")[0])


def test_a_stop_leaves_what_is_decoded_and_no_features(paths, cache):
    with pytest.raises(KeyboardInterrupt):
        decode(paths, cache, Ahead(Step(fails_at=2, error=KeyboardInterrupt), **IN_BATCHES))
    left = {path.name for path in cache.rglob("*") if path.is_file()}
    assert {name[:17] for name in left if name[0] != "."} == {"unfinished_images"}
    step = Step()
    assert len(decode(paths, cache, Ahead(step, **IN_BATCHES))) == NUM_PHOTOS
    assert step.num_batches == 5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    devkit = write_devkit(root, {"trainval": 11, "test": 7}, ("bird", "cat", "dog"), 48)
    return devkit, write_weights(root / "tiny.safetensors")


def run(workdir, data, **changes):
    config = get_config()
    own = {"data.root": str(data[0]), "data.image_size": 32, "weights": str(data[1])}
    config.update_from_flattened_dict(own | {"batch_size": 4} | changes)
    features.run(config.lock(), workdir)
    with np.load(workdir / "DF_ResNet18_VOC2007.npz") as file:
        return {name: file[name] for name in file.files if name != "meta"}


def test_a_run_computes_before_its_last_photo_is_decoded(tmp_path, data, cache, monkeypatch):
    has_computed, seen = threading.Event(), []
    load, place = images.load_resized, batches.place

    def load_last_late(path, *options):
        if path.stem == "000011":
            seen.append(has_computed.wait(60))
        return load(path, *options)

    def say_so(*arguments):
        has_computed.set()
        return place(*arguments)

    monkeypatch.setattr(images, "load_resized", load_last_late)
    monkeypatch.setattr(batches, "place", say_so)
    found = run(tmp_path / "run", data)
    assert seen == [True]
    assert not [path for path in cache.iterdir() if path.is_file()]

    # One that looks for photos to drop computes after it has looked.
    shutil.rmtree(cache)
    monkeypatch.setattr(images, "load_resized", load)
    monkeypatch.setattr(features, "Ahead", lambda *_, **__: pytest.fail("computes ahead"))
    expected = run(tmp_path / "late", data, **{"data.duplicates": "drop_from_train"})
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


def test_what_a_stop_left_of_features_is_gone_on_from(tmp_path, data, cache, monkeypatch):
    expected, place, num_placed = run(tmp_path / "whole", data), batches.place, []

    def stop_at_the_last(*arguments):
        num_placed.append(1)
        if len(num_placed) == 5:
            raise KeyboardInterrupt
        return place(*arguments)

    monkeypatch.setattr(batches, "place", stop_at_the_last)
    with pytest.raises(KeyboardInterrupt):  # in test, when train is done
        run(tmp_path / "run", data)
    shutil.rmtree(cache)  # as on another machine
    num_placed = []
    monkeypatch.setattr(batches, "place", lambda *its: num_placed.append(1) or place(*its))
    found = run(tmp_path / "run", data)
    assert len(num_placed) == 2
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])
