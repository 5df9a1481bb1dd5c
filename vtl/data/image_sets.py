"""ImageSets/Main of a devkit: which files there are splits, and which say where a class is.

Each file is used, ignored by a named rule, or refused. Otherwise a class whose files are not
recognised, because of a .TXT or a comma, would silently be missing.
"""

import io
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from absl import logging

from vtl.data import photo_files
from vtl.data.photo_files import without_suffix
from vtl.errors import UserError
from vtl.untrusted import open_plain, printable, reason_of

MAX_BYTES = 1 << 28
"""Of one file: ten million photos' ids and flags."""

HEAD_BYTES = 1 << 16
"""What is read of each file to see of which kind it is."""

FLAGS = ("1", "-1", "0")

IGNORED = (
    *(".*", "thumbs.db", "desktop.ini"),  # by operating systems
    *("*~", "*.bak", "*.orig", "*.swp"),  # by editors
    *("readme*", "license*", "*.md", "*.html", "*.pdf", "*.doc", "*.docx"),
    *("*.py", "*.ipynb", "*.sh", "*.m", "*.zip", "*.tar", "*.gz", "*.tgz"),
    *("classes.txt", "labels.txt", "labelmap.txt", "predefined_classes.txt"),  # by labelling tools
)
"""Files beside the splits that are none, by their names in small letters; folders neither."""

_WITH_COMMA = re.compile(r".*[,;]\s*[+-]?[01]")


