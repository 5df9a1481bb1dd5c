"""The test photos of a run, found again with their labels."""

from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vtl.data import images, splits
from vtl.errors import UserError
from vtl.evaluation.outcome import headline_split
from vtl.export.photos import centre
from vtl.export.run_facts import Run
from vtl.preprocessing import Preprocessing


class Labelled(NamedTuple):
    """Photos [N, S, S, 3] uint8, their labels, label mask and difficult flags [N, C]."""

    role: str
    crops: np.ndarray
    labels: np.ndarray
    label_mask: np.ndarray
    difficult: np.ndarray


def of_run(run: Run | None, classes: tuple[str, ...], pixels: Preprocessing, most: int) -> Labelled:
    """At most so many photos of the run's headline split, evenly spread over it.

    Raises:
        UserError: there is no run, or its photos can't be found again; the message says which.
    """
    if run is None:
        raise UserError("a file of weights names no photos")
    data = run.config.get("data")
    if not isinstance(data, dict):
        raise UserError("the run's config names no photos")
    by_role = splits.of_config(ConfigDict(data))
    role = headline_split(by_role)
    split: Any = by_role[role]
    if split.classes != classes:
        raise UserError("the run's photos have other classes now")
    rows = np.unique(np.linspace(0, len(split.ids) - 1, min(most, len(split.ids))).astype(int))
    crops, kept = [], []
    for row in rows:
        try:
            stored = images.load_resized(
                split.paths[row],
                pixels.stored_size(crops=False),
                pixels.resize,
                pixels.interpolation,
                data.get("decode", images.EXACT),
            )
        except UserError:  # a broken photo, which the run left out, too
            continue
        crops.append(centre(stored, pixels))
        kept.append(row)
    if not crops:
        raise UserError("none of the run's photos can be read")
    places = np.array(kept)
    return Labelled(
        role,
        np.stack(crops),
        np.asarray(split.labels[places]),
        np.asarray(split.label_mask[places]),
        np.asarray(split.difficult[places]),
    )
