"""What a network is, as data: the arguments of its module, and what differs between families."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from flax import linen as nn
from jax.typing import DTypeLike

from vtl.models.head import MAX_REGIONS, POOLINGS, TOKEN_POOLINGS, TRANSFORMS, num_features

Outputs = dict[str, Any]
"""A network's outputs by name: of each block and stage, `seen`, `views` and `features`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture(abc.ABC):
    """The arguments of a network's module: its head's here, its body's in a family's subclass.

    A subclass stands in the module of its family, and is all that others need to know of it.
    """

    family: ClassVar[str]
    """Its name in files."""
    num_classes: int | None
    """None if the file has no head."""
    pooling: str = "average"
    transform: str = "none"
    regions: int = 0

    stages: ClassVar[tuple[str, ...]]
    """The names of the stages' outputs in order; the head sees the last."""
    last_stage: ClassVar[str]
    """A regex of the paths of the last stage's parameters."""
    told_by_shapes: ClassVar[tuple[str, ...]]
    """The fields that the shapes of a file's tensors tell."""

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """For people: `ResNet-50`, or `ResNet-50 of width 0.25`."""

    @property
    def details(self) -> str:
        """What else a file may mean to be another way, in words; "" if there is nothing."""
        return ""

    @property
    def plain_pooling(self) -> str:
        """What the head sees of the last stage as the network was published."""
        return "average"

    @property
    def batch_norm_epsilon(self) -> float | None:
        """What a file of others may mean to be another one; None where there is no BatchNorm.

        Where there is one, the architecture has a field `epsilon`.
        """
        return None

    @property
    @abc.abstractmethod
    def num_channels(self) -> int:
        """Of the last stage's output."""

    @property
    def size_multiple(self) -> int:
        """What a photo's side in pixels must be a multiple of."""
        return 1

    @property
    def num_features(self) -> int:
        """How many numbers the head sees of a photo."""
        return num_features(self.num_channels, self.pooling)

    @property
    def plain_head(self) -> dict[str, Any]:
        """The head that the network was published with: a dense layer on what it pools."""
        return {"pooling": self.plain_pooling, "transform": "none", "regions": 0}

    @property
    def has_plain_head(self) -> bool:
        """Whether the head is the published one."""
        return all(getattr(self, name) == value for name, value in self.plain_head.items())

    @property
    def poolings(self) -> tuple[str, ...]:
        """What the head can see of the last stage; a token only where there is one."""
        has_token = self.plain_pooling in TOKEN_POOLINGS
        return tuple(name for name in POOLINGS if has_token or name not in TOKEN_POOLINGS)

    @abc.abstractmethod
    def module(self, dtype: DTypeLike) -> nn.Module:
        """The network, with activations in `dtype`."""

    def check(self) -> None:
        """Check what comes from a file.

        Raises:
            ValueError: there is no such network.
        """
        is_known = self.pooling in self.poolings and self.transform in TRANSFORMS
        regions_are = type(self.regions) is int and self.regions in (0, *range(2, MAX_REGIONS + 1))
        if not is_known or not regions_are:
            raise ValueError(
                f"its head is unknown: {self.pooling}, {self.transform}, {self.regions}"
            )

    def check_size(self, size: int) -> None:
        """Check the side in pixels of the photos that the network is to see.

        Raises:
            ValueError: it is not possible.
        """
        if size % self.size_multiple:
            raise ValueError(
                f"the pixels of a side must be a multiple of {self.size_multiple} for a "
                f"{self.title}, got {size}"
            )

    def agrees_with(self, implied: "Architecture") -> bool:
        """Whether it is what a file's tensors imply, but for what shapes don't tell."""
        same = type(self) is type(implied)
        return same and all(getattr(self, k) == getattr(implied, k) for k in self.told_by_shapes)

    def alternatives(self) -> Mapping[str, Self]:
        """What else a file with these tensors could be, in words: one change at a time."""
        return {}


def as_record(architecture: Architecture) -> dict[str, Any]:
    """What JSON files say of an architecture; `families.from_record` reads it."""
    return {"family": architecture.family, **dataclasses.asdict(architecture)}


def in_results(architecture: Architecture) -> dict[str, Any]:
    """What results.json says of a network: its record, and what people call it."""
    own = architecture
    return {"title": own.title, "plain_pooling": own.plain_pooling, **as_record(own)}
