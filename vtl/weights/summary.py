"""A network as a table, like Keras' `model.summary()`."""

import jax
from flax import linen as nn
from flax import traverse_util

from vtl.models import HEAD
from vtl.weights import network, watched


def summary(model: nn.Module, image_size: int, *, has_head: bool = True) -> str:
    """The network as a table of path, output shape and parameters, one line per module."""
    variables = network.shapes_of(model)
    parameters: dict[str, int] = {}
    for path, leaf in traverse_util.flatten_dict(variables["params"], sep="/").items():
        module = path.rpartition("/")[0] or path
        parameters[module] = parameters.get(module, 0) + leaf.size
    shapes = watched.output_shapes(model, variables, image_size)
    shapes = {name: shape for name, shape in shapes.items() if name in parameters}
    shapes |= {name: () for name in parameters if name not in shapes}
    if not has_head:
        del shapes[HEAD]
    lines = [f"{'path':<26}{'output shape':<20}{'parameters':>12}"]
    for module, shape in shapes.items():
        lines.append(f"{module:<26}{' x '.join(map(str, shape)):<20}{parameters[module]:>12,}")
    total = sum(parameters[module] for module in shapes)
    statistics = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"]))
    lines.append(f"{total:,} parameters, {statistics:,} running statistics")
    return "\n".join(lines)
