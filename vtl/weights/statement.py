"""What a config says about a network, in our terms."""

from typing import Any, NamedTuple


class NotThisNetwork(Exception):
    """It is of a network that vtl doesn't have, or not of these tensors; the text says which."""


class Statement(NamedTuple):
    """What is said about a network; empty if nothing is."""

    where: str = ""
    """What says it, such as `config.json beside it`."""
    preprocessing: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    """Fields of `Preprocessing`."""
    classes: tuple[str, ...] | None = None
    multi_label: bool | None = None
    architecture: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    """Fields of the architecture."""
    unread: tuple[str, ...] = ()
    """What of it is not understood or can't be done, each in a few words."""
