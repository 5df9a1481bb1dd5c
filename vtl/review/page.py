"""The suspects -> one HTML page that needs no other file, and no server."""

import base64
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

import vtl
from vtl.data import images
from vtl.errors import UserError
from vtl.evaluation import gallery
from vtl.review.reviewed import Reviewed
from vtl.review.suspects import Suspect
from vtl.untrusted import printable

THUMBNAIL_SIDE = 152
MOST_LABELS = 8

OF_CLASS = {"missing": "probably missing", "wrong": "probably wrong"}
OF_ALL = {
    "copies": (
        "Near-duplicates with different labels",
        "One of these has the label, another has not. The answer goes for all of them.",
    ),
    "unlike": (
        "Photos like nothing else",
        "They are the farthest from their fifth nearest photo. Do they belong here, as labelled?",
    ),
}


def make(
    of: Reviewed, suspects: Sequence[Suspect], *, title: str, ranking: str
) -> tuple[str, list[str]]:
    """The page, and one line about each photo that has no picture as it can't be read."""
    sections, ordered = _sections(of, suspects)
    rows = sorted({entry[0] for s in ordered for entry in (*s.yes, *s.no)})
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(_picture, [of.paths[row] for row in rows]))
    place_of = {row: place for place, row in enumerate(rows)}
    data = {
        "classes": of.classes,
        "sections": sections,
        "suspects": [_suspect(suspect, place_of) for suspect in ordered],
        "photos": [
            _photo(of, row, picture) for row, (picture, _) in zip(rows, pictures, strict=True)
        ],
    }
    digest = hashlib.sha256(json.dumps(data).encode(errors="surrogatepass")).hexdigest()
    problems = [problem for _, problem in pictures if problem]
    template = resources.files("vtl.review") / "template"
    script = (template / "review.js").read_text()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vtl.review", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("review.html.jinja").render(
        title=title,
        version=vtl.__version__,
        num_photos=len(of.ids),
        ranking=ranking,
        one_label_each=of.one_label_each,
        notes=of.notes + ([f"{len(problems)} photos can't be read"] if problems else []),
        data=data | {"key": f"vtl review {digest}"},
        style=Markup((template / "review.css").read_text()),
        script=Markup(script),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return html, problems


def _sections(
    of: Reviewed, suspects: Sequence[Suspect]
) -> tuple[list[dict[str, Any]], list[Suspect]]:
    """Where each section of the page begins and ends, and the suspects in that order."""
    ordered: list[Suspect] = []
    sections: list[dict[str, Any]] = []

    def add(title: str, note: str, its: list[Suspect]) -> None:
        if its:
            ordered.extend(its)
            first = len(ordered) - len(its)
            sections.append({"title": title, "note": note, "first": first, "end": len(ordered)})

    add(*OF_ALL["copies"], [s for s in suspects if s.kind == "copies"])
    for column, name in enumerate(of.classes):
        for kind, words in OF_CLASS.items():
            its = [s for s in suspects if s.kind == kind and s.column == column]
            if of.one_label_each:
                add(f"{name}: thought so, labelled otherwise", "The surest come first.", its)
            else:
                add(f"{name}: {words}", "The most suspicious come first.", its)
    add(*OF_ALL["unlike"], [s for s in suspects if s.kind == "unlike"])
    return sections, ordered


def _suspect(suspect: Suspect, place_of: dict[int, int]) -> dict[str, Any]:
    def entries(given: Sequence[tuple[int, int, int]]) -> list[list[int]]:
        return [[place_of[row], column, value] for row, column, value in given]

    return {
        "column": suspect.column,
        "rows": [place_of[row] for row in suspect.rows],
        "thought": round(suspect.thought, 4),
        "yes": entries(suspect.yes),
        "no": entries(suspect.no),
    }


def _photo(of: Reviewed, row: int, picture: str) -> dict[str, Any]:
    present = np.flatnonzero(of.labels[row] * of.counts[row] == 1).tolist()
    names = [of.classes[column] for column in present]
    more = f" and {len(names) - MOST_LABELS} more" if len(names) > MOST_LABELS else ""
    return {
        "id": of.ids[row],
        "name": printable(of.ids[row], 120),
        "labels": (", ".join(names[:MOST_LABELS]) + more) or "none",
        "was": dict.fromkeys(present, 1),
        "photo": picture,
    }


def _picture(path: Path) -> tuple[str, str]:
    """The thumbnail as a data URI, or else what is wrong with the photo."""
    try:
        image = images.load_rgb(path, least_side=2 * THUMBNAIL_SIDE)
    except UserError as error:
        return "", str(error)
    return gallery.data_uri("jpeg", gallery.thumbnail(np.asarray(image), THUMBNAIL_SIDE)), ""
