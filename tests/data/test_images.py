import errno
import json
import math
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from vtl.data import images, photo_files
from vtl.data.images import decode_once, load_resized, load_rgb, resize
from vtl.errors import UserError

OPTIONS = {"size": 16, "rule": "resize_crop", "interpolation": "bilinear"}

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


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("broken_by", ["a value of another kind", "garbage behind"])
def test_only_the_orientation_is_needed_of_exif(tmp_path: Path, suffix: str, broken_by) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a camera"
    content = bytearray(exif.tobytes())
    at = content.index(b"\x01\x0e") if b"\x01\x0e" in content else content.index(b"\x0e\x01")
    if broken_by == "garbage behind":
        content += b"\xff" * 50
    else:
        content[at + 2 : at + 4] = b"\x63\x63"
    path = save(Image.new("RGB", (8, 6)), tmp_path / f"a.{suffix}", exif=bytes(content))
    assert load_rgb(path).size == ((6, 8) if suffix != "tif" else load_rgb(path).size)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"


def test_no_program_is_started_for_a_photo(tmp_path: Path, monkeypatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kw: pytest.fail("gs"))
    path = tmp_path / "a.jpg"
    path.write_bytes(EPS)
    with Image.open(path) as image:
        assert image.format == "EPS"
    assert "it is none of JPEG, PNG" in error_of(load_rgb, path)


