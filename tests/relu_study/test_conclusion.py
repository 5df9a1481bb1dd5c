"""The sentences on results that are made up."""

import numpy as np
import pytest

from vtl.relu_study import conclusion
from vtl.relu_study.conclusion import Protocol

PROTOCOL = Protocol(num_epochs=30.0, num_resamples=2000, seed=0)
INF = np.inf


def compare(sigmoid, relu):
    times = tuple(None if t is None else np.array(t) for t in (sigmoid, relu))
    return conclusion.compare(("sigmoid", "relu"), times, "97 %", PROTOCOL)


def test_relu_wins():
    relu = [2.8, 3.0, 3.1, 3.2, 3.4]
    sigmoid = [10.0, 12.0, 11.0, 13.0, 11.0]
    assert compare(sigmoid, relu) == (
        "ReLU reached 97 % in 3.1 [2.8, 3.4] epochs, sigmoid in 11 [10, 13]: "
        "3.5 [3.2, 4.1] times as many."
    )


def test_sigmoid_wins():
    assert compare([2.0, 2.0, 2.0, 2.0, 2.0], [3.0, 3.0, 3.0, 3.0, 3.0]) == (
        "sigmoid reached 97 % in 2.0 [2.0, 2.0] epochs, ReLU in 3.0 [3.0, 3.0]: "
        "1.50 [1.50, 1.50] times as many."
    )


def test_a_tie():
    sentence = compare([2.0, 2.4, 2.2, 2.1, 2.3], [2.1, 2.0, 2.3, 2.4, 2.2])
    assert sentence.startswith("sigmoid reached 97 % in 2.2 [2.0, 2.4] epochs, ReLU in 2.2 [2.0, ")
    assert ": a tie, because the ratio 1.00 [0." in sentence
    assert "times" not in sentence
    assert "a tie, because the ratio 1.00 [1.00, 1.00]" in compare([2.0] * 5, [2.0] * 5)


def test_nothing_converges():
    assert compare([INF] * 5, [INF] * 5) == (
        "Neither sigmoid nor ReLU reached 97 % within 30 epochs: which of the two is faster "
        "remains open."
    )
    sentence = compare([INF] * 5, [20.0, 25.0, INF, INF, INF])
    assert "within 30 epochs (0 and 2 of 5 runs did): which" in sentence


def test_only_one_converges():
    assert compare([INF] * 5, [3.0, 3.0, 3.0, 3.0, 3.0]) == (
        "ReLU reached 97 % in 3.0 [3.0, 3.0] epochs, sigmoid in >30 [>30, >30]: "
        "more than 10.0 [at least 10.0] times as many."
    )


def test_some_runs_are_censored():
    sentence = compare([20.0, 22.0, 21.0, INF, INF], [3.0, 3.0, 3.0, 3.0, 3.0])
    assert "sigmoid in 22 [20, >30]: 7.3 [6.7, no bound] times as many." in sentence
    # Too many to tell.
    sentence = compare([5.0, 5.0, 5.0, INF, INF], [4.0, 4.0, INF, 4.0, INF])
    assert ": a tie, because the ratio 1.25 [0." in sentence


def test_one_diverges():
    assert compare([3.0] * 5, None) == (
        "ReLU diverged at every learning rate: sigmoid and ReLU can't be compared."
    )
    assert compare(None, None).startswith("sigmoid and ReLU diverged at every learning rate")


def test_one_seed_is_no_evidence_of_a_spread():
    sentence = compare([8.0], [2.0])
    assert sentence.endswith("nothing follows from a single run of each.")
    assert "times" not in sentence


def test_all_are_compared_with_the_first():
    times = {name: np.full(5, float(n)) for n, name in enumerate(("sigmoid", "tanh", "relu"), 1)}
    tanh, relu = conclusion.conclude(times, "97 %", PROTOCOL)
    assert "sigmoid reached 97 % in 1.0 [1.0, 1.0] epochs, tanh in 2.0" in tanh
    assert "sigmoid reached 97 % in 1.0 [1.0, 1.0] epochs, ReLU in 3.0" in relu
    assert conclusion.conclude({"relu": np.ones(5)}, "97 %", PROTOCOL) == []


@pytest.mark.parametrize(
    ("value", "text"), [(3.14, "3.1"), (9.96, "10"), (11.2, "11"), (INF, ">30")]
)
def test_epochs_for_people(value, text):
    assert conclusion.format_epochs(value, 30.0) == text


def test_titles():
    titles = [conclusion.title(name) for name in ("relu", "hard_tanh", "leaky_relu", "sigmoid")]
    assert titles == ["ReLU", "hard tanh", "leaky ReLU", "sigmoid"]
