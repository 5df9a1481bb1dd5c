"""The weights that vtl knows: where they are, their hash and preprocessing; a module a family."""

from vtl.weights.known import resnet
from vtl.weights.known.source import Source as Source

SOURCES: dict[str, Source] = {**resnet.SOURCES}
