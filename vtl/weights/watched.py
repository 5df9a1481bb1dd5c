"""Networks that record what their modules give: for a summary, and to verify them."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jax import lax

from vtl.models import HEAD, ops
from vtl.models.layers import BatchNorm, Conv

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


def output_shapes(model: nn.Module, variables: Any, image_size: int) -> dict[str, tuple[int, ...]]:
    """Module with parameters -> the shape of its output for one image, in calling order.

    A BatchNorm that is folded into its convolution has that one's shape, and comes after it.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    folded: list[str] = []

    def record(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        result, path = call(*args, **kwargs), "/".join(context.module.path)
        if isinstance(context.module, BatchNorm) and context.method_name == "affine":
            folded.append(path)
        elif context.method_name == "__call__" and isinstance(result, jax.Array):
            for name in (path, *folded):
                shapes[name] = result.shape[1:]
            folded.clear()
        return result

    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    with nn.intercept_methods(record):
        logits = jax.eval_shape(
            lambda v, x: model.apply(v, x, norms_by_batch=())[0], variables, image
        )
    return shapes | {HEAD: logits.shape[1:]}


def norm_by_conv(model: nn.Module, variables: Any, image_size: int) -> dict[str, str]:
    """Convolution -> the BatchNorm that follows it, in calling order."""
    paths = list(output_shapes(model, variables, image_size))
    norms = {path.rpartition("/")[0] for path in _flat(variables["batch_stats"])}
    return {
        conv: norm
        for conv, norm in itertools.pairwise(paths)
        if norm in norms and conv not in norms
    }


def _flat(tree: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")
