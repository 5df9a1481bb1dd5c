"""The depthwise convolutions of EfficientNet-Lite0, ours beside XLA's, one by one.

    python -m experiments.speed.depthwise

Each convolution of the network at 224 pixels computes its output, its input's gradient and its
kernel's. Freed memory is kept, as in a fine-tuning. A ratio is XLA's time over ours: above 1 ours
is faster. Writes experiments/speed/depthwise.csv.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import tables
from experiments.speed import bench
from vtl.models import depthwise, ops
from vtl.models.efficientnet_lite import SIZES, STEM, stages_of

PADDING = "same"


def convolutions() -> Iterator[tuple[int, int, int, int]]:
    """The side, channels, kernel size and stride of each that is unlike those before it."""
    side, channels, seen = SIZES[0].image_size // 2, STEM, set()
    for stage in stages_of(0):
        for index in range(stage.blocks):
            stride = stage.stride if index == 0 else 1
            one = (side, stage.expansion * channels, stage.kernel_size, stride)
            if one not in seen:
                yield one
            seen.add(one)
            side, channels = -(-side // stride), stage.features


Way = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""Of an input, a kernel and the gradient of the output."""


def ways(size: int, stride: int) -> dict[str, tuple[Way, Way]]:
    """What is computed -> XLA's way and ours, with kernels of this size."""
    options: dict[str, Any] = {"stride": stride, "padding": PADDING}
    xla = functools.partial(ops.convolve_by_xla, stride=stride, padding=PADDING)
    return {
        "output": (
            lambda x, kernel, g: xla(x, kernel),
            lambda x, kernel, g: depthwise.by_products(x, kernel, **options),
        ),
        "input gradient": (
            lambda x, kernel, g: ops.input_gradient(xla, x, kernel, g),
            lambda x, kernel, g: depthwise.input_gradient(kernel, g, like=x, **options),
        ),
        "kernel gradient": (
            lambda x, kernel, g: ops.kernel_gradient(xla, kernel, x, g),
            lambda x, kernel, g: depthwise.kernel_gradient(x, g, size=size, **options),
        ),
    }


def main() -> None:
    """Measure every convolution and write the table."""
    parser = bench.option_parser(__doc__, has_image_size=False)
    parser.set_defaults(batch_size=32)
    options = parser.parse_args(sys.argv[1:])
    bench.check_options(parser, options)
    bench.as_in_training()
    rows, rng = [], np.random.default_rng(0)
    for side, channels, size, stride in convolutions():
        x = jnp.array(rng.normal(size=(options.batch_size, side, side, channels)), jnp.float32)
        kernel = jnp.array(rng.normal(size=(size, size, 1, channels)), jnp.float32)
        gradient = depthwise.convolve(x, kernel, stride, PADDING)
        for computed, (xla, ours) in ways(size, stride).items():
            arrays = x, kernel, gradient
            both = {"ours": (ours, arrays), "theirs": (xla, arrays)}
            times = bench.milliseconds_in_turns(both, options.repetitions)
            row: tables.Row = {
                "computed": computed,
                "side": side,
                "channels": channels,
                "kernel": size,
                "stride": stride,
                "vtl_ms": round(times["ours"], 2),
                "xla_ms": round(times["theirs"], 2),
                "ratio": round(times["theirs"] / times["ours"], 1),
            }
            tables.show(row)
            rows.append(row | {"batch_size": options.batch_size} | bench.machine())
        tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


if __name__ == "__main__":
    main()
