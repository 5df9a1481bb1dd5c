"""The page of what a network gets wrong: which photos, in which order, and that it is safe."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from tests.data.layouts.photos import write_photo
from tests.tiny import write_weights
from vtl.data import splits
from vtl.predict import __main__ as command
from vtl.predict import errors_page, wrong
from vtl.predict.predictor import Prediction, Predictor
from vtl.weights import network, sources

CLASSES = tuple(f"other {number}" for number in range(7))
HOSTILE = "<script>alert(1)<"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """40 photos with a table of labels, its columns in another order than the network's."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    lines = [f"photo,split,{','.join(CLASSES[::-1])}"]
    for number in range(40):
        name = f"{HOSTILE}{number}.png" if number % 2 else f"{number}.png"
        write_photo(root / name, number)
        cells = [rng.choice(["0", "1", "?"]) for _ in CLASSES]
        lines.append(f"{name},{'test' if number % 4 == 0 else 'train'},{','.join(cells)}")
    (root / "labels.csv").write_text("\n".join(lines))
    return root


def mistakes_by_hand(weights, by_role):
    """(kind, class, id) -> the probability, of every mistake."""
    loaded = Predictor.load(str(weights))
    expected = {}
    for split in by_role.values():
        photos = list(wrong._photos({"": split}))
        found = [its for batch in loaded.predict(photos) for its in batch]
        for row, prediction in enumerate(found):
            for column, name in enumerate(split.classes):
                p = prediction.probabilities[CLASSES.index(name)]
                if split.label_mask[row, column] and (p >= 0.5) != split.labels[row, column]:
                    kind = "missed" if split.labels[row, column] else "false alarm"
                    expected[kind, name, split.ids[row]] = p
    return expected


def test_the_most_confident_mistakes_of_each_class(weights, root):
    by_role = splits.read(root, labels="labels.csv")
    predictor = Predictor.load(str(weights))
    columns = wrong.columns_of(predictor, by_role)
    assert columns == list(range(7))[::-1]
    mistakes, tally = wrong.find(predictor, by_role, columns)
    assert (tally.num_photos, tally.num_broken) == (40, 0)
    expected = mistakes_by_hand(weights, by_role)
    assert len(expected) > 50
    for column, name in enumerate(by_role["train"].classes):
        for kind in wrong.KINDS:
            these = {key[2]: p for key, p in expected.items() if key[:2] == (kind, name)}
            assert mistakes.counts[kind][column] == len(these)
            worst = mistakes.worst(kind, column)
            found = [(by_role[m.role].ids[m.row], m.probability) for m in worst]
            assert len(found) == min(12, len(these))
            assert all(these[photo] == pytest.approx(p, abs=1e-6) for photo, p in found)
            numbers = [p for _, p in found]
            assert numbers == sorted(numbers, reverse=kind == "false alarm")
            ranked = sorted(these.values(), reverse=kind == "false alarm")
            np.testing.assert_allclose(numbers, ranked[: len(numbers)], atol=1e-6)


def test_the_page_is_whole_small_and_safe(weights, root, tmp_path, capsys):
    page = tmp_path / "errors.html"
    arguments = [str(weights), str(root), "--labels=labels.csv", f"--errors-page={page}"]
    assert command.main(arguments) == 0
    html = page.read_text()
    expected = mistakes_by_hand(weights, splits.read(root, labels="labels.csv"))
    counts = [sum(key[0] == kind for key in expected) for kind in wrong.KINDS]
    said = capsys.readouterr().out
    assert f"{counts[0]} missed and {counts[1]} false alarms on 40 photos" in said
    assert f"{counts[0]} missed, {counts[1]} false alarms" in html
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;" in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
    assert "approximate" not in html
    assert page.stat().st_size < 5e6
    num_shown = html.count('<div class="picture">')
    names = {key[:2] for key in expected}
    assert num_shown == sum(min(12, sum(k[:2] == name for k in expected)) for name in names)
    photos = re.findall(r'img src="data:image/jpeg;base64,([^"]+)"', html)
    maps = re.findall(r'class="map" src="data:image/png;base64,([^"]+)"', html)
    assert len(photos) == len(maps) == num_shown
    assert Image.open(io.BytesIO(base64.b64decode(photos[0]))).size == (112, 112)
    assert Image.open(io.BytesIO(base64.b64decode(maps[0]))).size == (7, 7)


