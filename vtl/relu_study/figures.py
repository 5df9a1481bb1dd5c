"""The four figures of the ReLU study, as PNG. matplotlib is imported at their first use."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vtl.files import whole_file
from vtl.relu_study import conclusion, study

Pairs = Mapping[tuple[str, str], study.Curves]
"""The curves by (network, activation)."""

COLOURS = {"sigmoid": "#D55E00", "tanh": "#0072B2", "relu": "#009E73"}
OTHER_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which the colour-blind can tell apart."""

DOTS_PER_INCH = 120


def write(directory: Path, curves: Pairs, results: dict[str, Any], config: ConfigDict) -> None:
    """Write learning_curves, epochs_to_convergence, learning_rates and gradient_norms.png.

    `results` are those of `study.results` on the same `curves`.
    """
    drawn = {
        "learning_curves": learning_curves(curves, config),
        "epochs_to_convergence": epochs_to_convergence(curves, results, config),
        "learning_rates": learning_rates(curves, results, config),
        "gradient_norms": gradient_norms(curves, config),
    }
    for name, figure in drawn.items():
        with whole_file(directory / f"{name}.png") as file:
            figure.savefig(file, dpi=DOTS_PER_INCH)


def _panels(num_rows: int, num_columns: int) -> tuple[Any, np.ndarray]:
    """A figure that belongs to no window, and its axes [num_rows, num_columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 3.6 * num_columns, 0.4 + 2.9 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for axis in axes.flat:
        _bare(axis)
    return figure, axes


def _bare(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)


def _colours(config: ConfigDict) -> dict[str, str]:
    others = itertools.cycle(OTHER_COLOURS)
    return {name: COLOURS.get(name) or next(others) for name in config.activations}


def _final(curves: Pairs, network: str, config: ConfigDict) -> list[tuple[str, study.Phase]]:
    """The activations that were trained to the end, in the order of the config."""
    found = [(name, curves[network, name]) for name in config.activations]
    return [(name, of["final"]) for name, of in found if "final" in of]


def _band(axis: Any, epoch: np.ndarray, values: np.ndarray, **style: Any) -> None:
    """The median of values [G, M] over the seeds, and a band from the least to the largest."""
    axis.plot(epoch, np.median(values, axis=0), linewidth=1.4, **style)
    axis.fill_between(
        epoch, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.2, linewidth=0
    )


def learning_curves(curves: Pairs, config: ConfigDict) -> Any:
    """Held-out error and loss by epoch: median and range over seeds, each at its best rate."""
    figure, axes = _panels(len(config.networks), 2)
    colours = _colours(config)
    for row, network in zip(axes, config.networks, strict=True):
        for name, final in _final(curves, network, config):
            style = {
                "color": colours[name],
                "label": f"{conclusion.title(name)}, rate {final['learning_rate'][0]:g}",
            }
            # A run without an error has no place on a logarithmic axis.
            error = np.maximum(100 * (1 - final["accuracy"]), 50 / config.data.num_held_out)
            _band(row[0], final["epoch"], error, **style)
            _band(row[1], final["epoch"], final["loss"], **style)
        for threshold in config.thresholds:
            row[0].axhline(100 * (1 - threshold), color="grey", linewidth=0.8, linestyle=":")
        for axis, what in zip(row, ("held-out error, %", "held-out loss"), strict=True):
            axis.set(
                xscale="log",
                yscale="log",
                xlabel="epoch",
                ylabel=what,
                title=conclusion.NETWORK_TITLES[network],
            )
            _plain_ticks(axis.xaxis)
            _plain_ticks(axis.yaxis)
        _legend(row[1])
    seeds = len(config.seeds)
    figure.suptitle(f"Median and range of {seeds} seeds; dotted: the thresholds", fontsize=9)
    return figure


def epochs_to_convergence(curves: Pairs, results: dict[str, Any], config: ConfigDict) -> Any:
    """Each run's epochs to every goal with median and interval; the share converged by epoch."""
    figure, axes = _panels(len(config.networks), 2)
    colours = _colours(config)
    goals = [*config.thresholds, None]
    for row, network in zip(axes, config.networks, strict=True):
        num_epochs = results["networks"][network]["num_epochs"]
        for place, (name, final) in enumerate(_final(curves, network, config)):
            of = results["networks"][network]["activations"][name]
            for x, goal in enumerate(goals):
                if goal is None:
                    times = study.times_to_lowest_loss(final, config.loss_tolerance)
                    reached = of["epochs_to_lowest_loss"]
                else:
                    times = study.times_to(final, goal)
                    reached = of["epochs_to_accuracy"][f"{goal:g}"]
                at = x + 0.22 * (place - (len(config.activations) - 1) / 2)
                _times(row[0], at, times, reached, num_epochs, colours[name])
            style = {"color": colours[name], "label": conclusion.title(name)}
            main = of["epochs_to_accuracy"][f"{config.main_threshold:g}"]
            shares = main["share_converged_by_epoch"]
            _steps(row[1], shares, final["epoch"][0], num_epochs, style)
        labels = [conclusion.percent(t) for t in config.thresholds] + ["lowest loss"]
        row[0].set(yscale="log", ylabel="epochs", title=conclusion.NETWORK_TITLES[network])
        row[0].set_xticks(range(len(goals)), labels)
        row[0].axhline(num_epochs, color="grey", linewidth=0.8, linestyle=":")
        _plain_ticks(row[0].yaxis)
        goal = conclusion.percent(config.main_threshold)
        row[1].set(
            xscale="log",
            xlabel="epoch",
            ylabel=f"share of runs at {goal}",
            title=conclusion.NETWORK_TITLES[network],
        )
        row[1].set(ylim=(-0.03, 1.03))
        _plain_ticks(row[1].xaxis)
        _legend(row[1])
    figure.suptitle(
        "Runs, their median and its 95 % interval; triangles: not within the epochs of the run",
        fontsize=9,
    )
    return figure


