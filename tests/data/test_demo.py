import shutil
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from vtl.data import demo, drawing, splits, voc
from vtl.errors import UserError


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    return demo.write_once(tmp_path_factory.mktemp("cache"))


def test_it_is_a_voc_devkit(devkit):
    splits = {name: voc.read_split(devkit, name) for name in ("train", "val", "trainval", "test")}
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 300,
        "val": 200,
        "trainval": 500,
        "test": 500,
    }
    assert splits["trainval"].ids == splits["train"].ids + splits["val"].ids
    assert not set(splits["trainval"].ids) & set(splits["test"].ids)
    for percent, count in ((10, 50), (30, 150)):
        part = voc.read_split(devkit, f"trainval{percent}")
        assert part.ids == splits["trainval"].ids[:count]
        np.testing.assert_array_equal(part.labels, splits["trainval"].labels[:count])
    for split in splits.values():
        assert split.classes == demo.CLASSES
        per_scene = split.labels.sum(axis=1) + split.difficult.sum(axis=1)
        assert per_scene.min() >= 1
        assert per_scene.max() == 4
        assert (split.labels.sum(axis=0) >= 20).all()
        assert split.difficult.any(axis=0).all()
    sizes = set()
    for path in splits["test"].paths:
        with Image.open(path) as photo:
            sizes.add(photo.size)
    assert len(sizes) > 100
    assert min(map(min, sizes)) >= 96


def test_class_files_say_what_the_annotations_say(devkit, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(devkit, copy)
    for path in (copy / "ImageSets" / "Main").glob("*_*.txt"):
        path.unlink()
    names = dict(zip(demo.CLASSES, voc.CLASSES, strict=False))
    for path in (copy / "Annotations").iterdir():
        tree = ElementTree.parse(path)
        for node in tree.iter("object"):
            assert node.find("name").text in demo.CLASSES
            node.find("name").text = names[node.find("name").text]
        tree.write(path)
    by_files, by_xml = (voc.read_split(root, "test") for root in (devkit, copy))
    np.testing.assert_array_equal(by_xml.labels[:, :10], by_files.labels)
    np.testing.assert_array_equal(by_xml.difficult[:, :10], by_files.difficult)


def test_boxes_are_where_the_digits_are(devkit):
    for path in sorted((devkit / "Annotations").iterdir())[:50]:
        root = ElementTree.parse(path).getroot()
        with Image.open(devkit / "JPEGImages" / root.findtext("filename")) as photo:
            assert photo.size == tuple(int(root.findtext(f"size/{s}")) for s in ("width", "height"))
        for box in root.iter("bndbox"):
            left, top, right, bottom = (
                int(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            assert 1 <= left < right <= photo.width
            assert 1 <= top < bottom <= photo.height


def test_no_handwriting_is_in_two_splits():
    seen = [
        {image.tobytes() for images in split.values() for image in images}
        for split in demo._split_digits().values()
    ]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 1797


def test_what_is_small_or_faint_is_difficult(monkeypatch):
    opacities, real = [], demo.drawing.paint
    monkeypatch.setattr(
        demo.drawing, "paint", lambda *args: (opacities.append(args[2].max()), real(*args))
    )
    handwriting = demo._split_digits()["train"]
    for seed in range(40):
        opacities.clear()
        scene, digits = demo.draw_scene(np.random.default_rng(seed), handwriting)
        assert len(opacities) == len(digits)
        for digit, opacity in zip(digits, opacities, strict=True):
            left, top, right, bottom = digit.box
            share = max(right - left, bottom - top) / min(scene.size)
            # A digit's ink may be a little short of opaque.
            if share < demo.SMALL or opacity < demo.FAINT - 0.1:
                assert digit.difficult
            if share >= demo.SMALL and opacity > demo.FAINT:
                assert not digit.difficult


def test_digits_are_in_their_boxes_and_nowhere_else(monkeypatch):
    handwriting = demo._split_digits()["train"]
    for seed in range(20):
        painted, digits = demo.draw_scene(np.random.default_rng(seed), handwriting)
        with monkeypatch.context() as patch:
            patch.setattr(demo.drawing, "paint", _draw_a_colour)
            bare, same_digits = demo.draw_scene(np.random.default_rng(seed), handwriting)
        assert digits == same_digits
        changed = (np.asarray(painted) != np.asarray(bare)).any(axis=2)
        for left, top, right, bottom in (digit.box for digit in digits):
            assert changed[top:bottom, left:right].mean() > 0.1
            changed[top:bottom, left:right] = False
        assert not changed.any()


def _draw_a_colour(rng, below, opacity):
    """`drawing.paint` without the paint: as many random numbers are drawn."""
    _PAINT(rng, below.copy(), opacity)


_PAINT = drawing.paint


def test_it_is_written_once_and_whole(tmp_path, monkeypatch):
    real, calls = demo.draw_scene, []

    def draw_until_the_disk_is_full(*args):
        calls.append(1)
        if len(calls) == 20:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(demo, "draw_scene", draw_until_the_disk_is_full)
    with pytest.raises(UserError, match=r"demo's photos to .*: No space left on device\nSet VTL_"):
        demo.write_once(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".{demo.NAME}.lock"]
    monkeypatch.setattr(demo, "SPLITS", {"train": 3, "val": 2, "test": 2})
    root = demo.write_once(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert demo.write_once(tmp_path) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert splits.find_root("demo", str(root)) == root


DRAW = """
import sys
from pathlib import Path
from vtl.data import demo
draw, demo.SPLITS = demo.draw_scene, {"train": 3, "val": 2, "test": 2}
def draw_and_wait(*arguments):
    print("drawing", flush=True)
    sys.stdin.readline()
    return draw(*arguments)
demo.draw_scene = draw_and_wait
print(demo.write_once(Path(sys.argv[1])), flush=True)
"""


@pytest.mark.full
@pytest.mark.parametrize("is_killed", [False, True])
def test_one_of_two_processes_draws_it(tmp_path, is_killed):
    def start():
        return subprocess.Popen(
            [sys.executable, "-c", DRAW, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    first = start()
    assert first.stdout.readline() == "drawing\n"
    second = start()
    assert "is busy with" in second.stderr.readline()
    if is_killed:
        first.kill()
    said = [process.communicate("\n" * 20, timeout=60)[0] for process in (first, second)]
    root = f"{tmp_path / demo.NAME / 'VOCdevkit' / 'VOCdemo'}\n"
    drawn = "drawing\n"
    assert said == (["", drawn * 7 + root] if is_killed else [drawn * 6 + root, root])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{demo.NAME}.lock", demo.NAME]
