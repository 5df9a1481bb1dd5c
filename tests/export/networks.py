"""Small networks with nothing left at its default, so that a slip of the exporters shows."""

import dataclasses

import jax
import numpy as np
from flax import traverse_util

from vtl.decisions import Decisions
from vtl.models.resnet import EPSILON, Architecture, ResNet
from vtl.preprocessing import TORCHVISION, Preprocessing
from vtl.weights import sources

NUM_CLASSES = 5
CLASSES = ("cat", "dog|wolf", "emu", "`ox`", "<b>")
SIDE = 72
"""The last stage has 3 x 3 points, after halves that were rounded up."""

PIXELS = dataclasses.replace(TORCHVISION, resize_size=80, crop_size=SIDE)
DECISIONS = Decisions(
    slopes=(2.0, 0.5, 1.0, 3.0, 0.7),
    intercepts=(0.3, -1.0, 0.0, 0.5, 2.0),
    thresholds=(0.4, 0.5, 0.6, 0.3, 0.2),
    rule="f1",
    chosen_on="200 photos of val",
)


def save(
    path,
    *,
    depth: int = 18,
    width: float = 0.125,
    variant: str = "v1.5",
    preprocessing: Preprocessing = PIXELS,
    multi_label: bool = True,
    decisions: Decisions | None = None,
    **head,
):
    """A random network with BatchNorm statistics of its own, as a file; returns the path."""
    architecture = Architecture(
        depth, width, variant, EPSILON[variant], num_classes=NUM_CLASSES, **head
    )
    model = ResNet(**dataclasses.asdict(architecture))
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, 3)), norms_by_batch=())
    )
    rng = np.random.default_rng(0)

    def fill(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        *_, name = path
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return rng.normal(0, np.sqrt(2 / fan_in), leaf.shape).astype(np.float32)
        low, high = {"scale": (0.3, 0.9), "var": (0.5, 2)}.get(name, (-0.3, 0.3))
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    variables = traverse_util.path_aware_map(fill, shapes)
    sources.save(
        path,
        variables,
        architecture,
        preprocessing,
        CLASSES,
        multi_label=multi_label,
        decisions=decisions,
    )
    return path


def load(path, **options) -> sources.Weights:
    """That network, read back from its file."""
    return sources.load(str(save(path, **options)))


def photos(count: int = 3, side: int = SIDE) -> np.ndarray:
    """Pictures of random squares, uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(1)
    coarse = (
        rng.integers(0, 256, (count, 9, 9, 3)).repeat(-(-side // 9), 1).repeat(-(-side // 9), 2)
    )
    return coarse[:, :side, :side].astype(np.uint8)
