import errno
import json
import resource
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtl.data import images
from vtl.data.images import decode_once, load_rgb, resize
from vtl.errors import UserError

GREY = np.array([[0, 51, 255]], np.uint8)
GREY_RGB = [[[0, 0, 0], [51, 51, 51], [255, 255, 255]]]


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    return message


def save(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def mode_of(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


def pixels_of(path: Path) -> list:
    image = load_rgb(path)
    assert image.mode == "RGB"
    return np.asarray(image).tolist()


def test_grey(tmp_path: Path) -> None:
    assert pixels_of(save(Image.fromarray(GREY), tmp_path / "a.png")) == GREY_RGB


def test_one_bit(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[True, False]]))
    path = save(image, tmp_path / "a.png")
    assert mode_of(path) == "1"
    assert pixels_of(path) == [[[255] * 3, [0] * 3]]


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="L").copy()
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    path = save(image, tmp_path / "a.png")
    assert mode_of(path) == "P"
    assert pixels_of(path) == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    path = save(image, tmp_path / "transparent.png", transparency=1)
    assert pixels_of(path) == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]


def test_transparent_pixels_lie_over_white(tmp_path: Path) -> None:
    rgba = np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 255, 51]]], np.uint8)
    path = save(Image.fromarray(rgba), tmp_path / "rgba.png")
    assert pixels_of(path) == [[[255, 0, 0], [255, 255, 255], [204, 204, 255]]]
    path = save(Image.fromarray(rgba).convert("LA"), tmp_path / "la.png")
    assert mode_of(path) == "LA"
    assert pixels_of(path)[0][1:] == [[255] * 3, [210] * 3]


def test_a_transparent_colour_becomes_white(tmp_path: Path) -> None:
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    path = save(rgb, tmp_path / "rgb.png", transparency=(1, 2, 3))
    assert pixels_of(path) == [[[255, 255, 255], [4, 5, 6]]]
    path = save(Image.fromarray(GREY), tmp_path / "grey.png", transparency=0)
    assert pixels_of(path) == [[[255] * 3, *GREY_RGB[0][1:]]]


def test_cmyk(tmp_path: Path) -> None:
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[..., 1] = cmyk[..., 2] = 255
    path = save(Image.fromarray(cmyk, mode="CMYK"), tmp_path / "a.jpg", quality=100)
    assert mode_of(path) == "CMYK"
    np.testing.assert_allclose(pixels_of(path), np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=2)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    path = save(Image.fromarray(GREY.astype(np.uint16) * 257), tmp_path / f"a.{suffix}")
    assert mode_of(path) in ("I;16", "I")
    assert pixels_of(path) == GREY_RGB


def test_big_endian_16_bit_grey(tmp_path: Path) -> None:
    image = Image.frombytes("I;16B", (3, 1), (GREY.astype(">u2") * 257).astype(">u2").tobytes())
    path = save(image, tmp_path / "a.tif")
    assert mode_of(path) == "I;16B"
    assert pixels_of(path) == GREY_RGB


def test_grey_without_a_known_white_is_refused(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.array([[0, 65536]], np.int32)), tmp_path / "a.tif")
    message = error_of(load_rgb, path)
    assert str(path) in message
    assert "outside 0..65535" in message
    path = save(Image.fromarray(np.array([[0, 0.5]], np.float32)), tmp_path / "f.tif")
    message = error_of(load_rgb, path)
    assert str(path) in message
    assert "floating-point grey" in message


# How the stored pixels of UPRIGHT look, by the table of the EXIF standard.
UPRIGHT = np.arange(0, 18 * 14, 14, dtype=np.uint8).reshape(2, 3, 3)
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    path = save(stored, tmp_path / f"a.{suffix}", exif=exif, **options)
    np.testing.assert_allclose(pixels_of(path), UPRIGHT, atol=3 if suffix == "jpg" else 0)


def test_broken_exif_does_not_break_the_photo(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (8, 6)), tmp_path / "a.jpg", exif=b"Exif\0\0garbage")
    assert load_rgb(path).size == (8, 6)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif"])
