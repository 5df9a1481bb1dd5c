"""Images a second of our steps beside those of PyTorch, Keras and ONNX Runtime, in one run.

    python -m experiments.throughput            # needs the extra `bench`; what is missing is named

Every peer does the same step on the same crops of real photos, normalised from uint8 counts, as its
users would write it (experiments/peers), in a process of its own. Repetitions are interleaved, so
that what else the machine does hits all alike; the first call, with compilation, is timed apart.
Ours keeps freed memory, as a fine-tuning does; GLIBC_TUNABLES in the environment has others do so.
A training on a GPU doesn't wait for a step before it begins the next: so with `--in-flight=10`.
With `--dtype=bfloat16` ours computes in it, and the others by autocast or their mixed precision. A
ratio is ours over theirs: above 1 ours is faster. Writes experiments/throughput.csv and .md.
"""

import argparse
import functools
import importlib
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import finetune as finetune_config
from experiments import bench, grid, workers
from vtl import records
from vtl.models.resnet import ResNet
from vtl.training import memory, optim, steps
from vtl.training.state import make_mesh, new_state, replicated
from vtl.weights.preprocessing import TORCHVISION

OURS = "vtl"
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "pytorch": ("torch_steps", {}),
    "pytorch_compile": ("torch_steps", {"compiled": True}),
    "keras": ("keras_steps", {}),
    "onnxruntime": ("onnx_steps", {}),
}
"""The module of experiments/peers that makes a peer's steps, and with what options."""

Row = dict[str, Any]


def our_makers(setting: bench.Setting) -> bench.Makers:
    """Our evaluation step, and our training step in every regime."""
    model, mesh = ResNet(bench.NUM_CLASSES, dtype=jnp.dtype(setting.dtype)), make_mesh()
    preprocessing = TORCHVISION.override(image_size=setting.image_size)
    images, labels = jnp.array(setting.images), jnp.array(setting.labels)
    batch = {"images": images, "labels": labels, "known": jnp.ones_like(labels)}
    blank = jnp.zeros((1, 64, 64, 3))
    init = jax.jit(lambda: model.init(jax.random.key(0), blank, live_norms=()))

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
    """A peer's steps, with JAX's products in `precision`; what its import raises where it fails."""
    jax.config.update("jax_default_matmul_precision", precision)
    if peer == OURS:
        memory.keep_freed_memory()
        return our_makers(setting)
    module, options = PEERS[peer]
    return importlib.import_module(f"experiments.peers.{module}").makers(setting, **options)


class Peers:
    """Who is measured: peer -> its makers; and who is not, peer -> the reason."""

    def __init__(self) -> None:
        self.makers: dict[str, bench.Makers] = {}
        self.left_out: dict[str, str] = {}

    def attempt(self, peer: str, action: Callable[[], Any]) -> Any:
        """What the action returns; None where it fails, and the peer is left out from then on."""
        try:
            return action()
        except workers.PeerError as error:
            if peer == OURS:
                raise
            self.left_out[peer] = str(error)
            self.makers.pop(peer, None)
            records.say(f"{peer} is left out: {error}")
            return None


def measure(peers: Peers, name: str, num_images: int, repetitions: int) -> list[Row]:
    """One row a peer that has the step of this name, of `num_images` a call."""
    made: dict[str, bench.Step] = {}
    first: dict[str, float] = {}
    for peer, makers in list(peers.makers.items()):
        if name in makers and (step := peers.attempt(peer, makers[name])):
            seconds = peers.attempt(peer, functools.partial(bench.seconds_of, step))
            if seconds is not None:
                made[peer], first[peer] = step, seconds
    times: dict[str, list[float]] = {peer: [] for peer in made}
    for _ in range(repetitions):
        for peer, step in made.items():
            times[peer].append(bench.seconds_of(step))
    rates = {peer: num_images / np.array(of_peer) for peer, of_peer in times.items()}
    return [row_of(name, peer, first[peer], rates) for peer in made]