def test_only_plain_files_are_photos(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    os.mkfifo(path)
    assert error_of(load_rgb, path) == f"{path} is a pipe and not a plain file"
    link = tmp_path / "b.jpg"
    link.symlink_to(save(Image.new("RGB", (8, 6)), tmp_path / "c.png"))
    assert load_rgb(link).size == (8, 6)


def write_png_header(path: Path, width: int, height: int) -> Path:
    """A PNG that says how large it is, and holds hardly anything."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data
        chunks += struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize(
    ("width", "height", "problem"),
    [
        (20_000, 20_000, "it has more than 178,956,970 pixels"),
        (1, 2_000_000, "a side has 2,000,000 pixels, over 1,000,000"),
    ],
)
def test_bombs_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch, width: int, height: int, problem: str
) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    path = write_png_header(tmp_path / "a.png", width, height)
    assert f"cannot read photo {path}: {problem}" in error_of(load_rgb, path)


def test_formats_that_take_more_memory_have_a_lower_bound(tmp_path: Path, monkeypatch) -> None:
    path = save(Image.new("RGB", (30, 20)), tmp_path / "a.webp")
    monkeypatch.setitem(photo_files.FEWER_PIXELS, "WEBP", 599)
    assert "it has more than 599 pixels" in error_of(load_rgb, path)


@pytest.mark.parametrize("function", [load_rgb, lambda path: load_resized(path, **OPTIONS)])
def test_too_little_memory_is_one_line(tmp_path: Path, monkeypatch, function) -> None:
    def raise_memory_error(self) -> None:
        raise MemoryError

    path = save(Image.new("RGB", (30, 20)), tmp_path / "a.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", raise_memory_error)
    message = f"cannot read photo {path}: it takes more memory than there is"
    assert error_of(function, path) == message


def test_what_is_not_rgb_is_converted_strip_by_strip(tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    modes = {"LA": 2, "RGBA": 4, "CMYK": 4}
    for mode, channels in modes.items():
        pixels = rng.integers(0, 256, (50, 30, channels), dtype=np.uint8)
        suffix = "tif" if mode == "CMYK" else "png"
        path = save(Image.fromarray(pixels, mode=mode), tmp_path / f"{mode}.{suffix}")
        monkeypatch.setattr(images, "STRIP_PIXELS", 1 << 22)
        whole = pixels_of(path)
        monkeypatch.setattr(images, "STRIP_PIXELS", 100)
        assert pixels_of(path) == whole


@pytest.mark.parametrize("rule", ["squash", "resize_crop"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(1, 700), (700, 1), (9, 3000), (3000, 9), (3, 100)])
def test_strips_are_resized_in_little_memory(rule, interpolation, shape, monkeypatch) -> None:
    areas, real = [], Image.Image.resize

    def resize_and_note(self, size, *args):
        areas.append(math.prod(size))
        return real(self, size, *args)

    monkeypatch.setattr(Image.Image, "resize", resize_and_note)
    image = Image.fromarray(noise(*shape))
    result = resize(image, 16, rule, interpolation).astype(int)
    assert max(areas) <= 16 * 16 or (rule == "squash" and max(areas) <= max(16, *shape) * 16)
    monkeypatch.setattr(images, "LONG", 10**6)
    in_much = resize(image, 16, rule, interpolation).astype(int)
    difference = np.abs(result - in_much)
    # Noise is the worst case: bicubic interpolation overshoots, and is cut to 0..255 in between.
    assert difference.max() <= {"nearest": 255, "bilinear": 1, "bicubic": 10}[interpolation]
    assert np.mean(difference > 1) <= 0.05


def test_a_strip_of_a_million_pixels_takes_no_memory(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (100_000, 10), "green"), tmp_path / "a.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels = load_resized(path, 256, "resize_crop", "bilinear")
    assert (pixels == [0, 128, 0]).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def smooth(height: int, width: int) -> Image.Image:
    """A photo without an edge: a few waves across and down, of another phase in each colour."""
    y, x = np.mgrid[:height, :width] / max(height, width) * 2 * np.pi
    waves = [np.sin(3 * x + phase) * np.cos(2 * y - phase) for phase in range(3)]
    return Image.fromarray((127.5 + 120 * np.stack(waves, -1)).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("sides", "decoded"),
    [
        ((640, 480), (640, 480)),
        ((639, 256), (639, 256)),
        ((1024, 768), (512, 384)),
        ((1023, 511), (1023, 511)),
        ((1023, 512), (512, 256)),
        ((3000, 1024), (750, 256)),
        ((1025, 1536), (257, 384)),
        ((2000, 2048), (500, 512)),
        pytest.param((4000, 3000), (500, 375), marks=pytest.mark.full),
    ],
)
def test_fast_decodes_at_the_smallest_scale_of_twice_what_is_needed(
    sides, decoded, tmp_path, monkeypatch
) -> None:
    path = save(smooth(*sides), tmp_path / "a.jpg", quality=95)
    seen, real = [], images._to_rgb
    monkeypatch.setattr(images, "_to_rgb", lambda image: seen.append(image.size) or real(image))
    options = {"size": 128, "rule": "squash", "interpolation": "bilinear"}
    exact = load_resized(path, **options)
    fast = load_resized(path, **options, decode="fast")
    assert seen == [sides[::-1], decoded[::-1]]
    difference = np.abs(exact.astype(int) - fast)
    # Sides that a scale doesn't divide are rounded up, which stretches the photo by a pixel.
    assert difference.max() <= (0 if decoded == sides else 4)
    assert (difference.max() > 0) == (decoded != sides)


def test_fast_is_exact_where_nothing_is_averaged(tmp_path: Path) -> None:
    options = {"size": 32, "rule": "resize_crop"}
    jpeg = save(Image.fromarray(noise(300, 400)), tmp_path / "a.jpg")
    png = save(Image.fromarray(noise(300, 400)), tmp_path / "a.png")
    for path, interpolation in ((jpeg, "nearest"), (png, "bilinear")):
        exact = load_resized(path, **options, interpolation=interpolation)
        fast = load_resized(path, **options, interpolation=interpolation, decode="fast")
        np.testing.assert_array_equal(fast, exact)


def test_a_phones_photo_is_turned_upright_by_fast_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    other = smooth(600, 800).resize((300, 300))
    for name, more in (("a.jpg", {}), ("a.mpo", {"save_all": True, "append_images": [other]})):
        path = save(smooth(600, 800), tmp_path / name, quality=95, exif=exif, **more)
        exact, fast = (load_resized(path, **OPTIONS, decode=decode) for decode in images.DECODE)
        assert 0 < np.abs(exact.astype(int) - fast).max() <= 2


def test_an_unknown_decoding_is_refused(paths, directory: Path) -> None:
    message = error_of(decode_once, paths, IDS, **OPTIONS, decode="quick", directory=directory)
    assert message == "data.decode is 'quick': choose one of exact, fast"


def test_large_photos_take_turns(tmp_path: Path, monkeypatch) -> None:
    path = save(Image.new("RGB", (30, 20)), tmp_path / "a.png")
    running, most, real = [], [], images._to_rgb

    def to_rgb(image):
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()
        return real(image)

    monkeypatch.setattr(images, "_to_rgb", to_rgb)
    monkeypatch.setattr(images, "_DECODING", images._Budget(1300))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: load_resized(path, **OPTIONS), range(16)))
    assert max(most) <= 2


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
    assert error_of(load_rgb, path) == f"{path} can't be opened: No such file or directory"


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
    assert len(decoded) == 12
    assert (decoded.shape, decoded.dtype) == ((12, 16, 16, 3), np.uint8)
    for row, path in enumerate(paths):
        np.testing.assert_array_equal(decoded[row], resize(load_rgb(path), **OPTIONS))


def test_a_second_call_decodes_nothing(paths, directory: Path, monkeypatch) -> None:
    first = decode_once(paths, IDS, **OPTIONS, directory=directory)
    monkeypatch.setattr(images, "load_resized", lambda *args: pytest.fail(f"decoded {args}"))
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
    times = [stat.st_mtime_ns, stat.st_ctime_ns]
    assert description["photos"][1] == ["000001", stat.st_size, *times]


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
    assert count_after(paths, decode="exact") == 6
    assert count_after(paths, decode="fast") == 7
    save(Image.fromarray(noise(30, 30, 99)), paths[3])
    assert count_after(paths) == 8


def test_a_damaged_file_is_written_again(paths, directory: Path) -> None:
    first = decode_once(paths, IDS, **OPTIONS, directory=directory)[:]
    (path,) = directory.glob("*.npy")
    path.write_bytes(path.read_bytes()[:-1])
    np.testing.assert_array_equal(decode_once(paths, IDS, **OPTIONS, directory=directory), first)


def test_broken_photos_are_counted_and_the_others_kept(paths, directory: Path) -> None:
    for index in (4, 7):
        paths[index].write_bytes(paths[index].read_bytes()[:300])
    message = error_of(decode_once, paths, IDS, **OPTIONS, directory=directory)
    assert "2 of 12 photos can't be decoded" in message
    assert "000004: " in message
    assert str(paths[4]) in message
    decoded = decode_once(paths, IDS, **OPTIONS, directory=directory, skips_broken=True)
    assert set(decoded.broken) == {4, 7}
    np.testing.assert_array_equal(decoded[3], resize(load_rgb(paths[3]), **OPTIONS))


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
    monkeypatch.setattr(images, "load_resized", lambda *args: pytest.fail(f"decoded {args}"))
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


def test_who_follows_reads_what_is_decoded_so_far(paths, directory: Path) -> None:
    seen = []

    def follow(read, num_decoded, num_photos):
        seen.append((num_decoded, num_photos))
        rows = np.array([num_decoded - 1, 0])
        for row, pixels in zip(rows, read(rows), strict=True):
            np.testing.assert_array_equal(pixels, resize(load_rgb(paths[row]), **OPTIONS))

    decode_once(paths, IDS, **OPTIONS, directory=directory, follow=follow)
    assert seen == [(n, 12) for n in range(1, 13)]
    decode_once(paths, IDS, **OPTIONS, directory=directory, follow=follow)
    assert len(seen) == 12  # there is nothing to decode
    paths[7].write_bytes(b"broken")
    options = OPTIONS | {"directory": directory, "skips_broken": True, "num_threads": 1}
    decode_once(paths, IDS, **options, follow=follow)
    assert len(seen) <= 12 + 7
    assert seen[12:] == seen[: len(seen) - 12]


def test_a_stop_decodes_no_further_photos(paths, directory: Path, monkeypatch) -> None:
    decoded = []

    def slow(path: Path, *options: object) -> np.ndarray:
        decoded.append(path)
        time.sleep(0.2)
        return np.zeros((16, 16, 3), np.uint8)

    def stop_after_the_first(results, **options: object):
        yield next(results)
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "load_resized", slow)
    monkeypatch.setattr(images, "tqdm", stop_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        decode_once(paths, IDS, **OPTIONS, directory=directory, num_threads=1)
    assert len(decoded) < 4
    assert all(path.name.startswith("unfinished_") for path in directory.iterdir())


def test_two_builders_at_once_both_get_whole_files(paths, directory: Path, monkeypatch) -> None:
    def load_while_another_builds(*args) -> np.ndarray:
        monkeypatch.setattr(images, "load_resized", load_resized)
        others.append(decode_once(paths, IDS, **OPTIONS, directory=directory)[:])
        return load_resized(*args)

    others: list[np.ndarray] = []
    monkeypatch.setattr(images, "load_resized", load_while_another_builds)
    decoded = decode_once(paths, IDS, **OPTIONS, directory=directory, num_threads=1)
    np.testing.assert_array_equal(decoded, others[0])
    assert sorted(path.suffix for path in directory.iterdir()) == [".json", ".npy"]


def test_an_edit_within_size_and_time_is_seen(paths, directory: Path) -> None:
    first = decode_once(paths, IDS, **OPTIONS, directory=directory)
    stat, content = paths[3].stat(), bytearray(paths[3].read_bytes())
    content[-100] ^= 0x10
    paths[3].write_bytes(content)
    os.utime(paths[3], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = decode_once(paths, IDS, **OPTIONS, directory=directory)
    assert second.filename != first.filename
    np.testing.assert_array_equal(second[3], resize(load_rgb(paths[3]), **OPTIONS))


def test_a_filled_cache_is_only_read(paths, directory: Path, tmp_path: Path, monkeypatch) -> None:
    first = decode_once(paths, IDS, **OPTIONS, directory=directory)
    monkeypatch.setattr(images, "load_resized", lambda *args: pytest.fail(f"decoded {args}"))
    elsewhere = tmp_path / "elsewhere"
    second = decode_once(paths, IDS, **OPTIONS, directory=elsewhere, filled=directory)
    assert second.filename == first.filename
    assert not elsewhere.exists()


def test_a_killed_decoding_is_cleared_away(paths, directory: Path) -> None:
    directory.mkdir(parents=True)
    killed = (
        "import os, sys; from pathlib import Path; from vtl.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as file: os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", killed, directory / "images_0.npy"], check=False)
    assert [path.suffix for path in directory.iterdir()] == [".tmp"]
    decode_once(paths, IDS, **OPTIONS, directory=directory)
    assert sorted(path.suffix for path in directory.iterdir()) == [".json", ".npy"]
