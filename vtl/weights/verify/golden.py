"""Known files, block by block: our outputs on noise against their own framework's."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtl.preprocessing import normalise
from vtl.weights import network, sources

PATH = Path(__file__).with_name("golden.json")
"""The recorded blocks by the file's sha256; experiments/make/golden_weights.py writes it."""
NUM_SAMPLES = 8
TOLERANCE = 1e-3
"""The largest error allowed, as a share of a block's standard deviation."""


def known() -> dict[str, dict[str, Any]]:
    """Every known file's name, framework and blocks, by sha256."""
    return json.loads(PATH.read_text()) if PATH.exists() else {}


def is_known(weights: sources.Weights) -> bool:
    """Whether this file's blocks are recorded."""
    return weights.sha256 in known()


def origin(weights: sources.Weights) -> tuple[str, str]:
    """The name of a known file's source, and the framework whose outputs are recorded."""
    entry = known()[weights.sha256]
    return entry["name"], entry["framework"]


def compare(weights: sources.Weights) -> tuple[str | None, float]:
    """The first block of a known file beyond `TOLERANCE`, or None, and the worst error of all.

    Compares the mean, the standard deviation and some activations of each block's output.
    """
    recorded, measured = known()[weights.sha256]["blocks"], block_statistics(weights)
    errors = {}
    for name, theirs in recorded.items():
        differences = np.abs(np.subtract(measured[name], theirs))
        errors[name] = float(np.max(differences) / theirs[1])
    wrong = next((name for name, error in errors.items() if not error <= TOLERANCE), None)
    return wrong, max(errors.values())


def noise(size: int) -> np.ndarray:
    """A picture that is the same on every machine, uint8 [1, size, size, 3]."""
    return np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)


def positions(count: int) -> np.ndarray:
    """Which of a block's `count` activations are compared."""
    return np.linspace(0, count - 1, NUM_SAMPLES).astype(int)


def block_statistics(weights: sources.Weights) -> dict[str, list[float]]:
    """Block -> mean, standard deviation and `NUM_SAMPLES` activations of its output on noise."""
    model, variables = network.as_published(weights)

    @jax.jit
    def run(variables: dict[str, Any], images: jax.Array) -> dict[str, Any]:
        logits, outputs = model.apply(variables, images, norms_by_batch=())
        others = (*weights.architecture.stages, "seen")
        blocks = {name: output for name, output in outputs.items() if name not in others}
        return {
            name: jnp.stack([jnp.mean(x), jnp.std(x), *x.ravel()[positions(x.size)]])
            for name, x in (blocks | {"logits": logits}).items()
        }

    images = normalise(noise(weights.preprocessing.crop_size), weights.preprocessing)
    with jax.default_matmul_precision("highest"):
        statistics = run(variables, images)
    return {name: np.asarray(values).tolist() for name, values in statistics.items()}
