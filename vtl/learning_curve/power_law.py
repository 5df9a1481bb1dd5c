"""A learning curve as a power law: error = floor + excess * (n / N)^-rate of n of N photos."""

from typing import NamedTuple

import numpy as np

RATES = np.geomspace(0.05, 3.0, 120)
"""Those that are tried: below the first a law is all but a line on a logarithmic axis."""

NUM_PARAMETERS = 3


class Law(NamedTuple):
    """Of R curves: the error [R] that they tend to, what is above it at all N photos, and the rate.

    An excess below 0 is that of a curve that falls.
    """

    floor: np.ndarray
    excess: np.ndarray
    rate: np.ndarray

    def map_at(self, share: float) -> np.ndarray:
        """The mAP [R] that it foresees of so many times N photos."""
        return 1 - self.floor - self.excess * share**-self.rate


def fit(shares: np.ndarray, maps: np.ndarray, deviations: np.ndarray) -> Law:
    """The laws of least squares of mAPs [K, R] at K shares of the photos.

    The mAPs' `deviations` [K] weigh them. For each rate the other two parameters are linear, so
    that no search can fail. The floor is free, below 0 too: held to be a possible error, it would
    bias the law of a curve that is far from its end.
    """
    weights = 1 / np.maximum(deviations, 1e-6) ** 2
    weights /= weights.sum()
    errors = 1 - maps
    mean = weights @ errors
    best, losses = np.empty((NUM_PARAMETERS, len(mean))), np.full(len(mean), np.inf)
    for rate in RATES:
        x = shares**-rate
        centred = x - weights @ x
        excess = (weights * centred) @ errors / (weights @ centred**2)
        floor = mean - excess * (weights @ x)
        loss = weights @ (floor + excess * x[:, None] - errors) ** 2
        is_better = loss < losses
        best[:, is_better] = np.stack([floor, excess, np.full_like(loss, rate)])[:, is_better]
        losses = np.minimum(losses, loss)
    return Law(*best)
