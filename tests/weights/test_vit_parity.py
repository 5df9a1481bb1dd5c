"""Our Vision Transformer against timm's and transformers': activations, gradients, names.

Measured: activations agree to 9e-7 of a block's largest value; the bound here is 1e-4.
"""

import dataclasses
import functools
import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.references import blocks, recipe
from vtl.errors import UserError
from vtl.weights import convert, formats, sources

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
if any(importlib.util.find_spec(name) is None for name in ("timm", "torchvision", "transformers")):
    pytest.skip("timm, torchvision or transformers is missing", allow_module_level=True)

from tests.references import torch_vit, torchvision  # noqa: E402

torchvision.load()

SIZE, PATCH, WIDTH, DEPTH, CLASSES = 32, 8, 128, 4, 5

TIMM = {
    "AugReg": {},
    "DINOv2": {"init_values": 1.0, "num_classes": 0},
    "registers": {"init_values": 1.0, "reg_tokens": 4, "no_embed_class": True},
    "DeiT III": {"init_values": 1.0, "no_embed_class": True},
    "CLIP": {"pre_norm": True, "act_layer": "quick_gelu", "norm_layer": "layernorm"},
    "SigLIP": {"class_token": False, "global_pool": "map"},
    "MAE": {"global_pool": "avg"},
    "mean": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "DINOv3": {"qkv_bias": True},
    "DINOv3 S+": {"qkv_bias": False, "swiglu_mlp": True, "swiglu_align_to": 8},
}
DINOV3 = {
    **{"num_reg_tokens": 4, "use_abs_pos_emb": False, "use_rot_pos_emb": True},
    **{"rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True},
    **{"init_values": 1.0, "use_fc_norm": False, "global_pool": "token"},
}
"""As in timm's vit_small_patch16_dinov3, for the token."""


def noise(size):
    """float32 [2, size, size, 3]: noise of the seeded recipe, about normal pixels."""
    return (recipe.noise(2, size, 3).astype(np.float32) / 255 - 0.5) / 0.25


def canonical(tensors):
    arrays = {key: np.asarray(value.detach()) for key, value in tensors.items()}
    return convert.canonical(formats.WeightsFile(Path("memory"), "torch", arrays, {}))


def any_head(features):
    uniform = recipe.Uniform(5)
    return {
        "kernel": uniform(-0.1, 0.1, (features, CLASSES)),
        "bias": uniform(-0.1, 0.1, (CLASSES,)),
    }


def built(tensors, architecture):
    """Our model and its variables, with some head where the tensors have none."""
    head = None if architecture.num_classes else any_head(architecture.num_features)
    return blocks.build(tensors, architecture, head)


def outputs_of(model, variables, images):
    """Our outputs by name, those that the references have too."""

    @jax.jit
    def apply(variables, images):
        logits, outputs = model.apply(variables, images, norms_by_batch=())
        names = ["stem", *(f"blocks_{i}" for i in range(model.depth)), "stage4", "features"]
        return {name: outputs[name] for name in names} | {"logits": logits}

    with jax.default_matmul_precision("highest"):
        found = apply(variables, images)
    return {name: np.asarray(output) for name, output in found.items()}


def timm_model(kind, **more):
    from timm.layers import LayerNorm
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    size = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH}
    options = {"num_heads": WIDTH // 64, "num_classes": CLASSES, "dynamic_img_size": True}
    options |= TIMM[kind] | more
    if kind.startswith("DINOv3"):
        norm = functools.partial(LayerNorm, eps=1e-5)
        return torch_vit.randomised(Eva(**size | options | DINOV3, norm_layer=norm))
    return torch_vit.randomised(VisionTransformer(**size | options))


def as_stated(architecture, kind):
    """What the config says beside a file and its tensors don't."""
    stated = {
        "CLIP": {"activation": "quick_gelu", "epsilon": 1e-6},
        "DINOv2": {"pooling": "token"},
    }
    return dataclasses.replace(architecture, **stated.get(kind, {}))


@pytest.mark.parametrize("size", [SIZE, 48])
@pytest.mark.parametrize("kind", TIMM)
def test_activations_are_timms(kind, size):
    reference, images = timm_model(kind), noise(size)
    with torch_vit.watched(reference.blocks) as seen:
        tokens = reference.forward_features(torch.tensor(images.transpose(0, 3, 1, 2)))
        features = reference.forward_head(tokens, pre_logits=True)
        logits = reference.head(features)
    expected = {name: torch_vit.maps(value, size, PATCH) for name, value in seen.items()}
    if kind == "MAE":  # it has no norm before pooling: ours shows its maps under the one after it
        tokens = reference.fc_norm(tokens)
    expected["stage4"] = torch_vit.maps(tokens, size, PATCH)
    tensors, architecture = canonical(reference.state_dict())
    model, variables = built(tensors, as_stated(architecture, kind))
    actual = outputs_of(model, variables, images)
    head = variables["params"]["fc"]
    expected["features"] = features.detach().numpy()
    expected["logits"] = (
        logits.detach().numpy()
        if reference.num_classes
        else expected["features"] @ head["kernel"] + head["bias"]
    )
    print(kind, size, max(blocks.relative_errors(actual, expected).values()))
    blocks.assert_close(actual, expected)


@pytest.mark.parametrize("kind", TIMM)
def test_gradients_are_timms(kind):
    """Of all parameters, on another grid than the position embeddings'."""
    reference, images = timm_model(kind), noise(48)
    tensors, architecture = canonical(reference.state_dict())
    model, variables = built(tensors, as_stated(architecture, kind))
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    features = reference.forward_head(reference.forward_features(pixels), pre_logits=True)
    weights = np.random.default_rng(0).normal(size=features.shape).astype(np.float32)
    (features * torch.tensor(weights)).sum().backward()
    theirs, _ = canonical(
        {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in reference.named_parameters()
        }
    )

    @jax.jit
    def gradients(params):
        def loss(params):
            outputs = model.apply({"params": params}, images, norms_by_batch=())[1]
            return jnp.sum(outputs["features"] * weights)

        return jax.grad(loss)(params)

    with jax.default_matmul_precision("highest"):
        found = traverse_util.flatten_dict(gradients(variables["params"]), sep="/")
    beyond = {}
    for name, gradient in theirs.items():
        if "params/fc/" not in name:
            error = np.abs(found[name.removeprefix("params/")] - gradient).max()
            if not error <= 1e-3 * max(np.abs(gradient).max(), 1e-2):
                beyond[name] = error / np.abs(gradient).max()
    assert not beyond
    assert all(np.abs(g).max() > 0 for k, g in theirs.items() if "params/fc/" not in k)


def test_the_text_tower_is_left_out():
    """Of transformers' CLIP and SigLIP the image towers are read as if they were alone."""
    import transformers

    for kind, whole in (("CLIP", "CLIPModel"), ("SigLIP", "SiglipModel")):
        alone = transformers_model(kind)
        config = getattr(transformers, whole).config_class(
            vision_config=alone.config.to_dict(),
            text_config={"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 8},
        )
        both = getattr(transformers, whole)(config)
        tower = getattr(alone, "vision_model", alone)
        both.vision_model.load_state_dict(tower.state_dict())
        expected, architecture = canonical(alone.state_dict())
        tensors, read = canonical(both.state_dict())
        assert read == architecture
        assert tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            np.testing.assert_array_equal(tensors[name], tensor, err_msg=name)


def test_openais_and_dinov2s_own_names_are_read_as_timm_reads_them():
    torchvision.load()
    from timm.models import vision_transformer as reference

    names = {
        "patch_embed.proj": "conv1",
        "cls_token": "class_embedding",
        "pos_embed": "positional_embedding",
        "norm_pre": "ln_pre",
        "blocks": "transformer.resblocks",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    clip = {}
    for key, tensor in timm_model("CLIP", num_classes=0).state_dict().items():
        for theirs, openais in names.items():
            key = key.replace(theirs, openais)
        key = re.sub(r"^norm\.", "ln_post.", key)
        clip[f"visual.{key}"] = tensor.squeeze() if tensor.ndim == 3 else tensor
    text = {
        "transformer.resblocks.0.ln_1.weight": torch.ones(8),
        "positional_embedding": torch.ones(7, 8),
        "token_embedding.weight": torch.ones(9, 8),
        "ln_final.weight": torch.ones(8),
        "text_projection": torch.ones(8, 8),
        "logit_scale": torch.ones(()),
        "visual.proj": torch.ones(WIDTH, 8),
    }
    assert_read_alike(clip | text, reference._convert_openai_clip(clip, None))

    own = dict(timm_model("DINOv2").state_dict())
    own |= {"mask_token": torch.ones(1, WIDTH), "register_tokens": torch.ones(1, 4, WIDTH)}
    assert_read_alike(own, reference._convert_dinov2(dict(own), None))


@pytest.mark.parametrize("kind", ["DINOv3", "DINOv3 S+"])
def test_dinov3s_own_file_turns_by_its_own_periods(kind):
    """They are rounded there; biases of keys are masked, whatever they are."""
    reference, images = timm_model(kind, qkv_bias=True), noise(48)
    names = {
        "reg_token": "storage_tokens",
        "gamma_1": "ls1.gamma",
        "gamma_2": "ls2.gamma",
        "fc1_g": "w1",
        "fc1_x": "w2",
        **({"fc2": "w3"} if kind == "DINOv3 S+" else {}),
    }
    own = {"mask_token": torch.ones(1, WIDTH), "local_cls_norm.weight": torch.ones(WIDTH)}
    for key, tensor in reference.state_dict().items():
        for timms, theirs in names.items():
            key = key.replace(timms, theirs)
        own[key] = tensor
    for i in range(DEPTH):
        attention = f"blocks.{i}.attn."
        q, v = (own.pop(f"{attention}{name}_bias") for name in "qv")
        own[f"{attention}qkv.bias"] = torch.cat([q, torch.full_like(q, 9.0), v])
        mask = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(WIDTH)
        own[f"{attention}qkv.bias_mask"] = mask
    reference.rope.periods.copy_(reference.rope.periods.bfloat16().float())
    own["rope_embed.periods"] = reference.rope.periods
    tensors, architecture = canonical(own)
    assert (architecture.rotary, architecture.heads) == ("bfloat16", WIDTH // 64)
    expected, read = canonical(reference.state_dict())
    assert architecture == dataclasses.replace(read, rotary="bfloat16")
    assert tensors.keys() == expected.keys()
    with torch.no_grad(), torch_vit.watched(reference.blocks) as seen:
        logits = reference(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    outputs = {name: torch_vit.maps(value, 48, PATCH) for name, value in seen.items()}
    outputs["logits"] = logits
    actual = outputs_of(*built(tensors, architecture), images)
    actual = {name: actual[name] for name in outputs}
    print(kind, "Meta's", max(blocks.relative_errors(actual, outputs).values()))
    blocks.assert_close(actual, outputs)

    for key, wrong in (("rope_embed.periods", 1.1), ("blocks.0.attn.qkv.bias_mask", 0.0)):
        with pytest.raises(UserError, match=key.replace(".", r"\.")):
            canonical(own | {key: own[key] * wrong})


def assert_read_alike(tensors, as_timm_has_them):
    actual, read = canonical(tensors)
    expected, architecture = canonical(as_timm_has_them)
    changes = {"activation": read.activation, "resampling": read.resampling}
    assert read == dataclasses.replace(architecture, **changes)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(actual[name], tensor, err_msg=name)


@pytest.mark.full
def test_a_whole_vit_is_timms():
    reference, images = (
        timm_model("AugReg", img_size=224, patch_size=16, embed_dim=384, num_heads=6, depth=12),
        noise(224),
    )
    with torch.no_grad(), torch_vit.watched(reference.blocks) as seen:
        logits = reference(torch.tensor(images.transpose(0, 3, 1, 2)))
    expected = {name: torch_vit.maps(value, 224, 16) for name, value in seen.items()}
    tensors, architecture = canonical(reference.state_dict())
    assert architecture.title == "ViT-S/16"
    actual = outputs_of(*built(tensors, architecture), images)
    actual = {name: actual[name] for name in (*expected, "logits")}
    blocks.assert_close(actual, expected | {"logits": logits.numpy()})


@pytest.mark.parametrize("kind", TIMM)
def test_timm_takes_what_is_published(kind):
    reference = timm_model(kind)
    tensors, architecture = canonical(reference.state_dict())
    _, variables = built(tensors, architecture)
    published = convert.from_variables(variables, architecture)
    if not architecture.num_classes:
        published = {k: v for k, v in published.items() if not k.startswith("head.")}
    reference.load_state_dict({k: torch.tensor(v) for k, v in published.items()}, strict=True)
    again, read_again = canonical({k: torch.tensor(v) for k, v in published.items()})
    assert read_again == architecture
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def transformers_model(kind):
    import transformers

    of = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": WIDTH // 64,
        "image_size": SIZE,
        "patch_size": PATCH,
    }
    mlp = {"intermediate_size": 3 * WIDTH}
    classes = {"num_labels": CLASSES}
    registers = {"num_register_tokens": 4}
    gate = {"use_gated_mlp": True, "hidden_act": "silu"}
    config, model, more = {
        "ViT": ("ViTConfig", "ViTForImageClassification", mlp | classes),
        "DINOv2": ("Dinov2Config", "Dinov2ForImageClassification", classes),
        "registers": (
            "Dinov2WithRegistersConfig",
            "Dinov2WithRegistersForImageClassification",
            classes,
        ),
        "CLIP": ("CLIPVisionConfig", "CLIPVisionModelWithProjection", mlp),
        "SigLIP": ("SiglipVisionConfig", "SiglipVisionModel", mlp),
        "DINOv3": ("DINOv3ViTConfig", "DINOv3ViTModel", mlp | registers),
        "DINOv3 S+": ("DINOv3ViTConfig", "DINOv3ViTModel", mlp | registers | gate),
    }[kind]
    made = getattr(transformers, model)(getattr(transformers, config)(**of, **more))
    return torch_vit.randomised(made)


def layers_of(model):
    return next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((kind, 48) for kind in ("ViT", "DINOv2", "registers", "CLIP", "SigLIP")),
        *(("ViT", SIZE), ("DINOv3", SIZE), ("DINOv3", 48), ("DINOv3 S+", 48)),
    ],
)
def test_activations_are_transformers(kind, size, tmp_path):
    reference, images = transformers_model(kind), noise(size)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    has_option = kind in ("ViT", "CLIP", "SigLIP")
    options = {"interpolate_pos_encoding": True} if has_option else {}
    with torch.no_grad(), torch_vit.watched(layers_of(reference)) as seen:
        given = reference(pixel_values=pixels, **options)
    reference.save_pretrained(tmp_path)
    file = formats.read(tmp_path / "model.safetensors")
    tensors, architecture = convert.canonical(file)
    assert sources.load(str(tmp_path)).architecture == architecture  # as its config says, too
    in_memory, _ = canonical(reference.state_dict())
    assert in_memory.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(in_memory[name], tensor, err_msg=name)
    actual = outputs_of(*built(tensors, architecture), images)
    expected = {name: torch_vit.maps(value, size, PATCH) for name, value in seen.items()}
    if "logits" in given:
        expected["logits"] = given.logits.numpy()
    elif kind == "SigLIP":
        expected["features"] = given.pooler_output.numpy()
    elif kind.startswith("DINOv3"):
        patches = given.last_hidden_state[:, 5:]
        both = torch.cat([given.pooler_output, patches.mean(dim=1)], dim=1)
        expected |= {"features": both.numpy(), "stage4": torch_vit.maps(patches, size, PATCH)}
    else:
        kernel = reference.visual_projection.weight.detach().numpy().T
        actual["features"] = actual["features"] @ kernel
        expected["features"] = given.image_embeds.numpy()
    actual = {name: actual[name] for name in expected}
    print(kind, size, max(blocks.relative_errors(actual, expected).values()))
    blocks.assert_close(actual, expected)