def test_one_split_and_a_head_that_is_not_plain(weights, root, tmp_path, capsys):
    loaded = sources.load(str(weights))
    net = network.Network(
        network.make_model(loaded.architecture), loaded.architecture, loaded.preprocessing, None
    )
    net = network.with_head(net, pooling="average", transform="sqrt_l2", regions=3)
    special, page = tmp_path / "special.safetensors", tmp_path / "errors.html"
    variables = network.as_published(loaded)[1]
    network.save(special, variables, net, loaded.classes, multi_label=False)
    arguments = [str(special), str(root), "--labels=labels.csv", f"--errors-page={page}"]
    assert command.main([*arguments, "--split=test"]) == 0
    html = page.read_text()
    assert "(approximate: its head does not see a plain average)" in html
    assert "10 photos of test" in html
    assert "The answer is the likeliest class." in html


def test_a_photo_that_cant_be_read_is_counted(weights, root, tmp_path, capsys):
    write_photo(tmp_path / "p" / "good.png", 0)
    (tmp_path / "p" / "bad.png").write_bytes(b"no photo")
    lines = [f"photo,split,{','.join(CLASSES)}"]
    lines += [
        f"{name}.png,{split},1{',0' * 6}" for name, split in (("good", "train"), ("bad", "test"))
    ]
    (tmp_path / "p" / "labels.csv").write_text("\n".join(lines))
    page = tmp_path / "errors.html"
    arguments = [str(weights), str(tmp_path / "p"), "--labels=labels.csv"]
    assert command.main([*arguments, f"--errors-page={page}"]) == 1
    assert "vtl: 1 of 2 photos can't be read\n" in capsys.readouterr().err
    assert "1 of 2 photos can&#39;t be read" in page.read_text()


def test_other_classes_and_options_are_refused(weights, tmp_path, capsys):
    for name in ("cat", "dog"):
        for number in range(8):
            write_photo(tmp_path / "p" / name / f"{name}{number}.png", number)
    page = f"--errors-page={tmp_path / 'e.html'}"
    for arguments, said in (
        ([str(tmp_path / "p"), page], "only the head has other 0"),
        ([str(tmp_path / "p"), page, "-o", str(tmp_path / "p.csv")], "and no -o"),
        ([str(tmp_path / "p"), str(tmp_path), page], "takes one folder"),
        ([str(tmp_path / "p"), "--split=test"], "--labels and --split say"),
        ([str(tmp_path / "gone"), page], "is not a directory"),
    ):
        assert command.main([str(weights), *arguments]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert said in lines[0]
        assert len(lines) <= 3
    assert not (tmp_path / "e.html").exists()


def test_a_page_of_many_classes_stays_small():
    mistakes = wrong.Mistakes(1000)
    for column in range(1000):
        for number in range(1 + column // 100):
            kind = wrong.KINDS[number % 2]
            mistakes.add(kind, column, wrong.Mistake(0.5, -number, "test", number, 0.5))
    shown = wrong.chosen(mistakes, errors_page.MOST_PICTURES)
    assert len(shown) == errors_page.MOST_PICTURES // 2
    assert set(range(800, 1000)) <= shown.keys()  # those with the most mistakes
    assert all(len(worst) == 1 for kinds in shown.values() for worst in kinds.values())
    assert wrong.chosen(wrong.Mistakes(3), 480) == {}


def test_difficult_photos_are_no_mistakes(monkeypatch, weights):
    predictor = Predictor.load(str(weights))
    labels = np.array([[1] * 7, [0] * 7], np.uint8)
    split = splits.Split(
        "test",
        ("a", "b"),
        ("a", "b"),
        labels,
        np.ones((2, 7), np.uint8),
        1 - np.eye(2, 7, dtype=np.uint8),
        CLASSES,
        "",
    )
    answers = np.zeros(7, bool)
    both = [Prediction("a", np.full(7, 0.1), answers), Prediction("b", np.full(7, 0.9), ~answers)]
    monkeypatch.setattr(Predictor, "predict", lambda *_: iter([both]))
    mistakes, _ = wrong.find(predictor, {"test": split}, list(range(7)))
    assert mistakes.counts["missed"].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert mistakes.counts["false alarm"].tolist() == [0, 1, 0, 0, 0, 0, 0]
