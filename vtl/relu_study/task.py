"""Exercise 0: compares activations on a perceptron and a convolutional network."""

import concurrent.futures
import functools
import itertools
import operator
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from vtl import knobs
from vtl.console import format_seconds, say
from vtl.data import batches
from vtl.errors import UserError, check_choice
from vtl.evaluation import outcome
from vtl.relu_study import activations, conclusion, curves, figures, mnist, study
from vtl.relu_study.lenet import LeNet
from vtl.relu_study.mlp import Perceptron
from vtl.relu_study.mnist import Digits
from vtl.run_directory import RunDirectory
from vtl.training import fit_networks

NETWORKS = ("perceptron", "lenet")


def run(config: ConfigDict, workdir: Path) -> None:
    """Train every network with every activation and write the outcome to `workdir`.

    A second call with the same directory resumes, and keeps the pairs that are finished.

    Raises:
        UserError: something is wrong with the data, the options or `workdir`.
    """
    _check_options(config)
    run_directory = RunDirectory(workdir, config)
    if outcome.was_finished(run_directory, lambda: _content_by_path(config), _format_outcome):
        return
    data = _split(mnist.read(config.data.name, config.data.root), config)
    models = {
        (network, activation): make_model(network, activation, config)
        for network, activation in itertools.product(config.networks, config.activations)
    }
    _check_sizes(data["train"].images.shape[1:], config)

    run_directory.begin(_content(data))
    run_directory.cut_metrics(-1)
    measured: dict[tuple[str, str], study.Curves] = {}
    for number, ((network, activation), model) in enumerate(models.items(), start=1):
        path = workdir / f"curves_{network}_{activation}.npz"
        title = f"{conclusion.NETWORK_TITLES[network]}, {conclusion.title(activation)}"
        say(f"{title} ({number} of {len(models)})")
        search = list(itertools.product(config[network].learning_rates, config.rate_seeds))
        pair = curves.read_before(path, search, config.seeds)
        if pair is None:
            curves.write(path, _measure(network, model, data, config, search))
            pair = curves.read(path, search, config.seeds)
        measured[network, activation] = pair
        run_directory.append_metrics(study.metric_lines(network, activation, pair))
    results = study.results(measured, config)
    figures.write(workdir, measured, results, config)
    run_directory.write_results(
        {
            **results,
            "trainable_parameters": {
                network: sum(x.size for x in jax.tree.leaves(_start(model, data, (0,))))
                for (network, _), model in models.items()
            },
            "seconds": {
                f"{network}_{activation}": float(pair["seconds"])
                for (network, activation), pair in measured.items()
            },
            "data": mnist.describe(config.data.name, data),
        }
    )
    say()
    say(_format_outcome(run_directory, run_directory.read_results()))


def _format_outcome(run_directory: RunDirectory, results: dict[str, Any]) -> str:
    return "\n".join([conclusion.format_outcome(results), *outcome.where_it_is(run_directory)])


def _content(data: dict[str, Digits]) -> dict[str, Any]:
    """What the run is made of, by hash."""
    hashes = mnist.describe("", data)["sha256"]
    return {"data": {role: {"digits": sha256} for role, sha256 in hashes.items()}}


def _content_by_path(config: ConfigDict) -> dict[str, Any]:
    """`_content`, if the config says where the digits lie."""
    if not config.data.root:
        return {}
    return _content(_split(mnist.read(config.data.name, config.data.root), config))


def _check_options(config: ConfigDict) -> None:
    knobs.check(config)
    for network in config.networks:
        check_choice("networks", network, NETWORKS)
    for activation in config.activations:
        check_choice("activations", activation, activations.NAMES)
    if config.dense_activation:
        check_choice("dense_activation", config.dense_activation, activations.NAMES)
    check_choice("initialisation", config.initialisation, activations.INITIALISATIONS)
    _check_lists(config)
    for network in NETWORKS:
        for rate in config[network].learning_rates:
            if not rate:
                raise UserError(f"{network}.learning_rates must be above 0, got {rate}")
        num_epochs = config[network].num_epochs
        if not num_epochs:
            raise UserError(f"{network}.num_epochs must be above 0, got {num_epochs}")
    for threshold in config.thresholds:
        if not 0 < threshold <= 1:
            raise UserError(f"thresholds must be shares, such as 0.97, got {threshold}")
    if config.main_threshold not in config.thresholds:
        raise UserError(f"main_threshold must be one of thresholds, got {config.main_threshold}")


def _check_lists(config: ConfigDict) -> None:
    options = ["networks", "activations", "seeds", "rate_seeds", "thresholds"]
    options += [f"{network}.learning_rates" for network in NETWORKS]
    for option in options:
        values = operator.attrgetter(option)(config)
        if not values:
            raise UserError(f"{option} must not be empty")
        if len(set(values)) < len(values):
            raise UserError(f"{option} must not repeat a value, got {values}")


def make_model(network: str, activation: str, config: ConfigDict) -> nn.Module:
    """The network, one of NETWORKS, with `activation` in its hidden layers."""
    options = config[network]
    if network == "perceptron":
        return Perceptron(activation, config.initialisation, num_hidden=options.num_hidden)
    return LeNet(
        activation,
        config.dense_activation or activation,
        config.initialisation,
        kernel_size=options.kernel_size,
        padding=options.padding,
        num_hidden=options.num_hidden,
    )


