"""The HDF5 files of Keras as numpy arrays, read without Keras."""

import itertools
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vtl.errors import UserError
from vtl.weights.untrusted import Tensors, check_present


def read(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The weights of all layers by their names less ":0", and no metadata."""
    tensors: Tensors = {}
    promised = 0
    with h5py.File(path, "r") as file:
        root = _child(file, "model_weights") if _has(file, "model_weights") else file
        layers = _names(root, "layer_names")
        if not layers:
            what = "Keras 3's .weights.h5" if _has(root, "layers") else "no known layout"
            raise UserError(f'is HDF5 of {what}; expected what model.save("NAME.h5") writes')
        if _has(root, "top_level_model_weights"):
            layers.append("top_level_model_weights")
        for layer in layers:
            group = _child(root, layer)
            for weight in _names(group, "weight_names"):
                dataset = _child(group, weight)
                if not _is_plain(dataset):
                    raise UserError(
                        f"{weight} isn't a plain array of numbers in this file; refused"
                    )
                promised += dataset.nbytes
                check_present("list of weights", promised, path.stat().st_size)
                name = weight.removesuffix(":0")
                if name in tensors:
                    raise UserError(f"has two weights named {name}")
                tensors[name] = np.asarray(dataset[()])
    return tensors, {}


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names, which Keras spreads over NAME0, NAME1, ... where it is long."""
    parts = itertools.takewhile(
        group.attrs.__contains__, (f"{attribute}{part}" for part in itertools.count())
    )
    whole = [attribute] if attribute in group.attrs else parts
    names = [name for part in whole for name in group.attrs[part]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _has(group: Any, name: str) -> bool:
    # `name in group` would follow a link into another file.
    return group.id.links.exists(name.encode())


def _child(group: Any, path: str) -> Any:
    """The group or data set at `path`, reached without following a link to anywhere else."""
    for name in path.split("/"):
        if not isinstance(group, h5py.Group) or not _has(group, name):
            raise UserError(f"lists {path} but doesn't hold it")
        if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise UserError(f"{path} is a link to somewhere else; refused")
        group = group[name]
    return group


def _is_plain(dataset: Any) -> bool:
    """Neither compressed (a bomb), nor virtual or external (another file), nor of strings."""
    return (
        isinstance(dataset, h5py.Dataset)
        and dataset.id.get_create_plist().get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
        and not dataset.external
        and dataset.dtype.kind in "fiub"
    )
