import jax
import numpy as np
import pytest
from flax import traverse_util

from vtl.models import HEAD
from vtl.models.resnet import DEPTHS, STAGES, ResNet


@pytest.mark.parametrize(
    ("depth", "last"), [(18, "bn2"), pytest.param(50, "bn3", marks=pytest.mark.full)]
)
def test_a_new_block_adds_nothing(depth, last):
    """The last scale of each block starts at zero, and no other does."""
    model = ResNet(num_classes=3, depth=depth, width=0.125)
    images = np.zeros((1, 32, 32, 3), np.float32)

    @jax.jit
    def scales():
        """Alone: the others are not drawn."""
        params = model.init(jax.random.key(0), images, norms_by_batch=())["params"]
        flat = traverse_util.flatten_dict(params, sep="/")
        return {path: leaf for path, leaf in flat.items() if path.endswith("/scale")}

    for path, scale in scales().items():
        np.testing.assert_array_equal(scale, 0.0 if f"/{last}/" in path else 1.0, err_msg=path)


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.full)])
def test_outputs_go_by_their_names(depth):
    """A stage is its last block, at half the size of the stage before; features are a mean."""
    model = ResNet(num_classes=3, depth=depth, width=0.125)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), images, norms_by_batch=()))()
    logits, outputs = jax.jit(lambda: model.apply(variables, images, norms_by_batch=()))()
    last = {
        stage: f"{stage}_{n - 1}" for stage, n in zip(STAGES, DEPTHS[depth].blocks, strict=True)
    }
    assert {"stem", "features", *last, *last.values()} <= outputs.keys()
    assert [outputs[stage].shape[1] for stage in STAGES] == [16, 8, 4, 2]
    for stage, block in last.items():
        np.testing.assert_array_equal(outputs[stage], outputs[block])
    features = np.asarray(outputs["layer4"]).mean(axis=(1, 2))
    np.testing.assert_allclose(outputs["features"], features, rtol=1e-5)
    head = variables["params"][HEAD]
    scores = features @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, scores, rtol=1e-4, atol=1e-6)