def test_a_truncated_photo_is_named(tmp_path: Path, suffix: str) -> None:
    path = save(Image.fromarray(noise(64, 64)), tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert str(path) in error_of(load_rgb, path)


@pytest.mark.parametrize(
    "content", [b"", b"no photo", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n123"]
)
def test_a_file_that_is_no_photo_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert f"cannot read photo {path}: " in error_of(load_rgb, path)


def test_a_missing_photo_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    assert error_of(load_rgb, path) == f"cannot read photo {path}: No such file or directory"


def triangle_weights(length: int, target: int) -> np.ndarray:
    """Antialiased bilinear interpolation in one dimension: [target, length]."""
    scale = length / target
    support = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(length) + 0.5 - centres[:, None])
    weights = np.maximum(0, 1 - distance / support)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("height", "width", "resized", "top", "left"),
    [
        (31, 47, (16, 24), 0, 4),  # 16 * 47 / 31 = 24.26
        (47, 31, (24, 16), 4, 0),
        (33, 40, (16, 19), 0, 2),  # 19.39; (19 - 16) / 2 = 1.5 rounds to even
        (33, 44, (16, 21), 0, 2),  # 21.33; 2.5 rounds to even
        (9, 13, (16, 23), 0, 4),  # 23.11; upwards; 3.5 rounds to even
        (16, 16, (16, 16), 0, 0),
    ],
)
def test_resize_crop_is_torchvisions(height, width, resized, top, left) -> None:
    photo = noise(height, width)
    rows, columns = triangle_weights(height, resized[0]), triangle_weights(width, resized[1])
    expected = np.einsum("ih,hwc,jw->ijc", rows, photo, columns)[top : top + 16, left : left + 16]
    result = resize(Image.fromarray(photo), 16, "resize_crop", "bilinear")
    assert (result.shape, result.dtype) == ((16, 16, 3), np.uint8)
    # Pillow rounds to 8 bits after each of its two passes.
    assert np.abs(result - expected).max() <= 1.01


def test_squash() -> None:
    photo = noise(31, 47)
    rows, columns = triangle_weights(31, 16), triangle_weights(47, 16)
    expected = np.einsum("ih,hwc,jw->ijc", rows, photo, columns)
    assert np.abs(resize(Image.fromarray(photo), 16, "squash", "bilinear") - expected).max() <= 1.01


def test_nearest_takes_the_pixel_at_the_centre() -> None:
    photo = noise(31, 47)
    rows, columns = ((np.arange(16) + 0.5) * length / 16 for length in (31, 47))
    expected = photo[rows.astype(int)[:, None], columns.astype(int)]
    np.testing.assert_array_equal(resize(Image.fromarray(photo), 16, "squash", "nearest"), expected)


def test_jpeg_pixels_are_those_of_plain_pillow(tmp_path: Path) -> None:
    path = save(Image.fromarray(noise(480, 640)), tmp_path / "a.jpg")
    plain = Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    result = resize(load_rgb(path), 32, "squash", "bicubic")
    np.testing.assert_array_equal(result, np.asarray(plain))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((0, "squash", "nearest"), "image size must be at least 1, got 0"),
        ((8, "stretch", "nearest"), "rule is 'stretch': choose one of squash, resize_crop"),
        (
            (8, "squash", "lanczos"),
            "interpolation is 'lanczos': choose one of nearest, bilinear, bicubic",
        ),
    ],
)
def test_unknown_options_list_the_known_ones(options, problem: str) -> None:
    assert problem in error_of(resize, Image.new("RGB", (4, 4)), *options)


IDS = tuple(f"{i:06d}" for i in range(12))
OPTIONS = {"size": 16, "rule": "resize_crop", "interpolation": "bilinear"}


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [
        save(Image.fromarray(noise(20 + i, 40 - i, i)), tmp_path / f"{name}.jpg")
        for i, name in enumerate(IDS)
    ]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "voc"


@pytest.mark.parametrize("num_threads", [None, 1, 5])
def test_photos_are_decoded_in_order(paths, directory: Path, num_threads) -> None:
    decoded = decode_once(paths, IDS, **OPTIONS, directory=directory, num_threads=num_threads)
    assert isinstance(decoded, np.memmap)
    assert (decoded.shape, decoded.dtype) == ((12, 16, 16, 3), np.uint8)
    assert not decoded.flags.writeable
    for path, image in zip(paths, decoded, strict=True):
        np.testing.assert_array_equal(image, resize(load_rgb(path), **OPTIONS))


def test_a_second_call_decodes_nothing(paths, directory: Path, monkeypatch) -> None:
    first = decode_once(paths, IDS, **OPTIONS, directory=directory)
    monkeypatch.setattr(images, "load_rgb", lambda path: pytest.fail(f"decoded {path} again"))
    second = decode_once(paths, IDS, **OPTIONS, directory=directory)
    np.testing.assert_array_equal(first, second)
    assert sorted(path.suffix for path in directory.iterdir()) == [".json", ".npy"]


