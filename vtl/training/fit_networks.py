"""SGD of several small networks at once, in one program, on images that fit in memory."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from vtl.data import batches

_SCORED_AT_ONCE = 500
"""Images scored at a time: more would take more memory and no less time."""

Params = Any
"""A Flax tree of arrays; several networks have a leading axis."""

SATURATING = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
"""Activations whose units can saturate, and the range of their outputs."""

DYING = ("relu",)
"""Activations whose units can be zero for every image."""


def is_saturated(activation: str, outputs: jax.Array) -> jax.Array:
    """Where `outputs` of a sigmoid or tanh lie in the outer 5 % of its range, on either side.

    The slope there is below a fifth of that at zero.
    """
    low, high = SATURATING[activation]
    middle, half = (low + high) / 2, (high - low) / 2
    return jnp.abs(outputs - middle) > 0.9 * half


class Score(NamedTuple):
    """How a network does on one split, and how many of its hidden units pass no gradient on.

    Attributes:
        loss: mean cross-entropy in nats.
        saturated: for each layer of sigmoid or tanh, the share of saturated outputs.
        dead: for each layer of ReLU, the share of units (channels of a convolution) that are zero
            for every image of the split.
    """

    loss: jax.Array
    accuracy: jax.Array
    saturated: dict[str, jax.Array]
    dead: dict[str, jax.Array]


class Curves(NamedTuple):
    """Measurements of G networks at M moments: [G, M] each.

    Attributes:
        train_loss: the mean over the steps since the previous moment.
        gradient_norms: for each layer, the gradient's Euclidean norm, averaged over those steps.
        held_out: the scores on the held-out images at that moment.
    """

    train_loss: jax.Array
    gradient_norms: dict[str, jax.Array]
    held_out: Score


@functools.partial(jax.jit, static_argnames=("model",))
def softmax_sgd(
    model: nn.Module,
    train: tuple[jax.Array, jax.Array],
    held_out: tuple[jax.Array, jax.Array],
    orders: jax.Array,
    start: Params,
    learning_rates: jax.Array,
) -> tuple[Params, Curves]:
    """Train G networks at once by plain SGD, all epochs in one program: parameters, curves.

    `model` returns logits and its hidden layers' outputs by name, and names their activations in
    `hidden_activations`. train and held_out are images [N, H, W] uint8 and labels [N]. Each of the
    G networks has its own `start`, a learning rate [G], and the rows of its batches in orders
    [G, M, S, B], with S steps between two measurements. A step minimises the softmax cross-entropy,
    averaged over its batch.
    """
    images, labels = train

    def fit_one(order: jax.Array, params: Params, rate: jax.Array) -> tuple[Params, Curves]:
        def step(params: Params, rows: jax.Array) -> tuple[Params, tuple[Any, ...]]:
            def loss_fn(params: Params) -> jax.Array:
                logits, _ = model.apply({"params": params}, _unit(images[rows]))
                return jnp.mean(_cross_entropy(logits, labels[rows]))

            loss, grads = jax.value_and_grad(loss_fn)(params)
            norms = {name: optax.tree.norm(grads[name]) for name in grads}
            return jax.tree.map(lambda p, g: p - rate * g, params, grads), (loss, norms)

        def stretch(params: Params, rows: jax.Array) -> tuple[Params, Curves]:
            params, by_step = jax.lax.scan(step, params, rows)
            loss, norms = jax.tree.map(jnp.mean, by_step)
            return params, Curves(loss, norms, _score(model, params, *held_out))

        return jax.lax.scan(stretch, params, order)

    return jax.vmap(fit_one)(orders, start, learning_rates)


@functools.partial(jax.jit, static_argnames=("model",))
def score(model: nn.Module, params: Params, images: jax.Array, labels: jax.Array) -> Score:
    """Score G networks on images [N, H, W] uint8 and labels [N]: [G] each."""
    return jax.vmap(lambda params: _score(model, params, images, labels))(params)


def _score(model: nn.Module, params: Params, images: jax.Array, labels: jax.Array) -> Score:
    hidden_activations = model.hidden_activations
    pieces = list(batches.eval_indices(len(labels), min(_SCORED_AT_ONCE, len(labels))))
    rows = np.stack([indices for indices, _ in pieces])
    is_real = np.stack([np.arange(rows.shape[1]) < count for _, count in pieces])

    def score_piece(piece: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
        rows, is_real = piece
        logits, hidden = model.apply({"params": params}, _unit(images[rows]))
        losses = _cross_entropy(logits, labels[rows])
        hits = jnp.argmax(logits, axis=1) == labels[rows]
        saturated, largest = {}, {}
        for name, outputs in hidden.items():
            activation = hidden_activations[name]
            if activation in SATURATING:
                by_output = is_saturated(activation, outputs)
                saturated[name] = jnp.mean(by_output, axis=range(1, outputs.ndim))
            elif activation in DYING:
                largest[name] = jnp.max(outputs, axis=range(outputs.ndim - 1))
        sums = jax.tree.map(lambda x: jnp.sum(x * is_real), (losses, hits, saturated))
        return sums, largest

    sums, largest = jax.lax.map(score_piece, (rows, is_real))
    loss, accuracy, saturated = jax.tree.map(lambda x: jnp.sum(x) / len(labels), sums)
    dead = {name: jnp.mean(jnp.max(x, axis=0) <= 0) for name, x in largest.items()}
    return Score(loss, accuracy, saturated, dead)


def _unit(images: jax.Array) -> jax.Array:
    """uint8 -> float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels.astype(jnp.int32))


def start(model: nn.Module, image_shape: tuple[int, int], seeds: Sequence[int]) -> Params:
    """The initial parameters of `model` for each seed; images have the shape `image_shape`."""
    keys = jax.vmap(jax.random.key)(np.array(seeds))
    images = jnp.zeros((1, *image_shape))
    return jax.vmap(lambda key: model.init(key, images)["params"])(keys)