@dataclass(frozen=True)
class ImageSets:
    """The splits, and split -> class -> its class file."""

    directory: Path
    splits: tuple[str, ...]
    class_files: dict[str, dict[str, Path]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Those with a file in any split. Sorted is VOC's order."""
        return tuple(sorted({name for files in self.class_files.values() for name in files}))

    def path(self, split: str) -> Path:
        """The file of a split; UserError if there is no such split."""
        path = self.directory / f"{split}.txt"
        if split in self.splits:
            return path
        problem = f"no split {printable(split)!r} in {self.directory}"
        if any(path in files.values() for files in self.class_files.values()):
            problem = f"{path} is a class file (flags beside the ids), not a split"
        raise UserError(f"{problem}; the splits are {', '.join(self.splits)}")


def survey(directory: Path, classes_in: Callable[[str], Collection[str]] | None) -> ImageSets:
    """Read the beginning of each file in `directory`, and say what it is.

    `classes_in` gives the classes in a photo by its annotation; None if there are none.

    Raises:
        UserError: a file is neither a split, nor a class file of one, nor ignored by a rule.
    """
    first_lines = {path: _first_line(path) for path in _text_files(directory)}
    lists = [path for path, line in first_lines.items() if len(line) < 2]
    flagged = [path for path, line in first_lines.items() if len(line) == 2]
    for path in lists:
        owner = _owner(path, lists)
        if owner and not first_lines[path]:
            raise UserError(
                f"{printable(path)} is empty\n"
                f"Give each photo of {owner.name} a line with its id and -1 (absent), or delete it."
            )
    class_files: dict[str, dict[str, Path]] = {path.stem: {} for path in lists}
    strangers = []
    for path in flagged:
        if owner := _owner(path, lists):
            class_files[owner.stem][path.stem.removesuffix(f"_{owner.stem}")] = path
        else:
            strangers.append(path)
    sets = ImageSets(directory, tuple(path.stem for path in lists), class_files)
    for path in strangers:
        _check_leftover(path, sets)
    for path in lists:
        if not class_files[path.stem] and (owner := _owner(path, lists)):
            _check_is_split(path, owner, sets, classes_in)
    return sets


def _text_files(directory: Path) -> list[Path]:
    files = []
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise UserError(f"{printable(directory)} can't be read: {reason_of(error)}") from error
    for path in entries:
        is_text = path.suffix == ".txt" and not path.stem.lower().endswith(".txt")
        if any(fnmatch(path.name.lower(), rule) for rule in IGNORED):
            continue
        if is_text and not path.stem.isprintable():
            raise UserError(f"{printable(path)}: its name can't be printed; rename it")
        if is_text:
            files.append(path)
        elif not path.is_dir():
            raise UserError(
                f"{printable(path)} is not read: splits and class files are called NAME.txt\n"
                "Rename it, or move it out of that folder."
            )
    return files


def _first_line(path: Path) -> list[str]:
    """[] of an empty file, [id] of a split, [id, flag] of a class file; or UserError."""
    rows = read_rows(path, HEAD_BYTES)
    if not rows:
        return []
    columns = len(rows[0])
    for row in rows if columns == 1 else rows[:1]:
        is_flagged = len(row) == 2 and row[1] in FLAGS
        if len(row) != columns or columns > 2 or (columns == 2 and not is_flagged):
            break
        if columns == 1 and _WITH_COMMA.fullmatch(row[0]):
            break
    else:
        return rows[0]
    shown = printable(" ".join(row), 60)
    if columns == 1 and len(row) > 1:
        raise UserError(
            f"{printable(path)}: each line must hold one id, got {shown!r}\n"
            "Mend it, or move it out of that folder."
        )
    raise UserError(
        f"{printable(path)} is no split and no class file: "
        f"it has the line {shown!r}\n"
        "A split has an id without blanks on each line, a class file an id, blanks and 1, -1 or 0."
        "\nMend it, or move it out of that folder."
    )


def _owner(path: Path, splits: Sequence[Path]) -> Path | None:
    """The split of CLASS_SPLIT.txt; cat_my_val.txt is of "my_val" rather than "val"."""
    owners = [split for split in splits if path.stem.endswith(f"_{split.stem}")]
    return max(owners, key=lambda split: len(split.stem), default=None)


def _check_leftover(path: Path, sets: ImageSets) -> None:
    """A class file of a split that is not there must be of a class that is."""
    if any(path.stem.startswith(f"{name}_") for name in sets.classes):
        logging.info("%s is of a split that is not there, and is ignored", path)
        return
    raise UserError(
        f"{printable(path)} has flags, but its name is not CLASS_SPLIT.txt with one of the splits "
        f"{printable(', '.join(sets.splits))}\nRename it, or move it out of that folder."
    )


def _check_is_split(
    path: Path,
    owner: Path,
    sets: ImageSets,
    classes_in: Callable[[str], Collection[str]] | None,
) -> None:
    """Refuse a class file that lists photos with the class, and no flags: it looks like a split."""
    ids = [row[0] for row in read_rows(path)]
    name = path.stem.removesuffix(f"_{owner.stem}")
    if not {*ids} <= {row[0] for row in read_rows(owner)}:
        return
    if classes_in and name not in sets.classes and name not in classes_in(without_suffix(ids[0])):
        return
    raise UserError(
        f"{printable(path)} lists {len(ids)} photos of {owner.name} without flags\n"
        f"Give each photo of {owner.name} a line with its id and 1 (present) or -1 (absent)."
    )


def read_ids(path: Path) -> tuple[str, ...]:
    """What a split's file lists: names in the folder of photos, each once.

    Raises:
        UserError: it is empty, or damaged.
    """
    rows = read_rows(path)
    if not rows:
        raise UserError(f"{printable(path)} is empty")
    ids: dict[str, None] = {}
    for row in rows:
        name = row[0]
        shown = printable(name, 60)
        if len(row) != 1:
            raise UserError(
                f"{printable(path)}: each line must hold one id, "
                f"got {printable(' '.join(row), 60)!r}"
            )
        if "/" in name or "\\" in name or name in (".", ".."):
            raise UserError(f"{printable(path)}: id {shown!r} is not a plain file name")
        if not name.isprintable():
            raise UserError(f"{printable(path)}: id {shown!r} has characters that can't be printed")
        if name in ids:
            raise UserError(f"{printable(path)}: id {shown} occurs twice")
        ids[name] = None
    return tuple(ids)


def read_flags(path: Path, ids: Sequence[str]) -> list[int]:
    """One flag an id, in the order of `ids`, whatever the order of the file.

    Raises:
        UserError: it is damaged, or of other photos than `ids`.
    """
    known = set(ids)
    flags: dict[str, int] = {}
    for row in read_rows(path):
        name = row[0] if row[0] in known else without_suffix(row[0])
        shown = printable(name, 60)
        if name not in known:
            raise UserError(f"{printable(path)}: id {shown} is not in the split file")
        if name in flags:
            raise UserError(f"{printable(path)}: id {shown} occurs twice")
        if len(row) != 2 or row[1] not in FLAGS:
            raise UserError(
                f"{printable(path)}: the flag of id {shown} must be 1, -1 or 0, "
                f"got {printable(' '.join(row), 60)!r}"
            )
        flags[name] = int(row[1])
    for name in ids:
        if name not in flags:
            raise UserError(
                f"{printable(path)}: id {name} of the split file is missing\n"
                "Give it a line too, with -1 if the class is absent."
            )
    return [flags[name] for name in ids]


def read_rows(path: Path, num_bytes: int = -1) -> list[list[str]]:
    """The words of each line that has some; of the lines that are whole in `num_bytes`, if given.

    The name of a photo of the devkit is one word, whatever blanks are in it.

    Raises:
        UserError: it can't be read, or isn't text in UTF-8, or in UTF-16 with its mark.
    """
    root = path.parents[2]  # of ImageSets/Main/NAME.txt
    with open_label_file(path, root, MAX_BYTES) as file:
        content = file.read(num_bytes)
        is_whole = not file.read(1)
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding, "strict" if is_whole else "ignore")
    except UnicodeDecodeError as error:
        raise UserError(f"{printable(path)} is not UTF-8 text: save it as UTF-8") from error
    lines = text.splitlines()
    whole_lines = lines if is_whole else lines[:-1] or lines
    with_blanks = photo_files.names_with_blanks(root / "JPEGImages")
    return [_words(line, with_blanks) for line in whole_lines if line.strip()]


def _words(line: str, with_blanks: Collection[str]) -> list[str]:
    whole, words = line.strip(), line.split()
    if not with_blanks or len(words) == 1:
        return words
    before, last = whole.rsplit(maxsplit=1)
    if without_suffix(whole) in with_blanks:
        return [whole]
    return [before, last] if without_suffix(before) in with_blanks else words


def open_label_file(path: Path, root: Path, max_bytes: int) -> io.BufferedReader:
    """Open a file of the devkit `root` that says what is in photos; as `open_plain` refuses.

    The folder that it lies in may be a link; the file may only be one within folder or devkit.
    """
    if not path.is_symlink():
        return open_plain(path, max_bytes=max_bytes)
    folder = Path(os.path.realpath(path.parent))
    inside = root if folder.is_relative_to(os.path.realpath(root)) else folder
    return open_plain(path, max_bytes=max_bytes, inside=inside)
