"""From a network's logits to answers: calibrated probabilities, and the classes that a photo has.

It is chosen on photos that the network was not trained on (evaluation.thresholds and .calibration),
belongs to the network, and travels with it.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import scipy

HALF = 0.5
"""The threshold of a class for which none was chosen."""


@dataclasses.dataclass(frozen=True)
class Decisions:
    """By class: p = activation(slope * logit + intercept), and the answer is p >= threshold.

    The activation is a sigmoid, or a softmax of photos with one label each; all slopes are then one
    over the temperature, and the answer is the likeliest class if it reaches its threshold.
    """

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    thresholds: tuple[float, ...]
    rule: str
    """What the thresholds were chosen by: `f1`, or `precision:0.9`."""
    chosen_on: str
    """The photos that all this was chosen on, in words."""

    @classmethod
    def from_dict(cls, values: dict[str, Any], num_classes: int | None) -> "Decisions":
        """The inverse of `dataclasses.asdict`, also after a round trip through JSON.

        Raises:
            ValueError, TypeError, KeyError: the values are no decisions about so many classes.
        """
        by_class = {
            name: tuple(float(number) for number in values[name])
            for name in ("slopes", "intercepts", "thresholds")
        }
        decisions = cls(**(values | by_class))
        is_possible = (
            all(len(numbers) == num_classes for numbers in by_class.values())
            and all(map(math.isfinite, sum(by_class.values(), ())))
            and min(decisions.slopes) > 0
            and all(0 <= threshold <= 1 for threshold in decisions.thresholds)
            and all(
                isinstance(words, str) and words.isprintable()
                for words in (decisions.rule, decisions.chosen_on)
            )
        )
        if not is_possible:
            raise ValueError(f"no decisions about {num_classes} classes: {decisions}"[:300])
        return decisions


def probabilities(logits: np.ndarray, decisions: Decisions, *, one_label_each: bool) -> np.ndarray:
    """logits [N, C] -> calibrated probabilities [N, C], float32.

    In NumPy, so that a photo's row has the same bits however many photos come with it.
    """
    slopes, intercepts = (
        np.asarray(numbers, np.float32) for numbers in (decisions.slopes, decisions.intercepts)
    )
    calibrated = np.asarray(logits, np.float32) * slopes
    calibrated += intercepts
    if not one_label_each:
        return scipy.special.expit(calibrated, out=calibrated)
    calibrated -= calibrated.max(axis=1, keepdims=True)
    np.exp(calibrated, out=calibrated)
    calibrated /= calibrated.sum(axis=1, keepdims=True)
    return calibrated


def answers(
    probabilities: np.ndarray, decisions: Decisions | None, *, one_label_each: bool
) -> np.ndarray:
    """Which classes each photo has, bool [N, C], by probabilities [N, C].

    Without decisions those of at least a half or, of photos with one label each, the likeliest.
    """
    if decisions:
        given = probabilities >= np.asarray(decisions.thresholds, np.float32)
    else:
        given = probabilities >= (0 if one_label_each else HALF)
    if not one_label_each:
        return given
    likeliest = np.argmax(probabilities, axis=1)
    return given & (np.arange(probabilities.shape[1]) == likeliest[:, None])
