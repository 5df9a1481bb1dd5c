"""Exercise 0: activations compared on a perceptron and a convolutional network."""

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
from absl import logging
from flax import linen as nn
from flax import traverse_util
from ml_collections import ConfigDict

from vtl.console import format_seconds, say
from vtl.data import batches
from vtl.errors import UserError, check_choice, check_least
from vtl.evaluation import outcome
from vtl.files import set_aside, write_npz
from vtl.relu_study import activations, conclusion, figures, mnist, study
from vtl.relu_study.lenet import LeNet
from vtl.relu_study.mlp import Perceptron
from vtl.relu_study.mnist import Digits
from vtl.run_directory import RunDirectory
from vtl.schema import of_file
from vtl.training import fit_networks
from vtl.untrusted import printable, read_npz

NETWORKS = ("perceptron", "lenet")

_MAX_CURVES_BYTES = 1 << 30
"""Of one network's curves with one activation: with dozens of runs they take a megabyte."""

Run = tuple[float, int]
"""A learning rate and a seed."""


def run(config: ConfigDict, workdir: Path) -> None:
    """Train every network with every activation and leave the outcome in `workdir`.

    A second call in the same directory keeps the networks' activations that are finished.

    Raises:
        UserError: data, options or `workdir` are not as they should be.
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
    say(study.definitions(config))
    curves: dict[tuple[str, str], study.Curves] = {}
    for number, ((network, activation), model) in enumerate(models.items(), start=1):
        path = workdir / f"curves_{network}_{activation}.npz"
        titles = conclusion.NETWORK_TITLES[network], conclusion.title(activation)
        say(f"{', '.join(titles)} ({number} of {len(models)})")
        if not _is_done(path, network, activation, config):
            _save(path, _measure(network, model, data, config))
        curves[network, activation] = _load(path)
        run_directory.append_metrics(study.metric_lines(network, activation, _load(path)))
    results = study.results(curves, config)
    figures.write(workdir, curves, results, config)
    run_directory.write_results(
        {
            **results,
            "trainable_parameters": {
                network: sum(x.size for x in jax.tree.leaves(_start(model, data, (0,))))
                for (network, _), model in models.items()
            },
            "seconds": {"_".join(pair): float(found["seconds"]) for pair, found in curves.items()},
            "data": mnist.describe(config.data.name, data),
        }
    )
    say()
    say(_format_outcome(run_directory, run_directory.read_results()))


def _format_outcome(run_directory: RunDirectory, results: dict[str, Any]) -> str:
    del run_directory
    return conclusion.format_outcome(results)


def _content(data: dict[str, Digits]) -> dict[str, Any]:
    """What the run is made of, by hash."""
    hashes = mnist.describe("", data)["sha256"]
    return {"data": {role: {"digits": sha256} for role, sha256 in hashes.items()}}


def _content_by_path(config: ConfigDict) -> dict[str, Any]:
    """`_content`, where a path says where the digits lie."""
    if not config.data.root:
        return {}
    return _content(_split(mnist.read(config.data.name, config.data.root), config))


def _check_options(config: ConfigDict) -> None:
    for network in config.networks:
        check_choice("networks", network, NETWORKS)
    for activation in config.activations:
        check_choice("activations", activation, activations.NAMES)
    if config.dense_activation:
        check_choice("dense_activation", config.dense_activation, activations.NAMES)
    check_choice("initialisation", config.initialisation, activations.INITIALISATIONS)
    lists = ["networks", "activations", "seeds", "rate_seeds", "thresholds"]
    for option in lists + [f"{network}.learning_rates" for network in NETWORKS]:
        values = _option(config, option)
        if not values:
            raise UserError(f"{option} must not be empty")
        if len(set(values)) < len(values):
            raise UserError(f"{option}={values} names something twice")
    for network in NETWORKS:
        for rate in config[network].learning_rates:
            if not 0 < rate < float("inf"):
                raise UserError(f"{network}.learning_rates has {rate}: a rate is above 0")
        if not 0 < config[network].num_epochs < float("inf"):
            raise UserError(
                f"{network}.num_epochs={config[network].num_epochs}: it must be above 0"
            )
    for threshold in config.thresholds:
        if not 0 < threshold <= 1:
            raise UserError(f"thresholds has {threshold}: a threshold is a share, such as 0.97")
    if config.main_threshold not in config.thresholds:
        raise UserError(f"main_threshold={config.main_threshold}: it must be one of thresholds")
    check_least(config, {"batch_size": 1, "measurements_per_epoch": 1, "loss_tolerance": 0})
    check_least(config, {"num_resamples": 1, "data.num_held_out": 1, "seed": 0})
    check_least(config, {"perceptron.num_hidden": 1, "lenet.num_hidden": 1})
    check_least(config, {"lenet.kernel_size": 1, "lenet.padding": 0})
    if min(*config.seeds, *config.rate_seeds) < 0:
        raise UserError("seeds and rate_seeds must not be negative")


def _option(config: ConfigDict, name: str) -> Any:
    return operator.attrgetter(name)(config)


def make_model(network: str, activation: str, config: ConfigDict) -> nn.Module:
    """The network, one of NETWORKS, with an activation in its hidden layers."""
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
    """train, held_out and test; what is held out is drawn from train by config.seed."""
    train, num_held_out = splits["train"], config.data.num_held_out
    if num_held_out >= len(train.labels):
        raise UserError(
            f"data.num_held_out={num_held_out}: of the {len(train.labels)} digits to train on none "
            "would be left"
        )
    order = np.random.default_rng(config.seed).permutation(len(train.labels))
    parts = {"train": order[num_held_out:], "held_out": order[:num_held_out]}
    found = {role: Digits(train.images[rows], train.labels[rows]) for role, rows in parts.items()}
    return found | {"test": splits["test"]}


def _check_sizes(image_shape: tuple[int, ...], config: ConfigDict) -> None:
    """The network's pools halve what a convolution leaves, which must be even."""
    size, padding = config.lenet.kernel_size, config.lenet.padding
    for side in image_shape:
        for _ in range(2):
            side += 2 * padding - size + 1
            if side < 2 or side % 2:
                raise UserError(
                    f"images of {' x '.join(map(str, image_shape))} pixels don't fit "
                    f"lenet.kernel_size={size} with lenet.padding={padding}: each convolution must "
                    "leave an even number of pixels"
                )
            side //= 2


