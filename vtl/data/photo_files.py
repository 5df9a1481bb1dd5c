"""Files of photos: which is that of an id, opening one, and whether two are the same.

A folder's photos go by their name without its ending. Only names that are listed in the folder are
ever opened, so that no id leads out of it.
"""

import functools
import math
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import PIL
from absl import logging
from PIL import Image

from vtl.errors import UserError
from vtl.untrusted import open_plain, plain_sha256, printable, reason_of

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".jp2", ".avif"),
    )
)
"""How the names of photos end, in small letters; what they hold is told by their content."""

PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What Pillow may read a photo as, whatever its name: none of these starts a program, as EPS does.
A phone's MPO is a JPEG."""

MAX_PIXELS, MAX_SIDE = 178_956_970, 1_000_000
"""Of a photo; of more pixels Pillow itself takes it for a bomb. Decoded they take 4 to 11 bytes."""

FEWER_PIXELS = {"WEBP": 100_000_000, "JPEG2000": 80_000_000}
"""Of the formats whose decoders take 16 and 25 bytes a pixel."""

MAX_BYTES = 1 << 30
"""Of a photo's file: so many pixels uncompressed, in 16 bit colour."""

_TOO_MANY = "it has more than {:,} pixels, the most that are read"

# Of metadata that isn't needed, and of large photos, for which there are limits of our own.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Large blocks go back to the system as soon as a photo is done with; glibc keeps small ones, and so
# each thread that had a large photo would keep its memory.
Image.core.set_block_size(1 << 26)


def find_photos(
    directory: Path, listed: Sequence[str], listed_in: Path
) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """The ids and the files of the photos that `listed_in` lists, with or without their endings.

    Raises:
        UserError: a photo is missing, or an id has several.
    """
    ids = {entry: without_suffix(entry) for entry in listed}
    names = _names_by_stem(directory, {*ids, *ids.values()})
    # An id may itself end as a photo's name does: the photo of "a.jpg" is then a.jpg.jpg.
    ids = {entry: entry if entry in names else plain for entry, plain in ids.items()}
    if len(set(ids.values())) < len(ids):
        ((twice, _),) = Counter(ids.values()).most_common(1)
        raise UserError(f"{printable(listed_in)}: id {twice} occurs twice")
    missing = [photo_id for photo_id in ids.values() if photo_id not in names]
    if missing:
        names |= _in_other_unicode(directory, missing)
        missing = [photo_id for photo_id in missing if photo_id not in names]
    if missing:
        raise UserError(
            f"{printable(listed_in)}: {len(missing)} of {len(ids)} photos are missing; the first "
            f"is {printable(directory / missing[0])}.jpg{_what_is_there(directory, missing[0])}"
        )
    paths = tuple(directory / _the_one(names[ids[entry]], listed_in) for entry in listed)
    return tuple(ids[entry] for entry in listed), paths


def stem(name: str) -> str:
    """Of a photo's path, the file's name without its ending: the same wherever the file lies."""
    return without_suffix(name.rpartition("/")[2])


def without_suffix(name: str) -> str:
    """`name` without the ending of a photo, if it has one."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def names_with_blanks(directory: Path) -> frozenset[str]:
    """Those of a folder's photos, without endings, that have a blank in them; few have."""
    try:
        return _names_with_blanks(directory, os.stat(directory).st_mtime_ns)
    except (OSError, UserError):
        return frozenset()


@functools.lru_cache(maxsize=2)
def _names_with_blanks(directory: Path, changed_ns: int) -> frozenset[str]:
    del changed_ns  # by which another list of names is another entry
    return frozenset(
        without_suffix(name) for name in _photo_names(directory) if len(name.split()) > 1
    )


def _photo_names(directory: Path) -> Iterable[str]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if without_suffix(entry.name) != entry.name:
                    yield entry.name
    except OSError as error:
        raise UserError(f"{printable(directory)} can't be read: {reason_of(error)}") from error


def _names_by_stem(directory: Path, stems: set[str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name in _photo_names(directory):
        stem = without_suffix(name)
        if stem in stems:
            names.setdefault(stem, []).append(name)
    return names


def _in_other_unicode(directory: Path, missing: Iterable[str]) -> dict[str, list[str]]:
    """Photos whose names are the ids in letters, but with accents that are stored another way."""
    by_letters = {unicodedata.normalize("NFC", photo_id): photo_id for photo_id in missing}
    names: dict[str, list[str]] = {}
    for name in _photo_names(directory):
        letters = unicodedata.normalize("NFC", without_suffix(name))
        if letters in by_letters:
            names.setdefault(by_letters[letters], []).append(name)
    return names


def _what_is_there(directory: Path, photo_id: str) -> str:
    def plain(name: str) -> str:
        return unicodedata.normalize("NFKC", os.path.splitext(name)[0]).casefold().lstrip("0")

    with suppress(OSError):
        names = sorted(os.listdir(directory))
        similar = [name for name in names if plain(name) == plain(f"{photo_id}.")]
        if similar:
            return f"; {printable(similar[0], 80)} is there"
        if not names:
            return "; that folder is empty"
    return ""


def _the_one(names: list[str], listed_in: Path) -> str:
    """The one photo of an id; VOC's own ending comes before others."""
    if len(names) == 1:
        return names[0]
    names = sorted(names)
    usual = next((name for name in names if name.endswith(".jpg")), None)
    both = " and ".join(printable(name, 80) for name in names)
    if usual is None:
        raise UserError(f"{printable(listed_in)}: one id has several photos, {both}: keep one")
    logging.warning("one id has several photos, %s: %s is used", both, printable(usual, 80))
    return usual


@contextmanager
def open_photo(path: str | Path) -> Iterator[Image.Image]:
    """The photo, its size known and its pixels not read; what fails then is its UserError too."""
    with open_plain(path, max_bytes=MAX_BYTES) as file:
        try:
            with Image.open(file, formats=_formats()) as image:
                if max(image.size) > MAX_SIDE:
                    raise ValueError(f"a side has {max(image.size):,} pixels, over {MAX_SIDE:,}")
                most = FEWER_PIXELS.get(image.format or "", MAX_PIXELS)
                if math.prod(image.size) > most:
                    raise ValueError(_TOO_MANY.format(most))
                yield image
        except UserError:
            raise
        # On broken files Pillow's plugins also raise SyntaxError, struct.error, KeyError, ...
        except Exception as error:
            raise UserError(f"cannot read photo {printable(path)}: {_reason(error)}") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in PHOTO_FORMATS if name in Image.OPEN)  # some builds lack AVIF


def _reason(error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return f"it is none of {', '.join(_formats())}, or damaged at its beginning"
    if isinstance(error, Image.DecompressionBombError):
        return _TOO_MANY.format(MAX_PIXELS)
    return reason_of(error)


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two files have the same content."""
    try:
        if os.stat(one).st_size != os.stat(other).st_size:
            return False
        return plain_sha256(one) == plain_sha256(other)
    except (OSError, UserError):
        return False
