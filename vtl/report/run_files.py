"""The files of a run directory as the page reads them: what each must hold, checked in one place.

People edit these files, and anybody may have made them. What is wrong is one line that names the
file and the key; text is made printable here, once for all of the page.
"""

import dataclasses
import functools
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vtl import identity, schema
from vtl.errors import UserError
from vtl.evaluation import metrics
from vtl.evaluation.gallery import KINDS
from vtl.schema import (
    ONE_LABEL,
    at_least,
    count,
    dict_of,
    list_of,
    maybe,
    number,
    record,
    share,
    text,
)
from vtl.untrusted import open_plain, read_json, read_npz

MAX_TEXT = 300
"""Characters of a string: what is longer is shortened in its middle."""

MAX_CONFIG_BYTES, MAX_RESULTS_BYTES, MAX_METRICS_BYTES = 1 << 20, 1 << 24, 1 << 26
"""A config has kilobytes, results of 1,000 classes a few megabytes, an hour's metrics fewer."""

MAX_CLASSES = 1000
MAX_THUMBNAIL_SIDE = 512
MAX_MAP_SIDE = 256

ROLE = re.compile(r"[A-Za-z0-9_-]{1,40}")

OF_EVERY_RUN = record(
    {
        "seed": count,
        "status": text,
        "versions": dict_of(text),
        "devices": list_of(text),
    },
    {
        "variant": maybe(text),
        "commit": maybe(text),
        "resumed_from": maybe(count),
        "features": text,
        "features_sha256": text,
        "files": dict_of(text),
        "one_label": dict_of(ONE_LABEL),
        "chosen_mix": number,
        "network": record(
            {},
            {
                "title": text,
                "plain_pooling": text,
                "depth": count,
                "pooling": text,
                "transform": text,
                "regions": count,
            },
        ),
        "data": maybe(
            record(
                {},
                {
                    "name": maybe(text),
                    "splits": dict_of(text),
                    "ids_sha256": dict_of(text),
                    "sha256": dict_of(text),
                },
            )
        ),
        "weights": maybe(
            record({}, {"name": maybe(text), "sha256": text, "preprocessing": record({})})
        ),
    },
)

CONFIG = record(
    {},
    {
        "num_epochs": number,
        "train_split": maybe(text),
        "val_split": maybe(text),
        "test_split": maybe(text),
        "data": record(
            {},
            dict.fromkeys(
                (
                    *("name", "root", "labels", "flags", "separator"),
                    *("train_split", "val_split", "test_split"),
                ),
                maybe(text),
            )
            | {"split_fractions": list_of(number, length=3)},
        ),
        "model": record({}, {"depth": count}),
    },
)

LINE = record(
    {"epoch": at_least(0)},
    dict.fromkeys(("step", "loss", "binary_accuracy", "learning_rate"), maybe(number))
    | {
        f"{role}_map_{name}": maybe(number)
        for role in ("val", "test")
        for name in metrics.PROTOCOLS
    },
)


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """One split: scores, labels [N, C]; logits [N, C], ids [N] and difficult [N, C] if known.

    Labels are 0 where they are not known: where label_mask [N, C], if there is one, is 0.
    """

    scores: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...] | None
    difficult: np.ndarray | None
    logits: np.ndarray | None = None
    label_mask: np.ndarray | None = None

    @functools.cached_property
    def is_known(self) -> np.ndarray:
        """Where labels are known, [N, C]; not to be written to."""
        if self.label_mask is None:
            return np.broadcast_to(True, self.labels.shape)
        return self.label_mask == 1

    @property
    def ranked_by(self) -> np.ndarray:
        """What orders the photos, [N, C]: the logits, or the scores of a run without."""
        return self.scores if self.logits is None else self.logits


def read_config(directory: Path) -> dict[str, Any]:
    """What config.json holds."""
    return _object(directory, "config.json", MAX_CONFIG_BYTES)


def read_results(directory: Path) -> dict[str, Any]:
    """What results.json holds."""
    return _object(directory, "results.json", MAX_RESULTS_BYTES)


def read_made_of(directory: Path) -> dict[str, Any] | None:
    """What made_of.json holds; None of a run without, as those of vtl 0.1."""
    path = directory / identity.FILE_NAME
    with schema.of_file(path):
        return schema.cleaned(identity.read(directory), MAX_TEXT)


