import jax
import numpy as np
import pytest
from flax import traverse_util

from vtl.models.resnet import ResNet


@pytest.mark.parametrize(("depth", "last"), [(18, "bn2"), (50, "bn3")])
def test_a_new_block_adds_nothing(depth, last):
    """The last scale of each block starts at zero, and no other does."""
    model = ResNet(num_classes=3, depth=depth, width=0.125)
    images = np.zeros((1, 32, 32, 3), np.float32)
    params = model.init(jax.random.key(0), images, live_norms=())["params"]
    scales = {
        path: np.asarray(leaf)
        for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
        if path.endswith("/scale")
    }
    for path, scale in scales.items():
        np.testing.assert_array_equal(scale, 0.0 if f"/{last}/" in path else 1.0, err_msg=path)
