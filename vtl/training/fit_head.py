"""A head of `models.head` from what it sees of a frozen network's photos."""

import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from vtl.training import choose_l2
from vtl.training.fit_linear import Linear, logistic_regression

L2S = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Where the search for the L2 begins; it goes on beyond them where the best is at an end."""

NUM_FOLDS = 5


def fit(
    seen: np.ndarray, labels: np.ndarray, label_mask: np.ndarray, l2: float, seed: int
) -> tuple[Linear, np.ndarray]:
    """The head, and the L2 of each class: `l2` or, where that is 0, chosen by cross-validation.

    seen [N, V, D] is the whole photo first, then its regions; labels, label_mask [N, C]. The
    weights are those of a logistic regression on the whole photos. With regions, which can only
    raise the mean of the logits, the bias then moves so far that each class is as likely in the
    mean as it is frequent.
    """
    whole = np.ascontiguousarray(seen[:, 0])
    l2s = np.full(labels.shape[1], l2)
    if not l2:
        l2s = choose_l2.by_cross_validation(
            whole, labels, label_mask, L2S, num_folds=NUM_FOLDS, seed=seed
        )
    head = logistic_regression(whole, labels, label_mask, l2s)
    if seen.shape[1] > 1:
        head = Linear(head.kernel, jnp.asarray(_bias(head, seen, labels, label_mask)))
    return head, l2s


def _bias(head: Linear, seen: np.ndarray, labels: np.ndarray, label_mask: np.ndarray) -> np.ndarray:
    """For each class the bias [C] at which its mean probability is the share of its positives."""
    of_views = seen @ np.asarray(head.kernel)
    logits = (of_views[:, 0] + of_views[:, 1:].max(axis=1)) / 2
    bias = np.array(head.bias)
    for column, (scores, truth, counts) in enumerate(
        zip(logits.T, labels.T, label_mask.T, strict=True)
    ):
        counted = truth[counts == 1]
        if 0 < counted.sum() < len(counted):  # else the bias is all that there is
            bias[column] = _mean_matches(scores[counts == 1].astype(np.float64), counted.mean())
    return bias


def _mean_matches(scores: np.ndarray, share: float) -> float:
    """The bias b with mean(sigmoid(scores + b)) = share; it lies where all scores would be it."""
    low, high = -scores.max(), -scores.min()
    odds = np.log(share / (1 - share))
    return brentq(lambda b: expit(scores + b).mean() - share, low + odds - 1, high + odds + 1)
