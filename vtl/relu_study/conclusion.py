"""What a comparison of activations shows, as sentences and a table: pure functions of numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vtl.relu_study import convergence
from vtl.relu_study.convergence import Estimate, Ratio

NETWORK_TITLES = {"perceptron": "Perceptron", "lenet": "LeNet"}

TITLES = {
    "relu": "ReLU",
    "leaky_relu": "leaky ReLU",
    "relu6": "ReLU6",
    "elu": "ELU",
    "celu": "CELU",
    "selu": "SELU",
    "gelu": "GELU",
    "silu": "SiLU",
}
"""How people write an activation, if not by its name in flax.linen."""


class Protocol(NamedTuple):
    """The length of every run, and the bootstrap that makes the intervals."""

    num_epochs: float
    num_resamples: int = 10_000
    seed: int = 0


def percent(share: float) -> str:
    """`0.975` -> `97.5 %`."""
    return f"{100 * share:g} %"


def title(activation: str) -> str:
    """`relu` -> `ReLU`."""
    return TITLES.get(activation, activation.replace("_", " "))


def format_epochs(value: float, num_epochs: float) -> str:
    """`3.1`, `11`, or `>30` for infinity after 30 epochs."""
    if math.isinf(value):
        return f">{num_epochs:g}"
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def format_estimate(estimate: Estimate, num_epochs: float) -> str:
    """`3.1 [2.8, 3.4]`, `>30 [25, >30]`."""
    value, low, high = (format_epochs(number, num_epochs) for number in estimate)
    return f"{value} [{low}, {high}]"


def format_ratio(ratio: Ratio) -> str:
    """`3.6 [3.0, 4.2]`, or `more than 9.7 [at least 8.8]` if the slower median is censored."""
    decimals = 2 if ratio.value < 2 else 1
    value, low = f"{ratio.value:.{decimals}f}", f"{ratio.low:.{decimals}f}"
    if ratio.is_least:
        return f"more than {value} [at least {low}]"
    high = "no bound" if math.isinf(ratio.high) else f"{ratio.high:.{decimals}f}"
    return f"{value} [{low}, {high}]"


def compare(
    names: tuple[str, str],
    times: tuple[np.ndarray | None, np.ndarray | None],
    goal: str,
    protocol: Protocol,
) -> str:
    """The sentence on two activations: which reached the `goal` first, and by how much.

    `times` are the epochs [S] of the same seeds, infinite if a run never got there; None if every
    learning rate diverged. `goal` is a phrase such as "97 %".
    """
    times_by_title = {
        title(name): epochs for name, epochs in zip(names, times, strict=True) if epochs is not None
    }
    if len(times_by_title) < 2:
        diverged = [title(name) for name, t in zip(names, times, strict=True) if t is None]
        return (
            f"{' and '.join(diverged)} diverged at every learning rate: "
            f"{title(names[0])} and {title(names[1])} can't be compared."
        )
    fast, slow = sorted(times_by_title, key=lambda name: convergence.median(times_by_title[name]))
    return _compare_converging(
        (fast, slow), (times_by_title[fast], times_by_title[slow]), goal, protocol
    )


def _compare_converging(
    names: tuple[str, str], times: tuple[np.ndarray, np.ndarray], goal: str, protocol: Protocol
) -> str:
    """`compare` of two activations that did not diverge, by title, the faster one first."""
    num_epochs, num_resamples, seed = protocol
    fast, slow = times
    if math.isinf(convergence.median(fast)):
        counts = [int(np.isfinite(t).sum()) for t in times]
        some = f" ({counts[0]} and {counts[1]} of {len(fast)} runs did)" if any(counts) else ""
        return (
            f"Neither {names[0]} nor {names[1]} reached {goal} within {num_epochs:g} epochs"
            f"{some}: which of the two is faster remains open."
        )
    epochs = [
        format_estimate(convergence.median_estimate(t, num_resamples, seed), num_epochs)
        for t in times
    ]
    ratio = convergence.ratio_estimate(slow, fast, num_epochs, num_resamples, seed)
    outcome = f"{names[0]} reached {goal} in {epochs[0]} epochs, {names[1]} in {epochs[1]}"
    if len(fast) == 1:
        return f"{outcome}; nothing follows from a single run of each."
    if ratio.low > 1:
        return f"{outcome}: {format_ratio(ratio)} times as many."
    return f"{outcome}: a tie, because the ratio {format_ratio(ratio)} may well be 1."


def conclude(times: Mapping[str, np.ndarray | None], goal: str, protocol: Protocol) -> list[str]:
    """Compare each activation with the first one; arguments as in `compare`."""
    first, *others = times
    return [compare((first, name), (times[first], times[name]), goal, protocol) for name in others]


def explain(gradients: Mapping[str, Mapping[str, float]], idle: Sequence[str]) -> list[str]:
    """Sentences on the reasons: each activation's gradient norms by layer, and its idle units."""
    parts = [
        f"{title(name)} {', '.join(f'{layer} {norm:.2g}' for layer, norm in norms.items())}"
        for name, norms in gradients.items()
    ]
    sentences = [f"Gradient norms in the first epoch: {'; '.join(parts)}."] if parts else []
    return sentences + ([f"Idle units at the end: {', '.join(idle)}."] if idle else [])


def format_outcome(results: Mapping[str, Any]) -> str:
    """What a run of the study prints at its end: definitions, table, each network's sentences."""
    lines = [results["definitions"], "Epochs, median over seeds [95 % interval]:", ""]
    lines += [_format_table(results["networks"])]
    if any(summary.get("at_the_grids_edge") for summary in _summaries(results["networks"])):
        lines += ["* at the edge of the grid: a wider grid may hold a better rate"]
    for name, network in results["networks"].items():
        lines += ["", f"{NETWORK_TITLES[name]}:"]
        lines += [f"  {sentence}" for sentence in [*network["conclusion"], *network["why"]]]
        if network["best"]:
            accuracy = network["best"]["test_accuracy"]
            lines += [
                f"  Best on held-out digits: {title(network['best']['activation'])}, "
                f"{accuracy['median']:.2%} of the test digits named right "
                f"({accuracy['min']:.2%} to {accuracy['max']:.2%})."
            ]
    return "\n".join(lines)


def _summaries(networks: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [summary for network in networks.values() for summary in network["activations"].values()]


def _format_table(networks: Mapping[str, Any]) -> str:
    """A row for each network and activation; epochs with intervals."""
    trained = [summary for summary in _summaries(networks) if summary["status"] == "trained"]
    thresholds = list(trained[0]["epochs_to_accuracy"]) if trained else []
    heading = ["network", "activation", "rate", *(percent(float(t)) for t in thresholds)]
    rows = [[*heading, "lowest loss", "held out", "test"]]
    for name, network in networks.items():
        for activation, summary in network["activations"].items():
            row = [NETWORK_TITLES[name], title(activation)]
            if summary["status"] == "diverged":
                rows.append([*row, "diverged"] + [""] * (len(rows[0]) - 3))
                continue
            edge = "*" if summary["at_the_grids_edge"] else ""
            row.append(f"{summary['learning_rate']:g}{edge}")
            row += [summary["epochs_to_accuracy"][t]["text"] for t in thresholds]
            row.append(summary["epochs_to_lowest_loss"]["text"])
            row += [f"{summary[key]['median']:.2%}" for key in ("accuracy", "test_accuracy")]
            rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
