"""What a Vision Transformer's outputs are, without another framework."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax import export

from tests.references import recipe
from vtl.models.vit import STAGES, Architecture
from vtl.weights import network

PLAIN = Architecture(
    num_classes=3,
    width=128,
    depth=8,
    heads=2,
    patch=8,
    mlp_width=256,
    grid=4,
    pooling="token",
)
KINDS = {
    "class token": {},
    "DINOv2": {"layer_scale": True, "pooling": "token_average", "resampling": "offset"},
    "registers": {"layer_scale": True, "registers": 4, "class_position": False},
    "CLIP": {"pre_norm": True, "activation": "quick_gelu", "epsilon": 1e-5},
    "SigLIP": {"class_token": False, "class_position": False, "attention_pooling": True},
    "MAE": {"fc_norm": True},
    "mean": {"class_token": False, "class_position": False, "pooling": "average"},
    "DINOv3": {
        **{"grid": 0, "class_position": False, "rotary": "float32", "registers": 4},
        **{"layer_scale": True, "epsilon": 1e-5, "pooling": "token_average"},
        **{"gated": True, "activation": "silu"},
    },
}


def architecture(kind):
    return dataclasses.replace(PLAIN, **KINDS[kind])


def drawn(made, size=32):
    """The network, variables of numbers drawn by the recipe, and noise [2, size, size, 3]."""
    noise = recipe.noise(2, size, 3).astype(np.float32) / 64 - 2
    return made.module(jnp.float32), variables_of(made), noise


@functools.cache
def variables_of(made):
    uniform = recipe.Uniform(1)
    flat = traverse_util.flatten_dict(network.shapes_of(made.module(jnp.float32)), sep="/")
    for name in sorted(flat):
        shape, leaf = flat[name].shape, name.rpartition("/")[2]
        kind = {"kernel": "kernel", "bias": "bias"}.get(leaf, "scale")
        limit = 0.5 if len(shape) == 3 else None
        flat[name] = (
            uniform(-limit, limit, shape)
            if limit
            else recipe.draw(uniform, kind, shape, int(np.prod(shape[:-1])))
        )
    return traverse_util.unflatten_dict(flat, sep="/")


@functools.cache
def of_kind(kind):
    """Of 48 pixels, another grid than the embeddings': its variables, logits and outputs."""
    model, variables, images = drawn(architecture(kind), size=48)
    return variables, *run(model, variables, images)


def run(model, variables, images):
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda v, x: model.apply(v, x, norms_by_batch=()))(variables, images)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_go_by_their_names(kind):
    made = architecture(kind)
    variables, logits, outputs = of_kind(kind)
    assert variables.keys() == {"params"}
    blocks = [f"blocks_{i}" for i in range(made.depth)]
    assert outputs.keys() == {"stem", *blocks, *STAGES, "seen", "views", "features"}
    for name in ("stem", *blocks, *STAGES):
        assert outputs[name].shape == (2, 6, 6, 128), name
    for i, stage in enumerate(STAGES[:-1]):
        np.testing.assert_array_equal(outputs[stage], outputs[f"blocks_{2 * i + 1}"])
    assert outputs["features"].shape == (2, made.num_features)
    seen = outputs["seen"]
    np.testing.assert_array_equal(seen.maps, outputs["stage4"])
    if made.pooling == "average":
        expected = np.asarray(seen.maps).mean(axis=(1, 2))
    elif made.pooling == "token_average":
        expected = np.concatenate([seen.summary, np.asarray(seen.maps).mean(axis=(1, 2))], axis=1)
    else:
        expected = seen.summary
    np.testing.assert_allclose(outputs["features"], expected, rtol=1e-5, atol=1e-6)
    head = variables["params"]["fc"]
    np.testing.assert_allclose(
        logits, expected @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5
    )


