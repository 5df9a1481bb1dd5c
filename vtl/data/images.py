"""Photos as uint8 arrays: upright RGB, resized, decoded once into a file of the cache."""

import functools
import hashlib
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL
from PIL import Image
from tqdm import tqdm

from vtl import processes
from vtl.data.decoded import DecodedPhotos, open_decoded, open_unfinished, write_decoded
from vtl.data.photo_files import MAX_PIXELS, open_photo
from vtl.data.split import Split
from vtl.errors import UserError, check_choice
from vtl.files import cache_dir, cache_holding, remove_litter
from vtl.preprocessing import INTERPOLATIONS as INTERPOLATION_NAMES
from vtl.preprocessing import RESIZE_RULES, Preprocessing
from vtl.untrusted import printable, reason_of

FORMAT_VERSION = 2

_SHOWN_S = 60.0
"""How long a network's file system may hide from one machine what another has written."""

STRIP_PIXELS = 1 << 22
"""What is converted at once of a photo that isn't RGB, so that only the result takes memory."""

EXACT, FAST = "exact", "fast"
DECODE = (EXACT, FAST)
"""How much of a JPEG is decoded: all its pixels, or averages of them where they are many."""

LONG = 32
"""Beyond this ratio of its sides a photo is cropped before it is resized, which takes no memory for
what is cut away, and rounds a little differently."""

ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what turns the photo upright."""


def load_rgb(path: str | Path, *, least_side: int = 0) -> Image.Image:
    """Decode a photo to 8-bit RGB, turned upright by its EXIF orientation.

    Transparent pixels are laid over white. 16-bit grey keeps its high byte, as 16-bit RGB does in
    Pillow. With `least_side` libjpeg averages a JPEG's pixels as long as both sides keep so many.

    Raises:
        UserError: the file is missing, broken, too large, or of a kind that has no one reading as
            RGB.
    """
    with open_photo(path) as image, _DECODING.taken(math.prod(image.size)):
        if least_side:
            image.draft(None, (least_side, least_side))
        upright = _upright(image)
        rgb = _to_rgb(upright)
        return rgb.copy() if rgb is upright else rgb  # nothing that is still of its file


def load_resized(
    path: str | Path, size: int, rule: str, interpolation: str, decode: str = EXACT
) -> np.ndarray:
    """`resize` of `load_rgb`, in memory that is bounded over all threads that call it.

    With `decode` "fast", libjpeg averages a JPEG's pixels to the smallest of 1/2, 1/4 and 1/8 of
    its sides at which both are at least twice `size`; the resizing still averages what is left.
    The interpolation "nearest" averages nothing, and has all pixels decoded.
    """
    with open_photo(path) as image, _DECODING.taken(math.prod(image.size)):
        if decode == FAST and interpolation != "nearest":
            image.draft(None, (2 * size, 2 * size))
        return resize(_to_rgb(_upright(image)), size, rule, interpolation)


class _Budget:
    """So many of something that threads take and give back; who asks for too many waits."""

    def __init__(self, total: int):
        self._free = total
        self._has_changed = threading.Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        with self._has_changed:
            self._has_changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._has_changed:
                self._free += count
                self._has_changed.notify_all()


_DECODING = _Budget(2 * MAX_PIXELS)
"""Pixels that all threads decode at once; ordinary photos don't wait for it."""


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        method = _UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    # Nothing else is needed of EXIF, and nothing in it makes a photo unreadable.
    except Exception:
        method = None
    if method is None:
        return image
    upright = image.transpose(method)
    image.close()  # frees its pixels
    return upright


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point grey has no defined white; save it as 8-bit or 16-bit")
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    result = Image.new("RGB", image.size)
    height = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, height):
        box = (0, top, image.width, min(top + height, image.height))
        result.paste(_strip_to_rgb(image.crop(box)), box)
    return result


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("grey values are outside 0..65535; save it as 8-bit or 16-bit")
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _is_long(image: Image.Image) -> bool:
    return max(image.size) > LONG * min(image.size)


