"""Known files, block by block: what their own framework made of noise, to hold ours against."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtl.models.resnet import STAGES
from vtl.preprocessing import normalise
from vtl.weights import network, sources

PATH = Path(__file__).with_name("golden.json")
"""By sha256; experiments/make/golden_weights.py writes it."""
NUM_SAMPLES = 8
TOLERANCE = 1e-3
"""Of a block's standard deviation."""


def known() -> dict[str, dict[str, Any]]:
    """Every known file's name, framework and blocks, by sha256."""
    return json.loads(PATH.read_text()) if PATH.exists() else {}


def is_known(weights: sources.Weights) -> bool:
    """Whether there is something to hold this file against."""
    return weights.sha256 in known()


def origin(weights: sources.Weights) -> tuple[str, str]:
    """The name of a known file's source, and the framework that was asked."""
    entry = known()[weights.sha256]
    return entry["name"], entry["framework"]


def compare(weights: sources.Weights) -> tuple[str | None, float]:
    """The first block of a known file beyond `TOLERANCE`, None if all are within; the worst error.

    Of each block's output the mean, the standard deviation and some activations are compared.
    """
    recorded, found = known()[weights.sha256]["blocks"], block_statistics(weights)
    errors = {
        name: max(abs(f - r) for f, r in zip(found[name], blocks, strict=True)) / blocks[1]
        for name, blocks in recorded.items()
    }
    wrong = next((name for name, error in errors.items() if not error <= TOLERANCE), None)
    return wrong, max(errors.values())


def noise(size: int) -> np.ndarray:
    """The one picture that is the same on every machine, uint8 [1, size, size, 3]."""
    return np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)


def positions(count: int) -> np.ndarray:
    """Where the `count` activations of a block are looked at."""
    return np.linspace(0, count - 1, NUM_SAMPLES).astype(int)


def block_statistics(weights: sources.Weights) -> dict[str, list[float]]:
    """Block -> mean, standard deviation and `NUM_SAMPLES` activations of its output on noise."""
    model, variables = network.as_published(weights)

    @jax.jit
    def run(variables: dict[str, Any], images: jax.Array) -> dict[str, Any]:
        logits, outputs = model.apply(variables, images, norms_by_batch=())
        blocks = {name: output for name, output in outputs.items() if name not in STAGES}
        return {
            name: jnp.stack([jnp.mean(x), jnp.std(x), *x.ravel()[positions(x.size)]])
            for name, x in (blocks | {"logits": logits}).items()
        }

    images = normalise(noise(weights.preprocessing.crop_size), weights.preprocessing)
    with jax.default_matmul_precision("highest"):
        return {name: np.asarray(of).tolist() for name, of in run(variables, images).items()}
