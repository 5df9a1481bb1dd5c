"""Images a second of our steps beside those of PyTorch, Keras and others, in one run.

    python -m experiments.speed.throughput

This needs the extra `bench`; a peer that is missing is named and left out. Every peer does the same
step on the same crops of real photos, normalised from uint8 counts, as its users would write it
(experiments/speed/peers), in a process of its own for each step. Repetitions are interleaved, so
that whatever else the machine does slows all alike. The first call, which compiles, is timed by
itself. Ours keeps freed memory, as a fine-tuning does, and so does every peer, whose users don't.
A training on a GPU does not wait for a step before it begins the next: measure that with
`--in-flight=10`. With `--dtype=bfloat16` ours computes in it, and the others by autocast or their
mixed precision; what ends in `_float32`, such as vtl_float32, doesn't. With
`--network=efficientnet_lite0` (a batch of 32 is what users take) or vit_small_patch16_224 the peer
is timm in PyTorch. A ratio is our rate over theirs: above 1 ours is faster. Writes
experiments/speed/throughput.csv.
"""

import argparse
import dataclasses
import functools
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from configs import finetune as finetune_config
from experiments import tables
from experiments.speed import bench, workers
from vtl import console
from vtl.models import vit
from vtl.models.efficientnet_lite import EfficientNetLite
from vtl.models.resnet import ResNet
from vtl.preprocessing import TORCHVISION
from vtl.training import optim, steps
from vtl.training.state import make_mesh, new_state, replicated
from vtl.weights import network

OURS = "vtl"
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "pytorch": ("torch_steps", {}),
    "pytorch_compile": ("torch_steps", {"compiled": True}),
    "keras": ("keras_steps", {}),
    "onnxruntime": ("onnx_steps", {}),
    "openvino": ("openvino_steps", {}),
}
"""Peer -> the module of experiments/speed/peers that makes its steps, and its options."""
OF_ANY_NETWORK = ("pytorch", "pytorch_compile")
"""The peers that have more than the ResNet-50."""
IN_FLOAT32 = "_float32"
"""A peer whose name ends so computes in float32, whatever the others do; ours may be one."""


def network_of(setting: bench.Setting) -> nn.Module:
    """Our network of a setting."""
    dtype = jnp.dtype(setting.dtype)
    if setting.network == "resnet50":
        return ResNet(bench.NUM_CLASSES, dtype=dtype)
    if setting.network == bench.VIT:
        small = vit.Architecture(
            num_classes=bench.NUM_CLASSES,
            pooling="token",
            width=384,
            depth=12,
            heads=6,
            patch=16,
            mlp_width=1536,
            grid=14,
        )
        return small.module(dtype)
    return EfficientNetLite(bench.NUM_CLASSES, size=int(setting.network[-1]), dtype=dtype)


def our_makers(setting: bench.Setting) -> bench.Makers:
    """Our evaluation step, and our training step in every regime."""
    model, mesh = network_of(setting), make_mesh()
    preprocessing = TORCHVISION.override(image_size=setting.image_size)
    images, labels = jnp.array(setting.images), jnp.array(setting.labels)
    batch = {"images": images, "labels": labels, "label_mask": jnp.ones_like(labels)}
    init = jax.jit(lambda: network.initialise(model, 0))

    def evaluation() -> bench.Step:
        variables = jax.device_put(init(), replicated(mesh))
        eval_step = steps.make_eval_step(model, preprocessing, mesh)

        def step() -> None:
            for _ in range(setting.in_flight):
                outputs = eval_step(variables, images)
            jax.block_until_ready(outputs)

        return step

    def training(pattern: str, batch_norm: str) -> bench.Step:
        variables = init()
        rules: optim.Rules = ((pattern, 1.0), (".*", None))[: 1 if pattern == ".*" else 2]
        multipliers = optim.resolve_rules(rules, variables["params"])
        config = finetune_config.get_config().optim
        optimizer = optim.make_optimizer(config, lambda step: 1e-3, multipliers)
        train_step = steps.make_train_step(
            model,
            optimizer,
            multipliers,
            batch_norm=batch_norm,
            preprocessing=preprocessing,
            augmentation="none",
            seed=0,
            mesh=mesh,
        )
        state = jax.device_put(new_state(variables, optimizer), replicated(mesh))

        def step() -> None:
            nonlocal state
            for _ in range(setting.in_flight):
                state, metrics = train_step(state, batch)
            jax.block_until_ready((state, metrics))

        return step

    regimes = {name: functools.partial(training, *of) for name, of in bench.REGIMES.items()}
    return {bench.EVALUATION: evaluation, **regimes}


def peer_makers(peer: str, setting: bench.Setting, precision: str) -> bench.Makers:
    """A peer's steps, with JAX's products in `precision`; raises what a failed import raises."""
    jax.config.update("jax_default_matmul_precision", precision)
    setting = setting_of(peer, setting)
    peer = peer.removesuffix(IN_FLOAT32)
    if peer == OURS:
        bench.as_in_training()
        return our_makers(setting)
    bench.keep_freed_memory()
    module, options = PEERS[peer]
    return importlib.import_module(f"experiments.speed.peers.{module}").makers(setting, **options)


