"""How far float32 rounds in Winograd's convolution, and in a network that uses it.

    python -m experiments.rounding --weights=FILE

Alone: a 3x3 convolution of 256 channels by F(4x4, 3x3) at the usual points and at vtl's, and as a
plain sum, in NumPy's float32, from the same in float64. In a network: the features of a ResNet-50
as vtl computes them, as it would by XLA's own convolutions, and as PyTorch does, from PyTorch's in
float64, on crops of two photos and on noise. The figure is the largest difference over the largest
value. This needs the extra `parity`. Writes experiments/rounding.csv.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import torch

from experiments import tables
from experiments.speed import bench
from tests.references.torch_resnet import TorchResNet
from vtl.export import torch_file
from vtl.models import winograd
from vtl.weights import network, sources

NUM_CHANNELS, NUM_TILES, NUM_IMAGES, SIDE = 256, 64, 32, 224
USUAL_POINTS = (0, 1, -1, 2, -2)
Features = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Measure both, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True)
    options = parser.parse_args()
    rows: list[tables.Row] = [
        {"measured": "a convolution", "on": "noise", "way": way, "difference": f"{difference:.1e}"}
        for way, difference in of_points().items()
    ]
    weights = sources.load(options.weights)
    mean, std = torch_file.mean_and_std(weights.preprocessing)
    crops = bench.photos(NUM_IMAGES, SIDE) / 255
    noise = np.random.default_rng(0).normal(size=crops.shape)
    for name, images in {"photos": (crops - mean) / std, "noise": noise}.items():
        images = images.astype(np.float32)
        exact = by_pytorch(weights, torch.float64)(images)
        with mock.patch.object(winograd, "is_faster", return_value=False):
            found = {"XLA's convolutions": by_vtl(weights)(images)}
        found |= {
            "vtl": by_vtl(weights)(images),
            "PyTorch": by_pytorch(weights, torch.float32)(images),
        }
        for way, features in found.items():
            difference = f"{relative(features, exact):.1e}"
            rows.append({"measured": "features", "on": name, "way": way, "difference": difference})
    for row in rows:
        tables.show(row)
    machine = bench.machine(("jax", "jaxlib", "torch"))
    tables.write_csv(Path(__file__).with_suffix(".csv"), [row | machine for row in rows])


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    """The largest difference over the largest value."""
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def of_points() -> dict[str, float]:
    """The points, or `a sum` -> how far a convolution in float32 is from float64."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(6, 6, NUM_TILES, NUM_CHANNELS)), 0).astype(np.float32)
    kernel = rng.normal(size=(3, 3, NUM_CHANNELS, NUM_CHANNELS)).astype(np.float32)

    def summed(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        met = [x[i : i + 4, j : j + 4] @ kernel[i, j] for i in range(3) for j in range(3)]
        return np.sum(met, axis=0)

    exact = summed(x.astype(np.float64), kernel.astype(np.float64))
    found = {"a sum": relative(summed(x, kernel), exact)}
    ways = {
        "0, ±1, ±2": transforms(USUAL_POINTS),
        "0, ±√½, ±√2": (winograd.OF_PRODUCTS, winograd.OF_KERNEL, winograd.OF_INPUT),
    }
    for name, matrices in ways.items():
        of_output, of_kernel, of_input = (matrix.astype(np.float32) for matrix in matrices)
        products = both(of_input, x) @ both(of_kernel, kernel)
        found[name] = relative(both(of_output, products), exact)
    return found


def both(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The first two axes of x, transformed."""
    return np.einsum("ai,bj,ij...->ab...", matrix, matrix, x, optimize=True)


def transforms(points: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the output, the kernel and the input, at five points and infinity (Lavin & Gray 2016)."""
    others = [[q for q in points if q != p] for p in points]
    scales = [math.prod(p - q for q in rest) for p, rest in zip(points, others, strict=True)]
    of_output = np.array([[p**n for p in points] + [float(n == 3)] for n in range(4)])
    of_kernel = np.array(
        [[p**n / scale for n in range(3)] for p, scale in zip(points, scales, strict=True)]
        + [[0, 0, 1]]
    )
    of_input = np.zeros((6, 6))
    for row, rest in enumerate(others):
        of_input[row, :5] = np.poly(rest)[::-1]
    of_input[5] = np.poly(points)[::-1]
    return of_output, of_kernel, of_input


def by_vtl(weights: sources.Weights) -> Features:
    """Normalised images [B, H, W, 3] -> features [B, C]."""
    jax.clear_caches()  # of convolutions that were traced in the other way
    model, variables = network.as_published(weights)

    @jax.jit
    def features(images: jax.Array) -> jax.Array:
        return model.apply(variables, images, norms_by_batch=())[1]["features"]

    return lambda images: np.asarray(features(images))


def by_pytorch(weights: sources.Weights, dtype: torch.dtype) -> Features:
    """As `by_vtl`, in PyTorch."""
    tensors = {name: torch.tensor(a) for name, a in torch_file.tensors(weights).items()}
    reference = TorchResNet(50)
    reference.load_state_dict(tensors)
    reference.fc = torch.nn.Identity()
    reference.eval().to(dtype)

    def features(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return reference(torch.tensor(images).permute(0, 3, 1, 2).to(dtype)).numpy()

    return features


if __name__ == "__main__":
    main()
