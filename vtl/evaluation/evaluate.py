"""One full pass over a split: every image once, in split order."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from vtl.data import batches


def predict(
    step: Callable[[Any, jax.Array], tuple[jax.Array, ...]],
    variables: Any,
    images: batches.Images,
    *,
    batch_size: int,
    sharding: NamedSharding,
) -> tuple[np.ndarray, ...]:
    """The outputs [N, ...] of `step` for images [N, H, W, 3] uint8.

    `step` is for instance an eval step, which gives logits [N, C].
    """
    outputs = []
    for batch, count in batches.eval_batches(images, batch_size, sharding):
        outputs.append([np.asarray(output)[:count] for output in step(variables, batch)])
    return tuple(np.concatenate(parts) for parts in zip(*outputs, strict=True))
