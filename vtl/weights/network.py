"""A network for somebody's classes: its model, and the variables that it starts from."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtl.errors import UserError
from vtl.models.resnet import DEPTHS, EPSILON, ResNet
from vtl.weights import convert, sources

HEADS = ("probe", "zeros", "random", "keep")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def architecture_for(
    weights: sources.Weights | None, *, depth: int, width: float, num_classes: int
) -> convert.Architecture:
    """The architecture of `weights` with a head of `num_classes`; v1.5 where there are none.

    Raises:
        UserError: there is no such depth, or `weights` are not of this depth and width.
    """
    if depth not in DEPTHS:
        raise UserError(f"model.depth={depth}: choose one of {', '.join(map(str, DEPTHS))}")
    if weights is None:
        return convert.Architecture(depth, width, "v1.5", EPSILON["v1.5"], num_classes)
    own = weights.architecture
    if (own.depth, own.width) != (depth, width):
        raise UserError(
            f"{weights.path} holds a ResNet-{own.depth} of width {own.width:g}, the config asks "
            f"for model.depth={depth} and model.width={width:g}"
        )
    return dataclasses.replace(own, num_classes=num_classes)


def make_model(architecture: convert.Architecture, dtype: str = "float32") -> ResNet:
    """The module of an architecture, with activations in `dtype`, a name in `DTYPES`."""
    return ResNet(**dataclasses.asdict(architecture), dtype=DTYPES[dtype])


def initialise(model: ResNet, seed: int) -> Any:
    """Random variables {params, batch_stats}."""
    return model.init(jax.random.key(seed), jnp.zeros((1, 64, 64, 3)), live_norms=())


@functools.cache
def shapes_of(model: ResNet) -> Any:
    """The variables' shapes, without computing them."""
    return jax.eval_shape(lambda: initialise(model, 0))


def as_published(weights: sources.Weights) -> tuple[ResNet, dict[str, Any]]:
    """The model and variables of `weights`, under their own head or, without one, 1,000 zeros."""
    own = weights.architecture
    model = make_model(dataclasses.replace(own, num_classes=own.num_classes or 1000))
    head = "keep" if own.num_classes else "zeros"
    return model, starting_variables(model, weights, head=head, seed=0)


def starting_variables(
    model: ResNet, weights: sources.Weights | None, *, head: str, seed: int
) -> dict[str, Any]:
    """The weights, or random variables where there are none, under the head that `head` names.

    `keep` is the weights' own head, `random` a new one, `zeros` is zero, and so is `probe`, which
    the caller fits.
    """
    shapes = shapes_of(model)
    random = jax.jit(lambda: initialise(model, seed))
    if weights is None:
        variables = random()
        if head == "zeros":
            variables["params"]["fc"] = _zeros(shapes["params"]["fc"])
        return variables
    if head == "keep":
        return convert.to_variables(weights.tensors, shapes)
    new = random()["params"]["fc"] if head == "random" else _zeros(shapes["params"]["fc"])
    return convert.to_variables(weights.tensors, shapes, head=new)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
