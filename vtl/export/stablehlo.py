"""StableHLO by `jax.export`: the network as one function that JAX runs without vtl and Flax."""

from importlib import metadata

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from vtl.errors import UserError
from vtl.export import reference
from vtl.export.graph import package
from vtl.export.reference import BATCH, Outputs, Predict, joined
from vtl.untrusted import printable
from vtl.weights.sources import Weights

PLATFORMS = ("cpu", "cuda")
PROMISE = (
    "JAX promises to read it for 6 months, and versions of JAX up to 3 weeks older than this one "
    "read it, too"
)


def make(weights: Weights) -> bytes:
    """Images [b, S, S, 3] uint8, b any number -> probabilities and logits [b, C] float32.

    Raises:
        UserError: flatbuffers is not installed.
    """
    package("flatbuffers")
    side = weights.preprocessing.crop_size
    shape = jax.export.symbolic_shape(f"b, {side}, {side}, 3")
    export = jax.export.export(jax.jit(reference.function(weights)), platforms=PLATFORMS)
    with jax.default_matmul_precision("highest"):
        exported = export(jax.ShapeDtypeStruct(shape, jnp.uint8))
    return bytes(exported.serialize())


def runtime() -> str:
    """JAX with its version."""
    package("flatbuffers")
    return f"jax {metadata.version('jax')}"


def predictor(content: bytes) -> Predict:
    """What JAX computes with a file.

    Raises:
        UserError: it is no such file.
    """
    try:
        exported = jax.export.deserialize(bytearray(content))
    except Exception as error:  # of flatbuffers, of jaxlib and of jax
        raise UserError(f"JAX refuses the file: {printable(error)}") from error
    call = jax.jit(exported.call)

    def predict(images: np.ndarray) -> Outputs:
        parts = [
            Outputs(*map(np.asarray, call(images[start : start + BATCH])))
            for start in range(0, len(images), BATCH)
        ]
        return joined(parts)

    return predict