def _object(directory: Path, name: str, max_bytes: int) -> dict[str, Any]:
    path = directory / name
    with schema.of_file(path):
        value = schema.cleaned(read_json(path, max_bytes=max_bytes, inside=directory), MAX_TEXT)
        if not isinstance(value, dict):
            raise UserError("it holds no JSON object")
    return value


def check_scored(directory: Path, config: dict[str, Any], results: dict[str, Any]) -> None:
    """Raise UserError if config or results of a probe or a fine-tuning can't be shown."""
    with schema.of_file(directory / "config.json"):
        CONFIG(config, "")
        if results["task"] == "finetune":
            rule = list_of(_any_of_rule, length=2)
            record({"optim": record({"rules": list_of(rule, least=1)})})(config, "")
    with schema.of_file(directory / "results.json"):
        OF_EVERY_RUN(results, "")
        record({"classes": list_of(text, least=1), "map": dict_of(record({}), least=1)})(
            results, ""
        )
        classes, roles = results["classes"], results["map"]
        if len(set(classes)) < len(classes):
            raise UserError("'classes' names one twice")
        if len(classes) > MAX_CLASSES:
            raise UserError(f"'classes' has {len(classes):,}, and the page shows {MAX_CLASSES:,}")
        for role in roles:
            if not ROLE.fullmatch(role):
                raise UserError(f"'map' has {role}, which is no split")
        by_role = {key: dict_of(check, keys=roles) for key, check in _quantities(classes).items()}
        of_training = {"trainable_parameters": count, "seconds": dict_of(at_least(0))}
        optional = {
            "images_per_second": maybe(at_least(0)),
            "answers": dict_of(schema.answers(classes)),
            "decisions": maybe(schema.decisions(classes)),
            "low_shot": schema.low_shot,
        }
        record(by_role | of_training | {"weights": _anything}, optional)(results, "")


def check_curve(directory: Path, config: dict[str, Any], results: dict[str, Any]) -> None:
    """Raise UserError if config or results of a learning curve can't be shown."""
    with schema.of_file(directory / "config.json"):
        CONFIG(config, "")
    with schema.of_file(directory / "results.json"):
        OF_EVERY_RUN(results, "")
        record({"curve": schema.learning_curve})(results, "")


def _anything(value: Any, key: str) -> None:
    """Checked elsewhere."""


def _any_of_rule(value: Any, key: str) -> None:
    """Of a pair: the pattern, or the multiplier, null if the pattern's parameters are frozen."""
    (text if key.endswith("[0]") else maybe(number))(value, key)


