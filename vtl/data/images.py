"""Photos as uint8 arrays: upright RGB, resized, and decoded once into a memory-mapped file."""

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from PIL import Image, ImageOps
from tqdm import tqdm

from vtl.data.splits import Split
from vtl.errors import UserError, check_choice
from vtl.files import cache_dir, whole_file, write_json
from vtl.preprocessing import INTERPOLATIONS as INTERPOLATION_NAMES
from vtl.preprocessing import RESIZE_RULES, Preprocessing

FORMAT_VERSION = 1


def load_rgb(path: str | Path) -> Image.Image:
    """Decode a photo to 8-bit RGB, turned upright by its EXIF orientation.

    Transparent pixels are laid over white. 16-bit grey keeps its high byte, as 16-bit RGB does in
    Pillow.

    Raises:
        UserError: the file is missing or broken, or it is unclear what its pixels are in RGB.
    """
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    # On a broken file Pillow's plugins may also raise SyntaxError, struct.error, KeyError, ...
    except Exception as error:
        raise UserError(f"cannot read photo {path}: {_one_line(error)}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point grey has no defined white; save it as 8-bit or 16-bit")
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("grey values are outside 0..65535; save it as 8-bit or 16-bit")
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _squash(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    return image.resize((size, size), resample)


def _resize_crop(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """Short side to `size`, then the centre, rounded as torchvision's Resize and CenterCrop do."""
    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), resample).crop((left, top, left + size, top + size))


RULES: dict[str, Callable[[Image.Image, int, Image.Resampling], Image.Image]] = dict(
    zip(RESIZE_RULES, (_squash, _resize_crop), strict=True)
)
INTERPOLATIONS = {name: Image.Resampling[name.upper()] for name in INTERPOLATION_NAMES}


def resize(image: Image.Image, size: int, rule: str, interpolation: str) -> np.ndarray:
    """Resize an RGB image to uint8 [size, size, 3], antialiased as Pillow does it.

    `rule` is "squash" (both sides to size) or "resize_crop" (short side to size, then the centre).

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
    directory: Path,
    num_threads: int | None = None,
) -> np.memmap:
    """Return the photos as a read-only memory map, uint8 [N, size, size, 3] in the order of `ids`.

    The first call decodes them into a file in `directory`. Later calls with the same photos (by id,
    file size and modification time), options and Pillow version map that file.

    Raises:
        UserError: photos are missing or broken, or the file can't be written.
    """
    _check_options(size, rule, interpolation)
    description = {
        "format_version": FORMAT_VERSION,
        "pillow": PIL.__version__,
        "size": size,
        "rule": rule,
        "interpolation": interpolation,
        "photos": [_fingerprint(path, photo_id) for path, photo_id in zip(paths, ids, strict=True)],
    }
    key = hashlib.sha256(json.dumps(description).encode()).hexdigest()
    directory = Path(directory)
    target = directory / f"images_{key[:16]}.npy"
    shape = (len(ids), size, size, 3)
    if not _is_complete(target, shape):
        num_bytes = math.prod(shape)
        try:
            _check_free_space(directory, num_bytes)
            with whole_file(target) as file:
                _write_photos(file, paths, ids, size, rule, interpolation, num_threads)
                write_json(target.with_suffix(".json"), {"key": key, **description})
        except OSError as error:
            raise UserError(
                f"cannot write the {num_bytes:,} bytes of decoded photos to {directory}: "
                f"{_one_line(error)}\n"
                "Set VTL_CACHE to a directory elsewhere."
            ) from error
    return np.load(target, mmap_mode="r")


def _fingerprint(path: Path, photo_id: str) -> tuple[str, int, int]:
    try:
        stat = os.stat(path)
    except OSError as error:
        raise UserError(f"cannot read photo {photo_id} ({path}): {_one_line(error)}") from error
    return photo_id, stat.st_size, stat.st_mtime_ns


def _is_complete(target: Path, shape: tuple[int, ...]) -> bool:
    try:
        images = np.load(target, mmap_mode="r")
    except (OSError, ValueError):
        return False
    return images.shape == shape and images.dtype == np.uint8


def _check_free_space(directory: Path, num_bytes: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < num_bytes:
        raise OSError(f"only {free:,} bytes are free")


def _write_photos(
    file: BinaryIO,
    paths: Sequence[Path],
    ids: Sequence[str],
    size: int,
    rule: str,
    interpolation: str,
    num_threads: int | None,
) -> None:
    shape = (len(ids), size, size, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    start = file.tell()
    lock = threading.Lock()

    def write_photo(index: int) -> str | None:
        """Return what is wrong with the photo, None if nothing: one pass finds all broken ones."""
        try:
            pixels = resize(load_rgb(paths[index]), size, rule, interpolation)
        except UserError as error:
            return f"{ids[index]}: {error}"
        # A full disk is an OSError here; through a memory map it would be a SIGBUS.
        with lock:
            file.seek(start + index * pixels.nbytes)
            file.write(pixels.tobytes())
        return None

    with ThreadPoolExecutor(num_threads) as pool:
        results = pool.map(write_photo, range(len(ids)))
        progress = tqdm(results, total=len(ids), desc="decoding photos", unit="photo")
        failures = [message for message in progress if message]
    if failures:
        raise UserError(
            f"{len(failures)} of {len(ids)} photos can't be decoded\nThe first is {failures[0]}."
        )


def decode_splits(
    splits: Mapping[str, Split], preprocessing: Preprocessing, *, crops: bool
) -> dict[str, np.memmap]:
    """The photos of each split, by role, resized for `preprocessing` and kept in the cache.

    `crops` says whether training draws random crops; photos are then stored larger.
    """
    return {
        role: decode_once(
            split.paths,
            split.ids,
            size=preprocessing.stored_size(crops=crops),
            rule=preprocessing.resize,
            interpolation=preprocessing.interpolation,
            directory=cache_dir() / "images",
        )
        for role, split in splits.items()
    }
