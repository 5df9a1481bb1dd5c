"""What a comparison of activations says, in words and as a table; pure functions of its numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vtl.relu_study import convergence
from vtl.relu_study.convergence import Estimate, Ratio

NETWORK_TITLES = {"perceptron": "Perceptron", "lenet": "LeNet"}

TITLES = {
    **{"relu": "ReLU", "leaky_relu": "leaky ReLU", "relu6": "ReLU6", "elu": "ELU", "celu": "CELU"},
    **{"selu": "SELU", "gelu": "GELU", "silu": "SiLU"},
}
"""How an activation is written where it is not by its name in flax.linen."""


class Protocol(NamedTuple):
    """How long every run was, and how intervals are made."""

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
    value, low, high = (format_epochs(x, num_epochs) for x in estimate)
    return f"{value} [{low}, {high}]"


def format_ratio(ratio: Ratio) -> str:
    """`3.6 [3.0, 4.2]`; `more than 9.7 [at least 8.8]` where the slower median is censored."""
    decimals = 2 if ratio.value < 2 else 1
    value, low, high = (f"{x:.{decimals}f}" for x in ratio[:3])
    if ratio.is_least:
        return f"more than {value} [at least {low}]"
    return f"{value} [{low}, {'no bound' if math.isinf(ratio.high) else high}]"


def compare(
    names: tuple[str, str],
    times: tuple[np.ndarray | None, np.ndarray | None],
    goal: str,
    protocol: Protocol,
) -> str:
    """The sentence on two activations: which reached the `goal` first, and by how much.

    times are the epochs [S] of the same seeds, infinite where a run never got there; None where
    every learning rate diverged. `goal` is a phrase such as "97 %".
    """
    ran = [(title(name), t) for name, t in zip(names, times, strict=True) if t is not None]
    if len(ran) < 2:
        diverged = [title(name) for name, t in zip(names, times, strict=True) if t is None]
        return (
            f"{' and '.join(diverged)} diverged at every learning rate: "
            f"{title(names[0])} and {title(names[1])} can't be compared."
        )
    (fast_name, fast), (slow_name, slow) = sorted(ran, key=lambda x: convergence.median(x[1]))
    num_epochs, *bootstrap = protocol
    if math.isinf(convergence.median(fast)):
        reached = [int(np.isfinite(t).sum()) for t in (fast, slow)]
        few = f" ({reached[0]} and {reached[1]} of {len(fast)} runs did)" if any(reached) else ""
        return (
            f"Neither {fast_name} nor {slow_name} reached {goal} within {num_epochs:g} epochs"
            f"{few}: which of the two is faster remains open."
        )
    epochs = [
        format_estimate(convergence.median_estimate(t, *bootstrap), num_epochs)
        for t in (fast, slow)
    ]
    ratio = convergence.ratio_estimate(slow, fast, *protocol)
    found = f"{fast_name} reached {goal} in {epochs[0]} epochs, {slow_name} in {epochs[1]}"
    if len(fast) == 1:
        return f"{found}; that is a single run of each, from which nothing follows."
    if ratio.low > 1:
        return f"{found}: {format_ratio(ratio)} times as many."
    return f"{found}: a tie, for the ratio {format_ratio(ratio)} may as well be 1."


def conclude(times: Mapping[str, np.ndarray | None], goal: str, protocol: Protocol) -> list[str]:
    """A sentence on each activation beside the first of them; arguments as those of `compare`."""
    first, *others = times
    return [compare((first, name), (times[first], times[name]), goal, protocol) for name in others]


def explain(gradients: Mapping[str, Mapping[str, float]], idle: Sequence[str]) -> list[str]:
    """The sentences on why: each activation's gradient norms by layer, and its idle units."""
    parts = [
        f"{title(name)} {', '.join(f'{layer} {norm:.2g}' for layer, norm in norms.items())}"
        for name, norms in gradients.items()
    ]
    sentences = [f"Gradient norms in the first epoch: {'; '.join(parts)}."] if parts else []
    return sentences + ([f"Idle units at the end: {', '.join(idle)}."] if idle else [])


def format_outcome(results: Mapping[str, Any]) -> str:
    """What a run of the study ends with: definitions, the table, and each network's sentences."""
    lines = [results["definitions"], "Epochs, median over seeds [95 % interval]:", ""]
    lines += [_format_table(results["networks"])]
    summaries = [
        of for found in results["networks"].values() for of in found["activations"].values()
    ]
    if any(of.get("at_the_grids_edge") for of in summaries):
        lines += ["* at the edge of the grid: a wider one may hold a better rate"]
    for network, found in results["networks"].items():
        lines += ["", f"{NETWORK_TITLES[network]}:"]
        lines += [f"  {sentence}" for sentence in [*found["conclusion"], *found["why"]]]
        if found["best"]:
            accuracy = found["best"]["test_accuracy"]
            lines += [
                f"  Best on held-out digits: {title(found['best']['activation'])}, "
                f"{accuracy['median']:.2%} of the test digits named right "
                f"({accuracy['min']:.2%} to {accuracy['max']:.2%})."
            ]
    return "\n".join(lines)


def _format_table(networks: Mapping[str, Any]) -> str:
    """A row for each network and activation; epochs with intervals."""
    trained = [
        of
        for found in networks.values()
        for of in found["activations"].values()
        if of["status"] == "trained"
    ]
    thresholds = list(trained[0]["epochs_to_accuracy"]) if trained else []
    heading = ["network", "activation", "rate", *(percent(float(t)) for t in thresholds)]
    rows = [[*heading, "lowest loss", "held out", "test"]]
    for network, found in networks.items():
        for activation, of in found["activations"].items():
            row = [NETWORK_TITLES[network], title(activation)]
            if of["status"] == "diverged":
                rows.append([*row, "diverged"] + [""] * (len(rows[0]) - 3))
                continue
            row.append(f"{of['learning_rate']:g}" + ("*" if of["at_the_grids_edge"] else ""))
            row += [of["epochs_to_accuracy"][t]["text"] for t in thresholds]
            row.append(of["epochs_to_lowest_loss"]["text"])
            rows.append(row + [f"{of[x]['median']:.2%}" for x in ("accuracy", "test_accuracy")])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
