"""Batch normalisation by the statistics of the batch, in the fastest way that is known."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

Normalised = tuple[jax.Array, jax.Array, jax.Array]
"""What is normalised by its statistics, and these: mean and variance [C]."""


@functools.partial(jax.jit, static_argnums=3)
def by_batch(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> Normalised:
    """Batch normalisation of x [..., C], and its mean and biased variance in float32.

    Gradients are those of what is normalised; the statistics have none.
    """
    return lax.platform_dependent(
        x,
        scale,
        bias,
        cpu=functools.partial(in_two_passes, epsilon),
        default=functools.partial(in_one_pass, epsilon),
    )


def in_one_pass(epsilon: float, x: jax.Array, scale: jax.Array, bias: jax.Array) -> Normalised:
    """`by_batch` with both sums at once, as a GPU's backend makes them."""
    x32, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    # The shift by the first image's mean keeps the difference of squares precise, however far the
    # mean is from 0.
    shift = lax.stop_gradient(jnp.mean(x32[:1], axes))
    centred = x32 - shift
    offset = jnp.mean(centred, axes)
    var = jnp.maximum(jnp.mean(centred**2, axes) - offset**2, 0.0)
    multiplier = scale * lax.rsqrt(var + epsilon)
    out = centred * multiplier + (bias - offset * multiplier)
    mean = lax.stop_gradient(offset + shift)
    return out.astype(x.dtype), mean, lax.stop_gradient(var)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def in_two_passes(epsilon: float, x: jax.Array, scale: jax.Array, bias: jax.Array) -> Normalised:
    """`by_batch` for a CPU, where a sum takes a pass of its own.

    XLA subtracts, squares and adds up in one go if nothing else needs the differences.
    """
    return _forward(epsilon, x, scale, bias)[0]


Saved = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""What gradients need: the input, its mean, the inverse of its deviation, and the scale."""


def _forward(
    epsilon: float, x: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[Normalised, Saved]:
    x32, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    mean = jnp.mean(x32, axes)
    var = jnp.mean(jnp.square(x32 - mean), axes)
    inverse = lax.rsqrt(var + epsilon)
    multiplier = scale * inverse
    out = x32 * multiplier + (bias - mean * multiplier)
    return (out.astype(x.dtype), mean, var), (x, mean, inverse, scale)


def _backward(
    epsilon: float, saved: Saved, gradients: Normalised
) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Held apart from the forward pass, or XLA would write out what both compute of x.
    (x, mean, inverse, scale), gradient = lax.optimization_barrier((saved, gradients[0]))
    x32, gradient = x.astype(jnp.float32), gradient.astype(jnp.float32)
    axes, count = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
    of_bias = jnp.sum(gradient, axes)
    of_scale = jnp.sum(gradient * (x32 - mean), axes) * inverse
    multiplier = scale * inverse
    slope = multiplier * inverse * of_scale / count
    constant = mean * slope - multiplier * of_bias / count
    of_x = gradient * multiplier - x32 * slope + constant
    return of_x.astype(x.dtype), of_scale, of_bias


in_two_passes.defvjp(_forward, _backward)
