"""Names of tensors: what is put before, between and beside those of a network."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from vtl.errors import UserError
from vtl.untrusted import printable

Tensors = dict[str, np.ndarray]
"""Our flat names, such as `params/layer1_0/conv1/kernel` or `batch_stats/bn1/mean` -> float32."""

IGNORED = re.compile(r".*\.num_batches_tracked|optimizer/vars/\d+")
NETWORK = 60
"""Tensors of the smallest network, a ResNet-18 without statistics and head."""

_INSERTED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What PyTorch itself puts between names, anywhere: torch.compile, FSDP, checkpointing."""


def plain_name(key: str) -> str:
    """A tensor's name without what PyTorch itself puts into it."""
    return _INSERTED.sub("", key)


def _wrappers(keys: Collection[str], body: re.Pattern[str]) -> list[tuple[str, int]]:
    """What stands before the names of a network's tensors, and before how many, most first."""
    names = (plain_name(key) for key in keys)
    ends = ((name, body.search(name)) for name in names)
    return Counter(name[: end.start(1)] for name, end in ends if end).most_common()


def wrapper_of(keys: Collection[str], body: re.Pattern[str]) -> str | None:
    """What PyTorch modules around the network put before most of its names, such as `module.`.

    The first group of `body` is the name of a tensor of the network itself. None if no prefix is
    that of most.
    """
    wrappers = _wrappers(keys, body)
    if not wrappers or 2 * wrappers[0][1] <= sum(count for _, count in wrappers):
        return None
    return wrappers[0][0]


def refuse_several(keys: Collection[str], body: re.Pattern[str], path: object) -> None:
    """UserError if whole networks lie side by side, as a student and its teacher."""
    held = {wrapper for wrapper, count in _wrappers(keys, body) if count >= NETWORK}
    if len(held) > 1:
        shown = " and ".join(repr(printable(wrapper, 40)) for wrapper in sorted(held)[:3])
        raise UserError(f"{path}: holds {len(held)} networks, under {shown}; save the one you want")


def unwrapped(
    tensors: Mapping[str, np.ndarray], body: re.Pattern[str], path: object
) -> dict[str, np.ndarray]:
    """Tensors by the network's own names, without what wraps most of them.

    Raises:
        UserError: there are several networks.
    """
    wrapper = wrapper_of(tensors, body)
    if wrapper is None:
        refuse_several(tensors, body, path)
        wrapper = ""
    return {plain_name(key).removeprefix(wrapper): tensor for key, tensor in tensors.items()}


def some(keys: Iterable[str]) -> str:
    """The first six of `keys` in order, and how many more there are."""
    names = sorted(printable(key, 80) for key in keys)
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more


def refuse_unknown(unknown: Collection[str], kind: str, num_known: int, path: object) -> None:
    """UserError that names the tensors that are none of `kind`, if there are any."""
    if not unknown:
        return
    others = f"; the other {num_known} are. Save the network without them"
    raise UserError(
        f"{path}: not {kind}'s tensors: {some(unknown)}{others if num_known >= NETWORK else ''}"
    )


def refuse_misshapen(key: str, shape: tuple[int, ...], dimensions: int, path: object) -> None:
    """UserError if a tensor has another number of dimensions."""
    if len(shape) != dimensions:
        raise UserError(
            f"{path}: {printable(key, 80)} has shape {shape}, expected {dimensions} dimensions"
        )


def refuse_twice(ours: str, key: str, path: object) -> None:
    """UserError: a second tensor goes where one has gone."""
    raise UserError(f"{path}: two tensors for {ours}, the second is {printable(key, 80)}")
