"""A run -> the photos whose labels are reviewed, with their features."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vtl import schema
from vtl.data import deep_features, splits
from vtl.data.split import Split
from vtl.errors import UserError
from vtl.files import user_path
from vtl.stored_labels import Labels, changed
from vtl.untrusted import printable, read_json

_DATA = schema.record(
    {"name": schema.text, "root": schema.text},
    {
        **dict.fromkeys(("labels", "flags", "separator"), schema.text),
        **dict.fromkeys(("train_split", "val_split", "test_split"), schema.text),
        "split_fractions": schema.list_of(schema.number, length=3),
    },
)
_CONFIG = schema.record({"task": schema.text}, {"data": _DATA, "weights": schema.text})
_RESULTS = schema.record({}, {"features": schema.text})


@dataclasses.dataclass(frozen=True, eq=False)
class Reviewed:
    """N photos of all splits: ids, paths, features [N, D]; labels and counts [N, C].

    A label that doesn't count is not known, or of a difficult object. `groups` [N] is what the data
    says belongs together, "" for nothing. `notes` is what the person should know.
    """

    ids: list[str]
    paths: list[Path]
    features: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    groups: list[str]
    classes: tuple[str, ...]
    one_label_each: bool
    notes: list[str]


def read(run: str, root: str = "", labels: str = "") -> Reviewed:
    """The photos of a run of deep features, or of a linear probe on some.

    Labels are those that the data has now. `root` and `labels` say where it is, if not where the
    run's config has it.

    Raises:
        UserError: it is no such run, or its photos are not to be found.
    """
    file = _features_of(user_path(run))
    data = _data_of(file.parent, root, labels)
    features = deep_features.read(file)
    by_role = splits.of_config(data)
    return _joined(features, by_role, data)


def _features_of(run: Path) -> Path:
    config, results = _read(run, "config.json", _CONFIG), {}
    if config["task"] == "finetune":
        raise UserError(_of_finetuning(run, config))
    if config["task"] in ("features", "probe"):
        results = _read(run, "results.json", _RESULTS)
    name = results.get("features")
    if name is None:
        raise UserError(
            f"{printable(run)} is a run of task {printable(config['task'], 40)}: no features\n"
            "Name a run of `vtl deep_features` or of `vtl linear_probe`."
        )
    if config["task"] == "probe":
        return user_path(name)
    if Path(name).name != name:
        raise UserError(f"{printable(run)}: its features lie elsewhere, in {printable(name)}")
    return run / name


def _of_finetuning(run: Path, config: dict[str, Any]) -> str:
    options = {"weights": config.get("weights", "")}
    options |= {f"data.{key}": config.get("data", {}).get(key, "") for key in ("root", "labels")}
    words = [f"--config.{key}={value}" for key, value in options.items() if value]
    words.append(f"--workdir={run}_features")
    return (
        f"{printable(run)} is a fine-tuning: a network that was trained on labels has learnt the "
        "wrong ones, too\nReview the features of its start:\n"
        f"vtl deep_features {printable(shlex.join(words), 400)}"
    )


def _read(run: Path, name: str, check: schema.Check) -> dict[str, Any]:
    path = run / name
    if not path.exists():
        raise UserError(
            f"{printable(run)} holds no finished run: it has no {name}\n"
            "Name the workdir of a run of `vtl deep_features` or of `vtl linear_probe`."
        )
    with schema.of_file(path):
        found = read_json(path, inside=run)
        check(found, "")
    return dict(found)


def _data_of(directory: Path, root: str, labels: str) -> ConfigDict:
    """The `data` of the config beside the features."""
    data: dict[str, Any] = {"name": "", "root": "", "train_split": "trainval", "test_split": "test"}
    if (directory / "config.json").exists():
        data = _read(directory, "config.json", _CONFIG).get("data", data)
    elif not root:
        raise UserError(
            f"{printable(directory)} has no config.json that says where the photos are\n"
            "Add --root=FOLDER, and --labels=FILE if a table has their labels."
        )
    data = json.loads(json.dumps(data))
    if root:
        data |= {"root": root}
    elif data["root"] and not user_path(data["root"]).is_dir():
        raise UserError(
            f"the run's photos are not in {printable(data['root'])}, seen from here\n"
            "Add --root=FOLDER, and --labels=FILE if their table is elsewhere, too."
        )
    if labels:
        data |= {"labels": labels}
    return ConfigDict(data)


def _joined(
    features: deep_features.DeepFeatures, by_role: dict[str, Split], data: ConfigDict
) -> Reviewed:
    place_of = {
        photo_id: (role, row)
        for role, split in by_role.items()
        for row, photo_id in enumerate(split.ids)
    }
    parts: list[tuple[np.ndarray, Split]] = []
    num_gone, num_labels, num_photos, notes = 0, 0, 0, []
    classes = next(iter(by_role.values())).classes
    for role, its in features.splits.items():
        if its.ids is None:
            raise UserError(f"the features of {role} have no ids: nobody knows their photos")
        kept = [row for row, photo_id in enumerate(its.ids) if photo_id in place_of]
        num_gone += len(its.ids) - len(kept)
        for name, split in by_role.items():
            rows = [row for row in kept if place_of[its.ids[row]][0] == name]
            if not rows:
                continue
            now = split.rows(np.array([place_of[its.ids[row]][1] for row in rows]))
            parts.append((its.features[rows], now))
            before = Labels(its.ids, features.classes, its.labels, its.label_mask)
            labels, photos = changed(before, now) or (0, 0)
            num_labels, num_photos = num_labels + labels, num_photos + photos
    if not parts:
        raise UserError(f"none of the features' photos is in {printable(data.root) or data.name}")
    if num_gone:
        notes.append(f"{num_gone:,} photos of the features are gone: left out")
    if features.classes != classes:
        notes.append("the classes have changed since the features were made")
    elif num_labels:
        notes.append(
            f"{num_labels:,} labels of {num_photos:,} photos have changed since the features were "
            "made"
        )
    known = [now.label_mask * (1 - now.difficult) for _, now in parts]
    return Reviewed(
        ids=[photo_id for _, now in parts for photo_id in now.ids],
        paths=[path for _, now in parts for path in now.paths],
        features=np.concatenate([rows for rows, _ in parts]),
        labels=np.concatenate([np.asarray(now.labels) for _, now in parts]),
        counts=np.concatenate(known),
        groups=[group for _, now in parts for group in now.groups or [""] * len(now)],
        classes=classes,
        one_label_each=all(now.has_one_label_each for _, now in parts),
        notes=notes,
    )