def _times(
    axis: Any, at: float, times: np.ndarray, reached: dict[str, Any], num_epochs: float, colour: str
) -> None:
    shown = np.where(np.isinf(times), num_epochs, times)
    beside = at + np.linspace(-0.04, 0.04, len(times))
    for is_shown, marker in ((np.isfinite(times), "o"), (np.isinf(times), "^")):
        axis.scatter(beside[is_shown], shown[is_shown], s=9, marker=marker, color=colour, alpha=0.5)
    median, low, high = (
        num_epochs if x is None else x for x in (reached["median"], *reached["interval"])
    )
    axis.vlines(at, low, high, color=colour, linewidth=1.4)
    axis.hlines(median, at - 0.09, at + 0.09, color=colour, linewidth=2)


def _steps(
    axis: Any, shares: list[Any], first_epoch: float, num_epochs: float, style: dict[str, str]
) -> None:
    """The share of runs that have converged, by epoch."""
    epochs, values = zip(*[(first_epoch, 0.0), *shares], strict=True)
    axis.step([*epochs, num_epochs], [*values, values[-1]], where="post", **style)


def learning_rates(curves: Pairs, results: dict[str, Any], config: ConfigDict) -> Any:
    """Epochs to the main threshold and lowest loss by learning rate; rates that diverged."""
    figure, axes = _panels(len(config.networks), 2)
    colours = _colours(config)
    main = f"{config.main_threshold:g}"
    for row, network in zip(axes, config.networks, strict=True):
        found = results["networks"][network]
        for place, (name, of) in enumerate(found["activations"].items()):
            rates = of["rates"]
            xs = np.array([rate["learning_rate"] for rate in rates]) * 1.04**place
            is_sound = np.array([not rate["diverged"] for rate in rates])
            times = np.array([rate["epochs_to_accuracy"][main] for rate in rates], np.float64)
            losses = np.array([rate["lowest_loss"] for rate in rates], np.float64)
            is_short = np.isfinite(times)  # None has become nan
            times = np.where(is_short, times, found["num_epochs"])
            style = {"color": colours[name], "label": conclusion.title(name)}
            _by_rate(row[0], xs, times, is_sound, is_sound & is_short, style)
            _by_rate(row[1], xs, losses, is_sound, is_sound, style)
        for axis in row:
            axis.set(
                xscale="log",
                yscale="log",
                xlabel="learning rate",
                title=conclusion.NETWORK_TITLES[network],
            )
            _plain_ticks(axis.xaxis)
            _plain_ticks(axis.yaxis)
            _legend(axis)
        row[0].axhline(found["num_epochs"], color="grey", linewidth=0.8, linestyle=":")
        row[0].set_ylabel(f"epochs to {conclusion.percent(config.main_threshold)}")
        row[1].set_ylabel("lowest held-out loss")
    figure.suptitle("Triangles: not within the epochs of the run; crosses: diverged", fontsize=9)
    return figure


