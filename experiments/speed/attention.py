"""The attention of ViTs beside `jax.nn.dot_product_attention`, forward and with gradients.

    python -m experiments.speed.attention

Queries, keys and values are what one block has, of networks whose weights `vtl` reads; both ways
take turns. A ratio is the time of `jax.nn.dot_product_attention` over ours: above 1 ours is faster.
Writes experiments/speed/attention.csv.
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import tables
from experiments.speed import bench
from vtl.models import vit

SIZES = {"ViT-S/16 at 224": (8, 197, 384, 6), "ViT-B/14 at 518": (1, 1370, 768, 12)}
"""Photos, tokens, width and heads of AugReg's small network and of DINOv2's at its own size."""


def theirs(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
    """What `vit.attention` computes, by JAX's function."""
    q, k, v = (t.reshape(*t.shape[:2], heads, -1) for t in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v).reshape(*q.shape[:2], -1)


def with_gradients(way: bench.Way) -> bench.Way:
    """The gradients of all three inputs, for the sum of what `way` gives."""
    return jax.grad(lambda *qkv: way(*qkv).astype(jnp.float32).sum(), argnums=(0, 1, 2))


def main() -> None:
    """Measure each size in both dtypes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    bench.as_in_training()
    rows, rng = [], np.random.default_rng(0)
    for title, (photos, tokens, width, heads) in SIZES.items():
        for dtype in ("float32", "bfloat16"):
            shape = (3, photos, tokens, width)
            qkv = tuple(jnp.array(rng.normal(size=shape), dtype))
            for computed, wrap in (("forward", lambda way: way), ("gradients", with_gradients)):
                ways = {
                    name: (wrap(functools.partial(way, heads=heads)), qkv)
                    for name, way in (("ours", vit.attention), ("theirs", theirs))
                }
                times = bench.milliseconds_in_turns(ways, options.repetitions)
                row: tables.Row = {
                    "network": title,
                    "dtype": dtype,
                    "computed": computed,
                    "vtl_ms": round(times["ours"], 1),
                    "jax_nn_ms": round(times["theirs"], 1),
                    "ratio": round(times["theirs"] / times["ours"], 2),
                }
                tables.show(row)
                rows.append(row | {"photos": photos} | bench.machine())
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


if __name__ == "__main__":
    main()
