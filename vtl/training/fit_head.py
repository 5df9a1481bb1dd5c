"""A head of `models.head` from what it sees of a frozen network's photos."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy

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
    [N, C]; without cells the mask may say how much each label counts. The weights are those of a
    logistic regression on the photos, with `one_label_each` of a softmax regression. The best of
    several cells mostly raises the logits, so with cells the bias then moves until each class is as
    likely in the mean as it is frequent.
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
    head = with_l2s(photos, cells, labels, label_mask, l2s, one_label_each=one_label_each)
    return head, l2s


def out_of_fold(
    photos: np.ndarray,
    cells: np.ndarray,
    labels: np.ndarray,
    label_mask: np.ndarray,
    l2s: np.ndarray,
    *,
    groups: np.ndarray,
    seed: int,
    one_label_each: bool = False,
) -> np.ndarray:
    """The logits [N, C] of each photo by a head that is fitted to the other folds' photos.

    The arrays are those of `fit`, which chose or got the l2s [C]. Photos of one of the `groups`
    [N], of which there are at least two, are in one fold.
    """
    logits = np.zeros(labels.shape, np.float32)
    for outside in choose_l2.held_out(len(labels), NUM_FOLDS, seed, groups).T:
        if not outside.any():
            continue
        inside = ~outside
        head = with_l2s(
            photos[inside],
            cells[inside],
            labels[inside],
            label_mask[inside],
            choose_l2.in_fold(l2s, NUM_FOLDS),
            one_label_each=one_label_each,
        )
        logits[outside] = logits_by(head, photos[outside], cells[outside])
    return logits


def logits_by(head: Linear, photos: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """The logits [N, C] of photos [N, D] and their cells [N, R, D] as the head sees them."""
    return _unbiased(photos, cells, np.asarray(head.kernel)) + np.asarray(head.bias)


def with_l2s(
    photos: np.ndarray,
    cells: np.ndarray,
    labels: np.ndarray,
    label_mask: np.ndarray,
    l2s: np.ndarray,
    *,
    one_label_each: bool = False,
) -> Linear:
    """The head of `fit` by given l2s [C], which with `one_label_each` are all the same."""
    if one_label_each:
        counts = np.sum(labels * label_mask, axis=1)
        fitted = fit_softmax(rotate(photos), jnp.asarray(labels), counts, l2s[0])
    else:
        fitted = logistic_regression(photos, labels, label_mask, l2s)
    if not cells.shape[1]:
        return fitted
    logits, bias = _unbiased(photos, cells, np.asarray(fitted.kernel)), np.array(fitted.bias)
    if one_label_each:
        bias = _shares_match(logits.astype(np.float64), labels.mean(axis=0))
        return Linear(fitted.kernel, jnp.asarray(bias, jnp.float32))
    for column in range(len(bias)):
        counts = label_mask[:, column] == 1
        share = labels[counts, column].mean() if counts.any() else 0.0
        if 0 < share < 1:  # else the bias is all that there is
            bias[column] = _mean_matches(logits[counts, column].astype(np.float64), share)
    return Linear(fitted.kernel, jnp.asarray(bias))


def _unbiased(photos: np.ndarray, cells: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The logits [N, C] of photos and their cells, less the bias."""
    of_views = (photos @ kernel)[:, None]
    if cells.shape[1]:
        of_cells = np.stack([cell @ kernel for cell in cells])  # a photo at a time: as float16
        of_views = np.concatenate([of_views, of_cells], axis=1)
    return np.asarray(jax.jit(logits_of)(of_views))


def _shares_match(scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The biases [C] with which each class's mean of softmax(scores + biases) is its share [C].

    Iterative proportional fitting. A class without photos gets a share of half a photo.
    """
    shares = np.maximum(shares, 0.5 / len(scores))
    log_shares = np.log(shares / shares.sum())
    biases = np.zeros_like(log_shares)
    for _ in range(MOST_ROUNDS):
        by_photo = scipy.special.log_softmax(scores + biases, axis=1)
        means = scipy.special.logsumexp(by_photo, axis=0) - np.log(len(scores))
        biases += log_shares - means
        if np.abs(log_shares - means).max() < CLOSE:
            break
    return biases - biases.mean()


def _mean_matches(scores: np.ndarray, share: float) -> float:
    """The bias b with mean(sigmoid(scores + b)) = share; it lies where all scores would be it."""
    low, high = -scores.max(), -scores.min()
    odds = np.log(share / (1 - share))
    return scipy.optimize.brentq(
        lambda b: scipy.special.expit(scores + b).mean() - share, low + odds - 1, high + odds + 1
    )