GOLDEN = {
    "class token": [-1.37772, 0.41249, -1.46496],
    "DINOv2": [-2.41845, -0.0131987, -1.04514],
    "registers": [-3.23531, -0.165759, -0.888551],
    "CLIP": [-1.53546, 0.25031, -1.6238],
    "SigLIP": [1.23733, -0.801145, 2.66692],
    "MAE": [-1.53612, 0.115801, -1.65919],
    "mean": [0.0337826, -0.204601, -1.62059],
    "DINOv3": [-0.9956293, -0.8710713, 1.4336683],
}
"""The first photo's logits on another grid than the embeddings', as they were when timm's and
transformers' networks gave the same (tests/weights/test_vit_parity.py)."""


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_before(kind):
    _, logits, _ = of_kind(kind)
    np.testing.assert_allclose(logits[0], GOLDEN[kind], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind", ["DINOv2", *(pytest.param(kind, marks=pytest.mark.full) for kind in ("CLIP", "SigLIP"))]
)
def test_bfloat16_stays_close(kind):
    made = architecture(kind)
    model, variables, images = drawn(made)
    exact = run(model, variables, images)
    rough = run(made.module(jnp.bfloat16), variables, images)
    assert rough[0].dtype == rough[1]["views"].dtype == jnp.float32
    assert rough[1]["stage2"].dtype == jnp.bfloat16
    for name in ("stem", "stage2", "stage4"):
        largest = np.abs(exact[1][name]).max()
        error = np.abs(rough[1][name].astype(jnp.float32) - exact[1][name]).max()
        assert 0 < error < 0.04 * largest, name
    assert np.abs(rough[0] - exact[0]).max() < 0.05 * np.abs(exact[0]).max()


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_may_be_of_any_size(kind):
    """As in an exported file, where it is only known once the file runs."""
    made = dataclasses.replace(architecture(kind), depth=4)
    model, variables, _ = drawn(made)
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), 32, 32, 3), jnp.float32)
    apply = jax.jit(lambda x: model.apply(variables, x, norms_by_batch=())[0])
    (logits,) = export.export(apply)(images).out_avals
    assert [str(side) for side in logits.shape] == ["batch", "3"]


def test_one_patch_alone_is_its_own_summary():
    """Where attention pools, a photo of one patch has that patch's summary."""
    made = dataclasses.replace(architecture("SigLIP"), grid=1)
    model, variables, images = drawn(made, size=8)
    _, outputs = run(model, variables, images)
    summary, points = outputs["seen"].summary, outputs["seen"].points
    np.testing.assert_allclose(points[:, 0, 0], summary, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_stage_is_the_last_quarter_and_what_follows(kind):
    made = architecture(kind)
    variables, *_ = of_kind(kind)
    paths = traverse_util.flatten_dict(variables["params"], sep="/")
    last = {path.split("/")[0] for path in paths if re.fullmatch(made.last_stage, path)}
    ends = {"SigLIP": {"norm", "attn_pool"}, "MAE": {"fc_norm"}}.get(kind, {"norm"})
    assert last == {"blocks_6", "blocks_7"} | ends


def test_a_new_block_adds_little_under_layer_scale():
    model = architecture("DINOv2").module(jnp.float32)
    images = np.ones((1, 32, 32, 3), np.float32)

    @jax.jit
    def scale():
        return model.init(jax.random.key(0), images, norms_by_batch=())["params"]["blocks_0"]["ls1"]

    np.testing.assert_array_equal(scale(), np.float32(1e-5))


@pytest.mark.parametrize(
    "change",
    [
        {"heads": 3},
        {"heads": 0},
        {"depth": 3},
        {"patch": 0},
        {"width": 128.0},
        {"grid": -1},
        {"registers": -1},
        {"activation": "relu"},
        {"resampling": "nearest"},
        {"epsilon": 0.0},
        {"grid": 0},
        {"gated": True},
        {"qkv_bias": False},
        {"rotary": "float32"},
        {"rotary": "float32", "grid": 0},
        {"class_token": False},
        {"attention_pooling": True, "fc_norm": True},
        {"pooling": "median"},
    ],
)
def test_what_makes_no_network_is_refused(change):
    PLAIN.check()
    with pytest.raises(ValueError, match=r"ViT|head"):
        dataclasses.replace(PLAIN, **change).check()


def test_titles_and_sizes():
    small = dataclasses.replace(PLAIN, width=384, depth=12, heads=6, patch=14, grid=37)
    assert (small.title, small.size_multiple, small.num_channels) == ("ViT-S/14", 14, 384)
    assert PLAIN.title == "ViT-128x8/8"
    assert architecture("registers").details == "4 registers, 2 heads, gelu, eps 1e-06"
    rotary = dataclasses.replace(architecture("DINOv3"), width=384, depth=12, patch=16)
    assert rotary.title == "ViT-S+/16"
    assert rotary.details == "rotary positions (float32), 4 registers, 2 heads, silu, eps 1e-05"
