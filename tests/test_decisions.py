"""From logits to answers, and back from JSON."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit, softmax

from vtl.decisions import Decisions, answers, probabilities

TWO = Decisions((2.0, 0.5), (1.0, -1.0), (0.9, 0.25), "f1", "200 photos of val")
LOGITS = np.array([[0.6, -1.0], [0.5, 2.0], [-3.0, -0.5]], np.float32)


def test_each_class_has_its_own_sigmoid():
    found = probabilities(LOGITS, TWO, one_label_each=False)
    np.testing.assert_allclose(found, expit(LOGITS * [2, 0.5] + [1, -1]), rtol=1e-6)
    assert found.dtype == np.float32


def test_of_one_label_each_it_is_a_softmax_with_a_temperature():
    decisions = dataclasses.replace(TWO, slopes=(0.5, 0.5), intercepts=(0.0, 0.0))
    found = probabilities(LOGITS, decisions, one_label_each=True)
    np.testing.assert_allclose(found, softmax(LOGITS / 2, axis=1), rtol=1e-6)


def test_a_photo_has_the_classes_that_reach_their_thresholds():
    given = np.array([[0.9, 0.2], [0.89, 0.25]], np.float32)
    np.testing.assert_array_equal(
        answers(given, TWO, one_label_each=False), [[True, False], [False, True]]
    )
    np.testing.assert_array_equal(
        answers(given, None, one_label_each=False), [[True, False], [True, False]]
    )


def test_of_one_label_each_only_the_likeliest_counts():
    given = np.array([[0.95, 0.3], [0.6, 0.4], [0.3, 0.7]], np.float32)
    np.testing.assert_array_equal(
        answers(given, TWO, one_label_each=True), [[True, False], [False, False], [False, True]]
    )
    np.testing.assert_array_equal(
        answers(given, None, one_label_each=True), [[True, False], [True, False], [False, True]]
    )


def test_json_brings_them_back():
    assert Decisions.from_dict(json.loads(json.dumps(dataclasses.asdict(TWO))), 2) == TWO


@pytest.mark.parametrize(
    "changes",
    [
        {"slopes": [1.0]},
        {"slopes": [0.0, 1.0]},
        {"slopes": [float("nan"), 1.0]},
        {"intercepts": [1.0, float("inf")]},
        {"thresholds": [0.5, 1.5]},
        {"thresholds": "no"},
        {"rule": 3},
        {"chosen_on": "two\nlines"},
        {"another": 1},
    ],
)
def test_what_can_not_be_is_refused(changes):
    with pytest.raises((ValueError, TypeError)):
        Decisions.from_dict(dataclasses.asdict(TWO) | changes, 2)
