"""The Vision Transformers that are published, by name."""

import dataclasses

from vtl.preprocessing import CLIP, TORCHVISION, Preprocessing
from vtl.weights.known.source import Source, hugging_face

_BICUBIC = dataclasses.replace(TORCHVISION, interpolation="bicubic")
_AUGREG = dataclasses.replace(_BICUBIC, mean=(0.5,) * 3, std=(0.5,) * 3, resize_size=248)
_SIGLIP2 = dataclasses.replace(
    TORCHVISION, mean=(0.5,) * 3, std=(0.5,) * 3, resize="squash", resize_size=224
)
"""As google/siglip2-base-patch16-224 says."""


def _source(
    model: str,
    title: str,
    parameters: int,
    preprocessing: Preprocessing,
    licence: str = "Apache-2.0",
    top1: float | None = None,
    file: str = "model.safetensors",
) -> Source:
    return Source(hugging_face(model, file=file), title, parameters, preprocessing, top1, licence)


_DINOV2 = {
    "small": ("S", 22_056_192, 22_057_344),
    "base": ("B", 86_579_712, 86_582_016),
    "large": ("L", 304_367_616, 304_370_688),
}
"""The letter, and the parameters without registers and with four."""

SOURCES = {
    # Top-1: timm's results/results-imagenet.csv.
    "augreg_vit_small": _source(
        "timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
        "ViT-S/16",
        22_050_664,
        _AUGREG,
        top1=81.384,
    ),
    "augreg_vit_base": _source(
        "timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
        "ViT-B/16",
        86_567_656,
        _AUGREG,
        top1=84.532,
    ),
    **{
        f"dinov2_{size}": _source(
            f"facebook/dinov2-{size}", f"ViT-{letter}/14", parameters, _BICUBIC
        )
        for size, (letter, parameters, _) in _DINOV2.items()
    },
    **{
        f"dinov2_{size}_reg": _source(
            f"facebook/dinov2-with-registers-{size}", f"ViT-{letter}/14", parameters, _BICUBIC
        )
        for size, (letter, _, parameters) in _DINOV2.items()
    },
    "siglip2_base": _source(
        "timm/vit_base_patch16_siglip_224.v2_webli", "ViT-B/16", 92_884_224, _SIGLIP2
    ),
    # The file has the text tower too, and so have the numbers of parameters.
    **{
        f"clip_vit_base_{patch}": _source(
            f"timm/vit_base_patch{patch}_clip_224.openai",
            f"ViT-B/{patch}",
            parameters,
            CLIP,
            licence="MIT",
            file="open_clip_model.safetensors",
        )
        for patch, parameters in ((16, 149_620_737), (32, 151_277_313))
    },
}
