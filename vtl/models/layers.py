"""The layers that networks share: convolution and batch normalisation, as torch defines them."""

import functools
import math
from collections.abc import Container

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

from vtl.models import depthwise, normalise, ops


def parameter(
    module: nn.Module, name: str, init: nn.initializers.Initializer, shape: tuple[int, ...]
) -> jax.Array:
    """`module.param`, which traces `init` whenever a network is used, to compare shapes alone."""
    if module.has_variable("params", name):
        return module.get_variable("params", name)
    return module.param(name, init, shape)


class Conv(nn.Module):
    """Convolution without a bias, padded in one of the ways of `ops.PADDINGS`.

    The output is in `dtype`; a `multiplier` [features] scales the kernel's output channels. A
    depthwise convolution has as many input channels as features, and convolves each by itself.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    padding: str = "torch"
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, multiplier: jax.Array | float = 1.0) -> jax.Array:
        """x [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]."""
        size, inputs = self.kernel_size, 1 if self.depthwise else x.shape[-1]
        # By what an input goes to: of a depthwise kernel, all that its output comes from.
        scaling = nn.initializers.variance_scaling(
            2.0, "fan_in" if self.depthwise else "fan_out", "normal"
        )
        kernel = parameter(self, "kernel", scaling, (size, size, inputs, self.features))
        if self.is_initializing():  # of which the shape is enough
            sides = (math.ceil(side / self.stride) for side in x.shape[1:3])
            return jnp.zeros((len(x), *sides, self.features), self.dtype)
        return self.convolve(x, kernel, multiplier)

    def convolve(self, x: jax.Array, kernel: jax.Array, multiplier: jax.Array | float) -> jax.Array:
        """Convolve x with `kernel`; a subclass may do it another way."""
        convolve = depthwise.convolve if self.depthwise else ops.convolve
        kernel = ops.scaled(kernel, multiplier).astype(self.dtype)
        return convolve(x, kernel, self.stride, self.padding)


class BatchNorm(nn.Module):
    """Batch normalisation over all but the last axis, with torch's running statistics.

    Statistics are float32 whatever the input; the running variance is the unbiased one.
    """

    features: int
    epsilon: float
    momentum: float = 0.9
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    def setup(self) -> None:  # noqa: D102 (flax calls it)
        shape = (self.features,)
        self.scale = parameter(self, "scale", self.scale_init, shape)
        self.bias = parameter(self, "bias", nn.initializers.zeros, shape)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        self.var = self.variable("batch_stats", "var", jnp.ones, shape)

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """The scale and shift [features] that normalise by the running averages."""
        return _affine(self.scale, self.bias, self.mean.value, self.var.value, self.epsilon)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise x [..., features] by its own statistics and update the running ones."""
        out, mean, var = normalise.by_batch(x, self.scale, self.bias, self.epsilon)
        if not self.is_initializing():
            count = math.prod(x.shape[:-1])
            unbiased = var * (count / max(count - 1, 1))
            self.mean.value += (1 - self.momentum) * (mean - self.mean.value)
            self.var.value += (1 - self.momentum) * (unbiased - self.var.value)
        return out


@functools.partial(jax.jit, static_argnums=4)
def _affine(
    scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array]:
    multiplier = scale * lax.rsqrt(var + epsilon)
    return multiplier, bias - mean * multiplier


def conv_norm(
    x: jax.Array, conv: Conv, norm: BatchNorm, norms_by_batch: Container[str]
) -> jax.Array:
    """Convolution, then BatchNorm: by the batch if `norms_by_batch` names it, else folded."""
    if "/".join(norm.path) in norms_by_batch:
        return norm(conv(x))
    # Folding the running averages into the kernel saves a pass over the activations. The gradient
    # of scale then comes from the kernel's.
    multiplier, shift = norm.affine()
    return conv(x, multiplier) + shift.astype(x.dtype)