def _split(splits: dict[str, Digits], config: ConfigDict) -> dict[str, Digits]:
    """Draw held_out from train by config.seed: the splits train, held_out and test."""
    train, num_held_out = splits["train"], config.data.num_held_out
    num_images = len(train.labels)
    if num_held_out >= num_images:
        raise UserError(
            f"data.num_held_out must be below the number of training digits, {num_images}, got "
            f"{num_held_out}"
        )
    order = np.random.default_rng(config.seed).permutation(num_images)
    rows = {"train": order[num_held_out:], "held_out": order[:num_held_out]}
    parts = {role: Digits(train.images[r], train.labels[r]) for role, r in rows.items()}
    return parts | {"test": splits["test"]}


def _check_sizes(image_shape: tuple[int, ...], config: ConfigDict) -> None:
    """Raise UserError unless LeNet's pools, which halve a side, only meet even sides."""
    size, padding = config.lenet.kernel_size, config.lenet.padding
    for side in image_shape:
        for _ in range(2):
            side += 2 * padding - size + 1
            if side < 2 or side % 2:
                raise UserError(
                    f"images of {' x '.join(map(str, image_shape))} pixels don't fit "
                    f"lenet.kernel_size={size} with lenet.padding={padding}\n"
                    "Choose them so that each convolution leaves an even number of pixels."
                )
            side //= 2


def _measure(
    network: str,
    model: nn.Module,
    data: dict[str, Digits],
    config: ConfigDict,
    runs: list[curves.Run],
) -> study.Curves:
    """The curves of the grid's `runs`, then of the best rate with every seed."""
    start = time.perf_counter()
    options = config[network]
    # XLA's CPU backend runs a scan's operations on one core, except for large matrix products.
    separately = network == "lenet" and jax.default_backend() == "cpu"
    train = functools.partial(_train, model, data, options.num_epochs, config, separately)
    _, search = train(runs)
    found = {"search": search}
    rate = study.best_rate(search, len(options.learning_rates), config.main_threshold)
    if rate is None:
        say("  diverged at every learning rate")
    else:
        params, final = train([(rate, seed) for seed in config.seeds])
        test = fit_networks.score(model, params, data["test"].images, data["test"].labels)
        final |= {"test_loss": np.asarray(test.loss), "test_accuracy": np.asarray(test.accuracy)}
        found["final"] = final
    seconds = time.perf_counter() - start
    say(f"  {format_seconds(seconds)}")
    return found | {"seconds": np.array(seconds)}


def _train(
    model: nn.Module,
    data: dict[str, Digits],
    num_epochs: float,
    config: ConfigDict,
    separately: bool,
    runs: list[curves.Run],
) -> tuple[fit_networks.Params, study.Phase]:
    """Train `runs` in one program, or `separately` in one program and on one core each."""
    groups = [[run] for run in runs] if separately else [runs]

    def train_group(group: list[curves.Run]) -> tuple[fit_networks.Params, study.Phase]:
        params, phase = _train_together(model, data, num_epochs, config, group)
        for g in range(len(group)):
            say(f"  {study.run_line(phase, g, num_epochs, config)}")
        return params, phase

    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        trained = list(pool.map(train_group, groups))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    params, phases = zip(*trained, strict=True)
    shared = {name: phases[0][name] for name in ("step", "epoch")}
    merged = jax.tree.map(lambda *parts: np.concatenate(parts), *phases)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *params), merged | shared


def _train_together(
    model: nn.Module,
    data: dict[str, Digits],
    num_epochs: float,
    config: ConfigDict,
    runs: list[curves.Run],
) -> tuple[fit_networks.Params, study.Phase]:
    rates, seeds = zip(*runs, strict=True)
    num_images, batch_size = len(data["train"].labels), config.batch_size
    steps_per_moment = max(1, round(num_images / batch_size / config.measurements_per_epoch))
    num_moments = max(1, round(num_epochs * num_images / batch_size / steps_per_moment))
    orders = {
        seed: batches.train_order(
            num_moments * steps_per_moment,
            num_images=num_images,
            batch_size=batch_size,
            seed=seed,
        ).reshape(num_moments, steps_per_moment, batch_size)
        for seed in set(seeds)
    }
    params, found = fit_networks.softmax_sgd(
        model,
        data["train"],
        data["held_out"],
        np.stack([orders[seed] for seed in seeds]).astype(np.int32),
        _start(model, data, seeds),
        np.array(rates, np.float32),
    )
    step = steps_per_moment * np.arange(1, num_moments + 1)
    found = jax.tree.map(np.asarray, found)
    phase = {
        "learning_rate": np.array(rates),
        "seed": np.array(seeds),
        "step": step,
        "epoch": step * batch_size / num_images,
        "train_loss": found.train_loss,
        "gradient_norms": found.gradient_norms,
        **found.held_out._asdict(),
    }
    return params, phase


def _start(model: nn.Module, data: dict[str, Digits], seeds: Sequence[int]) -> fit_networks.Params:
    _, height, width = data["train"].images.shape
    return fit_networks.start(model, (height, width), seeds)