def _measure(
    network: str, model: nn.Module, data: dict[str, Digits], config: ConfigDict
) -> study.Curves:
    """The curves of every rate of the grid, then of the best rate with every seed."""
    started = time.perf_counter()
    options = config[network]
    # XLA's CPU backend runs what stands in a scan on one core, but for large matrix products.
    is_alone = network == "lenet" and jax.default_backend() == "cpu"
    train = functools.partial(_train, model, data, options.num_epochs, config, is_alone)
    _, search = train(list(itertools.product(options.learning_rates, config.rate_seeds)))
    found = {"search": search}
    rate = study.best_rate(search, len(options.learning_rates), config.main_threshold)
    if rate is None:
        say("  diverged at every learning rate")
    else:
        params, final = train([(rate, seed) for seed in config.seeds])
        test = fit_networks.score(model, params, *data["test"])
        final |= {"test_loss": np.asarray(test.loss), "test_accuracy": np.asarray(test.accuracy)}
        found["final"] = final
    seconds = time.perf_counter() - started
    say(f"  {format_seconds(seconds)}")
    return found | {"seconds": np.array(seconds)}


def _train(
    model: nn.Module,
    data: dict[str, Digits],
    num_epochs: float,
    config: ConfigDict,
    is_alone: bool,
    runs: list[Run],
) -> tuple[fit_networks.Params, study.Phase]:
    """Train `runs`, all in one program or, where each `is_alone`, one program and core for each."""
    groups = [[run] for run in runs] if is_alone else [runs]

    def train_group(group: list[Run]) -> tuple[fit_networks.Params, study.Phase]:
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
    runs: list[Run],
) -> tuple[fit_networks.Params, study.Phase]:
    rates, seeds = zip(*runs, strict=True)
    num_images, batch_size = len(data["train"].labels), config.batch_size
    steps = max(1, round(num_images / batch_size / config.measurements_per_epoch))
    moments = max(1, round(num_epochs * num_images / batch_size / steps))
    orders = {
        seed: batches.train_order(
            moments * steps, num_images=num_images, batch_size=batch_size, seed=seed
        ).reshape(moments, steps, batch_size)
        for seed in set(seeds)
    }
    params, curves = fit_networks.softmax_sgd(
        model,
        data["train"],
        data["held_out"],
        np.stack([orders[seed] for seed in seeds]).astype(np.int32),
        _start(model, data, seeds),
        np.array(rates, np.float32),
    )
    step = steps * np.arange(1, moments + 1)
    curves = jax.tree.map(np.asarray, curves)
    phase = {
        "learning_rate": np.array(rates),
        "seed": np.array(seeds),
        "step": step,
        "epoch": step * batch_size / num_images,
        "train_loss": curves.train_loss,
        "gradient_norms": curves.gradient_norms,
        **curves.held_out._asdict(),
    }
    return params, phase


def _start(model: nn.Module, data: dict[str, Digits], seeds: Sequence[int]) -> fit_networks.Params:
    _, height, width = data["train"].images.shape
    return fit_networks.start(model, (height, width), seeds)


def _save(path: Path, found: study.Curves) -> None:
    """Write one network's curves with one activation."""
    write_npz(path, traverse_util.flatten_dict(found, sep="/"))


def _is_done(path: Path, network: str, activation: str, config: ConfigDict) -> bool:
    """Whether the curves of an earlier start are there; damaged ones are set aside, and said."""
    if not os.path.lexists(path):
        return False
    try:
        with of_file(path):
            found = _load(path)
            search = found["search"]
            runs = list(zip(search["learning_rate"].tolist(), search["seed"].tolist(), strict=True))
            if runs != list(itertools.product(config[network].learning_rates, config.rate_seeds)):
                raise UserError("it holds other runs than the config asks for")
            study.metric_lines(network, activation, found)
            float(found["seconds"])
    except UserError as error:
        aside = set_aside(path, path.name, path.parent)
        logging.warning("%s: measured again; it is set aside as %s", error, printable(aside))
        return False
    return True


def _load(path: Path) -> study.Curves:
    arrays = read_npz(path, max_bytes=_MAX_CURVES_BYTES, inside=path.parent)
    found = traverse_util.unflatten_dict(arrays, sep="/")
    for phase in ("search", "final"):
        if phase in found:
            found[phase] = {"saturated": {}, "dead": {}} | found[phase]
    return found
