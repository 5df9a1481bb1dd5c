"""config.json and preprocessor_config.json, as timm and Hugging Face's transformers write them."""

import math
from typing import Any

from vtl.models.architecture import Architecture
from vtl.preprocessing import INTERPOLATIONS
from vtl.weights import layouts
from vtl.weights.statement import NotThisNetwork, Statement

_TIMM_HARMLESS = {
    "num_classes",
    "in_chans",
    "drop_rate",
    "drop_path_rate",
    "pretrained",
    "features_only",
}
_PIL = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for ways to resize."""

CONVNEXT_WHOLE = 384
"""From this size on ConvNext's processor squashes the whole photo instead of cropping."""


def read(config: Any, processor: Any, implied: Architecture) -> Statement:
    """What the two files say, of which the second may be None.

    Raises:
        NotThisNetwork: it is another network than the tensors imply.
        Exception: a file holds something else than expected.
    """
    if not isinstance(config, dict):
        raise ValueError("it is no JSON object")
    if isinstance(config.get("architecture"), str):
        return _timm(config, implied)
    if "model_type" in config or "architectures" in config:
        return _transformers(config, processor, implied)
    raise ValueError("it names no architecture")


# timm


def _timm(config: dict[str, Any], implied: Architecture) -> Statement:
    name, arguments = config["architecture"], dict(config.get("model_args") or {})
    pool = arguments.pop("global_pool", config.get("global_pool") or "")
    architecture = layouts.of(implied).of_timm(name, pool, arguments, implied)
    if other := arguments.keys() - _TIMM_HARMLESS:
        raise NotThisNetwork(
            f"{', '.join(sorted(other))} in model_args: vtl has no such {implied.title}"
        )
    # Before 2023 the values of pretrained_cfg stood in config.json itself.
    how = config.get("pretrained_cfg") or config
    pixels, unread = _timm_pixels(how)
    names, more = _names(config.get("label_names"), implied)
    return Statement(
        preprocessing=pixels, classes=names, architecture=architecture, unread=(*unread, *more)
    )


def _timm_pixels(how: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fields of Preprocessing, as timm's own transforms for evaluation read them."""
    found: dict[str, Any] = {name: tuple(how[name]) for name in ("mean", "std") if how.get(name)}
    unread = []
    if interpolation := how.get("interpolation"):
        if interpolation in INTERPOLATIONS:
            found["interpolation"] = interpolation
        else:
            unread.append(f"interpolation={interpolation}")
    mode, crop_pct = how.get("crop_mode") or "center", float(how.get("crop_pct") or 0.875)
    size = how.get("input_size") or (3, 224, 224)
    if len(size) != 3 or size[0] != 3 or size[1] != size[2]:
        return found, (*unread, f"input_size={size}")
    if mode == "center" or (mode == "squash" and crop_pct == 1):
        found |= {
            "crop_size": size[1],
            "resize_size": math.floor(size[1] / crop_pct),
            "resize": "resize_crop" if mode == "center" else "squash",
        }
    else:
        unread.append(f"crop_mode={mode} with crop_pct={crop_pct:g}")
        found["crop_size"] = size[1]
    return found, tuple(unread)


# transformers


def _transformers(config: dict[str, Any], processor: Any, implied: Architecture) -> Statement:
    architecture = layouts.of(implied).of_transformers(config, implied)
    labels = config.get("id2label") or {}
    names = [labels.get(str(i)) for i in range(len(labels))]
    if all(name == f"LABEL_{i}" for i, name in enumerate(names)):
        names = []  # what it is called by where nobody named the classes
    classes, unread = _names(names or None, implied)
    pixels: dict[str, Any] = {}
    if processor is None:
        unread = (*unread, "there is no preprocessor_config.json")
    else:
        pixels, more = _processor(processor)
        unread = (*unread, *more)
    problem = config.get("problem_type")
    return Statement(
        preprocessing=pixels,
        classes=classes,
        multi_label=None if problem is None else problem == "multi_label_classification",
        architecture=architecture,
        unread=unread,
    )


def _processor(processor: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fields of Preprocessing from preprocessor_config.json."""
    found: dict[str, Any] = {
        "scale": float(processor.get("rescale_factor", 1 / 255)),
        "mean": tuple(processor.get("image_mean", (0.485, 0.456, 0.406))),
        "std": tuple(processor.get("image_std", (0.229, 0.224, 0.225))),
    }
    if processor.get("do_rescale") is False:
        found["scale"] = 1.0
    if processor.get("do_normalize") is False:
        found |= {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    unread = []
    resample = processor.get("resample", 3)
    if resample in _PIL:
        found["interpolation"] = _PIL[resample]
    else:
        unread.append(f"resample={resample}")
    sizes = _processor_sizes(processor)
    if sizes is None:
        unread.append("size")
    return found | (sizes or {}), tuple(unread)


def _processor_sizes(processor: dict[str, Any]) -> dict[str, Any] | None:
    """How it resizes and crops; None if that is none of our ways."""
    if processor.get("do_resize") is False:
        return None
    size, crop = processor.get("size"), processor.get("crop_size")
    height, width = (size.get(k) for k in ("height", "width")) if isinstance(size, dict) else (0, 0)
    short = size if isinstance(size, int) else size.get("shortest_edge") if size else None
    kind = str(processor.get("image_processor_type") or processor.get("feature_extractor_type"))
    if kind.startswith("ConvNext") and short:
        if short >= CONVNEXT_WHOLE:
            return {"resize": "squash", "resize_size": short, "crop_size": short}
        resized = int(short / processor.get("crop_pct", 224 / 256))
        return {"resize": "resize_crop", "resize_size": resized, "crop_size": short}
    if isinstance(crop, dict):
        crop = crop.get("height") if crop.get("height") == crop.get("width") else None
    if processor.get("do_center_crop") and crop and short:
        return {"resize": "resize_crop", "resize_size": short, "crop_size": crop}
    if not processor.get("do_center_crop") and (height == width or isinstance(size, int)):
        side = height or short
        return {"resize": "squash", "resize_size": side, "crop_size": side} if side else None
    return None


def _names(names: Any, implied: Architecture) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The names of the head's classes, None if there are none or they aren't its."""
    if not names or implied.num_classes is None:
        return None, ()
    is_list = isinstance(names, list) and all(isinstance(n, str) and n.isprintable() for n in names)
    if not is_list or len(names) != implied.num_classes:
        return None, (f"its class names, which are not of the head's {implied.num_classes}",)
    return tuple(names), ()
