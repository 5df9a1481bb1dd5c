"""Finds a data set and reads the splits of a run, with the reader of its layout."""

from pathlib import Path

from ml_collections import ConfigDict

from vtl.data import demo, voc
from vtl.data.splits import Split
from vtl.errors import UserError
from vtl.files import cache_dir

ROLES = ("train", "val", "test")


def read(data: ConfigDict) -> dict[str, Split]:
    """The splits of a config's `data`, by role: `train_split`, `val_split` and `test_split`.

    Raises:
        UserError: as in `find_root` and `read_splits`.
    """
    names = {role: data[f"{role}_split"] for role in ROLES if f"{role}_split" in data}
    return read_splits(find_root(data.name, data.root), names)


def find_root(name: str, root: str | None) -> Path:
    """The devkit's year directory: `root`, or else VOC2007's or the demo's in the cache.

    Raises:
        UserError: `root` isn't a devkit, or there is no `root` and the data can't be fetched.
    """
    if root:
        return voc.check_root(Path(root).expanduser())
    if name == "demo":
        return demo.write_once(cache_dir())
    if name == "voc2007":
        return voc.fetch_voc2007(cache_dir() / "voc2007")
    raise UserError(
        f"data.name={name!r} can't be fetched, only voc2007 and demo can\n"
        "Give an unpacked devkit with --config.data.root=PATH/VOCdevkit/YEAR."
    )


def read_splits(root: Path, names: dict[str, str]) -> dict[str, Split]:
    """The splits named in, say, {"train": "trainval", "val": "", "test": "test"}, without the "".

    Raises:
        UserError: as in `voc.read_split`, or the train split shares a photo with another.
    """
    splits = {role: voc.read_split(root, name) for role, name in names.items() if name}
    for role in splits.keys() - {"train"}:
        shared = set(splits["train"].ids) & set(splits[role].ids)
        if shared:
            raise UserError(
                f"data.train_split={names['train']} and data.{role}_split={names[role]} share "
                f"{len(shared)} photos, such as {min(shared)}: they must be disjoint"
            )
    return splits
