"""Linear support vector machines by liblinear, one a class."""

import warnings
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from vtl.training.fit_linear import Linear

MAX_ITERATIONS = 2000
"""Of liblinear's passes over the rows, as in VISSL's benchmark."""


class Compact(NamedTuple):
    """Rows [N, N] along orthonormal axes [D, N] that span them, or as they are if N is no less.

    Inner products are the same, so that liblinear takes the same steps, in a part of the time.
    """

    rows: np.ndarray
    axes: np.ndarray | None


class Machine(NamedTuple):
    """A class's weights [D] and bias, and whether liblinear converged."""

    weights: np.ndarray
    bias: float
    converged: bool


def compact(rows: np.ndarray) -> Compact:
    """Rows [N, D] as float64, along N axes if they are fewer than D."""
    rows = rows.astype(np.float64)
    if len(rows) >= rows.shape[1]:
        return Compact(rows, None)
    axes, coordinates = np.linalg.qr(rows.T)
    return Compact(np.ascontiguousarray(coordinates.T), axes)


def fit(
    rows: np.ndarray, is_positive: np.ndarray, cost: float, *, positive_weight: float, seed: int
) -> Machine:
    """The machine of rows [N, D] and bool [N] with the least squared hinge loss.

    Minimises half the squared norm of weights and bias, plus `cost` times the sum of the squared
    hinge losses, those of positives times `positive_weight`. It is scikit-learn's LinearSVC, whose
    dual is solved as in VISSL's benchmark (Goyal et al. 2019). Without a positive, or a negative,
    the weights are 0 and the bias is the log-odds, with half a photo added to each side.
    """
    num_positives = int(is_positive.sum())
    num_negatives = len(is_positive) - num_positives
    if not num_positives or not num_negatives:
        log_odds = np.log((num_positives + 0.5) / (num_negatives + 0.5))
        return Machine(np.zeros(rows.shape[1]), float(log_odds), True)
    machine = LinearSVC(
        C=cost,
        class_weight={True: positive_weight, False: 1},
        dual=True,
        max_iter=MAX_ITERATIONS,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is counted
        machine.fit(rows, is_positive)
    converged = bool(machine.n_iter_ < MAX_ITERATIONS)
    return Machine(machine.coef_[0], float(machine.intercept_[0]), converged)


def fit_each(
    features: np.ndarray,
    labels: np.ndarray,
    label_mask: np.ndarray,
    costs: np.ndarray,
    *,
    positive_weight: float,
    seed: int,
) -> tuple[Linear, int]:
    """One machine a class, by its own of the costs [C], and how many didn't converge.

    features [N, D]; labels, label_mask [N, C] in {0, 1}. A class's machine sees the photos whose
    label of it the mask counts.
    """
    rows, axes = compact(features)
    machines = []
    for column, cost in enumerate(costs):
        counts = label_mask[:, column] == 1
        is_positive = labels[counts, column] == 1
        machine = fit(rows[counts], is_positive, cost, positive_weight=positive_weight, seed=seed)
        machines.append(machine)
    kernel = np.stack([machine.weights for machine in machines], axis=1)
    if axes is not None:
        kernel = axes @ kernel
    bias = np.array([machine.bias for machine in machines])
    head = Linear(jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32))
    return head, sum(not machine.converged for machine in machines)
