"""What the benchmarks of steps share: the batch, the steps' names, the clock, the machine."""

import argparse
import ctypes
import dataclasses
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from experiments.speed import processes
from vtl.training import memory

# JAX reads this when it first uses a GPU; it would take three quarters of the peers' memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

_M_ARENA_MAX = -8  # from glibc's malloc.h

NUM_CLASSES = 20
PACKAGES = ("jax", "jaxlib", "torch", "timm", "keras", "onnxruntime", "openvino")
EVALUATION = "evaluation"
REGIMES: dict[str, tuple[str, str]] = {
    "training, everything, BatchNorm frozen": (".*", "frozen"),
    "training, everything, BatchNorm batch": (".*", "batch"),
    "training, last stage and head": (r"(layer4|fc).*", "frozen"),
    "training, head": (r"fc.*", "frozen"),
}
"""Name -> what trains, as a regex of a parameter's path, and what the BatchNorms do there."""

VIT = "vit_small_patch16_224"
"""By timm's name."""
NETWORKS = ("resnet50", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", VIT)


def as_in_training() -> None:
    """Use a CPU's memory as a training does: steps don't overlap, and what is freed is kept.

    To be called before JAX looks for devices.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    memory.keep_freed_memory()


def keep_freed_memory() -> None:
    """Give a peer, too, what `as_in_training` does about memory.

    A peer's threads share one heap, since glibc would give back what is freed on any other. To be
    called before there are threads.
    """
    memory.keep_freed_memory()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def steps_of(network: str) -> tuple[str, ...]:
    """The names of a network's steps; parts of one alone are trained of a ResNet only.

    A ViT has no BatchNorm, so that one regime says all.
    """
    whole = [name for name, (pattern, _) in REGIMES.items() if pattern == ".*"]
    trained = {"resnet50": list(REGIMES), VIT: whole[:1]}.get(network, whole)
    return (EVALUATION, *trained)


Step = Callable[[], None]
"""Takes `Setting.in_flight` steps on the batch, and returns when they are done."""
Makers = dict[str, Callable[[], Step]]
"""Name of a step -> what builds it, so that only the networks in use are in memory."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all steps of one measurement have in common."""

    batch_size: int
    image_size: int
    network: str = "resnet50"
    """One of `NETWORKS`."""
    dtype: str = "float32"
    """Of the activations: float32, or bfloat16 in the way that each framework's users have it."""
    tf32: bool = False
    """Whether a GPU rounds the factors of float32 products to TF32; a CPU never does."""
    in_flight: int = 1
    """How many steps begin, one after the other, before the clock waits for the last."""

    @property
    def images(self) -> np.ndarray:
        """Real photos [B, image_size, image_size, 3] uint8."""
        return photos(self.batch_size, self.image_size)

    @property
    def labels(self) -> np.ndarray:
        """Labels [B, NUM_CLASSES] uint8."""
        shape = (self.batch_size, NUM_CLASSES)
        return np.random.default_rng(0).integers(0, 2, shape, np.uint8)

    def columns(self) -> dict[str, object]:
        """The setting as columns of a table."""
        return {
            "network": self.network,
            "batch_size": self.batch_size,
            "image_size": self.image_size,
            "dtype": self.dtype,
            "precision": f"TF32 {'on' if self.tf32 else 'off'}",
        }


def photos(batch_size: int, size: int) -> np.ndarray:
    """Crops [batch_size, size, size, 3] uint8 of the two photos that scikit-learn ships.

    A photo that is too small for a crop is enlarged.
    """
    rng = np.random.default_rng(0)
    sources = []
    for photo in load_sample_images().images:
        height, width, _ = photo.shape
        factor = size // min(height, width) + 1
        sources.append(np.array(Image.fromarray(photo).resize((width * factor, height * factor))))
    crops = []
    for index in range(batch_size):
        photo = sources[index % len(sources)]
        top, left = (rng.integers(side - size) for side in photo.shape[:2])
        crops.append(photo[top : top + size, left : left + size])
    return np.stack(crops)


def seconds_of(step: Step) -> float:
    """The wall time of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


Way = Callable[..., Any]
"""A function of arrays."""


def milliseconds_in_turns(
    ways: Mapping[str, tuple[Way, Sequence[jax.Array]]], count: int
) -> dict[str, float]:
    """The median of `count` calls of each way with its arrays, after the first, which compiles."""

    def step_of(way: Way, arrays: Sequence[jax.Array]) -> Step:
        compiled = jax.jit(way)
        return lambda: jax.block_until_ready(compiled(*arrays))

    steps = {name: step_of(*of) for name, of in ways.items()}
    for step in steps.values():
        step()
    times = [{name: seconds_of(step) for name, step in steps.items()} for _ in range(count)]
    return {name: 1e3 * statistics.median(time[name] for time in times) for name in steps}


def option_parser(
    description: str | None, *, has_image_size: bool = True
) -> argparse.ArgumentParser:
    """A parser of the options that every benchmark of steps has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=16)
    if has_image_size:
        parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--repetitions", type=int, default=7)
    return parser


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that can't be measured."""
    for option, least in (("batch_size", 1), ("image_size", 32), ("repetitions", 1)):
        value = getattr(options, option, least)
        if value < least:
            parser.error(f"--{option.replace('_', '-')} must be at least {least}, got {value}")


def on_gpu() -> bool:
    """Whether JAX has a GPU; the peers then have to use it too."""
    return jax.default_backend() == "gpu"


def machine(packages: Collection[str] = ()) -> dict[str, object]:
    """What times depend on besides code and setting; `packages` are those of other processes."""
    imported = [name for name in PACKAGES if name in sys.modules or name in packages]
    return processes.machine(*imported) | {"hardware": hardware()}


def hardware() -> str:
    """The GPU's name, or the processor's."""
    return jax.devices()[0].device_kind if on_gpu() else processes.processor()
