"""Several small networks at once, on images that are in memory whole: SGD in one program."""

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
"""Images of one piece of a split that is scored: more take memory and no less time."""

Params = Any
"""A pytree of arrays, as Flax has it; a leading axis where there are several networks."""

SATURATING = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
"""Activations whose units can saturate, and the range of their outputs."""

DYING = ("relu",)
"""Activations whose units can be zero for every image. A unit of any other has no such end."""


def is_saturated(activation: str, outputs: jax.Array) -> jax.Array:
    """Where `outputs` of a sigmoid or tanh lie in the outer 5 % of its range, on either side.

    The slope there is below a fifth of that at zero.
    """
    low, high = SATURATING[activation]
    middle, half = (low + high) / 2, (high - low) / 2
    return jnp.abs(outputs - middle) > 0.9 * half


class Score(NamedTuple):
    """A network on one split, and which of its hidden units pass no gradient on.

    Attributes:
        loss: mean cross-entropy in nats.
        saturated: by layer of sigmoid or tanh, the share of outputs that are saturated.
        dead: by layer of ReLU, the share of units, or channels of a convolution, that are zero for
            every image of the split.
    """

    loss: jax.Array
    accuracy: jax.Array
    saturated: dict[str, jax.Array]
    dead: dict[str, jax.Array]


class Curves(NamedTuple):
    """What was measured of G networks at M moments: [G, M] each.

    Attributes:
        train_loss: the mean over the steps since the moment before.
        gradient_norms: by layer, the Euclidean norm of a step's gradient; a mean over those steps.
        held_out: the scores on what is held out, at the moment.
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
    """Several networks by plain SGD at once, all epochs in one program: parameters, curves.

    `model` is of models.mlp or models.lenet; train and held_out are images [N, H, W] uint8 and
    labels [N]. For each of the G networks the rows of its batches, orders [G, M, S, B] with S steps
    between two measurements, a `start` and a learning rate [G]. A step descends the softmax
    cross-entropy, averaged over its batch.
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
    """G networks on images [N, H, W] uint8 and labels [N]: [G] each."""
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
                is_at_the_end = is_saturated(activation, outputs)
                saturated[name] = jnp.mean(is_at_the_end, axis=range(1, outputs.ndim))
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
    """The parameters that `model` starts from by each of the seeds; images are of `image_shape`."""
    keys = jax.vmap(jax.random.key)(np.array(seeds))
    no_images = jnp.zeros((1, *image_shape))
    return jax.vmap(lambda key: model.init(key, no_images)["params"])(keys)