def test_the_json_describes_the_file(paths, directory: Path) -> None:
    decode_once(paths, IDS, **OPTIONS, directory=directory)
    (path,) = directory.glob("*.json")
    description = json.loads(path.read_text())
    assert path.name == f"images_{description['key'][:16]}.json"
    assert path.with_suffix(".npy").is_file()
    assert OPTIONS.items() <= description.items()
    stat = paths[1].stat()
    assert description["photos"][1] == ["000001", stat.st_size, stat.st_mtime_ns]


def test_whatever_pixels_depend_on_makes_another_file(paths, directory: Path) -> None:
    def count_after(paths, ids=IDS, **changed) -> int:
        decode_once(paths, ids, **OPTIONS | changed, directory=directory)
        return len(list(directory.glob("*.npy")))

    assert count_after(paths) == 1
    assert count_after(paths, size=8) == 2
    assert count_after(paths, rule="squash") == 3
    assert count_after(paths, interpolation="nearest") == 4
    assert count_after(paths[::-1], IDS[::-1]) == 5
    assert count_after(paths[1:], IDS[1:]) == 6
    save(Image.fromarray(noise(30, 30, 99)), paths[3])
    assert count_after(paths) == 7


def test_a_damaged_file_is_written_again(paths, directory: Path) -> None:
    first = decode_once(paths, IDS, **OPTIONS, directory=directory).copy()
    (path,) = directory.glob("*.npy")
    path.write_bytes(path.read_bytes()[:-1])
    np.testing.assert_array_equal(decode_once(paths, IDS, **OPTIONS, directory=directory), first)


def test_broken_photos_are_counted_and_leave_nothing(paths, directory: Path) -> None:
    for index in (4, 7):
        paths[index].write_bytes(paths[index].read_bytes()[:300])
    message = error_of(decode_once, paths, IDS, **OPTIONS, directory=directory)
    assert "2 of 12 photos can't be decoded" in message
    assert "000004: " in message
    assert str(paths[4]) in message
    assert list(directory.iterdir()) == []


def test_a_missing_photo_is_named_with_its_id(paths, directory: Path) -> None:
    paths[5].unlink()
    message = error_of(decode_once, paths, IDS, **OPTIONS, directory=directory)
    assert message == f"cannot read photo 000005 ({paths[5]}): No such file or directory"


def test_a_directory_that_cannot_be_written(paths, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = tmp_path / "file" / "cache"
    message = error_of(decode_once, paths, IDS, **OPTIONS, directory=directory)
    assert f"cannot write the 9,216 bytes of decoded photos to {directory}: " in message
    assert "VTL_CACHE" in message


def test_too_little_space_is_seen_before_decoding(paths, directory: Path, monkeypatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9_215))
    monkeypatch.setattr(images, "load_rgb", lambda path: pytest.fail(f"decoded {path}"))
    message = error_of(decode_once, paths, IDS, **OPTIONS, directory=directory)
    assert f"the 9,216 bytes of decoded photos to {directory}: only 9,215 bytes are free" in message
    assert "VTL_CACHE" in message
    assert list(directory.iterdir()) == []


def test_a_failing_write_leaves_nothing(paths, directory: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))
    try:
        message = error_of(decode_once, paths, IDS, **OPTIONS, directory=directory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"cannot write the 9,216 bytes of decoded photos to {directory}: File too" in message
    assert "VTL_CACHE" in message
    assert list(directory.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(paths, directory: Path, monkeypatch) -> None:
    def raise_disk_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(images.os, "fsync", raise_disk_full)
    message = error_of(decode_once, paths, IDS, **OPTIONS, directory=directory)
    assert f"to {directory}: No space left on device\n" in message
    assert "VTL_CACHE" in message
    assert list(directory.iterdir()) == []


def test_two_builders_at_once_both_get_whole_files(paths, directory: Path, monkeypatch) -> None:
    def load_while_another_builds(path: Path) -> Image.Image:
        monkeypatch.setattr(images, "load_rgb", load_rgb)
        others.append(decode_once(paths, IDS, **OPTIONS, directory=directory))
        return load_rgb(path)

    others: list[np.memmap] = []
    monkeypatch.setattr(images, "load_rgb", load_while_another_builds)
    decoded = decode_once(paths, IDS, **OPTIONS, directory=directory, num_threads=1)
    np.testing.assert_array_equal(decoded, others[0])
    assert sorted(path.suffix for path in directory.iterdir()) == [".json", ".npy"]
