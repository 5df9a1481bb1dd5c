"""The four figures of the ReLU study, as PNG. matplotlib is imported when they are first drawn."""

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
"""Okabe and Ito's colours, which colour-blind people can tell apart."""

DOTS_PER_INCH = 120


def write(directory: Path, curves: Pairs, results: dict[str, Any], config: ConfigDict) -> None:
    """Write learning_curves, epochs_to_convergence, learning_rates and gradient_norms.png.

    `results` are what `study.results` makes of the same `curves`.
    """
    figures = {
        "learning_curves": learning_curves(curves, config),
        "epochs_to_convergence": epochs_to_convergence(curves, results, config),
        "learning_rates": learning_rates(curves, results, config),
        "gradient_norms": gradient_norms(curves, config),
    }
    for name, figure in figures.items():
        with whole_file(directory / f"{name}.png") as file:
            figure.savefig(file, dpi=DOTS_PER_INCH)


def _panels(num_rows: int, num_columns: int) -> tuple[Any, np.ndarray]:
    """A figure without a window, and its axes [num_rows, num_columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 3.6 * num_columns, 0.4 + 2.9 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for axis in axes.flat:
        _style_axis(axis)
    return figure, axes


def _style_axis(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)


def _colours(config: ConfigDict) -> dict[str, str]:
    others = itertools.cycle(OTHER_COLOURS)
    return {name: COLOURS.get(name) or next(others) for name in config.activations}


def _final_phases(curves: Pairs, network: str, config: ConfigDict) -> list[tuple[str, study.Phase]]:
    """The activations that did not diverge with their final phases, in the order of the config."""
    return [
        (name, curves[network, name]["final"])
        for name in config.activations
        if "final" in curves[network, name]
    ]


def _band(axis: Any, epoch: np.ndarray, values: np.ndarray, **style: Any) -> None:
    """Draw the median of values [G, M] over seeds, and a band from the least to the greatest."""
    axis.plot(epoch, np.median(values, axis=0), linewidth=1.4, **style)
    axis.fill_between(
        epoch, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.2, linewidth=0
    )


def learning_curves(curves: Pairs, config: ConfigDict) -> Any:
    """Draw held-out error and loss by epoch: median and range over seeds, at each best rate."""
    figure, axes = _panels(len(config.networks), 2)
    colours = _colours(config)
    for row, network in zip(axes, config.networks, strict=True):
        for name, final in _final_phases(curves, network, config):
            style = {
                "color": colours[name],
                "label": f"{conclusion.title(name)}, rate {final['learning_rate'][0]:g}",
            }
            # A logarithmic axis has no place for an error of zero.
            error = np.maximum(100 * (1 - final["accuracy"]), 50 / config.data.num_held_out)
            _band(row[0], final["epoch"], error, **style)
            _band(row[1], final["epoch"], final["loss"], **style)
        for threshold in config.thresholds:
            row[0].axhline(100 * (1 - threshold), color="grey", linewidth=0.8, linestyle=":")
        for axis, label in zip(row, ("held-out error, %", "held-out loss"), strict=True):
            axis.set(
                xscale="log",
                yscale="log",
                xlabel="epoch",
                ylabel=label,
                title=conclusion.NETWORK_TITLES[network],
            )
            _plain_ticks(axis.xaxis)
            _plain_ticks(axis.yaxis)
        _legend(row[1])
    num_seeds = len(config.seeds)
    figure.suptitle(f"Median and range of {num_seeds} seeds; dotted: the thresholds", fontsize=9)
    return figure


def epochs_to_convergence(curves: Pairs, results: dict[str, Any], config: ConfigDict) -> Any:
    """Draw each run's epochs to every goal, median and interval; the share converged by epoch."""
    figure, axes = _panels(len(config.networks), 2)
    colours = _colours(config)
    main = f"{config.main_threshold:g}"
    for (left, right), network in zip(axes, config.networks, strict=True):
        num_epochs = results["networks"][network]["num_epochs"]
        for index, (name, final) in enumerate(_final_phases(curves, network, config)):
            summary = results["networks"][network]["activations"][name]
            offset = 0.22 * (index - (len(config.activations) - 1) / 2)
            for x, (times, estimate) in enumerate(_times_to_goals(final, summary, config)):
                _draw_times(left, x + offset, times, estimate, num_epochs, colours[name])
            style = {"color": colours[name], "label": conclusion.title(name)}
            shares = summary["epochs_to_accuracy"][main]["share_converged_by_epoch"]
            _draw_shares(right, shares, final["epoch"][0], num_epochs, style)
        labels = [conclusion.percent(t) for t in config.thresholds] + ["lowest loss"]
        left.set(yscale="log", ylabel="epochs", title=conclusion.NETWORK_TITLES[network])
        left.set_xticks(range(len(labels)), labels)
        left.axhline(num_epochs, color="grey", linewidth=0.8, linestyle=":")
        _plain_ticks(left.yaxis)
        right.set(
            xscale="log",
            xlabel="epoch",
            ylabel=f"share of runs at {conclusion.percent(config.main_threshold)}",
            title=conclusion.NETWORK_TITLES[network],
            ylim=(-0.03, 1.03),
        )
        _plain_ticks(right.xaxis)
        _legend(right)
    figure.suptitle(
        "Runs, their median and its 95 % interval; triangles: not within the epochs of the run",
        fontsize=9,
    )
    return figure


def _times_to_goals(
    final: study.Phase, summary: dict[str, Any], config: ConfigDict
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Times [G] with their median and interval, to each threshold and then to the lowest loss."""
    to_accuracy = [
        (study.times_to(final, threshold), summary["epochs_to_accuracy"][f"{threshold:g}"])
        for threshold in config.thresholds
    ]
    times = study.times_to_lowest_loss(final, config.loss_tolerance)
    return [*to_accuracy, (times, summary["epochs_to_lowest_loss"])]


def _draw_times(
    axis: Any, x: float, times: np.ndarray, estimate: dict[str, Any], num_epochs: float, colour: str
) -> None:
    heights = np.where(np.isinf(times), num_epochs, times)
    xs = x + np.linspace(-0.04, 0.04, len(times))
    for runs, marker in ((np.isfinite(times), "o"), (np.isinf(times), "^")):
        axis.scatter(xs[runs], heights[runs], s=9, marker=marker, color=colour, alpha=0.5)
    low, high = estimate["interval"]
    median, low, high = (
        num_epochs if epochs is None else epochs for epochs in (estimate["median"], low, high)
    )
    axis.vlines(x, low, high, color=colour, linewidth=1.4)
    axis.hlines(median, x - 0.09, x + 0.09, color=colour, linewidth=2)


def _draw_shares(
    axis: Any, shares: list[Any], first_epoch: float, num_epochs: float, style: dict[str, str]
) -> None:
    """Draw the share of runs that have converged by epoch."""
    epochs, values = zip(*[(first_epoch, 0.0), *shares], strict=True)
    axis.step([*epochs, num_epochs], [*values, values[-1]], where="post", **style)


def learning_rates(curves: Pairs, results: dict[str, Any], config: ConfigDict) -> Any:
    """Draw epochs to the main threshold and the lowest loss by learning rate."""
    figure, axes = _panels(len(config.networks), 2)
    colours = _colours(config)
    main = f"{config.main_threshold:g}"
    for row, network in zip(axes, config.networks, strict=True):
        num_epochs = results["networks"][network]["num_epochs"]
        summaries = results["networks"][network]["activations"]
        for index, (name, summary) in enumerate(summaries.items()):
            rates = summary["rates"]
            xs = np.array([rate["learning_rate"] for rate in rates]) * 1.04**index
            is_sound = np.array([not rate["diverged"] for rate in rates])
            times = np.array([rate["epochs_to_accuracy"][main] for rate in rates], np.float64)
            losses = np.array([rate["lowest_loss"] for rate in rates], np.float64)
            is_reached = np.isfinite(times)  # None has become nan
            times = np.where(is_reached, times, num_epochs)
            style = {"color": colours[name], "label": conclusion.title(name)}
            _draw_by_rate(row[0], xs, times, is_sound, is_sound & is_reached, style)
            _draw_by_rate(row[1], xs, losses, is_sound, is_sound, style)
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
        row[0].axhline(num_epochs, color="grey", linewidth=0.8, linestyle=":")
        row[0].set_ylabel(f"epochs to {conclusion.percent(config.main_threshold)}")
        row[1].set_ylabel("lowest held-out loss")
    figure.suptitle("Triangles: not within the epochs of the run; crosses: diverged", fontsize=9)
    return figure


def _draw_by_rate(
    axis: Any,
    rates: np.ndarray,
    values: np.ndarray,
    is_sound: np.ndarray,
    is_reached: np.ndarray,
    style: dict[str, Any],
) -> None:
    axis.plot(rates[is_sound], values[is_sound], linewidth=1.2, **style)
    colour = style["color"]
    for subset, marker in ((is_reached, "o"), (is_sound & ~is_reached, "^")):
        axis.scatter(rates[subset], values[subset], s=20, marker=marker, color=colour)
    axis.scatter(
        rates[~is_sound],
        np.full(int((~is_sound).sum()), 0.97),
        s=25,
        marker="x",
        color=colour,
        transform=axis.get_xaxis_transform(),  # heights are a share of the axis: near the top
        clip_on=False,
    )


def gradient_norms(curves: Pairs, config: ConfigDict) -> Any:
    """Draw gradient norms by layer and epoch, and the share of hidden units that are idle."""
    from matplotlib.figure import Figure

    num_rows = len(config.networks)
    figure = Figure(figsize=(15, 0.4 + 2.9 * num_rows), layout="constrained")
    subfigures = figure.subfigures(num_rows, 1, squeeze=False)[:, 0]
    for subfigure, network in zip(subfigures, config.networks, strict=True):
        phases = _final_phases(curves, network, config)
        layers = list(phases[0][1]["gradient_norms"]) if phases else []
        *layer_axes, idle_axis = subfigure.subplots(1, len(layers) + 1, squeeze=False)[0]
        axis_of_layer = dict(zip(layers, layer_axes, strict=True))
        _draw_gradients(axis_of_layer, idle_axis, phases, _colours(config))
        for title, axis in (axis_of_layer | {"idle units": idle_axis}).items():
            _style_axis(axis)
            axis.set(
                xscale="log", xlabel="epoch", title=f"{conclusion.NETWORK_TITLES[network]}, {title}"
            )
            _plain_ticks(axis.xaxis)
        idle_axis.set_ylabel("%")
        if layer_axes:
            layer_axes[0].set_ylabel("gradient norm")
            _legend(layer_axes[0])
        # Inside the panel, nine lines of legend would hide the curves.
        _legend(idle_axis, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"Median and range of {len(config.seeds)} seeds", fontsize=9)
    return figure


def _draw_gradients(
    axis_of_layer: dict[str, Any],
    idle_axis: Any,
    phases: list[tuple[str, study.Phase]],
    colours: dict[str, str],
) -> None:
    for name, phase in phases:
        style = {"color": colours[name], "label": conclusion.title(name)}
        for layer, axis in axis_of_layer.items():
            _band(axis, phase["epoch"], phase["gradient_norms"][layer], **style)
            axis.set_yscale("log")
        for state in ("saturated", "dead"):
            _draw_idle_units(idle_axis, phase, state, name, colours[name])


def _draw_idle_units(
    axis: Any, phase: study.Phase, state: str, activation: str, colour: str
) -> None:
    styles = itertools.cycle(("-", "--", ":"))
    for style, (layer, share) in zip(styles, phase[state].items(), strict=False):
        label = f"{conclusion.title(activation)} {layer}, {state}"
        axis.plot(phase["epoch"], 100 * np.median(share, axis=0), style, color=colour, label=label)


def _legend(axis: Any, **position: Any) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8, **position)


def _plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with 0.1, 0.2, 0.5, 1 rather than powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if axis.get_view_interval()[0] <= 0:  # nothing is drawn, because all diverged
        axis.set_view_interval(0.1, 1, ignore=True)
    axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
