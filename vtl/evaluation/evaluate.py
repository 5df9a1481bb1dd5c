"""One full pass over a split: every image once, in split order."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from vtl.data import batches


def predict(
    eval_step: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]],
    variables: Any,
    images: np.ndarray,
    *,
    batch_size: int,
    sharding: NamedSharding,
) -> tuple[np.ndarray, np.ndarray]:
    """images [N, H, W, 3] uint8 -> scores [N, C], features [N, D], float32."""
    scores, features = [], []
    for indices, count in batches.eval_indices(len(images), batch_size):
        batch = batches.put(images[indices], sharding)
        outputs = eval_step(variables, batch)
        scores.append(np.asarray(outputs[0])[:count])
        features.append(np.asarray(outputs[1])[:count])
    return np.concatenate(scores), np.concatenate(features)
