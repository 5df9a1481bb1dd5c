"""The weights that vtl knows: where they are, their hash and preprocessing; a module a family."""

from vtl.weights.known import efficientnet_lite, resnet, vit
from vtl.weights.known.source import Source as Source

SOURCES: dict[str, Source] = {**resnet.SOURCES, **efficientnet_lite.SOURCES, **vit.SOURCES}
