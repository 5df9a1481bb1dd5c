"""Vision Transformers' weights: timm's, facebookresearch's, transformers' and OpenAI's."""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from absl import logging
from flax import traverse_util

from vtl.errors import UserError
from vtl.models import HEAD, positions
from vtl.models.vit import ACTIVATIONS, Architecture
from vtl.preprocessing import CLIP, TORCHVISION, Preprocessing
from vtl.untrusted import printable
from vtl.weights.formats import WeightsFile
from vtl.weights.layouts import names, rows, vit_names
from vtl.weights.layouts.names import Tensors
from vtl.weights.statement import NotThisNetwork

FAMILY = Architecture

_BICUBIC = dataclasses.replace(TORCHVISION, interpolation="bicubic")
_AUGREG = dataclasses.replace(_BICUBIC, mean=(0.5,) * 3, std=(0.5,) * 3, resize_size=248)
_GOOGLE = dataclasses.replace(_AUGREG, resize="squash", resize_size=224, interpolation="bilinear")
_DINOV3 = dataclasses.replace(TORCHVISION, resize="squash", resize_size=224)
_TIMM_DINOV3 = dataclasses.replace(_BICUBIC, resize_size=256, crop_size=256)

_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
"""By width; all others have 64 channels a head."""
_ROTARY_HEADS = {4096: 32}
"""The same where positions are rotary."""


def recognises(keys: Collection[str]) -> bool:
    """Whether tensors of these names may be a Vision Transformer's."""
    return any(vit_names.PATCHES.fullmatch(names.plain_name(key)) for key in keys)


def assumed(file: WeightsFile) -> tuple[Preprocessing, str]:
    """How photos are prepared if nothing says so, and as whose."""
    how, whose = _assumed([names.plain_name(key) for key in file.tensors])
    own = _read(file)[1]
    # DINOv2 ended its training on photos of 518 pixels, and is evaluated on smaller ones.
    size = how.crop_size if own.layer_scale else own.grid * own.patch
    return how.override(image_size=size), whose


def _assumed(keys: Collection[str]) -> tuple[Preprocessing, str]:
    if _has(keys, r"pre_layrnorm\.|norm_pre\.|ln_pre\."):
        return CLIP, "OpenAI's CLIP"
    if not _has(keys, r"pos_embed|position"):
        return (_TIMM_DINOV3, "timm's DINOv3") if _has(keys, r"gamma_1") else (_DINOV3, "DINOv3")
    if _has(keys, r"layer_scale1\.|ls1\."):
        return _BICUBIC, "DINOv2"
    if _has(keys, r"head\.probe|attn_pool\."):
        return dataclasses.replace(_AUGREG, resize_size=224, resize="squash"), "SigLIP"
    if _has(keys, r"embeddings\."):
        return _GOOGLE, "google/vit-base-patch16-224"
    if _has(keys, r"head\."):
        return _AUGREG, "timm's AugReg"
    return _BICUBIC, "DINO and MAE"


def _has(keys: Collection[str], pattern: str) -> bool:
    return any(re.search(rf"(?:^|\.)(?:{pattern})", key) for key in keys)


def of_timm(
    name: str, pool: str, arguments: dict[str, Any], implied: Architecture
) -> dict[str, Any]:
    """Fields of the architecture by timm's config; takes from its arguments what it understands.

    Raises:
        NotThisNetwork: it says another network.
    """
    if not re.match(r"(vit|deit|deit3|flexivit)_", name):
        raise NotThisNetwork(f"{name!r}: another network than {implied.title}")
    if ("dinov3" in name) != bool(implied.rotary):
        raise NotThisNetwork(f"{name!r}: another network than {implied.title}, {implied.details}")
    for told_by_tensors in (
        *("img_size", "patch_size", "embed_dim", "depth", "mlp_ratio", "class_token", "pre_norm"),
        *("reg_tokens", "no_embed_class", "init_values", "fc_norm", "dynamic_img_size"),
        *("num_reg_tokens", "qkv_bias", "swiglu_mlp", "swiglu_align_to", "use_fc_norm"),
    ):
        arguments.pop(told_by_tensors, None)
    if pool not in ("token", "avg", "map", ""):
        raise NotThisNetwork(f"global_pool={pool!r}: vtl has none such")
    found: dict[str, Any] = {"heads": arguments.pop("num_heads", implied.heads)}
    if pool == "avg" and not implied.fc_norm:
        found["pooling"] = "average"
    if pool == "token" and implied.class_token:
        found["pooling"] = "token"
    activation = arguments.pop("act_layer", None)
    if activation is None and "quickgelu" in name:
        activation = "quick_gelu"
    if activation is None and re.search("so400m_.*siglip|giantopt_.*siglip|patch32_siglip", name):
        activation = "gelu_tanh"
    if activation:
        found["activation"] = _known_activation(activation)
    return found


