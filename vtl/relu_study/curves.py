"""curves_NETWORK_ACTIVATION.npz: written when they are measured, checked when they are read again.

`study` says what is in them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flax import traverse_util

from vtl import schema
from vtl.console import say
from vtl.errors import UserError
from vtl.files import set_aside, write_npz
from vtl.relu_study.study import Curves
from vtl.untrusted import printable, read_npz, reading

Run = tuple[float, int]
"""A learning rate and a seed."""


def write(path: Path, found: Curves) -> None:
    """Write one network's curves with one activation."""
    write_npz(path, traverse_util.flatten_dict(found, sep="/"))


def read(path: Path, search: Sequence[Run], seeds: Sequence[int]) -> Curves:
    """The curves of the `search` runs and, unless all diverged, of the best rate with `seeds`.

    Raises:
        UserError: an array is missing, of another kind or shape, or of other runs.
    """
    with schema.of_file(path):
        arrays = read_npz(path, inside=path.parent)
        found: Curves = {"seconds": schema.finite(arrays, "seconds", ())}
        found["search"] = _phase(arrays, "search", len(search))
        if not np.array_equal(found["search"]["learning_rate"], [rate for rate, _ in search]):
            raise UserError("'search/learning_rate' are not those of the config")
        if not np.array_equal(found["search"]["seed"], [seed for _, seed in search]):
            raise UserError("'search/seed' are not those of the config")
        if any(key.startswith("final/") for key in arrays):
            found["final"] = final = _phase(arrays, "final", len(seeds))
            if not np.array_equal(final["seed"], seeds):
                raise UserError("'final/seed' are not those of the config")
            final["test_loss"] = schema.array(arrays, "final/test_loss", "f", (len(seeds),))
            final["test_accuracy"] = schema.finite(arrays, "final/test_accuracy", (len(seeds),))
    return found


def _phase(arrays: dict[str, np.ndarray], phase: str, num_runs: int) -> Curves:
    """One phase: by run [G], by moment [M], or both [G, M]; a loss may be infinite."""
    step = schema.indices(arrays, f"{phase}/step", ("moments",), 2**53)
    shape = (num_runs, len(step))
    found: Curves = {"step": step}
    found["epoch"] = schema.finite(arrays, f"{phase}/epoch", shape[1:])
    if not (np.diff(found["epoch"], prepend=0) > 0).all():
        raise UserError(f"'{phase}/epoch' does not grow")
    found["learning_rate"] = schema.finite(arrays, f"{phase}/learning_rate", shape[:1])
    found["seed"] = schema.array(arrays, f"{phase}/seed", "iu", shape[:1])
    found["accuracy"] = schema.finite(arrays, f"{phase}/accuracy", shape)
    for key in ("train_loss", "loss"):
        found[key] = schema.array(arrays, f"{phase}/{key}", "f", shape)
    for key in ("gradient_norms", "saturated", "dead"):
        prefix = f"{phase}/{key}/"
        layers = [name.removeprefix(prefix) for name in arrays if name.startswith(prefix)]
        found[key] = {layer: schema.array(arrays, prefix + layer, "f", shape) for layer in layers}
        if key != "gradient_norms":  # those of a run that diverged are not finite
            for layer in layers:
                schema.finite(arrays, prefix + layer, shape)
    if not found["gradient_norms"]:
        raise UserError(f"it lacks '{phase}/gradient_norms'")
    return found


def read_before(path: Path, search: Sequence[Run], seeds: Sequence[int]) -> Curves | None:
    """The curves that a run before this one has left, None if they must be measured again.

    What can't be read is set aside under another name.
    """
    if not path.exists() and not path.is_symlink():
        return None
    try:
        return read(path, search, seeds)
    except UserError as error:
        with reading(path):
            aside = set_aside(path, path.stem, path.parent)
        say(f"{error}: kept as {printable(aside.name)}, and measured again")
        return None
