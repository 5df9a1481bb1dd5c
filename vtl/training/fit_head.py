"""A head of `models.head` from what it sees of a frozen network's photos."""

import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, log_softmax, logsumexp

from vtl.models.head import logits_of
from vtl.training import choose_l2
from vtl.training.fit_linear import Linear, fit_softmax, logistic_regression, rotate

L2S = (1e-3, 1e-2)
"""Where the search for the L2 begins; `choose_l2` goes on beyond them."""

NUM_FOLDS = 5

MOST_ROUNDS, CLOSE = 1000, 1e-5
"""Of the search for biases: how long it goes on, and how near in logarithms is near enough."""


def fit(
    photos: np.ndarray,
    cells: np.ndarray,
    labels: np.ndarray,
    label_mask: np.ndarray,
    *,
    l2: float,
    seed: int,
    one_label_each: bool = False,
) -> tuple[Linear, np.ndarray]:
    """The head, and the L2 of each class: `l2` or, where that is 0, chosen by cross-validation.

    photos [N, D] and their cells [N, R, D] as the head sees them, R perhaps 0; labels, label_mask
    [N, C]. The weights are those of a logistic regression on the photos, with `one_label_each` of a
    softmax regression. The best of several cells mostly raises the logits, so with cells the bias
    then moves until each class is as likely in the mean as it is frequent.
    """
    l2s = np.full(labels.shape[1], l2)
    if not l2:
        l2s = choose_l2.by_cross_validation(
            photos,
            labels,
            label_mask,
            L2S,
            num_folds=NUM_FOLDS,
            seed=seed,
            one_label_each=one_label_each,
        )
    if one_label_each:
        counts = np.ones(len(photos), np.uint8)
        fitted = fit_softmax(rotate(photos), jnp.asarray(labels), counts, l2s[0])
    else:
        fitted = logistic_regression(photos, labels, label_mask, l2s)
    if not cells.shape[1]:
        return fitted, l2s
    kernel, bias = np.asarray(fitted.kernel), np.array(fitted.bias)
    of_cells = np.stack([cell @ kernel for cell in cells])  # a photo at a time: they are float16
    of_views = np.concatenate([(photos @ kernel)[:, None], of_cells], axis=1)
    logits = np.asarray(logits_of(jnp.asarray(of_views)))
    if one_label_each:
        bias = _shares_match(logits.astype(np.float64), labels.mean(axis=0))
        return Linear(fitted.kernel, jnp.asarray(bias, jnp.float32)), l2s
    for column in range(len(bias)):
        counts = label_mask[:, column] == 1
        share = labels[counts, column].mean() if counts.any() else 0.0
        if 0 < share < 1:  # else the bias is all that there is
            bias[column] = _mean_matches(logits[counts, column].astype(np.float64), share)
    return Linear(fitted.kernel, jnp.asarray(bias)), l2s


def _shares_match(scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The biases [C] with which each class's mean of softmax(scores + biases) is its share [C].

    Iterative proportional fitting. A class without photos gets a share of half a photo.
    """
    shares = np.maximum(shares, 0.5 / len(scores))
    log_shares = np.log(shares / shares.sum())
    biases = np.zeros_like(log_shares)
    for _ in range(MOST_ROUNDS):
        means = logsumexp(log_softmax(scores + biases, axis=1), axis=0) - np.log(len(scores))
        biases += log_shares - means
        if np.abs(log_shares - means).max() < CLOSE:
            break
    return biases - biases.mean()


def _mean_matches(scores: np.ndarray, share: float) -> float:
    """The bias b with mean(sigmoid(scores + b)) = share; it lies where all scores would be it."""
    low, high = -scores.max(), -scores.min()
    odds = np.log(share / (1 - share))
    return brentq(lambda b: expit(scores + b).mean() - share, low + odds - 1, high + odds + 1)
