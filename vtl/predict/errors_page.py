"""The photos that a network gets wrong -> one HTML page that needs no other file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import jinja2
import numpy as np

import vtl
from vtl import processes
from vtl.data.split import Split
from vtl.errors import UserError
from vtl.evaluation import gallery
from vtl.files import whole_file
from vtl.predict import wrong
from vtl.predict.predictor import Predictor
from vtl.predict.tally import Tally
from vtl.predict.wrong import KINDS, Mistake, Mistakes
from vtl.training import augment, steps
from vtl.untrusted import printable

MOST_PICTURES, MAX_BYTES = 480, 4_500_000
"""Pictures of a page, and the bytes of all of them, so that it can be sent by mail."""

MOST_LABELS = 8
TITLES = {
    "missed": "Missed: labelled so, and not found",
    "false alarm": "False alarms: found, and not labelled so",
}


class Picture(NamedTuple):
    """One mistake on the page; `photo` and `map` are data URIs."""

    name: str
    probability: float
    labels: str
    photo: str
    map: str


def write(
    output: Path, predictor: Predictor, splits: Mapping[str, Split], title: str
) -> tuple[str, Tally]:
    """Write the page; return what it shows, in a line, and the tally of all photos.

    Raises:
        UserError: the data's classes are not the network's.
    """
    columns = wrong.columns_of(predictor, splits)
    mistakes, tally = wrong.find(predictor, splits, columns)
    if not processes.is_first():  # which draws and writes it
        return "", tally
    shown = wrong.chosen(mistakes, MOST_PICTURES)
    drawn = _drawn(predictor, splits, wrong.places_of(shown.values()))
    classes = next(iter(splits.values())).classes
    size, sections = 0, []
    for column, kinds in shown.items():
        pictures = {
            kind: [_picture(m, splits, drawn, columns[column]) for m in worst]
            for kind, worst in kinds.items()
        }
        size += sum(len(p.photo) + len(p.map) for each in pictures.values() for p in each)
        if size > MAX_BYTES:
            break
        counts = {kind: int(mistakes.counts[kind][column]) for kind in KINDS}
        sections.append({"name": classes[column], "counts": counts, "pictures": pictures})
    html = _page(predictor, splits, title, mistakes, sections, tally).encode()
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output) as file:
        file.write(html)
    missed, alarms = (f"{int(mistakes.counts[kind].sum()):,}" for kind in KINDS)
    line = f"{missed} missed and {alarms} false alarms on {tally.num_photos:,} photos"
    return f"{line} ({len(html) / 1e6:.1f} MB)", tally


def _page(
    predictor: Predictor,
    splits: Mapping[str, Split],
    title: str,
    mistakes: Mistakes,
    sections: list[dict[str, Any]],
    tally: Tally,
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vtl.predict", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    num_wrong = np.count_nonzero(np.sum([*mistakes.counts.values()], axis=0))
    return environment.get_template("errors.html.jinja").render(
        title=title,
        version=vtl.__version__,
        network=printable(predictor.weights.name),
        splits=[(role, split.name, len(split)) for role, split in splits.items()],
        totals={kind: int(mistakes.counts[kind].sum()) for kind in KINDS},
        kinds=TITLES,
        sections=sections,
        num_left_out=int(num_wrong) - len(sections),
        decisions=predictor.weights.decisions,
        is_one_label=not predictor.weights.multi_label,
        is_approximate=not predictor.weights.architecture.has_plain_head,
        broken=tally.complaint(),
    )


def _drawn(
    predictor: Predictor, splits: Mapping[str, Split], places: list[tuple[str, int]]
) -> dict[tuple[str, int], tuple[str, np.ndarray]]:
    """Role and row of a photo -> its thumbnail, and each class's evidence [h, w, C], float32."""
    preprocessing = predictor.weights.preprocessing
    map_step = steps.make_map_step(predictor.model, preprocessing, predictor.mesh)
    drawn, size = {}, predictor.batch_size
    for start in range(0, len(places), size):
        some, pixels = [], []
        for role, row in places[start : start + size]:
            try:
                pixels.append(predictor.decode(splits[role].paths[row]))
            except UserError:  # it was legible a moment ago
                continue
            some.append((role, row))
        if not some:
            continue
        (maps,) = predictor.run(map_step, pixels, size)
        crops = np.asarray(
            augment.centre_crop(jnp.asarray(np.stack(pixels)), preprocessing.crop_size)
        )
        for place, crop, evidence in zip(some, crops, maps, strict=True):
            drawn[place] = gallery.data_uri("jpeg", gallery.thumbnail(crop)), evidence
    return drawn


def _picture(
    mistake: Mistake,
    splits: Mapping[str, Split],
    drawn: Mapping[tuple[str, int], tuple[str, np.ndarray]],
    column: int,
) -> Picture:
    split, row = splits[mistake.role], mistake.row
    photo, evidence = drawn.get((mistake.role, row), ("", np.zeros((1, 1, column + 1))))
    names = [split.classes[c] for c in np.flatnonzero(split.labels[row : row + 1][0] == 1)]
    more = f" and {len(names) - MOST_LABELS} more" if len(names) > MOST_LABELS else ""
    return Picture(
        name=printable(split.ids[row], 300),
        probability=mistake.probability,
        labels=(", ".join(names[:MOST_LABELS]) + more) or "none",
        photo=photo,
        map=gallery.data_uri("png", gallery.map_layer(evidence[:, :, column])),
    )
