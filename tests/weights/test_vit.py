"""Vision Transformers' files: what they are read as, what is said beside them, what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.models.test_vit import KINDS, architecture, drawn
from vtl.errors import UserError
from vtl.preprocessing import CLIP, TORCHVISION
from vtl.weights import convert, formats, network, sources
from vtl.weights.formats import safetensors


def tensors_of(kind, **changes):
    """Under timm's names."""
    made = dataclasses.replace(architecture(kind), **changes)
    return convert.from_variables(drawn(made)[1], made)


def read(tensors):
    return convert.canonical(formats.WeightsFile("memory", "torch", tensors, {}))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_read_again(kind, tmp_path):
    made, (_, variables, _) = architecture(kind), drawn(architecture(kind))
    path = tmp_path / "saved.safetensors"
    prepared = TORCHVISION.override(image_size=32)
    sources.save(path, variables, made, prepared, ("a", "b", "c"), multi_label=True)
    weights = sources.load(str(path))
    assert (weights.architecture, weights.preprocessing) == (made, prepared)
    assert weights.classes == ("a", "b", "c")
    again = network.as_published(weights)[1]
    jax.tree.map(np.testing.assert_array_equal, again["params"], variables["params"])


def test_tensors_tell_the_network():
    made = read(tensors_of("registers"))[1]
    assert made == dataclasses.replace(architecture("registers"), resampling="antialias")
    assert read(tensors_of("SigLIP"))[1] == architecture("SigLIP")
    assert read(tensors_of("mean"))[1] == architecture("mean")
    clip = read(tensors_of("CLIP"))[1]
    assert clip == dataclasses.replace(architecture("CLIP"), activation="gelu")


def test_only_dinov3s_way_to_turn_is_read():
    dinov3 = tensors_of("DINOv3")
    assert read(dinov3)[1] == architecture("DINOv3")
    for lacking in ("reg_token", "norm.weight", "blocks.0.gamma_1"):
        with pytest.raises(UserError, match="pos_embed is missing"):
            read({key: tensor for key, tensor in dinov3.items() if key != lacking})


def test_a_head_of_twice_the_width_sees_the_token_and_the_mean():
    assert read(tensors_of("DINOv2"))[1].pooling == "token_average"
    assert read(tensors_of("DINOv2", pooling="token"))[1].pooling == "token"


def test_photos_of_the_size_that_the_positions_are_for(tmp_path):
    for kind, size, mean in (
        *(("class token", 32, 0.5), ("DINOv2", 224, 0.485), ("CLIP", 32, None)),
        ("DINOv3", 256, 0.485),
    ):
        path = tmp_path / "timm.safetensors"
        safetensors.write(path, tensors_of(kind), {})
        assumed = sources.load(str(path)).preprocessing
        assert assumed.crop_size == size
        assert assumed.mean[0] == mean or assumed.mean == CLIP.mean


