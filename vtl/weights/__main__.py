"""What weights hold, on the command line.

python -m vtl.weights summary NAME
"""

import argparse
import sys

import jax
import jax.numpy as jnp
from flax import traverse_util

from vtl.errors import UserError
from vtl.models.resnet import ResNet
from vtl.weights import network, sources


def summary(model: ResNet, image_size: int, *, has_head: bool = True) -> str:
    """The network as a table of path, output shape and parameters, one line a module."""
    shapes = network.shapes_of(model)
    norms = {
        "/".join(path[:-1]) for path in traverse_util.flatten_dict(shapes["batch_stats"])
    }  # all of them, so that each is called and seen
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)

    order: list[str] = []  # of the calls, which a tree of shapes forgets

    def apply(variables: dict, images: jax.Array) -> dict[str, jax.Array]:
        collections = ["batch_stats", "intermediates"]
        _, seen = model.apply(
            variables, images, live_norms=norms, capture_intermediates=True, mutable=collections
        )
        outputs = traverse_util.flatten_dict(seen["intermediates"], sep="/")
        order.extend(path.removesuffix("/__call__") for path in outputs)
        return outputs

    captured = jax.eval_shape(apply, shapes, image)
    counts: dict[str, int] = {}
    for path, leaf in traverse_util.flatten_dict(shapes["params"], sep="/").items():
        module = path.rpartition("/")[0]
        if module == "fc" and not has_head:
            continue
        counts[module] = counts.get(module, 0) + leaf.size
    lines = [f"{'path':<26}{'output shape':<20}{'parameters':>12}"]
    for module in filter(counts.__contains__, order):
        shape = captured[f"{module}/__call__"][0].shape[1:]
        lines.append(f"{module:<26}{' x '.join(map(str, shape)):<20}{counts[module]:>12,}")
    statistics = sum(leaf.size for leaf in jax.tree.leaves(shapes["batch_stats"]))
    lines.append(f"{sum(counts.values()):,} parameters, {statistics:,} running statistics")
    return "\n".join(lines)


def _summary(options: argparse.Namespace) -> None:
    weights = sources.load(options.name)
    model, _ = network.as_published(weights)
    has_head = weights.architecture.num_classes is not None
    print(summary(model, weights.preprocessing.crop_size, has_head=has_head))


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(prog="python -m vtl.weights", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("summary", help="a table of the network, like model.summary()")
    command.add_argument("name", help="a source, a file, or a finished run")
    command.set_defaults(run=_summary)
    options = parser.parse_args()
    try:
        options.run(options)
    except UserError as error:
        sys.exit(f"vtl: {error}")


if __name__ == "__main__":
    main()