def _by_rate(
    axis: Any,
    rates: np.ndarray,
    values: np.ndarray,
    is_sound: np.ndarray,
    is_reached: np.ndarray,
    style: dict[str, Any],
) -> None:
    axis.plot(rates[is_sound], values[is_sound], linewidth=1.2, **style)
    colour = style["color"]
    for shown, marker in ((is_reached, "o"), (is_sound & ~is_reached, "^")):
        axis.scatter(rates[shown], values[shown], s=20, marker=marker, color=colour)
    at_the_top = axis.get_xaxis_transform()
    height = np.full(int((~is_sound).sum()), 0.97)
    axis.scatter(
        rates[~is_sound],
        height,
        s=25,
        marker="x",
        color=colour,
        transform=at_the_top,
        clip_on=False,
    )


def gradient_norms(curves: Pairs, config: ConfigDict) -> Any:
    """Gradient norm by layer and epoch; and the share of hidden units that pass nothing on."""
    from matplotlib.figure import Figure

    rows = len(config.networks)
    figure = Figure(figsize=(15, 0.4 + 2.9 * rows), layout="constrained")
    parts = figure.subfigures(rows, 1, squeeze=False)[:, 0]
    for part, network in zip(parts, config.networks, strict=True):
        final = _final(curves, network, config)
        layers = list(final[0][1]["gradient_norms"]) if final else []
        *by_layer, idle = part.subplots(1, len(layers) + 1, squeeze=False)[0]
        _gradients(dict(zip(layers, by_layer, strict=True)), idle, final, _colours(config))
        for axis, what in zip([*by_layer, idle], [*layers, "idle units"], strict=True):
            _bare(axis)
            axis.set(
                xscale="log", xlabel="epoch", title=f"{conclusion.NETWORK_TITLES[network]}, {what}"
            )
            _plain_ticks(axis.xaxis)
        idle.set_ylabel("%")
        if by_layer:
            by_layer[0].set_ylabel("gradient norm")
            _legend(by_layer[0])
        _legend(idle, loc="center left", bbox_to_anchor=(1.0, 0.5))  # nine lines hide the curves
    figure.suptitle(f"Median and range of {len(config.seeds)} seeds", fontsize=9)
    return figure


def _gradients(
    by_layer: dict[str, Any],
    idle: Any,
    final: list[tuple[str, study.Phase]],
    colours: dict[str, Any],
) -> None:
    for name, phase in final:
        style = {"color": colours[name], "label": conclusion.title(name)}
        for layer, axis in by_layer.items():
            _band(axis, phase["epoch"], phase["gradient_norms"][layer], **style)
            axis.set_yscale("log")
        for what in ("saturated", "dead"):
            _idle(idle, phase, what, name, colours[name])


def _idle(axis: Any, final: study.Phase, what: str, activation: str, colour: str) -> None:
    lines = ("-", "--", ":")
    for line, (layer, share) in zip(itertools.cycle(lines), final[what].items(), strict=False):
        label = f"{conclusion.title(activation)} {layer}, {what}"
        axis.plot(final["epoch"], 100 * np.median(share, axis=0), line, color=colour, label=label)


def _legend(axis: Any, **place: Any) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8, **place)


def _plain_ticks(axis: Any) -> None:
    """0.1, 0.2, 0.5, 1 along a logarithmic axis, and not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if axis.get_view_interval()[0] <= 0:  # nothing is drawn: all diverged
        axis.set_view_interval(0.1, 1, ignore=True)
    axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