def _quantities(classes: list[str]) -> dict[str, schema.Check]:
    """What each of metrics.QUANTITIES is for one split."""
    interval = list_of(share, length=2)
    by_protocol = {name: maybe(share) for name in metrics.PROTOCOLS}
    return {
        "map": dict_of(maybe(share), keys=by_protocol),
        "map_interval": dict_of(maybe(interval), keys=by_protocol),
        "ap": dict_of(dict_of(maybe(share), keys=classes), keys=by_protocol),
        "ap_interval": dict_of(dict_of(maybe(interval), keys=classes), keys=by_protocol),
        "positives": dict_of(count, keys=classes),
        "without_positives": list_of(text),
        "not_computable": dict_of(text),
        "num_images": count,
        "binary_accuracy": maybe(share),
        "loss": maybe(at_least(0)),
    }


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; none of a run that has no such file."""
    path = directory / "metrics.jsonl"
    if not path.exists():
        return []
    lines = []
    with schema.of_file(path):
        with open_plain(path, max_bytes=MAX_METRICS_BYTES, inside=directory) as file:
            written = file.read().splitlines()
        for place, content in enumerate(written, start=1):
            if not content.strip():
                continue
            try:
                line = schema.cleaned(json.loads(content), MAX_TEXT)
            except (ValueError, RecursionError) as error:
                raise UserError(f"line {place} is no JSON: {error}") from None
            LINE(line, f"line {place}")
            lines.append(line)
    return lines


def read_scores(directory: Path, role: str, classes: list[str]) -> Scores:
    """What scores_ROLE.npz holds of the classes that results.json names."""
    path = directory / f"scores_{role}.npz"
    with schema.of_file(path):
        arrays = read_npz(path, inside=directory)
        scores = schema.finite(arrays, "scores", ("photos", len(classes)))
        shape = scores.shape
        if "classes" in arrays:
            names = schema.cleaned(list(schema.texts(arrays, "classes", len(classes))), MAX_TEXT)
            if names != classes:
                raise UserError("'classes' are not those of results.json, in their order")
        labels, label_mask = schema.flags(arrays, "labels", shape), None
        if "label_mask" in arrays:
            label_mask = schema.flags(arrays, "label_mask", shape)
            labels = labels * label_mask
        return Scores(
            scores,
            labels,
            _ids(arrays, len(scores)) if "ids" in arrays else None,
            schema.flags(arrays, "difficult", shape) if "difficult" in arrays else None,
            schema.finite(arrays, "logits", shape) if "logits" in arrays else None,
            label_mask,
        )


def _ids(arrays: dict[str, np.ndarray], length: int) -> tuple[str, ...]:
    """The ids; those of a probe on foreign features may have been numbers."""
    if arrays["ids"].dtype.kind in "iu":
        return tuple(map(str, schema.array(arrays, "ids", "iu", (length,)).tolist()))
    return schema.texts(arrays, "ids", length)


def read_gallery(directory: Path, role: str, num_classes: int) -> dict[str, np.ndarray]:
    """What gallery_ROLE.npz holds, every thumbnail a JPEG; {} of a run without."""
    path = directory / f"gallery_{role}.npz"
    if not path.exists():
        return {}
    with schema.of_file(path):
        arrays = read_npz(path, inside=directory)
        ids = schema.texts(arrays, "ids", "photos")
        num_photos, num_bytes = len(ids), len(schema.array(arrays, "thumbnails", "u", ("bytes",)))
        ends = schema.indices(arrays, "ends", (num_photos,), num_bytes + 1).astype(np.int64)
        if arrays["thumbnails"].dtype != np.uint8 or (np.diff(ends, prepend=0) <= 0).any():
            raise UserError("'ends' are not where JPEG files end, one after another")
        maps = schema.finite(arrays, "map", ("pictures", "height", "width"))
        if max(maps.shape[1:]) > MAX_MAP_SIDE or np.abs(maps).max() > 1e30:
            raise UserError(f"'map' {list(maps.shape)} is no class activation map")
        num_pictures = len(maps)
        kinds = schema.texts(arrays, "kind", num_pictures)
        if other := set(kinds) - set(KINDS):
            raise UserError(
                f"'kind' has {schema.cleaned(min(other), 40)}: one of {', '.join(KINDS)}"
            )
        labels = schema.flags(arrays, "labels", (num_photos, num_classes))
        label_mask = np.ones_like(labels)
        if "label_mask" in arrays:
            label_mask = schema.flags(arrays, "label_mask", labels.shape)
        found = {
            "thumbnails": arrays["thumbnails"],
            "ends": ends,
            "ids": np.array(schema.cleaned(list(ids), MAX_TEXT)),
            "scores": schema.finite(arrays, "scores", (num_photos, num_classes)),
            "labels": labels * label_mask,
            "label_mask": label_mask,
            "photo": schema.indices(arrays, "photo", (num_pictures,), num_photos),
            "column": schema.indices(arrays, "column", (num_pictures,), num_classes),
            "kind": np.array(kinds),
            "map": maps,
        }
        for row, content in enumerate(np.split(found["thumbnails"], ends)[:num_photos]):
            _check_thumbnail(content.tobytes(), row)
    return found


def _check_thumbnail(content: bytes, row: int) -> None:
    """A small JPEG file and nothing else, before a browser gets it."""
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            is_small = max(image.size) <= MAX_THUMBNAIL_SIDE
            if is_small:
                image.load()
    except Exception as error:  # damaged pictures make Pillow raise nearly anything
        raise UserError(f"'thumbnails' has no JPEG in row {row}") from error
    if not is_small:
        raise UserError(f"'thumbnails' has a large picture in row {row}: {image.size}")