def stated(tmp_path, config, kind="CLIP"):
    safetensors.write(tmp_path / "model.safetensors", tensors_of(kind), {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    return sources.load(str(tmp_path / "model.safetensors"))


def test_timms_config_says_what_tensors_do_not(tmp_path):
    config = {"architecture": "vit_base_patch16_clip_quickgelu_224", "global_pool": "token"}
    config["pretrained_cfg"] = {"mean": [0.5] * 3, "input_size": [3, 64, 64], "crop_pct": 1.0}
    weights = stated(tmp_path, config)
    assert weights.architecture == architecture("CLIP")
    assert (weights.preprocessing.mean, weights.preprocessing.crop_size) == ((0.5,) * 3, 64)
    config |= {"architecture": "vit_small", "model_args": {"num_heads": 4, "reg_tokens": 0}}
    assert stated(tmp_path, config).architecture.heads == 4
    config |= {"architecture": "vit_small_plus_patch16_dinov3", "model_args": {"num_heads": 4}}
    assert stated(tmp_path, config, "DINOv3").architecture.heads == 4


def test_transformers_config_says_what_tensors_do_not(tmp_path):
    vision = {"hidden_size": 128, "num_attention_heads": 4, "layer_norm_eps": 1e-4}
    vision |= {"hidden_act": "gelu_pytorch_tanh", "patch_size": 8, "num_hidden_layers": 8}
    made = stated(tmp_path, {"model_type": "clip", "vision_config": vision}).architecture
    assert (made.heads, made.epsilon, made.activation) == (4, 1e-4, "gelu_tanh")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architecture": "vit_small_patch16_dinov3"}, "another network"),
        ({"model_type": "dinov3_vit"}, "another network"),
        ({"architecture": "swin_tiny"}, "swin_tiny"),
        ({"architecture": "vit_base", "global_pool": "max"}, "global_pool"),
        ({"architecture": "vit_base", "model_args": {"qk_norm": True}}, "qk_norm"),
        ({"model_type": "beit"}, "beit"),
        ({"model_type": "clip_vision_model", "hidden_size": 64}, "hidden_size"),
        ({"model_type": "clip_vision_model", "hidden_act": "relu6"}, "relu6"),
        ({"model_type": "clip_vision_model", "num_attention_heads": 3}, "num_attention_heads"),
    ],
)
def test_another_network_is_refused_by_name(config, words, tmp_path):
    with pytest.raises(UserError, match=words):
        stated(tmp_path, config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pos_embed": None}, "pos_embed is missing"),
        ({"pos_embed": np.zeros((1, 19, 128))}, "no square"),
        ({"head.weight": np.zeros((3, 100))}, "takes 100 numbers"),
        ({"blocks.0.attn.q_norm.weight": np.ones(64)}, "q_norm"),
        ({"cls_token": np.zeros((1, 128))}, "dimensions"),
        ({"blocks.3.norm1.weight": None}, "lack"),
        ({"blocks.9.norm1.weight": np.ones(128)}, "lack"),
        ({"norm.weight": None}, "lack"),
    ],
)
def test_what_makes_no_network_is_refused(changes, words, tmp_path):
    tensors = tensors_of("class token") | changes
    kept = {k: np.asarray(v, np.float32) for k, v in tensors.items() if v is not None}
    safetensors.write(tmp_path / "x.safetensors", kept, {})
    with pytest.raises(UserError, match=words):
        network.as_published(sources.load(str(tmp_path / "x.safetensors")))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architecture": "vit_betwixt_patch16_rope_reg4_gap_256"}, "rope_reg4"),
        ({"model_type": "dinov2_with_registers"}, "another network"),
        ({"model_type": "dinov3_vit", "rope_theta": 1e4}, "rope_theta"),
        ({"model_type": "dinov3_vit", "use_gated_mlp": False}, "use_gated_mlp"),
    ],
)
def test_another_network_than_dinov3_is_refused_by_name(config, words, tmp_path):
    with pytest.raises(UserError, match=words):
        stated(tmp_path, config, "DINOv3")


@pytest.mark.parametrize("name", ["augreg_vit_small", "dinov2_small", "dinov2_base_reg"])
def test_the_sources_state_their_parameters(name):
    source = sources.SOURCES[name]
    size = {"small": 384, "base": 768}["base" if "base" in name else "small"]
    grid, patch = (37, 14) if "dinov2" in name else (14, 16)
    changes = {"layer_scale": "dinov2" in name, "registers": 4 if "_reg" in name else 0}
    made = dataclasses.replace(
        architecture("class token"),
        **changes,
        **{"width": size, "heads": size // 64, "depth": 12, "mlp_width": 4 * size},
        **{"grid": grid, "patch": patch, "class_position": not changes["registers"]},
        num_classes=1000,
    )
    shapes = jax.tree.leaves(network.shapes_of(network.make_model(made)))
    total = sum(leaf.size for leaf in shapes)
    if "dinov2" in name:
        total -= 1000 * (size + 1)
    assert (total, made.title) == (source.parameters, source.network)
