"""Losses. Each names its reduction."""

import jax
import jax.numpy as jnp


def sigmoid_bce_mean(logits: jax.Array, labels: jax.Array, known: jax.Array) -> jax.Array:
    """Binary cross-entropy of sigmoid(logits), in nats, averaged over the known labels.

    logits, labels, known: [B, C]; labels and known hold 0 or 1. A class is known unless it is
    difficult and the config leaves difficult objects out. 0 where nothing is known.
    """
    losses = jax.nn.softplus(logits) - labels * logits
    return jnp.sum(losses * known) / jnp.maximum(jnp.sum(known), 1)
