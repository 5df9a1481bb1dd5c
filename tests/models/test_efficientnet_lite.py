import math

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util

from vtl.models import HEAD
from vtl.models.efficientnet_lite import (
    LAST,
    SIZES,
    Architecture,
    EfficientNetLite,
    stages_of,
)
from vtl.training import optim
from vtl.weights import network


def variables_of(model):
    """Random kernels, and BatchNorms that change nothing."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if path[-1] == "kernel":
            deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return rng.normal(0, deviation, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, path[-1] in ("scale", "var"), np.float32)

    return traverse_util.path_aware_map(fill, network.shapes_of(model))


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        (0, 4_652_008),
        (4, 13_006_568),
        *(
            pytest.param(*pair, marks=pytest.mark.full)
            for pair in ((1, 5_416_680), (2, 6_092_072), (3, 8_197_096))
        ),
    ],
)
def test_a_size_has_its_published_number_of_parameters(size, parameters):
    """4.7, 5.4, 6.1, 8.2 and 13.0 million in TensorFlow's README; these are timm's."""
    shapes = network.shapes_of(EfficientNetLite(1000, size=size))
    leaves = jax.tree.leaves(shapes["params"])
    assert sum(math.prod(leaf.shape) for leaf in leaves) == parameters


def test_features_are_multiples_of_8_and_lose_at_most_a_tenth():
    features = [[stage.features for stage in stages_of(size)] for size in SIZES]
    assert features == [
        [16, 24, 40, 80, 112, 192, 320],
        [16, 24, 40, 80, 112, 192, 320],
        [16, 24, 48, 88, 120, 208, 352],
        [24, 32, 48, 96, 136, 232, 384],
        [24, 32, 56, 112, 160, 272, 448],
    ]
    assert [[stage.blocks for stage in stages_of(size)] for size in (0, 1, 3)] == [
        [1, 2, 2, 3, 3, 4, 1],
        [1, 3, 3, 4, 4, 5, 1],
        [1, 3, 3, 5, 5, 6, 1],
    ]


@pytest.fixture(scope="module")
def small():
    """A network, its variables, images, logits and outputs."""
    model = EfficientNetLite(3, size=0, width=0.125)
    images = np.random.default_rng(0).normal(size=(2, 64, 48, 3)).astype(np.float32)
    variables = variables_of(model)
    logits, outputs = jax.jit(lambda: model.apply(variables, images, norms_by_batch=()))()
    return model, variables, images, logits, outputs


def test_outputs_go_by_their_names(small):
    """A stage is its last block; the head sees the last convolution's mean."""
    _, variables, _, logits, outputs = small
    own = Architecture(size=0, width=0.125, num_classes=3)
    assert set(own.stages) <= outputs.keys()
    sides = {name: outputs[name].shape[1:3] for name in ("stem", *own.stages)}
    assert list(sides.values()) == [
        *[(32, 24), (32, 24), (16, 12), (8, 6), (4, 3), (4, 3)],
        *[(2, 2), (2, 2), (2, 2)],
    ]
    for index, stage in enumerate(stages_of(0)):
        last = outputs[f"blocks_{index}_{stage.blocks - 1}"]
        np.testing.assert_array_equal(outputs[f"blocks_{index}"], last)
    maps = np.asarray(outputs["conv_head"])
    np.testing.assert_array_equal(outputs["seen"].maps, maps)
    assert maps.shape[-1] == own.num_channels == LAST
    features = maps.mean(axis=(1, 2))
    np.testing.assert_allclose(outputs["features"], features, rtol=1e-5, atol=1e-7)
    head = variables["params"][HEAD]
    scores = features @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, scores, rtol=1e-4, atol=1e-6)


@pytest.mark.full
def test_frozen_batch_norms_stay_as_they_are_and_others_move(small):
    """Those of the last stage normalise by the batch; what is not named doesn't move a bit."""
    model, variables, images, _, _ = small
    paths = traverse_util.flatten_dict(variables["batch_stats"], sep="/")
    norms = {path.rpartition("/")[0] for path in paths}
    by_batch = {norm for norm in norms if norm.startswith("blocks_6_0/") or norm == "bn2"}
    assert len(by_batch) == 4
    _, moved = model.apply(variables, images, norms_by_batch=by_batch, mutable=["batch_stats"])
    for path, leaf in traverse_util.flatten_dict(moved["batch_stats"], sep="/").items():
        same = np.array_equal(leaf, paths[path])
        assert same == (path.rpartition("/")[0] not in by_batch), path


def test_the_last_stage_is_all_at_the_lowest_resolution(small):
    _, variables, _, _, _ = small
    rules = ((f"{HEAD}/.*", 1.0), (Architecture.last_stage, 1.0), (".*", None))
    multipliers = optim.resolve_rules(rules, variables["params"])
    trained = {path.partition("/")[0] for path, rate in multipliers.items() if rate}
    blocks = {*(f"blocks_5_{i}" for i in range(4)), "blocks_6_0"}
    assert trained == {*blocks, "conv_head", "bn2", HEAD}


def test_the_padding_matters_where_a_stride_meets_an_even_side(small):
    model, variables, images, _, outputs = small
    torch = model.clone(padding="torch")

    def stem(model, images):
        """Alone: the rest is not compiled."""
        return jax.jit(lambda: model.apply(variables, images, norms_by_batch=())[1]["stem"])()

    of_torch = stem(torch, images)
    assert of_torch.shape == outputs["stem"].shape
    assert np.abs(of_torch - outputs["stem"]).max() > 0.1
    odd = images[:, :63, :47]
    np.testing.assert_allclose(stem(model, odd), stem(torch, odd), atol=1e-6)


@pytest.mark.full
def test_every_parameter_learns(small):
    model, variables, images, _, _ = small

    def loss(params):
        given = {**variables, "params": params}
        logits, _ = model.apply(given, images, norms_by_batch=())
        return optax.sigmoid_binary_cross_entropy(logits, np.eye(2, 3)).mean()

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    for path, leaf in traverse_util.flatten_dict(gradients, sep="/").items():
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf), path


@pytest.mark.parametrize(
    "change", [{"size": 5}, {"padding": "valid"}, {"width": math.inf}, {"epsilon": 0.0}]
)
def test_an_architecture_that_there_is_none_of_is_refused(change):
    with pytest.raises(ValueError, match="no such EfficientNet-Lite"):
        Architecture(**({"size": 0, "num_classes": 3} | change)).check()


def test_titles_say_size_and_width():
    assert Architecture(size=2, num_classes=3).title == "EfficientNet-Lite2"
    assert Architecture(size=0, width=0.25, num_classes=3).title == (
        "EfficientNet-Lite0 of width 0.25"
    )
