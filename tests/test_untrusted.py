import io
import os
import zipfile

import numpy as np
import pytest

from vtl import untrusted
from vtl.errors import UserError


def test_foreign_text_is_one_short_printable_line():
    assert untrusted.printable("a\x1b[31mred\nb\u202e") == "a\\x1b[31mred b\\u202e"
    long = untrusted.printable("x" * 5000 + "end", 90)
    assert len(long) == 90
    assert long.endswith("end")
    assert untrusted.printable("Süß 猫.jpg") == "Süß 猫.jpg"
    assert untrusted.printable("\udcff") == "\\udcff"


@pytest.mark.parametrize(
    "error", [RecursionError("deep"), MemoryError(), KeyError("x"), EOFError()]
)
def test_whatever_a_parser_raises_is_one_line(error):
    with (
        pytest.raises(UserError, match=r"results.json can't be read: .+") as caught,
        untrusted.reading("results.json"),
    ):
        raise error
    assert "\n" not in str(caught.value)


def test_a_stop_is_no_failure_of_a_parser():
    with pytest.raises(KeyboardInterrupt), untrusted.reading("results.json"):
        raise KeyboardInterrupt


def test_only_plain_files_are_opened(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, what in ((pipe, "a pipe"), (tmp_path, "a directory"), ("/dev/zero", "a device")):
        with pytest.raises(UserError, match=f"is {what} and not a plain file"):
            untrusted.open_plain(path)
    with pytest.raises(UserError, match="missing can't be opened: No such file"):
        untrusted.open_plain(tmp_path / "missing")
    with pytest.raises(UserError, match="can't be opened"):
        untrusted.open_plain("a\0b")


def test_sizes_and_links_are_bounded(tmp_path):
    outside, run = tmp_path / "outside.json", tmp_path / "run"
    outside.write_text("[1, 2]")
    run.mkdir()
    (run / "link.json").symlink_to(outside)
    assert untrusted.read_json(run / "link.json") == [1, 2]
    with pytest.raises(UserError, match="leads out of"):
        untrusted.read_json(run / "link.json", inside=run)
    with pytest.raises(UserError, match="has 6 bytes, and at most 5"):
        untrusted.read_json(outside, max_bytes=5)


@pytest.mark.parametrize("text", ["", "{", '{"a": nul}', "[" * 100_000, "\udcff"])
def test_json_that_is_none(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"config.json can't be read"):
        untrusted.read_json(path)


def write_npz(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def test_an_npz_is_read(tmp_path):
    path = tmp_path / "scores.npz"
    np.savez_compressed(path, scores=np.eye(3), ids=np.array(["a", "b"]), one=np.float32(2))
    arrays = untrusted.read_npz(path, max_bytes=1000)
    np.testing.assert_array_equal(arrays["scores"], np.eye(3))
    assert arrays["ids"].tolist() == ["a", "b"]
    assert arrays["one"] == 2


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, scores=np.zeros(10**7, np.uint8))
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match="would take 10,000,000 bytes unpacked"):
        untrusted.read_npz(path, max_bytes=10**6)


@pytest.mark.parametrize(
    "members",
    [
        {"a": npy(np.array([{}], object), allow_pickle=True)},
        {"a": npy(np.zeros(4))[:-1]},
        {"a": npy(np.zeros(4)) + b"x"},
        {"a": npy(np.zeros(4)).replace(b"(4,)", b"(-4)")},
        {"a": b"no array"},
        {"a": b""},
    ],
)
def test_an_npz_of_something_else_is_refused(tmp_path, members):
    with pytest.raises(UserError, match=r"a.npz can't be read: .+"):
        untrusted.read_npz(write_npz(tmp_path / "a.npz", members), max_bytes=1000)


def test_arrays_that_a_flipped_bit_hides_are_missed(tmp_path):
    """A larger comment of the first array's entry swallows the entry of the second."""
    path = tmp_path / "a.npz"
    np.savez(path, labels=np.eye(3), difficult=np.zeros(3))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\1\2")
    length_of_comment = entry + 32
    content[length_of_comment] ^= 1 << 6
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["labels.npy"]
    with pytest.raises(UserError, match=r"a.npz can't be read: it lists 1 arrays of 2"):
        untrusted.read_npz(path)
