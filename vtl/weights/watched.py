"""Convolutions that record their outputs: for a network's summary, and to verify it."""

from typing import Any

import jax
from flax import traverse_util

from vtl.models.layers import Conv


class WatchedConv(Conv):
    """A convolution that also records its output, before the multiplier, in `COLLECTION`."""

    def convolve(self, x: jax.Array, kernel: jax.Array, multiplier: jax.Array | float) -> jax.Array:
        """As `Conv.convolve`, in two steps."""
        y = super().convolve(x, kernel, 1.0)
        self.sow(COLLECTION, _NAME, y)
        return y * multiplier


COLLECTION = "convolutions"
_NAME = "output"


def outputs_by_path(collections: Any) -> dict[str, jax.Array]:
    """The mutable collections that `apply` returned -> each convolution's output, in call order."""
    flat = traverse_util.flatten_dict(collections[COLLECTION], sep="/")
    return {path.removesuffix(f"/{_NAME}"): output for path, (output,) in flat.items()}
