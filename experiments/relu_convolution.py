"""Milliseconds of a step of LeNet's convolutions, for two ways to convolve, in and outside a scan.

    python -m experiments.relu_convolution

Measures the two 5 x 5 convolutions of vtl.relu_study.lenet with their pools, forward and backward,
in batches of 128 random images: once by flax's nn.Conv, once as patches times a matrix. Times are
medians of interleaved repetitions, without compilation. Writes experiments/relu_convolution.csv.
"""

import argparse
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments import tables
from vtl.relu_study.lenet import PatchConvolution, max_pool

BATCH_SIZE, NUM_STEPS, LEARNING_RATE = 128, 10, 1e-3

LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "convolution": lambda channels: nn.Conv(channels, (5, 5), padding="VALID"),
    "patches": lambda channels: PatchConvolution(channels, 5, 0, nn.initializers.he_normal()),
}


class Convolutions(nn.Module):
    """[B, 28, 28, 1] -> [B, 4, 4, 32]."""

    way: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve, ReLU and pool, twice."""
        for channels in (16, 32):
            x = max_pool(nn.relu(LAYERS[self.way](channels)(x)))
        return x


def _step(model: Convolutions, params: Any, images: jax.Array) -> tuple[Any, jax.Array]:
    def loss_fn(params: Any) -> jax.Array:
        return jnp.mean(jnp.square(model.apply(params, images)))  # type: ignore[arg-type]

    loss, grads = jax.value_and_grad(loss_fn)(params)
    return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, grads), loss


def main() -> None:
    """Measure every way and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    images = jax.random.uniform(jax.random.key(0), (NUM_STEPS, BATCH_SIZE, 28, 28, 1))
    runs: dict[tuple[str, str], Callable[[], object]] = {}
    for way in LAYERS:
        model = Convolutions(way)
        params = model.init(jax.random.key(1), images[0])
        step = jax.jit(functools.partial(_step, model))
        scan = jax.jit(functools.partial(jax.lax.scan, functools.partial(_step, model)))
        runs[way, "outside"] = functools.partial(_loop, step, params, list(images))
        runs[way, "inside"] = functools.partial(scan, params, images)
    milliseconds: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for _ in range(1 + options.repetitions):
        for key, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            milliseconds[key].append(1e3 * (time.perf_counter() - start) / NUM_STEPS)
    rows = [
        {
            "way": way,
            "scan": place,
            "milliseconds_a_step": round(float(np.median(times[1:])), 1),
            "range": f"{min(times[1:]):.1f} to {max(times[1:]):.1f}",
            "cores": len(os.sched_getaffinity(0)),
            "device": jax.devices()[0].device_kind,
            "versions": f"jax {jax.__version__}",
        }
        for (way, place), times in milliseconds.items()
    ]
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)
    for row in rows:
        tables.show(row)


def _loop(step: Callable[..., Any], params: Any, images: list[jax.Array]) -> jax.Array:
    loss = jnp.zeros(())
    for batch in images:
        params, loss = step(params, batch)
    return loss


if __name__ == "__main__":
    main()
