"""A network small enough for every test to run it."""

import dataclasses
import functools
import tempfile
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util

from vtl.models.resnet import EPSILON, Architecture, ResNet
from vtl.preprocessing import TORCHVISION
from vtl.weights import sources


def write_weights(path: Path) -> Path:
    """A random ResNet-18 of an eighth of the width, with a head of seven other classes."""
    path.write_bytes(_file())
    return path


@functools.cache
def _file() -> bytes:
    """Made once a process: tests ask for it dozens of times."""
    architecture = Architecture(18, 0.125, "v1.5", EPSILON["v1.5"], num_classes=7)
    model = ResNet(**dataclasses.asdict(architecture))
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, 3)), norms_by_batch=())
    )
    rng = np.random.default_rng(0)

    def fill(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        *_, module, name = path
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return rng.normal(0, np.sqrt(2 / fan_in), leaf.shape).astype(np.float32)
        # Small branches keep the activations of a network that was never normalised in bounds.
        value = {"scale": 0.3 if module == "bn2" else 1.0, "var": 1.0}.get(name, 0.0)
        return np.full(leaf.shape, value, np.float32)

    variables = traverse_util.path_aware_map(fill, shapes)
    classes = tuple(f"other {i}" for i in range(7))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tiny.safetensors"
        sources.save(path, variables, architecture, TORCHVISION, classes, multi_label=True)
        return path.read_bytes()
