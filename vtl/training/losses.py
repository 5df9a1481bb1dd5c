"""Losses. Each names its reduction."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


def sigmoid_bce_mean(logits: jax.Array, labels: jax.Array, label_mask: jax.Array) -> jax.Array:
    """Binary cross-entropy of sigmoid(logits), in nats, averaged over the labels that count.

    logits, labels, label_mask [B, C]; labels and label_mask hold 0 or 1. A label counts if its mask
    is 1. The loss is 0 if no label counts.
    """
    losses = jax.nn.softplus(logits) - labels * logits
    return jnp.sum(losses * label_mask) / jnp.maximum(jnp.sum(label_mask), 1)


def softmax_cross_entropy_mean(
    logits: jax.Array, labels: jax.Array, label_mask: jax.Array
) -> jax.Array:
    """Cross-entropy of softmax(logits), in nats, averaged over the images.

    logits, labels [B, C]; each row of labels has a single 1. Every image counts, whatever
    `label_mask` says.
    """
    del label_mask
    return jnp.mean(optax.softmax_cross_entropy(logits, labels))


def _binary_accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean((logits > 0) == (labels > 0.5))


def _accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(jnp.argmax(logits, axis=1) == jnp.argmax(labels, axis=1))


class Objective(NamedTuple):
    """The loss to minimise, and the accuracy to show beside it under its name."""

    loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    accuracy_name: str
    accuracy: Callable[[jax.Array, jax.Array], jax.Array]


SIGMOID = Objective(sigmoid_bce_mean, "binary_accuracy", _binary_accuracy)
"""Several labels an image."""

SOFTMAX = Objective(softmax_cross_entropy_mean, "accuracy", _accuracy)
"""One label an image."""
