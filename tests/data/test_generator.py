import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from tests.devkit import write_devkit
from vtl.data.generator import PascalVOCDataGenerator, _labs_own
from vtl.errors import UserError
from vtl.preprocessing import TORCHVISION


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    return write_devkit(tmp_path_factory.mktemp("data"), {"trainval": 7})


def test_the_lines_of_the_hand_out(devkit):
    generator = PascalVOCDataGenerator("trainval", devkit)
    ids = generator.images_ids_in_subset
    assert len(ids) == 7
    assert generator.nb_classes == 20
    features, labels = np.zeros((7, 3)), np.zeros((7, generator.nb_classes))
    batches = generator.flow(batch_size=3)
    for i in range(int(len(ids) / 3) + 1):
        x, y = next(batches)
        features[i * 3 : min((i + 1) * 3, len(ids)), :] = x.mean(axis=(1, 2), dtype=np.float64)
        labels[i * 3 : min((i + 1) * 3, len(ids)), :] = y
    np.testing.assert_array_equal(labels, np.stack([generator.id_to_label[name] for name in ids]))
    # The lab's pixels: squashed by nearest, blue first, less the mean.
    for name, row in zip(ids, features, strict=True):
        photo = Image.open(devkit / "JPEGImages" / f"{name}.jpg").resize((224, 224), 0)
        expected = np.asarray(photo, np.float64)[..., ::-1].mean(axis=(0, 1))
        np.testing.assert_allclose(row, expected - [103.939, 116.779, 123.68], atol=1e-3)


def test_the_last_batch_is_partial_and_passes_go_on(devkit):
    batches = PascalVOCDataGenerator("trainval", devkit).flow(batch_size=3)
    sizes = [len(y) for _, y in itertools.islice(batches, 5)]
    assert sizes == [3, 3, 1, 3, 3]


def test_shuffling_is_asked_for_and_complete(devkit):
    generator = PascalVOCDataGenerator("trainval", devkit, TORCHVISION)
    straight = next(generator.flow(batch_size=7))[0]
    shuffled = next(generator.flow(batch_size=7, shuffle=True, seed=1))[0]
    assert straight.shape == (7, 224, 224, 3)
    order = [int(np.abs(straight - x).sum(axis=(1, 2, 3)).argmin()) for x in shuffled]
    assert sorted(order) == list(range(7))
    assert order != list(range(7))
    np.testing.assert_array_equal(straight[order], shuffled)


def test_a_batch_has_a_photo(devkit):
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        next(PascalVOCDataGenerator("trainval", devkit).flow(batch_size=0))


class Weights:
    preprocessing = dataclasses.replace(TORCHVISION, mean=(0.5, 0.5, 0.5), interpolation="bicubic")


def test_photos_are_prepared_for_the_weights(devkit, caplog):
    by_weights = PascalVOCDataGenerator("trainval", devkit, weights=Weights())
    by_hand = PascalVOCDataGenerator("trainval", devkit, Weights.preprocessing)
    x, y = (next(generator.flow(7))[0] for generator in (by_weights, by_hand))
    np.testing.assert_array_equal(x, y)
    assert -1.01 / 0.224 < x.min() < -0.5
    assert "photos are prepared" not in caplog.text
    with pytest.raises(UserError, match="give one"):
        PascalVOCDataGenerator("trainval", devkit, TORCHVISION, weights=Weights())


def test_the_labs_own_call_says_once_what_it_assumes(devkit, caplog):
    _labs_own.cache_clear()
    for _ in range(2):
        PascalVOCDataGenerator("trainval", devkit)
    messages = [record.getMessage() for record in caplog.records]
    (message,) = [text for text in messages if text.startswith("photos are prepared")]
    assert "Keras' ResNet-50" in message
    assert "weights=weights" in message
