"""The graph resizes as Pillow does, pixel by pixel."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from tests.export import networks
from vtl.export import onnx_resize, photos
from vtl.export.graph import Graph
from vtl.preprocessing import INTERPOLATIONS, RESIZE_RULES

pytestmark = pytest.mark.parity

SIZES = ((107, 150), (97, 131), (40, 61), (300, 398))
"""Heights and widths. None puts a place's middle between two pixels, where nearest has a choice."""


def resizer(pixels):
    """A function from a picture [H, W, 3] to the graph's pixels [S, S, 3]."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    graph, side = Graph(), pixels.crop_size
    graph.add("Identity", "out", onnx_resize.add_resize(graph, "images", pixels), output="seen")
    model = graph.model(
        {"images": (np.uint8, ("N", "H", "W", 3))},
        {"seen": (np.float32, ("N", 3, side, side))},
        "1",
    )
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda picture: session.run(None, {"images": picture[None]})[0][0].transpose(1, 2, 0)


def picture(height, width):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("rule", RESIZE_RULES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_graph_resizes_as_pillow_does(rule, interpolation):
    pixels = dataclasses.replace(networks.PIXELS, resize=rule, interpolation=interpolation)
    resize = resizer(pixels)
    for height, width in SIZES:
        photo = picture(height, width)
        seen, expected = resize(photo), photos.to_crop(photo, pixels)
        difference = np.abs(seen - expected)
        if interpolation == "nearest":
            np.testing.assert_array_equal(seen, expected)
        else:
            # A product may be rounded the other way where it lies between two numbers.
            assert difference.max() <= 1, (height, width)
            assert difference.mean() < 0.01, (height, width)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_of_a_tall_photo_pillow_13_resizes_the_height_first(interpolation):
    """A fifth of the pixels is then rounded otherwise."""
    pixels = dataclasses.replace(networks.PIXELS, resize="squash", interpolation=interpolation)
    photo = picture(131, 97)
    difference = np.abs(resizer(pixels)(photo) - photos.to_crop(photo, pixels))
    assert difference.max() <= 4
    assert difference.mean() < 0.4


def test_the_centre_is_cut_out_as_python_rounds():
    """A margin of an odd number of pixels is halved to the even side."""
    pixels = dataclasses.replace(networks.PIXELS, resize_size=72, interpolation="nearest")
    resize = resizer(pixels)
    for width in (73, 75, 77, 79):
        photo = picture(72, width)
        np.testing.assert_array_equal(resize(photo), photos.to_crop(photo, pixels))
