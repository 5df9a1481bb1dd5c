"""A network for somebody's classes: its model, and the variables it starts from."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from vtl import processes
from vtl.decisions import Decisions
from vtl.dtypes import DTYPES
from vtl.errors import UserError, check_choice
from vtl.models import HEAD, resnet
from vtl.models.architecture import Architecture
from vtl.models.head import MAX_REGIONS, TRANSFORMS
from vtl.preprocessing import RESIZE_RULES, TORCHVISION, Preprocessing
from vtl.weights import convert, sources

HEADS = ("probe", "zeros", "random", "keep")
MAX_WIDTH = 16
"""In multiples of the published networks' channels."""


class Network(NamedTuple):
    """A network for somebody's classes, and the preprocessing of its photos.

    `weights` is None if its variables start at random.
    """

    model: nn.Module
    architecture: Architecture
    preprocessing: Preprocessing
    weights: sources.Weights | None


def from_config(config: ConfigDict, num_classes: int) -> Network:
    """The network of `config.weights`, with a plain head and the config's image size.

    The weights say what it is. Without weights, `config.model` says what to make.

    Raises:
        UserError: the weights can't be read, or a depth, width, dtype or size is invalid.
    """
    if config.data.resize:
        check_choice("data.resize", config.data.resize, RESIZE_RULES)
    changes = {"resize": config.data.resize, "image_size": config.data.image_size}
    if not config.weights:
        return untrained(config.model, TORCHVISION.override(**changes), num_classes)
    check_choice("model.dtype", config.model.dtype, DTYPES)
    weights = sources.load(config.weights)
    own = weights.architecture
    architecture = dataclasses.replace(own, num_classes=num_classes, **own.plain_head)
    preprocessing = weights.preprocessing.override(**changes)
    try:
        own.check_size(preprocessing.crop_size)
    except ValueError as error:
        raise UserError(f"data.image_size: {error}") from None
    model = make_model(architecture, config.model.dtype)
    return Network(model, architecture, preprocessing, weights)


def with_head(net: Network, *, pooling: str, transform: str, regions: int) -> Network:
    """The same network with a head of `models.head` that sees something else.

    An empty pooling is the one that the network was published with.

    Raises:
        UserError: a name or the number of regions is invalid.
    """
    pooling = pooling or net.architecture.plain_pooling
    check_choice("pooling", pooling, net.architecture.poolings)
    check_choice("transform", transform, TRANSFORMS)
    if regions not in (0, *range(2, MAX_REGIONS + 1)):
        raise UserError(
            f"regions must be 0, or from 2 to {MAX_REGIONS} cells a side, got {regions}"
        )
    head: dict[str, Any] = {"pooling": pooling, "transform": transform, "regions": regions}
    architecture = dataclasses.replace(net.architecture, **head)
    return net._replace(model=net.model.clone(**head), architecture=architecture)


def untrained(options: ConfigDict, preprocessing: Preprocessing, num_classes: int) -> Network:
    """A new v1.5 network of `options.depth` and `options.width` that computes in `options.dtype`.

    Raises:
        UserError: the depth, width or dtype is invalid.
    """
    check_choice("model.dtype", options.dtype, DTYPES)
    if options.depth not in resnet.DEPTHS:
        depths = ", ".join(map(str, resnet.DEPTHS))
        raise UserError(f"model.depth must be one of {depths}, got {options.depth}")
    if not 1 / 64 <= options.width <= MAX_WIDTH:
        raise UserError(f"model.width must be from 1/64 to {MAX_WIDTH}, got {options.width}")
    architecture = resnet.Architecture(
        options.depth, options.width, "v1.5", resnet.EPSILON["v1.5"], num_classes=num_classes
    )
    return Network(make_model(architecture, options.dtype), architecture, preprocessing, None)


def describe_head(architecture: Architecture) -> str:
    """What the head sees: `the average of the last stage` is what torchvision's does."""
    pooling = {
        "average": "the average",
        "maximum": "the maximum",
        "both": "the average and the maximum",
        "cells": "the largest average of 2 x 2 cells",
        "token": "the token",
        "token_average": "the token and the average",
    }[architecture.pooling]
    transform = {
        "none": "",
        "l2": ", divided by its norm",
        "sqrt_l2": ", its square roots divided by their norm",
    }[architecture.transform]
    side = architecture.regions
    cells = f"; a logit is the mean of the photo's and of its best of {side} x {side} cells"
    return f"{pooling} of the last stage{transform}{cells if side else ''}"


def make_model(architecture: Architecture, dtype: str = "float32") -> nn.Module:
    """The module of an architecture; its activations are in `dtype`, a name in `DTYPES`."""
    return architecture.module(DTYPES[dtype])


def initialise(model: nn.Module, seed: int) -> Any:
    """Random variables {params, batch_stats}; the second is empty without BatchNorm."""
    images = jnp.zeros((1, 64, 64, 3))
    return {"batch_stats": {}} | dict(model.init(jax.random.key(seed), images, norms_by_batch=()))


@functools.cache
def shapes_of(model: nn.Module) -> Any:
    """The variables' shapes, without computing them."""
    return jax.eval_shape(lambda: initialise(model, 0))


def as_published(weights: sources.Weights) -> tuple[nn.Module, dict[str, Any]]:
    """The model and variables of `weights`, under their own head or, without one, 1,000 zeros.

    Raises:
        UserError: tensors are missing or misshapen, or hold NaN or infinity.
    """
    convert.check_finite(weights.tensors, weights.architecture.batch_norm_epsilon, weights.path)
    return complete(weights)


def complete(weights: sources.Weights) -> tuple[nn.Module, dict[str, Any]]:
    """As `as_published`, whatever the numbers are.

    Raises:
        UserError: tensors are missing or misshapen.
    """
    model = with_any_head(weights.architecture)
    head = "keep" if weights.architecture.num_classes else "zeros"
    return model, starting_variables(model, weights, head=head, seed=0)


def with_any_head(architecture: Architecture) -> nn.Module:
    """The module of an architecture, with 1,000 classes if it has no head."""
    num_classes = architecture.num_classes or 1000
    return make_model(dataclasses.replace(architecture, num_classes=num_classes))


def starting_variables(
    model: nn.Module, weights: sources.Weights | None, *, head: str, seed: int
) -> dict[str, Any]:
    """The weights, or random variables without any, with the head that `head` names.

    `keep` is the weights' own head, `random` a random one, and `zeros` a zero one. `probe` is zero,
    too: the caller fits it.
    """
    shapes = shapes_of(model)
    random = jax.jit(lambda: initialise(model, seed))
    if weights is None:
        variables = random()
        if head == "zeros":
            variables["params"][HEAD] = _zeros(shapes["params"][HEAD])
        return variables
    if head == "keep":
        return convert.to_variables(weights.tensors, shapes)
    new_head = random()["params"][HEAD] if head == "random" else _zeros(shapes["params"][HEAD])
    return convert.to_variables(weights.tensors, shapes, head=new_head)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@processes.in_first
def save(
    path: Path,
    variables: dict[str, Any],
    net: Network,
    classes: tuple[str, ...],
    *,
    multi_label: bool,
    decisions: Decisions | None = None,
    dtype: str = "float32",
) -> None:
    """Write a trained network under its origin's names, with all that `sources.load` needs.

    Raises:
        OverflowError: a number does not fit into `dtype`.
    """
    sources.save(
        path,
        variables,
        net.architecture,
        net.preprocessing,
        classes,
        multi_label=multi_label,
        decisions=decisions,
        dtype=dtype,
    )
