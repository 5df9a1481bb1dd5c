"""From other frameworks' tensors to our variables, and back to the names of their origin.

One table a layout says where each tensor goes (layouts/). Loading is total: every tensor is used
once or its name is on a list of ignored ones. Anything else is an error that lists the keys.
"""

from typing import Any

import numpy as np
from flax import traverse_util

from vtl.errors import UserError
from vtl.models import HEAD
from vtl.models.architecture import Architecture
from vtl.weights import layouts
from vtl.weights.formats import WeightsFile
from vtl.weights.layouts.names import Tensors, some

_HEAD_PREFIX = f"params/{HEAD}/"


def canonical(file: WeightsFile) -> tuple[Tensors, Architecture]:
    """A file's tensors under our names and in our layout, and the architecture they imply.

    Raises:
        UserError: the file holds no network that vtl has, unknown tensors, or tensors that make up
            no network.
    """
    return layouts.layout_of(file).canonical(file)


def check_finite(tensors: Tensors, epsilon: float | None, path: object) -> None:
    """Raise UserError if a tensor's numbers make every output NaN; `epsilon` is BatchNorm's."""
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise UserError(
                f"{path}: {name} holds NaN or infinity, after a training that diverged or by "
                "damage; take an earlier checkpoint, or copy it again"
            )
        if epsilon and name.endswith("/var") and not (tensor + epsilon > 0).all():
            raise UserError(f"{path}: {name} holds negative variances: the file is damaged")


def to_variables(
    tensors: Tensors, shapes: dict[str, Any], *, head: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Fill the tree `shapes` (of anything with a shape) with `tensors`, each used once.

    `head` holds params that replace the file's head; without it the file needs a head.

    Raises:
        UserError: a tensor is missing, superfluous or misshapen; the message names it.
    """
    if head is not None:
        tensors = {key: value for key, value in tensors.items() if not key.startswith(_HEAD_PREFIX)}
        tensors |= {f"{_HEAD_PREFIX}{name}": np.asarray(value) for name, value in head.items()}
    expected = {"/".join(path): leaf for path, leaf in traverse_util.flatten_dict(shapes).items()}
    if missing := expected.keys() - tensors.keys():
        raise UserError(f"the weights lack {some(missing)}")
    if superfluous := tensors.keys() - expected.keys():
        raise UserError(f"the network has no place for {some(superfluous)}")
    wrong = [
        f"{key} {tensors[key].shape} instead of {leaf.shape}"
        for key, leaf in expected.items()
        if tensors[key].shape != leaf.shape
    ]
    if wrong:
        raise UserError(f"the weights do not fit the network: {some(wrong)}")
    return traverse_util.unflatten_dict({tuple(k.split("/")): v for k, v in tensors.items()})


def from_variables(variables: dict[str, Any], architecture: Architecture) -> dict[str, np.ndarray]:
    """Our variables under the names that the network was published with, and in its layout."""
    return layouts.of(architecture).published(variables)
