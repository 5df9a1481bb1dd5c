"""What a linear probe fits, and what comes of it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vtl.data.deep_features import DeepFeatures, FeatureSplit
from vtl.evaluation import metrics, one_label
from vtl.evaluation.outcome import MAP_PROTOCOL
from vtl.training import losses
from vtl.training.fit_linear import Linear


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What a config fits a head to, and the loss, by its name, that it makes small on train."""

    data: DeepFeatures
    config: ConfigDict
    loss: str

    @property
    def train(self) -> FeatureSplit:
        """The features and labels that the head is fitted to."""
        return self.data.splits["train"]

    @property
    def one_label_each(self) -> bool:
        """Whether the classes compete for each photo."""
        return self.loss == losses.SOFTMAX_CE

    @functools.cached_property
    def label_mask(self) -> np.ndarray:
        """Which labels [N, C] of train count in the loss."""
        split = self.train
        known = np.ones_like(split.labels) if split.label_mask is None else split.label_mask
        if self.config.difficult == "negative" or split.difficult is None:
            return known
        return known * (1 - split.difficult)

    @functools.cached_property
    def class_weights(self) -> np.ndarray | None:
        """[2, C], of negatives and of positives; None is all alike."""
        return losses.class_weights_of(
            self.config.class_weights, self.loss, self.train.labels, self.label_mask
        )

    @functools.cached_property
    def objective(self) -> losses.Objective:
        """Made once: each new one is compiled anew."""
        return losses.objective(self.loss, self.class_weights)

    def logits(self, head: Linear, features: np.ndarray) -> np.ndarray:
        """Of features [N, D], [N, C]; logarithms of probabilities with one label each."""
        logits = predict(head, features)
        return one_label.normalised(logits) if self.one_label_each else logits

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """The number [N] of each row of train; what is the same photo has the same."""
        numbers: dict[bytes, int] = {}
        rows = self.train.features
        return np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows])


class Fitted(NamedTuple):
    """A head, what results.json says of it, and what tells how it does on photos it didn't see.

    `out_of_fold` gives the logits [N, C] of each photo of train by a head fitted without it.
    """

    head: Linear
    details: dict[str, Any]
    out_of_fold: Callable[[], np.ndarray]


def predict(head: Linear, features: np.ndarray) -> np.ndarray:
    """The logits [N, C] of features [N, D]."""
    return features @ np.asarray(head.kernel) + np.asarray(head.bias)


def mean_ap(problem: Problem, head: Linear, split: FeatureSplit, rows: np.ndarray) -> float | None:
    """The mAP by which anything is chosen, of rows of a split; None if a logit isn't finite."""
    logits = problem.logits(head, split.features[rows])
    if not np.isfinite(logits).all():
        return None  # diverged
    label_mask = None if split.label_mask is None else split.label_mask[rows]
    return metrics.mean_average_precision(
        logits, split.labels[rows], None, problem.data.classes, MAP_PROTOCOL, label_mask
    )
