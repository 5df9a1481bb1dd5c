"""The convolutions of ResNet-50 on a CPU, in float32 and bfloat16 beside XLA's float32, one by one.

    python -m experiments.speed.convolutions

Each convolution of the network at 224 pixels computes its output, its input's gradient and its
kernel's; that of the photos needs no input's gradient. Freed memory is kept, as in a fine-tuning,
and the ways take turns. A ratio is XLA's time over ours: above 1 ours is faster. Writes
experiments/speed/convolutions.csv.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import tables
from experiments.speed import bench
from vtl.models import ops

DTYPES = {"vtl": jnp.float32, "vtl_bfloat16": jnp.bfloat16}


class Shape(NamedTuple):
    """A convolution: the side that it sees, its channels, kernel size and stride."""

    side: int
    channels: int
    features: int
    size: int
    stride: int = 1


def shapes() -> Iterator[Shape]:
    """Those of ResNet-50 that differ, in the order of the network."""
    yield Shape(224, 3, 64, 7, 2)
    side, width = 56, 64
    yield Shape(side, width, 4 * width, 1)
    while True:
        yield Shape(side, 4 * width, width, 1)
        yield Shape(side, width, width, 3)
        yield Shape(side, width, 4 * width, 1)
        if side == 7:
            return
        yield Shape(side, 4 * width, 8 * width, 1, 2)
        yield Shape(side, 4 * width, 2 * width, 1)
        yield Shape(side, 2 * width, 2 * width, 3, 2)
        side, width = side // 2, 2 * width


def computed(convolve: bench.Way, stride: int) -> dict[str, bench.Way]:
    """What is computed -> its function of an input, a kernel and the output's gradient."""

    def way(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolve(x, kernel, stride, "torch")

    return {
        "output": lambda x, kernel, g: way(x, kernel),
        "input gradient": lambda x, kernel, g: jax.vjp(lambda x: way(x, kernel), x)[1](g),
        "kernel gradient": lambda x, kernel, g: jax.vjp(lambda k: way(x, k), kernel)[1](g),
    }


def main() -> None:
    """Measure every convolution and write the table."""
    parser = bench.option_parser(__doc__, has_image_size=False)
    options = parser.parse_args(sys.argv[1:])
    bench.check_options(parser, options)
    bench.as_in_training()
    rows, rng = [], np.random.default_rng(0)
    for shape in dict.fromkeys(shapes()):
        x = rng.normal(size=(options.batch_size, shape.side, shape.side, shape.channels))
        kernel = rng.normal(size=(shape.size, shape.size, shape.channels, shape.features))
        out = -(-shape.side // shape.stride)
        gradient = rng.normal(size=(options.batch_size, out, out, shape.features))
        ways = {"xla": (ops.convolve_by_xla, jnp.float32)}
        ways |= {name: (ops.convolve, dtype) for name, dtype in DTYPES.items()}
        for name in ("output", "input gradient", "kernel gradient"):
            if name == "input gradient" and shape.channels == 3:
                continue
            times = bench.milliseconds_in_turns(
                {
                    way: (
                        computed(convolve, shape.stride)[name],
                        [jnp.array(array, dtype) for array in (x, kernel, gradient)],
                    )
                    for way, (convolve, dtype) in ways.items()
                },
                options.repetitions,
            )
            row: tables.Row = shape._asdict() | {"computed": name}
            row |= {f"{way}_ms": round(time, 1) for way, time in times.items()}
            row |= {f"ratio_of_{way}": round(times["xla"] / times[way], 2) for way in DTYPES}
            tables.show(row)
            rows.append(row | {"batch_size": options.batch_size} | bench.machine())
        tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


if __name__ == "__main__":
    main()
