"""From the curves of the ReLU study to its results: rates, epochs to convergence, conclusions.

The curves of one network with one activation are a dict of two phases, `search` (every rate of the
grid) and `final` (the best rate; absent if all diverged), and the `seconds` that they took. A phase
of G runs and M moments has learning_rate, seed [G]; step, epoch [M]; train_loss, loss, accuracy
[G, M] (loss and accuracy are held out); gradient_norms, saturated and dead, by layer [G, M].
`final` also has test_loss and test_accuracy [G].
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vtl.relu_study import conclusion, convergence

Phase = dict[str, Any]
Curves = dict[str, Any]


def definitions(config: ConfigDict) -> str:
    """What "converged" means in this run, as a sentence."""
    thresholds = ", ".join(f"{100 * threshold:g}" for threshold in config.thresholds)
    tolerance = conclusion.percent(config.loss_tolerance)
    return (
        f"A run is measured at {config.measurements_per_epoch} moments an epoch. It has converged "
        f"at the first moment at which accuracy on {config.data.num_held_out:,} held-out digits is "
        f"at least {thresholds} %, or the loss on them is within {tolerance} of its lowest (if the "
        "lowest is in the last epoch: not yet)."
    )


def has_diverged(phase: Phase) -> np.ndarray:
    """Which runs of the phase have diverged, [G]."""
    return convergence.has_diverged(phase["train_loss"], phase["loss"], phase["gradient_norms"])


def times_to(phase: Phase, threshold: float) -> np.ndarray:
    """The epochs [G] to held-out accuracy `threshold`; infinite for runs that diverged, too."""
    times = convergence.epochs_to_accuracy(phase["epoch"], phase["accuracy"], threshold)
    return np.where(has_diverged(phase), np.inf, times)


def times_to_lowest_loss(phase: Phase, tolerance: float) -> np.ndarray:
    """The epochs [G] to the lowest held-out loss; infinite for runs that diverged, too."""
    times = convergence.epochs_to_lowest_loss(phase["epoch"], phase["loss"], tolerance)
    return np.where(has_diverged(phase), np.inf, times)


def best_rate(search: Phase, num_rates: int, main_threshold: float) -> float | None:
    """The best rate of the grid, None if all diverged; runs are ordered by rate, then seed."""
    by_rate = (num_rates, -1)
    best = convergence.best_rate(
        times_to(search, main_threshold).reshape(by_rate),
        search["loss"].reshape(num_rates, -1, search["loss"].shape[1]),
        has_diverged(search).reshape(by_rate),
    )
    return None if best is None else float(search["learning_rate"].reshape(by_rate)[best, 0])


def results(curves: Mapping[tuple[str, str], Curves], config: ConfigDict) -> dict[str, Any]:
    """The study's part of results.json: numbers by network and activation, and conclusions."""
    networks = {}
    for network in config.networks:
        by_activation = {name: curves[network, name] for name in config.activations}
        networks[network] = _network_results(network, by_activation, config)
    return {"definitions": definitions(config), "networks": networks}


def _network_results(
    network: str, by_activation: Mapping[str, Curves], config: ConfigDict
) -> dict[str, Any]:
    options = config[network]
    protocol = conclusion.Protocol(options.num_epochs, config.num_resamples, config.seed)
    summaries = {
        name: summary(curves, options.learning_rates, protocol, config)
        for name, curves in by_activation.items()
    }
    times = {
        name: times_to(curves["final"], config.main_threshold) if "final" in curves else None
        for name, curves in by_activation.items()
    }
    goal = conclusion.percent(config.main_threshold)
    return {
        "num_epochs": protocol.num_epochs,
        "activations": summaries,
        "conclusion": conclusion.conclude(times, goal, protocol),
        "why": _why(by_activation),
        "best": _best(summaries),
    }


def summary(
    curves: Curves, rates: tuple[float, ...], protocol: conclusion.Protocol, config: ConfigDict
) -> dict[str, Any]:
    """One network with one activation: its rate, epochs to convergence and accuracies.

    Epochs are None if they were not reached; `text` then says ">N".
    """
    rate_summaries = _rates(curves["search"], len(rates), config)
    if "final" not in curves:
        return {"status": "diverged", "learning_rate": None, "rates": rate_summaries}
    final = curves["final"]
    rate = float(final["learning_rate"][0])
    times = {f"{threshold:g}": times_to(final, threshold) for threshold in config.thresholds}
    lowest = times_to_lowest_loss(final, config.loss_tolerance)
    diverged = has_diverged(final)
    return {
        "status": "trained",
        "learning_rate": rate,
        "at_the_grids_edge": len(rates) > 1 and rate in (min(rates), max(rates)),
        "rates": rate_summaries,
        "epochs_to_accuracy": {name: _reached(t, protocol) for name, t in times.items()},
        "epochs_to_lowest_loss": _reached(lowest, protocol),
        "accuracy": _range(final["accuracy"][:, -1]),
        "loss": _range(final["loss"][:, -1]),
        "test_accuracy": _range(final["test_accuracy"]),
        "saturated": _at_the_end(final["saturated"]),
        "dead": _at_the_end(final["dead"]),
        "seeds": {
            str(seed): {
                "diverged": bool(diverged[g]),
                "epochs_to_accuracy": {name: _finite(t[g]) for name, t in times.items()},
                "epochs_to_lowest_loss": _finite(lowest[g]),
                "accuracy": float(final["accuracy"][g, -1]),
                "loss": _finite(final["loss"][g, -1]),
                "test_accuracy": float(final["test_accuracy"][g]),
                "test_loss": _finite(final["test_loss"][g]),
            }
            for g, seed in enumerate(final["seed"])
        },
    }


