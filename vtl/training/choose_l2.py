"""The L2 of a logistic regression, by cross-validation whose grid moves on."""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vtl.console import say
from vtl.training import losses
from vtl.training.fit_linear import fit_rotated, fit_softmax, rotate

L2 = TypeVar("L2", float, np.ndarray)

TOLERANCE = 1e-3
"""A fraction of the objective, which varies far more from one L2 to the next."""

WORTH = 5e-3
"""The fraction of all classes' loss by which an end of the grid must gain for it to go on there."""

MOST_STEPS_BEYOND = 4
"""How far the grid moves on at either end, in steps of its own."""


def describe(l2: np.ndarray) -> str:
    """`0.001 (5), 0.01 (15) classes`: the values, and how many classes have each."""
    values, counts = np.unique(l2, return_counts=True)
    return ", ".join(f"{v:.4g} ({n})" for v, n in zip(values, counts, strict=True)) + " classes"


def by_cross_validation(
    features: np.ndarray,
    labels: np.ndarray,
    label_mask: np.ndarray,
    l2s: Sequence[float],
    *,
    num_folds: int,
    seed: int,
    one_label_each: bool = False,
) -> np.ndarray:
    """The L2 [C] of least held-out cross-entropy of each class, from `l2s` and what lies beyond.

    features [N, D]; labels, label_mask [N, C], the mask as in `logistic_regression`. With
    `one_label_each` it is a softmax regression's, and one L2 for all classes. While classes gain by
    an end of the grid, the grid goes on there by the ratio of its last two values.
    """
    if len(set(l2s)) == 1:
        return np.full(labels.shape[1], l2s[0])
    is_out = held_out(len(labels), num_folds, seed)
    rotated = rotate(features)
    # Each class of each fold is a column; its mask leaves out the held-out labels.
    columns = len(labels), num_folds * labels.shape[1]
    if not one_label_each:
        by_fold = np.repeat(labels[:, None].astype(np.float32), num_folds, axis=1)  # [N, F, C]
        counts_out = label_mask[:, None] * is_out[:, :, None]
        counts_in = label_mask[:, None] * ~is_out[:, :, None]

    counts_images = np.sum(labels * label_mask, axis=1)

    def softmax_loss(l2: float) -> np.ndarray:
        """The held-out cross-entropy of each class's images, [C]."""
        of_fold = jax.vmap(
            lambda counts: fit_softmax(
                rotated, labels, counts, in_fold(l2, num_folds), tolerance=TOLERANCE
            ),
            in_axes=1,
        )
        heads = of_fold(counts_images[:, None] * ~is_out)
        logits = features @ np.asarray(heads.kernel) + np.asarray(heads.bias)[:, None]  # [F, N, C]
        its_own = logits[is_out.argmax(axis=1), np.arange(len(labels))]
        by_image = np.asarray(
            losses.softmax_cross_entropy(jnp.asarray(its_own), jnp.asarray(labels))
        )
        return (by_image * counts_images) @ labels

    def sigmoid_loss(l2: float) -> np.ndarray:
        """The held-out cross-entropy [C]."""
        head = fit_rotated(
            rotated,
            by_fold.reshape(columns),
            counts_in.reshape(columns),
            in_fold(l2, num_folds),
            tolerance=TOLERANCE,
        )
        logits = features @ np.asarray(head.kernel) + np.asarray(head.bias)
        logits = logits.reshape(by_fold.shape)
        by_label = np.logaddexp(0, logits) - by_fold * logits
        return np.sum(by_label * counts_out, axis=(0, 1))

    loss = softmax_loss if one_label_each else sigmoid_loss
    found: dict[float, np.ndarray] = {}
    first = sorted(set(l2s))
    with tqdm(total=len(first), desc="L2 by cross-validation", unit="value") as progress:
        for l2 in first:
            found[l2] = loss(l2)
            progress.update()
        for place in (0, -1):
            for _ in range(MOST_STEPS_BEYOND):
                if not _gains_at(found, place):
                    break
                end, before = sorted(found)[place], sorted(found)[1 if place == 0 else -2]
                progress.total += 1
                progress.refresh()
                found[end**2 / before] = loss(end**2 / before)
                progress.update()
    grid = sorted(found)
    for place, name in ((0, "least"), (-1, "largest")):
        if _gains_at(found, place):
            say(f"the best L2 may lie beyond the {name} tried, {grid[place]:.3g}")
    by_l2 = np.array([found[l2] for l2 in grid])
    if one_label_each:
        by_l2 = np.repeat(by_l2.sum(axis=1, keepdims=True), labels.shape[1], axis=1)
    return np.array(grid)[np.argmin(by_l2, axis=0)]


def _gains_at(found: dict[float, np.ndarray], place: int) -> bool:
    """Whether all classes' losses [C] gain by the grid's first (0) or last (-1) L2."""
    grid = sorted(found)
    least = np.min(list(found.values()), axis=0)
    without = np.min([found[l2] for l2 in grid if l2 != grid[place]], axis=0)
    return bool(np.sum(without) > (1 + WORTH) * np.sum(least))


def held_out(
    num_rows: int, num_folds: int, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """Which rows each fold holds out, [N, F]; every row is held out once.

    Rows of one of the `groups` [N], numbers from 0 on, are held out together.
    """
    if groups is None:
        groups = np.arange(num_rows)
    folds = np.random.default_rng(seed).permutation(groups.max() + 1) % num_folds
    return folds[groups][:, None] == np.arange(num_folds)


def in_fold(l2: L2, num_folds: int) -> L2:
    """The L2 of a fold's fewer rows that penalises as much as `l2` does of all."""
    return l2 * num_folds / (num_folds - 1)
