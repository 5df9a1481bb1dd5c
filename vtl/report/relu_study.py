"""What a run of the ReLU study says, in sentences."""

import math
from typing import Any

import numpy as np
from markupsafe import Markup

from vtl.relu_study import convergence
from vtl.relu_study.conclusion import NETWORK_TITLES, Protocol, format_epochs, title
from vtl.report.language import Language
from vtl.report.runs import Run


def sentences(study: Run, language: Language) -> list[Markup]:
    """For each network, which activation reached the main threshold first, and by how much."""
    threshold = study.config["main_threshold"]
    sentences = []
    for network, of in study.results["networks"].items():
        protocol = _protocol(study, network)
        times = {
            activation: _times(found, threshold) for activation, found in of["activations"].items()
        }
        first, *others = times
        for other in others:
            found = compare_times((first, other), times, protocol, language)
            goal = f"{language.decimal(f'{100 * threshold:g}')} %"
            sentences.append(
                language("on_network", network=NETWORK_TITLES[network], goal=goal, found=found)
            )
    return sentences


def _times(found: dict[str, Any], threshold: float) -> np.ndarray | None:
    """Epochs [S] by seed, infinite where the threshold was not reached; None: all diverged."""
    if found["status"] == "diverged":
        return None
    epochs = [of["epochs_to_accuracy"][f"{threshold:g}"] for of in found["seeds"].values()]
    return np.array([math.inf if epoch is None else epoch for epoch in epochs])


def compare_times(
    names: tuple[str, str],
    times: dict[str, np.ndarray | None],
    protocol: Protocol,
    language: Language,
) -> Markup:
    """The sentence on two activations, as `conclusion.compare` draws it, in the page's language."""
    ran = [(name, of) for name in names if (of := times[name]) is not None]
    if len(ran) < 2:
        gone = language.listing(title(name) for name in names if times[name] is None)
        return language("study_diverged", gone=gone)
    (fast, fast_times), (slow, slow_times) = sorted(
        ran, key=lambda pair: convergence.median(pair[1])
    )
    values = {
        "fast": title(fast),
        "slow": title(slow),
        "epochs": language.decimal(f"{protocol.num_epochs:g}"),
    }
    if math.isinf(convergence.median(fast_times)):
        return language("study_neither", **values)
    num_epochs, *bootstrap = protocol
    for key, of in (("fast_epochs", fast_times), ("slow_epochs", slow_times)):
        estimate = convergence.median_estimate(of, *bootstrap)
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
    """The usual reason, where it shows; the first layer's gradients and idle units."""
    shown: list[str] = []
    not_shown: list[str] = []
    for network in study.results["networks"]:
        is_slow = _is_slower(study, network, "sigmoid", "relu")
        if is_slow is not None:
            (shown if is_slow else not_shown).append(NETWORK_TITLES[network])
    sentences = [
        language(key, networks=language.listing(names))
        for key, names in (("study_why", shown), ("study_why_not", not_shown))
        if names
    ]
    for network, of in study.results["networks"].items():
        gradients, idle, layer = [], [], ""
        for activation, found in of["activations"].items():
            if found["status"] == "diverged":
                continue
            layer, norm = _first_gradient(study, network, activation)
            rate = language.decimal(f"{found['learning_rate']:g}")
            with_rate = language("study_at_rate", rate=rate)
            gradients.append(f"{title(activation)} {language.number(norm, 3)} {with_rate}")
            for kind in ("saturated", "dead"):
                if found[kind]:
                    share = language.percent(max(found[kind].values()))
                    idle.append(language(f"study_{kind}", name=title(activation), share=share))
        for key, listed in (("study_gradients", gradients), ("study_idle", idle)):
            if listed:
                values = {"network": NETWORK_TITLES[network], "layer": layer}
                sentences.append(language(key, found=language.listing(listed), **values))
    return sentences


def _is_slower(study: Run, network: str, slow: str, fast: str) -> bool | None:
    """Whether one activation took more epochs than another, by its interval; None: not compared."""
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
    of = study.results["networks"][network]
    return Protocol(of["num_epochs"], study.config["num_resamples"], study.results["seed"])


def _first_gradient(study: Run, network: str, activation: str) -> tuple[str, float]:
    """The first layer and the mean norm of its gradient over the first epoch of all seeds."""
    lines = [
        line
        for line in study.metrics
        if line["phase"] == "final"
        and (line["network"], line["activation"]) == (network, activation)
    ]
    key = next(key for line in lines for key in line if key.startswith("gradient_norms/"))
    until = max(1.0, lines[0]["epoch"])
    found = (line.get(key) for line in lines if line["epoch"] <= until)
    norms = [norm for norm in found if norm is not None]
    return key.partition("/")[2], float(np.mean(norms)) if norms else math.nan
