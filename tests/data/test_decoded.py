import json
import os
from pathlib import Path

import numpy as np
import pytest

from vtl.data import decoded
from vtl.errors import UserError

SHAPE = (20, 6, 6, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "images_0.npy"

    def for_each_photo(keep, read, rows) -> dict[int, str]:
        for row in np.random.default_rng(1).permutation(rows):
            keep(int(row), PIXELS[row])
        return {}

    decoded.write_decoded(path, SHAPE, {"key": "a key"}, for_each_photo)
    return path


def open_again(path: Path, decode=None, key: str = "a key", shape=SHAPE):
    def decode_nothing(row: int) -> np.ndarray:
        pytest.fail(f"decoded {row}")

    return decoded.open_decoded(path, key, shape, decode or decode_nothing)


def test_rows_are_read_as_of_an_array(path: Path) -> None:
    photos = open_again(path)
    assert (len(photos), photos.shape, photos.dtype) == (20, SHAPE, np.uint8)
    for rows in (3, -1, slice(4, 9), np.array([5, 0, 5]), PIXELS[:, 0, 0, 0] > 99, slice(0, 0)):
        np.testing.assert_array_equal(photos[rows], PIXELS[rows])
        assert photos[rows].shape == PIXELS[rows].shape
    np.testing.assert_array_equal(np.asarray(photos), PIXELS)
    np.testing.assert_array_equal(np.load(path), PIXELS)
    with pytest.raises(IndexError):
        photos[20]


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def offset(path: Path, row: int) -> int:
    return path.stat().st_size - PIXELS.nbytes + row * PIXELS[0].nbytes


DAMAGE = {
    "a flipped bit": lambda path: flip(path, offset(path, 7) + 10),
    "a lost page": lambda path: os.pwrite(os.open(path, os.O_RDWR), bytes(50), offset(path, 7)),
    "cut while it is open": lambda path: os.truncate(path, offset(path, 7) + 10),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_seen_and_mended(path: Path, caplog, damage: str) -> None:
    decoded_again = []

    def decode(row: int) -> np.ndarray:
        decoded_again.append(row)
        return PIXELS[row]

    photos = open_again(path, decode)
    DAMAGE[damage](path)
    for _ in range(2):
        for first in range(0, 20, 5):
            rows = slice(first, first + 5)
            np.testing.assert_array_equal(photos[rows], PIXELS[rows])
    assert set(decoded_again) == (set(range(7, 20)) if "cut" in damage else {7})
    assert caplog.text.count(f"{path} is damaged") == 1
    assert open_again(path) is None  # the next run decodes all


def test_a_photo_that_was_changed_since_is_not_mixed_in(path: Path) -> None:
    photos = open_again(path, lambda row: PIXELS[row + 1])
    flip(path, offset(path, 7))
    np.testing.assert_array_equal(photos[6], PIXELS[6])
    with pytest.raises(UserError, match="is damaged, and photo 7 was changed"):
        photos[7]


def test_a_damaged_record_changes_no_pixel(path: Path) -> None:
    record = json.loads(path.with_suffix(".json").read_text())
    record["crc32"] = "0" * 8 + record["crc32"][8:]
    path.with_suffix(".json").write_text(json.dumps(record))
    photos = open_again(path, lambda row: PIXELS[row])
    np.testing.assert_array_equal(photos[:], PIXELS)


@pytest.mark.parametrize(
    "record",
    ["", "{", "[]", "{}", '{"key": "a key"}', '{"key": "a key", "crc32": 7}', None]
    + [f'{{"key": "a key", "crc32": "{digits}"}}' for digits in ("", "0" * 8, "x" * 160)]
    + [f'{{"key": "another", "crc32": "{"0" * 160}"}}'],
)
def test_a_file_without_its_record_is_not_used(path: Path, record: str | None) -> None:
    """As one of a version that kept no checksums."""
    if record is None:
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text(record)
    assert open_again(path) is None


@pytest.mark.parametrize("broken", [{"99": "why"}, {"-1": "why"}, {"x": "why"}, [1], 7])
def test_broken_rows_that_are_none_are_damage(path: Path, broken: object) -> None:
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(record | {"broken": {"2": "why"}}))
    assert open_again(path).broken == {2: "why"}
    path.with_suffix(".json").write_text(json.dumps(record | {"broken": broken}))
    assert open_again(path) is None


# Of the second and third NumPy raises SyntaxError and tokenize.TokenError.
HEADERS = [(b"|u1", b"|i1"), (b"}", b"{"), (b"'descr'", b"'descr("), (b"|u1", b"|q1")]


@pytest.mark.parametrize("change", ["cut", "longer", "empty", "missing", "no array", *HEADERS])
def test_a_file_of_another_size_or_kind_is_not_used(path: Path, change: str) -> None:
    content = path.read_bytes()
    changed = {
        "cut": content[:-1],
        "longer": content + b"x",
        "empty": b"",
        **{change: content.replace(*change) for change in HEADERS},
        "no array": b"x" * len(content),
    }
    path.write_bytes(changed.get(change, content))
    if change == "missing":
        path.unlink()
    assert open_again(path) is None
    assert open_again(path, shape=(19, 6, 6, 3)) is None


def test_what_is_no_plain_file_is_refused(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"images_0.npy is a pipe and not a plain file"):
        open_again(path)
