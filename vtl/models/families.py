"""The families of networks that vtl has, by name."""

from collections.abc import Mapping
from typing import Any

from vtl.models import resnet
from vtl.models.architecture import Architecture

FAMILIES: dict[str, type[Architecture]] = {
    family.Architecture.family: family.Architecture for family in (resnet,)
}


def from_record(record: Mapping[str, Any]) -> Architecture:
    """What `architecture.as_record` gives; a record of vtl 0.1 names no family and is a ResNet's.

    Raises:
        ValueError, TypeError: there is no such family or network.
    """
    values = dict(record)
    name = values.pop("family", resnet.Architecture.family)
    if name not in FAMILIES:
        raise ValueError(f"there is no family {name}")
    made = FAMILIES[name](**values)
    made.check()
    return made