def _rates(search: Phase, num_rates: int, config: ConfigDict) -> list[dict[str, Any]]:
    num_seeds = len(search["seed"]) // num_rates
    diverged = has_diverged(search)
    rates = []
    for first in range(0, len(search["seed"]), num_seeds):
        runs = slice(first, first + num_seeds)
        rates.append(
            {
                "learning_rate": float(search["learning_rate"][first]),
                "diverged": int(diverged[runs].sum()),
                "epochs_to_accuracy": {
                    f"{threshold:g}": _finite(convergence.median(times_to(search, threshold)[runs]))
                    for threshold in config.thresholds
                },
                "lowest_loss": _finite(search["loss"][runs].min(axis=1).mean()),
                "accuracy": float(search["accuracy"][runs, -1].mean()),
            }
        )
    return rates


def _reached(times: np.ndarray, protocol: conclusion.Protocol) -> dict[str, Any]:
    estimate = convergence.median_estimate(times, protocol.num_resamples, protocol.seed)
    return {
        "median": _finite(estimate.value),
        "interval": [_finite(estimate.low), _finite(estimate.high)],
        "text": conclusion.format_estimate(estimate, protocol.num_epochs),
        "num_runs": len(times),
        "num_reached": int(np.isfinite(times).sum()),
        "share_converged_by_epoch": convergence.share_converged(times),
    }


def _range(values: np.ndarray) -> dict[str, float | None]:
    return {
        "median": _finite(np.median(values)),
        "min": _finite(min(values)),
        "max": _finite(max(values)),
    }


def _at_the_end(shares: dict[str, np.ndarray]) -> dict[str, float]:
    return {layer: float(share[:, -1].mean()) for layer, share in shares.items()}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _best(summaries: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The activation with the highest held-out accuracy, then lowest loss; its test accuracy."""
    trained = {name: each for name, each in summaries.items() if each["status"] == "trained"}
    if not trained:
        return None

    def quality(name: str) -> tuple[float, float]:
        return trained[name]["accuracy"]["median"], -(trained[name]["loss"]["median"] or math.inf)

    name = max(trained, key=quality)
    return {"activation": name, "test_accuracy": trained[name]["test_accuracy"]}


def _why(by_activation: Mapping[str, Curves]) -> list[str]:
    """Sentences on the gradients of the first epoch and on the units that are idle at the end."""
    gradients, idle = {}, []
    for name, curves in by_activation.items():
        if "final" not in curves:
            continue
        final = curves["final"]
        is_in_first_epoch = final["epoch"] <= max(1, final["epoch"][0])
        gradients[name] = {
            layer: float(norm[:, is_in_first_epoch].mean())
            for layer, norm in final["gradient_norms"].items()
        }
        for state in ("saturated", "dead"):
            idle += [
                f"with {conclusion.title(name)} {100 * share:.1f} % of {layer} {state}"
                for layer, share in _at_the_end(final[state]).items()
            ]
    return conclusion.explain(gradients, idle)


def metric_lines(network: str, activation: str, curves: Curves) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, one for each run and moment."""
    lines = []
    for phase_name in ("search", "final"):
        phase = curves.get(phase_name)
        if phase is None:
            continue
        columns = {name: phase[name] for name in ("train_loss", "loss", "accuracy")} | {
            f"{quantity}/{layer}": values
            for quantity in ("gradient_norms", "saturated", "dead")
            for layer, values in phase[quantity].items()
        }
        lines += [
            {
                "step": int(phase["step"][m]),
                "epoch": float(phase["epoch"][m]),
                "network": network,
                "activation": activation,
                "phase": phase_name,
                "learning_rate": float(phase["learning_rate"][g]),
                "seed": int(phase["seed"][g]),
            }
            | {name: _finite(values[g, m]) for name, values in columns.items()}
            for g in range(len(phase["seed"]))
            for m in range(len(phase["step"]))
        ]
    return lines


def run_line(phase: Phase, g: int, num_epochs: float, config: ConfigDict) -> str:
    """One run, as in `rate 0.3, seed 1: 97 % in 1.2 epochs, at the end 98.4 % and loss 0.05`."""
    start = f"rate {phase['learning_rate'][g]:g}, seed {phase['seed'][g]}"
    if has_diverged(phase)[g]:
        return f"{start}: diverged"
    time = times_to(phase, config.main_threshold)[g]
    return (
        f"{start}: {conclusion.percent(config.main_threshold)} in "
        f"{conclusion.format_epochs(time, num_epochs)} epochs, at the end "
        f"{phase['accuracy'][g, -1]:.2%} and loss {phase['loss'][g, -1]:.4f}"
    )