def row_of(name: str, peer: str, first: float, rates: dict[str, np.ndarray]) -> Row:
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


def markdown(rows: list[Row], left_out: dict[str, str], command: str) -> str:
    """The table that people read: steps down, peers across."""
    of, peers = rows[0], list(dict.fromkeys(row["peer"] for row in rows))
    tunables = f"; GLIBC_TUNABLES={of['glibc_tunables']}" if of["glibc_tunables"] else ""

    def table(cell: Callable[[Row], str]) -> list[str]:
        cells = {(row["step"], row["peer"]): cell(row) for row in rows}
        lines = [["step", *peers], ["---"] * (1 + len(peers))]
        for name in dict.fromkeys(row["step"] for row in rows):
            lines.append([name, *(cells.get((name, peer), "-") for peer in peers)])
        return [f"| {' | '.join(line)} |" for line in lines]

    def rate(row: Row) -> str:
        ratio = "" if row["peer"] == OURS else f" ({row['ratio_to_vtl']:.2f})"
        return f"{row['images_per_second']:.1f}{ratio}"

    lines = [
        "# Images a second of a ResNet-50's steps",
        "",
        f"    {command}",
        "",
        f"{of['hardware']}, {of['cores']} cores; batches of {of['batch_size']} at "
        f"{of['image_size']} pixels; {of['dtype']}, {of['precision']}; "
        f"{of['in_flight']} in flight; {of['versions']}{tunables}; "
        f"commit {records.commit()}.",
        "",
        "Medians of interleaved repetitions; in brackets how many times as fast ours is.",
        "",
        *table(rate),
        "",
        "Seconds of the first call, with compilation:",
        "",
        *table(lambda row: f"{row['first_call_seconds']:.1f}"),
    ]
    lines += ["", *(f"- {peer} is left out: {reason}" for peer, reason in left_out.items())]
    return "\n".join(lines).rstrip() + "\n"


def read_options(arguments: list[str]) -> argparse.Namespace:
    """The command line; nonsense is refused."""
    parser = bench.option_parser(__doc__)
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated; all by default")
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
        parser.error("--in-flight must be at least 1")
    options.peers = options.peers.split(",") if options.peers else []
    for peer in options.peers:
        if peer not in PEERS:
            parser.error(f"--peers: there is no '{peer}', but {', '.join(PEERS)}")
    names = (bench.EVALUATION, *bench.REGIMES)
    try:
        options.steps = [name for name in names if re.search(options.steps, name)]
    except re.error as error:
        parser.error(f"--steps is no regular expression: {error}")
    if not options.steps:
        parser.error(f"--steps matches none of: {'; '.join(names)}")
    return options


def main() -> None:
    """Measure every step and write both tables."""
    options = read_options(sys.argv[1:])
    setting = bench.Setting(
        options.batch_size,
        options.image_size,
        options.dtype,
        tf32=options.tf32 and bench.on_gpu(),
        in_flight=options.in_flight,
    )
    command = shlex.join(["python", "-m", "experiments.throughput", *sys.argv[1:]])
    precision = "default" if options.tf32 else "highest"
    peers, packages = Peers(), set()
    for peer in (OURS, *options.peers):
        load = functools.partial(peer_makers, peer, setting, precision)
        if started := peers.attempt(peer, functools.partial(workers.start, load)):
            peers.makers[peer], imported = started
            packages.update(imported)
    rows: list[Row] = []
    for name in options.steps:
        num_images = setting.batch_size * setting.in_flight
        for row in measure(peers, name, num_images, options.repetitions):
            records.say("  ".join(f"{key} {value}" for key, value in row.items()))
            row |= setting.columns() | {"in_flight": setting.in_flight}
            rows.append(row | bench.machine(packages))
        grid.write_csv(options.out, rows)
        text = markdown(rows, peers.left_out, command)
        options.out.with_suffix(".md").write_text(text)
    records.say("\n" + text)


if __name__ == "__main__":
    main()
