"""Convolutions that record their outputs: for a network's summary, and to verify it."""

from typing import Any

import jax
from flax import traverse_util
from jax import lax

from vtl.models import ops
from vtl.models.layers import Conv

PADDINGS = ("torch", "same")
"""How a strided convolution is padded: as in torch, or as by TensorFlow's SAME."""


class WatchedConv(Conv):
    """A convolution that also records its output, before the multiplier, in `COLLECTION`."""

    padding: str = "torch"

    def convolve(self, x: jax.Array, kernel: jax.Array, multiplier: jax.Array | float) -> jax.Array:
        """As `Conv.convolve`, in two steps."""
        kernel = kernel.astype(self.dtype)
        if self.padding == "same" and self.stride > 1:
            y = convolve_same(x, kernel, self.stride)
        else:
            y = ops.convolve(x, kernel, self.stride)
        self.sow(COLLECTION, _NAME, y)
        return y * multiplier


COLLECTION = "convolutions"
_NAME = "output"


def convolve_same(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve x [B, H, W, C] with TensorFlow's SAME padding."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, "SAME", dimension_numbers=layout)


def outputs_by_path(collections: Any) -> dict[str, jax.Array]:
    """The mutable collections that `apply` returned -> each convolution's output, in call order."""
    flat = traverse_util.flatten_dict(collections[COLLECTION], sep="/")
    return {path.removesuffix(f"/{_NAME}"): output for path, (output,) in flat.items()}