def setting_of(peer: str, setting: bench.Setting) -> bench.Setting:
    """The setting that a peer computes in."""
    return dataclasses.replace(setting, dtype="float32") if peer.endswith(IN_FLOAT32) else setting


def attempt(makers_by_peer: dict[str, bench.Makers], peer: str, action: Callable[[], Any]) -> Any:
    """What the action returns; None where it fails, and the peer is left out from then on.

    A failure of ours is raised.
    """
    try:
        return action()
    except workers.PeerError as error:
        if peer == OURS:
            raise
        makers_by_peer.pop(peer, None)
        console.say(f"{peer} is left out: {error}")
        return None


def measure(
    makers_by_peer: dict[str, bench.Makers], name: str, num_images: int, repetitions: int
) -> list[tables.Row]:
    """One row for each peer that has the step of this name; a call takes `num_images`."""
    made: dict[str, bench.Step] = {}
    first: dict[str, float] = {}
    for peer, makers in list(makers_by_peer.items()):
        if name in makers and (step := attempt(makers_by_peer, peer, makers[name])):
            seconds = attempt(makers_by_peer, peer, functools.partial(bench.seconds_of, step))
            if seconds is not None:
                made[peer], first[peer] = step, seconds
    times: dict[str, list[float]] = {peer: [] for peer in made}
    for _ in range(repetitions):
        for peer, step in made.items():
            times[peer].append(bench.seconds_of(step))
    rates = {peer: num_images / np.array(seconds) for peer, seconds in times.items()}
    return [row_of(name, peer, first[peer], rates) for peer in made]


def row_of(name: str, peer: str, first: float, rates: dict[str, np.ndarray]) -> tables.Row:
    """A peer's row for one step, from each peer's images a second [repetitions]."""
    rate = rates[peer]
    return {
        "step": name,
        "peer": peer,
        "images_per_second": round(float(np.median(rate)), 2),
        "range": f"{rate.min():.2f} to {rate.max():.2f}",
        "first_call_seconds": round(first, 2),
        "ratio_to_vtl": round(float(np.median(rates[OURS]) / np.median(rate)), 2),
    }


def read_options(arguments: list[str]) -> argparse.Namespace:
    """The command line, checked."""
    parser = bench.option_parser(__doc__)
    parser.add_argument("--network", default="resnet50", choices=bench.NETWORKS)
    parser.add_argument("--peers", help="comma-separated; all that have the network by default")
    parser.add_argument("--steps", default="", help="regex found in a step's name")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--in-flight", type=int, default=1, help="steps begun before one is awaited"
    )
    parser.add_argument("--tf32", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args(arguments)
    bench.check_options(parser, options)
    if options.in_flight < 1:
        parser.error(f"--in-flight must be at least 1, got {options.in_flight}")
    known = [peer for peer in PEERS if options.network == "resnet50" or peer in OF_ANY_NETWORK]
    in_float32 = [f"{peer}{IN_FLOAT32}" for peer in (OURS, *known)]
    if options.peers is None:
        options.peers = known
    else:
        options.peers = options.peers.split(",") if options.peers else []
    for peer in options.peers:
        if peer not in (*known, *in_float32):
            parser.error(f"--peers must be among {', '.join(known)}, got '{peer}'")
    names = bench.steps_of(options.network)
    try:
        options.steps = [name for name in names if re.search(options.steps, name)]
    except re.error as error:
        parser.error(f"--steps must be a regular expression: {error}")
    if not options.steps:
        parser.error(f"--steps must match at least one of: {'; '.join(names)}")
    return options


def main() -> None:
    """Measure every step and write the table."""
    options = read_options(sys.argv[1:])
    setting = bench.Setting(
        options.batch_size,
        options.image_size,
        options.network,
        options.dtype,
        tf32=options.tf32 and bench.on_gpu(),
        in_flight=options.in_flight,
    )
    precision = "default" if options.tf32 else "highest"
    peers: list[str] = [OURS, *options.peers]
    packages: set[str] = set()
    rows: list[tables.Row] = []
    for name in options.steps:
        makers_by_peer: dict[str, bench.Makers] = {}
        for peer in peers:
            load = functools.partial(peer_makers, peer, setting, precision)
            if started := attempt(makers_by_peer, peer, functools.partial(workers.start, load)):
                makers_by_peer[peer], imported = started
                packages.update(imported)
        num_images = setting.batch_size * setting.in_flight
        measured = measure(makers_by_peer, name, num_images, options.repetitions)
        peers = list(makers_by_peer)
        for row in measured:
            tables.show(row)
            own = setting_of(row["peer"], setting)
            row |= own.columns() | {"in_flight": setting.in_flight}
            rows.append(row | bench.machine(packages))
        tables.write_csv(options.out, rows)


if __name__ == "__main__":
    main()
