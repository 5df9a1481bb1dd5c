"""The training state (arrays only), and the mesh it lives on."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vtl import processes
from vtl.errors import UserError


class TrainState(struct.PyTreeNode):
    """All that training changes. The model and the optimiser are closed over, never stored."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def new_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        # Jitted as one program: otherwise every shape of parameter compiles by itself.
        opt_state=jax.jit(optimizer.init)(variables["params"]),
    )


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """One `data` axis over the devices, by default all; one device is a mesh of one."""
    return Mesh(np.array(devices or jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of the state: every device holds a complete copy."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The first process's arrays on every device of all; the others' must be of the same shapes."""
    sharding = replicated(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def place(leaf: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(place, processes.broadcast(tree))


def by_batch(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: it is split along its first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_sizes(sizes: Mapping[str, int], mesh: Mesh) -> None:
    """Raise UserError if a batch, by its option's name, can't be split over the devices."""
    for option, batch_size in sizes.items():
        if batch_size < 1 or batch_size % mesh.size:
            raise UserError(
                f"{option} must be a positive multiple of the {mesh.size} devices here, "
                f"got {batch_size}"
            )
