"""What a probe that has not seen a photo thinks of it: out-of-fold probabilities."""

import jax.numpy as jnp
import numpy as np
import scipy

from vtl.models.head import transformed
from vtl.training import choose_l2
from vtl.training.fit_linear import fit_rotated, rotate

TRANSFORM = "sqrt_l2"
L2 = 1e-3
"""Of the logistic regressions; experiments/label_review.py ranks by it."""

NUM_FOLDS = 5


def out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    counts: np.ndarray,
    groups: np.ndarray,
    *,
    one_label_each: bool,
    seed: int = 0,
) -> np.ndarray:
    """Probabilities [N, C] of each photo by logistic regressions fitted to the other folds' photos.

    features [N, D]; labels, counts [N, C] in {0, 1}: a label that doesn't count, as nobody knows
    it, is not fitted to. Photos of one of the groups [N], numbers from 0 on, are in one fold. With
    `one_label_each` a photo's probabilities add up to 1. All folds are fitted in one program: each
    class of each fold is a column.
    """
    is_out = choose_l2.held_out(len(labels), NUM_FOLDS, seed, groups)
    seen = np.asarray(transformed(jnp.asarray(features), TRANSFORM))
    by_fold = np.repeat(labels[:, None].astype(np.float32), NUM_FOLDS, axis=1)  # [N, F, C]
    counts_in = (counts[:, None] * ~is_out[:, :, None]).astype(np.float32)
    head = fit_rotated(
        rotate(jnp.asarray(seen)),
        by_fold.reshape(len(labels), -1),
        counts_in.reshape(len(labels), -1),
        choose_l2.in_fold(L2, NUM_FOLDS),
        tolerance=choose_l2.TOLERANCE,
    )
    kernel = np.asarray(head.kernel).reshape(-1, *by_fold.shape[1:])
    bias = np.asarray(head.bias).reshape(by_fold.shape[1:])
    logits = np.zeros(labels.shape)
    for fold, its in enumerate(is_out.T):
        logits[its] = seen[its] @ kernel[:, fold] + bias[fold]
    probabilities: np.ndarray = scipy.special.expit(logits)
    if one_label_each:
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities
