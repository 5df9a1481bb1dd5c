"""What a run of the ReLU study shows, in sentences."""

import math
from typing import Any

import numpy as np
from markupsafe import Markup

from vtl.relu_study import convergence
from vtl.relu_study.conclusion import NETWORK_TITLES, Protocol, format_epochs, title
from vtl.report.language import Language
from vtl.report.runs import Run


def sentences(study: Run, language: Language) -> list[Markup]:
    """Compare the first activation with each other one: which reached the main threshold first."""
    threshold = study.config["main_threshold"]
    goal = f"{language.decimal(f'{100 * threshold:g}')} %"
    sentences = []
    for network, outcome in study.results["networks"].items():
        protocol = _protocol(study, network)
        times = {
            activation: _times(measured, threshold)
            for activation, measured in outcome["activations"].items()
        }
        first, *others = times
        for other in others:
            comparison = compare_times((first, other), times, protocol, language)
            values = {"network": NETWORK_TITLES[network], "goal": goal, "found": comparison}
            sentences.append(language("on_network", **values))
    return sentences


def _times(measured: dict[str, Any], threshold: float) -> np.ndarray | None:
    """Epochs [S] by seed, infinite if a seed never reached the threshold; None if all diverged."""
    if measured["status"] == "diverged":
        return None
    epochs = [seed["epochs_to_accuracy"][f"{threshold:g}"] for seed in measured["seeds"].values()]
    return np.array([math.inf if epoch is None else epoch for epoch in epochs])


def compare_times(
    names: tuple[str, str],
    times: dict[str, np.ndarray | None],
    protocol: Protocol,
    language: Language,
) -> Markup:
    """The sentence of `conclusion.compare` on two activations, in the page's language."""
    trained = [(name, epochs) for name in names if (epochs := times[name]) is not None]
    if len(trained) < 2:
        diverged = language.listing(title(name) for name in names if times[name] is None)
        return language("study_diverged", gone=diverged)
    (fast, fast_times), (slow, slow_times) = sorted(
        trained, key=lambda pair: convergence.median(pair[1])
    )
    values = {
        "fast": title(fast),
        "slow": title(slow),
        "epochs": language.decimal(f"{protocol.num_epochs:g}"),
    }
    if math.isinf(convergence.median(fast_times)):
        return language("study_neither", **values)
    num_epochs, *bootstrap = protocol
    for key, epochs in (("fast_epochs", fast_times), ("slow_epochs", slow_times)):
        estimate = convergence.median_estimate(epochs, *bootstrap)
        written = (language.decimal(format_epochs(value, num_epochs)) for value in estimate)
        values[key] = language.bracketed(*written)
    ratio = convergence.ratio_estimate(slow_times, fast_times, *protocol)
    values["ratio"] = _ratio(ratio, language)
    if len(fast_times) == 1:
        return language("study_single", **values)
    return language("study_faster" if ratio.low > 1 else "study_tie", **values)


def _ratio(ratio: convergence.Ratio, language: Language) -> str:
    decimals = 2 if ratio.value < 2 else 1
    value, low = (language.number(x, decimals) for x in (ratio.value, ratio.low))
    if ratio.is_least:
        return language("ratio_at_least", value=value, low=low)
    has_no_bound = math.isinf(ratio.high)
    high = language("no_bound") if has_no_bound else language.number(ratio.high, decimals)
    return language.bracketed(value, low, high)


def reasons(study: Run, language: Language) -> list[Markup]:
    """Whether the usual reason shows, then each network's first gradient and its idle units."""
    shown: list[str] = []
    not_shown: list[str] = []
    for network in study.results["networks"]:
        is_slower = _is_slower(study, network, "sigmoid", "relu")
        if is_slower is not None:
            (shown if is_slower else not_shown).append(NETWORK_TITLES[network])
    sentences = [
        language(key, networks=language.listing(names))
        for key, names in (("study_why", shown), ("study_why_not", not_shown))
        if names
    ]
    for network in study.results["networks"]:
        sentences += _measurements(study, network, language)
    return sentences


def _measurements(study: Run, network: str, language: Language) -> list[Markup]:
    """A sentence on the gradients of a network's first layer, and one on its idle units."""
    gradients, idle, layer = [], [], ""
    for activation, measured in study.results["networks"][network]["activations"].items():
        if measured["status"] == "diverged":
            continue
        layer, norm = _first_gradient(study, network, activation)
        rate = language.decimal(f"{measured['learning_rate']:g}")
        with_rate = language("study_at_rate", rate=rate)
        gradients.append(f"{title(activation)} {language.number(norm, 3)} {with_rate}")
        for kind in ("saturated", "dead"):
            if measured[kind]:
                share = language.percent(max(measured[kind].values()))
                idle.append(language(f"study_{kind}", name=title(activation), share=share))
    return [
        language(key, found=language.listing(parts), network=NETWORK_TITLES[network], layer=layer)
        for key, parts in (("study_gradients", gradients), ("study_idle", idle))
        if parts
    ]


def _is_slower(study: Run, network: str, slow: str, fast: str) -> bool | None:
    """Whether `slow` took more epochs than `fast`, by the interval; None if that is unknown."""
    activations = study.results["networks"][network]["activations"]
    if not {slow, fast} <= activations.keys():
        return None
    threshold = study.config["main_threshold"]
    slow_times, fast_times = (_times(activations[name], threshold) for name in (slow, fast))
    if slow_times is None or fast_times is None or len(fast_times) == 1:
        return None
    if math.isinf(convergence.median(fast_times)):
        return False
    return convergence.ratio_estimate(slow_times, fast_times, *_protocol(study, network)).low > 1


def _protocol(study: Run, network: str) -> Protocol:
    num_epochs = study.results["networks"][network]["num_epochs"]
    return Protocol(num_epochs, study.config["num_resamples"], study.results["seed"])


def _first_gradient(study: Run, network: str, activation: str) -> tuple[str, float]:
    """The first layer's name, and its gradient's mean norm over the first epoch of all seeds."""
    lines = [
        line
        for line in study.metrics
        if line["phase"] == "final"
        and (line["network"], line["activation"]) == (network, activation)
    ]
    key = next(key for line in lines for key in line if key.startswith("gradient_norms/"))
    last_epoch = max(1.0, lines[0]["epoch"])
    in_time = (line.get(key) for line in lines if line["epoch"] <= last_epoch)
    norms = [norm for norm in in_time if norm is not None]
    return key.partition("/")[2], float(np.mean(norms)) if norms else math.nan