_MODEL_TYPES = {
    "vit": ("", 1e-12, "gelu"),
    "dinov2": ("", 1e-6, "gelu"),
    "dinov2_with_registers": ("", 1e-6, "gelu"),
    "dinov3_vit": ("", 1e-5, "gelu"),
    "clip": ("vision_config", 1e-5, "quick_gelu"),
    "clip_vision_model": ("", 1e-5, "quick_gelu"),
    "siglip": ("vision_config", 1e-6, "gelu_pytorch_tanh"),
    "siglip_vision_model": ("", 1e-6, "gelu_pytorch_tanh"),
}
"""Of transformers: where the image tower's config stands, and what is meant if it is silent."""


def of_transformers(config: dict[str, Any], implied: Architecture) -> dict[str, Any]:
    """Fields of the architecture by the config of Hugging Face's transformers.

    Raises:
        NotThisNetwork: it says another network.
    """
    kind = config.get("model_type")
    if kind not in _MODEL_TYPES or (kind == "dinov3_vit") != bool(implied.rotary):
        raise NotThisNetwork(f"model_type={kind!r}: another network than {implied.title}")
    place, epsilon, activation = _MODEL_TYPES[kind]
    config = config.get(place) or {} if place else config
    expected = {
        "hidden_size": implied.width,
        "num_hidden_layers": implied.depth,
        "patch_size": implied.patch,
        "num_channels": 3,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
        "use_gated_mlp": implied.gated,
        "rope_theta": positions.BASE,
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise NotThisNetwork(
                f"{key}={config[key]!r}, and its tensors fit a {implied.title} of {value!r}"
            )
    heads = config.get("num_attention_heads", implied.heads)
    if type(heads) is not int or heads < 1 or implied.width % heads:
        raise NotThisNetwork(f"num_attention_heads={heads!r}, and it is {implied.width} wide")
    return {
        "heads": heads,
        "epsilon": float(config.get("layer_norm_eps", epsilon)),
        "activation": _known_activation(config.get("hidden_act", activation)),
    }


def _known_activation(name: Any) -> str:
    ours = "gelu_tanh" if name == "gelu_pytorch_tanh" else name
    if ours not in ACTIVATIONS:
        raise NotThisNetwork(f"an activation {name!r}: vtl has {', '.join(ACTIVATIONS)}")
    return str(ours)


def canonical(file: WeightsFile) -> tuple[Tensors, Architecture]:
    """A file's tensors under our names and in our layout, and the architecture they imply.

    Of a model of images and texts this is the image tower.

    Raises:
        UserError: the file holds unknown tensors, or tensors that make up no Vision Transformer.
    """
    if beside := len(file.tensors) - len(_without_text(file)):
        logging.info(
            "%s: its image tower is read; %d tensors beside it, of texts, are not",
            file.path,
            beside,
        )
    return _read(file)


def _read(file: WeightsFile) -> tuple[Tensors, Architecture]:
    tensors = names.unwrapped(_without_text(file), vit_names.BODY, file.path)
    how: dict[str, Any] = {}
    periods = tensors.pop("rope_embed.periods", None)
    tensors = _without_masks(tensors, file.path)
    if _has(tensors, r"embeddings\.") and not _has(tensors, r"position|k_proj\.bias"):
        is_gated = _has(tensors, r"gate_proj\.")
        table = vit_names.DINOV3_GATED if is_gated else vit_names.DINOV3
    elif _has(tensors, r"embeddings\."):
        table, tensors = vit_names.TRANSFORMERS, _split_query(tensors)
        how["resampling"] = "antialias" if "embeddings.register_tokens" in tensors else "plain"
        if "pre_layrnorm.weight" in tensors:
            how["activation"] = "quick_gelu"
        elif "head.probe" in tensors:
            how["activation"] = "gelu_tanh"
        elif "layernorm.weight" in tensors and not _has(tensors, r"layer_scale1\."):
            how["epsilon"] = 1e-12
    elif "class_embedding" in tensors:
        table = vit_names.OPENAI
        how |= {"resampling": "antialias", "activation": "quick_gelu"}
    else:
        table = vit_names.TIMM
        # DINOv2's own, and no DINOv3's.
        if "mask_token" in tensors and not _has(tensors, "(register|storage)_tokens"):
            how["resampling"] = "offset"
    ours = rows.renamed(
        tensors, table, kind="a Vision Transformer", path=file.path, ignored=vit_names.IGNORED
    )
    ours = _position_folded(ours)
    made = dataclasses.replace(_architecture(ours, file.path), **how)
    if periods is not None:
        made = dataclasses.replace(made, **_turning(periods, made.width, file.path))
    try:
        made.check()
    except ValueError as error:
        raise UserError(f"{file.path}: {error}") from None
    return ours, made


def _without_masks(tensors: dict[str, np.ndarray], path: object) -> dict[str, np.ndarray]:
    """DINOv3's own biases as timm has them: those of keys, which a mask takes away, are not there.

    Raises:
        UserError: a mask takes others away.
    """
    kept = dict(tensors)
    for key in [key for key in kept if key.endswith(".attn.qkv.bias_mask")]:
        mask, bias = kept.pop(key), kept.pop(key.removesuffix("_mask"), np.empty(0))
        if mask.shape != bias.shape or not _is(mask, np.repeat([1.0, 0.0, 1.0], mask.size // 3)):
            raise UserError(f"{path}: {printable(key, 80)} masks something else than keys' bias")
        attention = key.removesuffix("qkv.bias_mask")
        kept[f"{attention}q_bias"], _, kept[f"{attention}v_bias"] = np.split(bias, 3)
    return kept


def _turning(periods: np.ndarray, width: int, path: object) -> dict[str, Any]:
    """What rotary periods tell of the architecture.

    Raises:
        UserError: they are none of DINOv3's.
    """
    channels = 4 * periods.size
    for rounding in positions.ROTARY:
        expected = positions.periods(channels, rounding)
        if channels and width % channels == 0 and _is(periods, expected):
            return {"rotary": rounding, "heads": width // channels}
    raise UserError(f"{path}: rope_embed.periods are not DINOv3's: vtl has no others")


def _is(tensor: np.ndarray, expected: np.ndarray) -> bool:
    same_shape = tensor.shape == expected.shape
    return same_shape and np.allclose(np.asarray(tensor, np.float32), expected, rtol=1e-5, atol=0)


def _without_text(file: WeightsFile) -> dict[str, np.ndarray]:
    plain = {names.plain_name(key): tensor for key, tensor in file.tensors.items()}
    if not _has(plain, r"visual\.|vision_model\."):
        return plain
    return {key: tensor for key, tensor in plain.items() if not vit_names.OF_TEXT.fullmatch(key)}


def _split_query(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The attention pooling's in_proj, which torch's own attention has, as three layers."""
    split = dict(tensors)
    for leaf in ("weight", "bias"):
        whole = split.pop(f"head.attention.in_proj_{leaf}", None)
        if whole is not None:
            parts = np.array_split(np.asarray(whole), 3)
            for part, tensor in zip(("query", "key", "value"), parts, strict=True):
                split[f"head.attention.{part}.{leaf}"] = tensor
    return split


def _position_folded(tensors: Tensors) -> Tensors:
    """The class token with its position in it where there are registers, as timm has them."""
    positions, token = tensors.get("params/pos_embed"), tensors.get("params/cls_token")
    if positions is None or token is None or "params/reg_token" not in tensors:
        return tensors
    if positions.shape[-1] != token.shape[-1] or not _side(positions.shape[1] - 1):
        return tensors
    return tensors | {
        "params/cls_token": token + positions[:, :1],
        "params/pos_embed": positions[:, 1:],
    }


def _side(area: int) -> int:
    """The side of a square of so many patches; 0 if there is none."""
    side = math.isqrt(max(area, 0))
    return side if side * side == area else 0


def _architecture(tensors: Tensors, path: object) -> Architecture:
    def shape(name: str, axis: int) -> int:
        if f"params/{name}" not in tensors:
            raise UserError(f"{path}: {name} is missing")
        return tensors[f"params/{name}"].shape[axis]

    def has(name: str) -> bool:
        return f"params/{name}" in tensors

    if empty := [name for name, tensor in tensors.items() if not tensor.size]:
        raise UserError(f"{path}: {names.some(empty)} hold no numbers")
    width, has_class = shape("patch_embed/kernel", -1), has("cls_token")
    # Others with rotary positions turn by other angles, and lack one of these.
    is_dinov3 = not has("pos_embed") and all(map(has, ("reg_token", "blocks_0/ls1", "norm/scale")))
    is_dinov3 = is_dinov3 and not has("blocks_0/attn/qkv/bias")
    is_gated = is_dinov3 and has("blocks_0/mlp/fc1_g/kernel")
    places = 0 if is_dinov3 else shape("pos_embed", 1)
    has_position = has_class and not _side(places) and not is_dinov3
    grid = _side(places - has_position)
    if not grid and not is_dinov3:
        raise UserError(f"{path}: {places} position embeddings are of no square of patches")
    blocks = {m[1] for key in tensors if (m := re.match(r"params/blocks_(\d+)/", key))}
    made = Architecture(
        num_classes=None,
        width=width,
        depth=len(blocks),
        heads=(_ROTARY_HEADS if is_dinov3 else _HEADS).get(width, max(width // 64, 1)),
        patch=shape("patch_embed/kernel", 0),
        mlp_width=shape(f"blocks_0/mlp/{'fc1_g' if is_gated else 'fc1'}/kernel", -1),
        grid=grid,
        class_token=has_class,
        class_position=has_position,
        registers=shape("reg_token", 1) if has("reg_token") else 0,
        pre_norm=has("norm_pre/scale"),
        layer_scale=has("blocks_0/ls1"),
        attention_pooling=has("attn_pool/latent"),
        fc_norm=has("fc_norm/scale"),
        epsilon=1e-5 if has("norm_pre/scale") or is_dinov3 else 1e-6,
        rotary="float32" if is_dinov3 else "",
        qkv_bias=has("blocks_0/attn/q_bias") or not is_dinov3,
        gated=is_gated,
        activation="silu" if is_gated else "gelu",
    )
    made = dataclasses.replace(made, pooling=made.plain_pooling)
    head = tensors.get(f"params/{HEAD}/kernel")
    if head is not None:
        token = "token" if has_class or made.plain_pooling == "token" else "average"
        poolings = {width: token, 2 * width: "token_average" if has_class else "both"}
        if head.shape[0] not in poolings:
            raise UserError(f"{path}: its head takes {head.shape[0]} numbers, a token has {width}")
        made = dataclasses.replace(made, num_classes=head.shape[1], pooling=poolings[head.shape[0]])
    return made


def published(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our variables under timm's names and in its layout."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    is_rotary = "params/pos_embed" not in flat
    table = vit_names.PUBLISHED_ROTARY if is_rotary else vit_names.PUBLISHED
    return rows.published({key: np.asarray(leaf) for key, leaf in flat.items()}, table)