def _squash(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    if _is_long(image) and max(image.size) > size:
        # The long side first: Pillow would begin with the width.
        width, height = (min(side, size) for side in image.size)
        image = image.resize((width, height), resample)
    return image.resize((size, size), resample)


def _resize_crop(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """Short side to `size`, then the centre, rounded as torchvision's Resize and CenterCrop do."""
    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if _is_long(image):
        across = (edge * image.width / width for edge in (left, left + size))
        down = (edge * image.height / height for edge in (top, top + size))
        (x0, x1), (y0, y1) = across, down
        return image.resize((size, size), resample, (x0, y0, x1, y1))
    return image.resize((width, height), resample).crop((left, top, left + size, top + size))


RULES: dict[str, Callable[[Image.Image, int, Image.Resampling], Image.Image]] = dict(
    zip(RESIZE_RULES, (_squash, _resize_crop, _squash), strict=True)
)
INTERPOLATIONS = {name: Image.Resampling[name.upper()] for name in INTERPOLATION_NAMES}


def resize(image: Image.Image, size: int, rule: str, interpolation: str) -> np.ndarray:
    """Resize an RGB image to uint8 [size, size, 3], antialiased as Pillow does it.

    `rule` is "resize_crop" (short side to size, then the centre), or one that squashes (both sides
    to size).

    Raises:
        UserError: `rule` or `interpolation` is unknown, or `size` is below 1.
    """
    _check_options(size, rule, interpolation)
    return np.asarray(RULES[rule](image, size, INTERPOLATIONS[interpolation]))


def _check_options(size: int, rule: str, interpolation: str) -> None:
    if size < 1:
        raise UserError(f"the image size must be at least 1, got {size}")
    check_choice("the resize rule", rule, RULES)
    check_choice("the interpolation", interpolation, INTERPOLATIONS)


def decode_once(
    paths: Sequence[Path],
    ids: Sequence[str],
    *,
    size: int,
    rule: str,
    interpolation: str,
    decode: str = EXACT,
    directory: Path,
    filled: Path | None = None,
    num_threads: int | None = None,
    skips_broken: bool = False,
) -> DecodedPhotos:
    """Return the photos as `DecodedPhotos`, uint8 [N, size, size, 3] in the order of `ids`.

    The first call decodes them into `directory`; a later one with the same photos (by id, file
    size, and times of change), options and Pillow version reads that file, or the one in `filled`,
    which is only read. Photos that were copied are decoded anew. A call that was stopped goes on
    where it was. With `skips_broken` the result's `broken` has the rows of broken photos.

    Raises:
        UserError: photos are missing or broken, or the file can't be written.
    """
    _check_options(size, rule, interpolation)
    check_choice("data.decode", decode, DECODE)
    description = {
        "format_version": FORMAT_VERSION,
        "pillow": PIL.__version__,
        "size": size,
        "rule": rule,
        "interpolation": interpolation,
        **({} if decode == EXACT else {"decode": decode}),
        "photos": [_fingerprint(path, photo_id) for path, photo_id in zip(paths, ids, strict=True)],
    }
    key = hashlib.sha256(json.dumps(description).encode()).hexdigest()
    target = Path(directory) / f"images_{key[:16]}.npy"
    shape = (len(ids), size, size, 3)

    def load(row: int) -> np.ndarray:
        return load_resized(paths[row], size, rule, interpolation, decode)

    def checked(decoded: DecodedPhotos) -> DecodedPhotos:
        if not skips_broken:
            _refuse_broken(decoded.broken, ids)
        return decoded

    begun: DecodedPhotos | None = None
    is_kept = np.zeros(len(ids), bool)

    def whole() -> DecodedPhotos | None:
        nonlocal begun, is_kept
        for folder in filter(None, (target.parent, filled)):
            decoded = open_decoded(folder / target.name, key, shape, load)
            if decoded is None:
                continue
            if not any(_is_legible(load, row) for row in decoded.broken):
                return decoded
            # Some were broken for a while, on a disk that failed or without memory.
            begun, is_kept = decoded, np.ones(len(ids), bool)
            is_kept[list(decoded.broken)] = False
        return None

    decoded = whole()
    team, is_done = _team(target, key, decoded is not None)
    if decoded is not None and is_done:
        return checked(decoded)
    if not begun:
        begun, is_kept = open_unfinished(target, key, shape, load)

    def load_or_take(row: int) -> np.ndarray:
        return begun[row] if begun and is_kept[row] else load(row)

    num_bytes = math.prod(shape)
    try:
        if not is_done:
            _check_free_space(target.parent, num_bytes)
            if team[0] == processes.index():
                remove_litter(target.parent)
            write_decoded(
                target,
                shape,
                {"key": key, **description},
                functools.partial(_decode_all, load_or_take, num_threads),
                num_unfinished=int(is_kept.sum()),
                team=team,
            )
        decoded = open_decoded(target, key, shape, load)
        end = time.monotonic() + (_SHOWN_S if len(team) > 1 else 0)
        while decoded is None and time.monotonic() < end:
            time.sleep(1)
            decoded = open_decoded(target, key, shape, load)
    except OSError as error:
        raise UserError(
            f"cannot write the {num_bytes:,} bytes of decoded photos to {directory}: "
            f"{reason_of(error)}\nSet VTL_CACHE to move the cache elsewhere."
        ) from error
    if decoded is None:
        raise UserError(f"{target} was removed or changed just after it was written: start again")
    return checked(decoded)


def _team(target: Path, key: str, is_whole: bool) -> tuple[list[int], bool]:
    """The processes that share the file, and whether it is whole for the first of them.

    Photos that are each machine's own differ in their times, and so in their key.
    """
    told = processes.gather([key, is_whole])
    team = [i for i in processes.sharing(target.parent) if told[i][0] == key]
    return team, told[team[0]][1]


def _fingerprint(path: Path, photo_id: str) -> tuple[str, int, int, int]:
    try:
        stat = os.stat(path)
    except OSError as error:
        raise UserError(
            f"cannot read photo {printable(photo_id)} ({printable(path)}): {reason_of(error)}"
        ) from error
    # An edit can keep size and modification time, as exiftool -P does, but not the third.
    return photo_id, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _check_free_space(directory: Path, num_bytes: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < num_bytes:
        raise OSError(f"only {free:,} bytes are free")


def _decode_all(
    decode: Callable[[int], np.ndarray],
    num_threads: int | None,
    keep: Callable[[int, np.ndarray], None],
    rows: range,
) -> dict[int, str]:
    """Row -> what is wrong with its photo: one pass finds every broken one."""

    def decode_one(row: int) -> str | None:
        try:
            pixels = decode(row)
        except UserError as error:
            return str(error)
        keep(row, pixels)
        return None

    with ThreadPoolExecutor(num_threads) as pool:
        results = pool.map(decode_one, rows)
        progress = tqdm(results, total=len(rows), desc="decoding photos", unit="photo")
        try:
            broken = {r: message for r, message in zip(rows, progress, strict=True) if message}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return broken


def _is_legible(decode: Callable[[int], np.ndarray], row: int) -> bool:
    try:
        decode(row)
    except UserError:
        return False
    return True


def _refuse_broken(broken: Mapping[int, str], ids: Sequence[str]) -> None:
    if broken:
        first = min(broken)
        raise UserError(
            f"{len(broken)} of {len(ids)} photos can't be decoded\n"
            f"The first is {printable(ids[first], 80)}: {broken[first]}."
        )


def decode_splits(
    splits: Mapping[str, Split],
    preprocessing: Preprocessing,
    *,
    crops: bool,
    decode: str = EXACT,
    skips_broken: bool = False,
) -> dict[str, DecodedPhotos]:
    """The photos of each split, by role, as `preprocessing` has them; from the cache, or into it.

    `crops` says whether training draws random crops; photos are then stored larger. `decode` is as
    in `load_resized`.
    """
    return {
        role: decode_once(
            split.paths,
            split.ids,
            size=preprocessing.stored_size(crops=crops),
            rule=preprocessing.resize,
            interpolation=preprocessing.interpolation,
            decode=decode,
            directory=cache_dir() / "images",
            filled=cache_holding("images") / "images",
            skips_broken=skips_broken,
        )
        for role, split in splits.items()
    }
