"""A network as a table, like Keras' `model.summary()`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from vtl.models import HEAD
from vtl.models.resnet import ResNet
from vtl.weights import layouts, network
from vtl.weights.watched import COLLECTION, WatchedConv, outputs_by_path


def summary(model: ResNet, image_size: int, *, has_head: bool = True) -> str:
    """The network as a table of path, output shape and parameters, one line per module."""
    variables = network.shapes_of(model)
    parameters: dict[str, int] = {}
    for path, leaf in traverse_util.flatten_dict(variables["params"], sep="/").items():
        module = path.rpartition("/")[0]
        parameters[module] = parameters.get(module, 0) + leaf.size
    shapes = _output_shapes(model, variables, image_size)
    if not has_head:
        del shapes[HEAD]
    lines = [f"{'path':<26}{'output shape':<20}{'parameters':>12}"]
    for module, shape in shapes.items():
        lines.append(f"{module:<26}{' x '.join(map(str, shape)):<20}{parameters[module]:>12,}")
    total = sum(parameters[module] for module in shapes)
    statistics = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"]))
    lines.append(f"{total:,} parameters, {statistics:,} running statistics")
    return "\n".join(lines)


def _output_shapes(
    model: ResNet, variables: dict[str, Any], image_size: int
) -> dict[str, tuple[int, ...]]:
    """Module -> the shape of its output for one image, in calling order."""
    watched = model.clone(conv=WatchedConv)
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    shapes: dict[str, tuple[int, ...]] = {}

    def apply(variables: dict[str, Any], images: jax.Array) -> None:
        (logits, _), collections = watched.apply(
            variables, images, norms_by_batch=(), mutable=[COLLECTION]
        )
        for conv, output in outputs_by_path(collections).items():
            shapes[conv] = shapes[layouts.norm_after(conv)] = output.shape[1:]
        shapes[HEAD] = logits.shape[1:]

    jax.eval_shape(apply, variables, image)
    return shapes
