"""Losses. Each names its reduction."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vtl.data.split import Flags
from vtl.errors import UserError

GAMMA = 2.0
"""Of the focal loss (Lin et al. 2017, "Focal Loss for Dense Object Detection")."""

GAMMA_NEGATIVE, GAMMA_POSITIVE, MARGIN = 4.0, 1.0, 0.05
"""Of the asymmetric loss, as its authors' code has them by default."""

_ROWS_AT_ONCE = 1 << 14

_TINY = 1e-8
"""Below it a probability's logarithm is that of this, as in the authors' code."""


def sigmoid_bce_mean(logits: jax.Array, labels: jax.Array, label_mask: jax.Array) -> jax.Array:
    """Binary cross-entropy of sigmoid(logits), in nats, averaged over the labels that count.

    logits, labels, label_mask [B, C]; labels and label_mask hold 0 or 1. A label counts if its mask
    is 1. The loss is 0 if no label counts.
    """
    return _mean(sigmoid_bce(logits, labels), label_mask)


def sigmoid_bce(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Binary cross-entropy of sigmoid(logits), in nats: [B, C] of logits and labels [B, C]."""
    return jax.nn.softplus(logits) - labels * logits


def focal(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Binary cross-entropy times (1 - p)^GAMMA, p being the label's probability: [B, C]."""
    of_label = jax.nn.sigmoid(jnp.where(labels > 0.5, -logits, logits))
    return sigmoid_bce(logits, labels) * of_label**GAMMA


def asymmetric(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification": [B, C].

    Negatives are shifted, so that those of a probability below MARGIN count for nothing, and
    focused by GAMMA_NEGATIVE, positives by GAMMA_POSITIVE.
    """
    positive = jax.nn.sigmoid(logits)
    negative = jnp.minimum(1 - positive + MARGIN, 1)
    of_positives = jnp.log(jnp.maximum(positive, _TINY)) * (1 - positive) ** GAMMA_POSITIVE
    of_negatives = jnp.log(jnp.maximum(negative, _TINY)) * (1 - negative) ** GAMMA_NEGATIVE
    return -jnp.where(labels > 0.5, of_positives, of_negatives)


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of softmax(logits), in nats: [B]. Each row of labels [B, C] has a single 1."""
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(labels * logits, axis=-1)


def _mean(losses: jax.Array, counts: jax.Array) -> jax.Array:
    """0 if nothing counts."""
    return jnp.sum(losses * counts) / jnp.maximum(jnp.sum(counts), 1)


def _binary_accuracy(logits: jax.Array, labels: jax.Array, label_mask: jax.Array) -> jax.Array:
    return _mean((logits > 0) == (labels > 0.5), label_mask)


def _accuracy(logits: jax.Array, labels: jax.Array, label_mask: jax.Array) -> jax.Array:
    del label_mask
    return jnp.mean(jnp.argmax(logits, axis=1) == jnp.argmax(labels, axis=1))


Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""logits, labels, label_mask [B, C] -> the mean over what counts."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss to minimise, and the accuracy to show beside it under its name."""

    loss: Loss
    accuracy_name: str
    accuracy: Loss

    @property
    def has_one_label_each(self) -> bool:
        """Whether it is of images with one label each, whose classes compete."""
        return self.accuracy is _accuracy


BY_LABEL = {"sigmoid_bce": sigmoid_bce, "asymmetric": asymmetric, "focal": focal}
"""Losses of images that may have several labels."""

SOFTMAX_CE = "softmax_ce"
NAMES = (SOFTMAX_CE, *BY_LABEL)

CLASS_WEIGHTS = ("none", "balanced")


def loss_of(name: str, *, one_label_each: bool) -> str:
    """One of NAMES; an empty name goes by whether each photo of the data has one label.

    Raises:
        UserError: softmax_ce is asked for, and some photos have no label or several.
    """
    name = name or (SOFTMAX_CE if one_label_each else "sigmoid_bce")
    if name == SOFTMAX_CE and not one_label_each:
        raise UserError(
            "loss=softmax_ce is for photos with one label each; in a devkit photos may have "
            "several, and here some have none, several or unknown ones\nChoose sigmoid_bce."
        )
    return name


def objective(name: str, class_weights: np.ndarray | None = None) -> Objective:
    """One of NAMES. class_weights [2, C] multiply the losses of negatives and of positives.

    With softmax_ce a photo counts by the positive weight of its class.
    """
    if name == SOFTMAX_CE:
        return Objective(functools.partial(_softmax_mean, class_weights), "accuracy", _accuracy)
    loss = functools.partial(_by_label_mean, BY_LABEL[name], class_weights)
    return Objective(loss, "binary_accuracy", _binary_accuracy)


def _softmax_mean(
    class_weights: np.ndarray | None, logits: jax.Array, labels: jax.Array, label_mask: jax.Array
) -> jax.Array:
    """Every image counts, whatever `label_mask` says."""
    del label_mask
    losses = softmax_cross_entropy(logits, labels)
    return jnp.mean(losses if class_weights is None else losses * (labels @ class_weights[1]))


def _by_label_mean(
    of_labels: Callable[[jax.Array, jax.Array], jax.Array],
    class_weights: np.ndarray | None,
    logits: jax.Array,
    labels: jax.Array,
    label_mask: jax.Array,
) -> jax.Array:
    losses = of_labels(logits, labels)
    if class_weights is not None:
        losses = losses * jnp.where(labels > 0.5, class_weights[1], class_weights[0])
    return _mean(losses, label_mask)


SIGMOID = objective("sigmoid_bce")
"""Several labels an image."""

SOFTMAX = objective(SOFTMAX_CE)
"""One label an image."""


def balanced_weights(
    positives: np.ndarray, negatives: np.ndarray, *, one_label_each: bool
) -> np.ndarray:
    """Weights [2, C] by which all sides of a choice count alike: their mean over images is 1.

    positives, negatives [C] are how many images are known to be so. As scikit-learn's `balanced`:
    of each class by itself, or of all classes against one another. A side without images has 1.
    """
    counts = np.stack([negatives, positives]).astype(np.float64)
    num_sides = len(positives) if one_label_each else 2
    totals = np.sum(positives) if one_label_each else counts.sum(axis=0)
    weights = np.where(counts > 0, totals / (num_sides * np.maximum(counts, 1)), 1.0)
    return weights.astype(np.float32)


def class_weights_of(
    kind: str, loss: str, labels: Flags, label_mask: np.ndarray
) -> np.ndarray | None:
    """The weights [2, C] of `objective` that one of CLASS_WEIGHTS names; None is all alike.

    They go by the labels [N, C] that count in training.
    """
    if kind == "none":
        return None
    positives = np.zeros(labels.shape[1], np.int64)
    counted = np.zeros_like(positives)
    for first in range(0, len(labels), _ROWS_AT_ONCE):  # some hold their rows in less memory
        rows = slice(first, first + _ROWS_AT_ONCE)
        counted += np.sum(label_mask[rows], axis=0, dtype=np.int64)
        positives += np.sum(labels[rows] * label_mask[rows], axis=0, dtype=np.int64)
    one_label_each = loss == SOFTMAX_CE
    return balanced_weights(positives, counted - positives, one_label_each=one_label_each)


def label_weights(
    labels: np.ndarray, label_mask: np.ndarray, class_weights: np.ndarray | None
) -> np.ndarray:
    """How much each label counts, [N, C]: the mask, times the weights [2, C] of its class."""
    if class_weights is None:
        return label_mask
    return label_mask * np.where(labels > 0.5, class_weights[1], class_weights[0])
