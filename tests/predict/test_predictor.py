"""Predictions are the run's own scores, to the bit, and nothing is decoded far ahead."""

import csv
import dataclasses
import itertools
import json
import shutil
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from tests.predict import tiny_runs
from tests.tiny import write_weights
from vtl import dtypes
from vtl.decisions import Decisions, answers, probabilities
from vtl.errors import UserError
from vtl.predict import __main__ as command
from vtl.predict import predictor as predictor_module
from vtl.predict.decoding import decoded_ahead
from vtl.predict.photos import Photo
from vtl.predict.predictor import Predictor, settings_of
from vtl.preprocessing import TORCHVISION
from vtl.weights import __main__ as weights_command
from vtl.weights import network, sources


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module", params=["sigmoid", pytest.param("softmax", marks=pytest.mark.full)])
def run(request, tmp_path_factory, weights):
    """A finished run, and the folder of its photos."""
    directory = tmp_path_factory.mktemp(request.param)
    root, labels = tiny_runs.write_table(directory, one_label=request.param == "softmax")
    # Of softmax only its start, which takes no time to train.
    changes = {"num_epochs": 0.0} if request.param == "softmax" else {}
    return tiny_runs.fine_tune(directory / "run", weights, root, labels, **changes), root


def table_of(path):
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def test_the_rows_are_the_runs_scores_to_the_bit(run, tmp_path):
    workdir, root = run
    expected = tiny_runs.scores(workdir)
    photos = [str(root / name) for name in expected["ids"]]
    for name in ("p.csv", "p.jsonl"):
        options = ["-o", str(tmp_path / name), "--uncalibrated"]
        assert command.main([str(workdir), *photos, *options]) == 0
    header, rows = table_of(tmp_path / "p.csv")
    assert header == ["file", "cat", "dog", "emu", "labels", "error"]
    assert [row[0] for row in rows] == photos
    found = np.array([row[1:4] for row in rows], np.float32)
    np.testing.assert_array_equal(found, expected["scores"])
    assert len(rows) % tiny_runs.BATCH_SIZE  # the last batch is padded
    model = sources.load(str(workdir))
    judged = expected.get("probabilities", expected["scores"])
    given = answers(judged, model.decisions, one_label_each=not model.multi_label)
    names = np.array(header[1:4])
    assert [row[4] for row in rows] == [";".join(names[row]) for row in given]
    for row, line in zip(rows, tiny_runs.json_rows(tmp_path / "p.jsonl"), strict=True):
        numbers = list(line["probabilities"].values())
        np.testing.assert_array_equal(np.array(numbers, np.float32), np.array(row[1:4], np.float32))
        assert line == {
            "file": row[0],
            "probabilities": dict(zip(header[1:4], numbers, strict=True)),
            "labels": row[4].split(";") if row[4] else [],
            "error": None,
        }


def test_calibrated_rows_are_the_runs_probabilities_to_the_bit(run, tmp_path):
    workdir, root = run
    expected = tiny_runs.scores(workdir)
    photos = [str(root / name) for name in expected["ids"]]
    assert command.main([str(workdir), *photos, "-o", str(tmp_path / "p.csv")]) == 0
    found = np.array([row[1:4] for row in table_of(tmp_path / "p.csv")[1]], np.float32)
    np.testing.assert_array_equal(found, expected["probabilities"])
    assert (found != expected["scores"]).any()


def test_other_batches_give_the_same_but_for_rounding(run, tmp_path):
    workdir, root = run
    expected = tiny_runs.scores(workdir)
    photos = [Photo(str(name), root / name) for name in expected["ids"]]
    loaded = Predictor.load(str(workdir), uncalibrated=True)
    found = [its for batch in loaded.predict(photos, batch_size=3) for its in batch]
    numbers = np.stack([its.probabilities for its in found])
    np.testing.assert_allclose(numbers, expected["scores"], rtol=1e-5, atol=1e-6)


def test_large_photos_are_decoded_as_the_run_says_or_the_command(run, tmp_path):
    y, x = np.mgrid[:600, :800] / 60
    waves = 127.5 + 120 * np.stack([np.sin(x + phase) * np.cos(y) for phase in range(3)], -1)
    photo = tmp_path / "photo.jpg"
    Image.fromarray(waves.astype(np.uint8)).save(photo)
    exact = Predictor.load(str(run[0]), decode="exact").decode(photo)
    fast = Predictor.load(str(run[0]), decode="fast").decode(photo)
    assert 0 < np.abs(exact.astype(int) - fast).max() <= 3
    copy = shutil.copytree(run[0], tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    assert config["data"].pop("decode") == "fast"  # its own photos
    for of_run, expected in (({"decode": "fast"}, fast), ({"decode": "exact"}, exact), ({}, exact)):
        changed = config | {"data": config["data"] | of_run}
        (copy / "config.json").write_text(json.dumps(changed))
        np.testing.assert_array_equal(Predictor.load(str(copy)).decode(photo), expected)
        weight_file = Predictor.load(str(copy / "model.safetensors"))
        np.testing.assert_array_equal(weight_file.decode(photo), fast)
    with pytest.raises(SystemExit):
        command.main([str(run[0]), str(photo), "--decode=quick"])


def test_bfloat16_on_request(run, tmp_path, monkeypatch, capsys):
    workdir, root = run
    photo = str(root / tiny_runs.scores(workdir)["ids"][0])
    monkeypatch.setattr(dtypes, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(dtypes, "speed_of_bfloat16", lambda: 2.0)
    numbers = {}
    for dtype in ("float32", "bfloat16", "auto"):
        path = tmp_path / f"{dtype}.csv"
        assert command.main([str(workdir), photo, "-o", str(path), f"--dtype={dtype}"]) == 0
        numbers[dtype] = np.array(table_of(path)[1][0][1:4], np.float32)
    assert 0 < np.abs(numbers["bfloat16"] - numbers["float32"]).max() < 0.05
    np.testing.assert_array_equal(numbers["auto"], numbers["bfloat16"])
    assert "bfloat16: this CPU multiplies it" in capsys.readouterr().out


def test_a_run_says_how_it_scored(run):
    settings = settings_of(str(run[0]))
    assert settings == predictor_module.Settings(tiny_runs.BATCH_SIZE, "default", "float32", "fast")
    assert settings_of("demo") == predictor_module.Settings()


@pytest.mark.parametrize(
    ("data", "expected"),
    [({"decode": "fast"}, "fast"), ({"decode": "exact"}, "exact"), ({}, "exact"), (None, "exact")],
)
def test_a_probes_photos_are_decoded_as_those_of_its_features(tmp_path, data, expected):
    (tmp_path / "config.json").write_text(json.dumps({"task": "probe"}))
    (tmp_path / "results.json").write_text(json.dumps({"data": data}))
    assert settings_of(str(tmp_path)).decode == expected


@pytest.mark.parametrize(
    "config",
    [
        {"eval_batch_size": 0},
        {"eval_batch_size": "8"},
        {"precision": "odd"},
        {"data": {"decode": 2}},
    ],
)
def test_a_damaged_config_is_a_line(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config.json is damaged"):
        settings_of(str(tmp_path))


@pytest.mark.full
def test_a_probe_of_one_label_each_predicts_as_it_was_scored(tmp_path, weights):
    root, labels = tiny_runs.write_table(tmp_path, one_label=True)
    probe = tiny_runs.fit_probe(tmp_path, weights, root, labels)
    assert command.main([str(probe), str(root), "-o", str(tmp_path / "p.csv")]) == 0
    _, rows = table_of(tmp_path / "p.csv")
    expected = tiny_runs.scores(probe)
    np.testing.assert_allclose(expected["probabilities"].sum(axis=1), 1, rtol=1e-5)
    by_name = {row[0].rpartition("/")[2]: row for row in rows}
    found = [by_name[name] for name in expected["ids"]]
    probabilities = np.array([row[1:4] for row in found], np.float32)
    np.testing.assert_allclose(probabilities, expected["probabilities"], rtol=1e-4, atol=1e-6)
    likeliest = expected["classes"][probabilities.argmax(axis=1)]
    assert [row[4] for row in found] == likeliest.tolist()


def test_a_probe_predicts_with_its_network(tmp_path, weights, capsys, monkeypatch):
    root, labels = tiny_runs.write_table(tmp_path, one_label=False)
    probe = tiny_runs.fit_probe(tmp_path, weights, root, labels)
    assert command.main([str(probe), str(root), "-o", str(tmp_path / "p.csv")]) == 0
    header, rows = table_of(tmp_path / "p.csv")
    assert header[1:4] == ["cat", "dog", "emu"]
    expected = tiny_runs.scores(probe)
    by_name = {row[0].rpartition("/")[2]: row[1:4] for row in rows}
    found = np.array([by_name[name] for name in expected["ids"]], np.float32)
    np.testing.assert_allclose(found, expected["probabilities"], rtol=1e-4, atol=1e-6)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["vtl.weights", "classify", str(probe), rows[0][0]])
    weights_command.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == rows[0][0]
    assert sorted(line.split()[1] for line in lines[1:4]) == ["cat", "dog", "emu"]
    assert lines[4:] == ["* reaches the threshold of its class"]
    weights.rename(tmp_path / "moved.safetensors")
    arguments = [str(probe), rows[0][0], "--top=3"]
    try:
        assert command.main(arguments) == 1
        assert "Say where it is now: --weights=FILE" in capsys.readouterr().err
        assert command.main([*arguments, f"--weights={tmp_path / 'moved.safetensors'}"]) == 0
        assert capsys.readouterr().out.splitlines() == lines
    finally:
        (tmp_path / "moved.safetensors").rename(weights)


TWO_THIRDS = Decisions(
    (2.0,) * 7, (0.5,) * 7, (0.9, 0.1, 0.5, 0.6, 0.01, 1.0, 0.3), "f1", "9 photos"
)


@pytest.fixture
def decided(tmp_path, weights):
    """The tiny network, with decisions."""
    loaded = sources.load(str(weights))
    net = network.Network(
        network.make_model(loaded.architecture), loaded.architecture, TORCHVISION, None
    )
    network.save(
        tmp_path / "decided.safetensors",
        network.as_published(loaded)[1],
        net,
        loaded.classes,
        multi_label=True,
        decisions=TWO_THIRDS,
    )
    return tmp_path / "decided.safetensors"


def test_calibrated_probabilities_and_their_answers(decided, tmp_path, capsys):
    root, _ = tiny_runs.write_table(tmp_path, one_label=False)
    arguments = [str(decided), str(root / "01.png"), str(root / "02.png")]
    assert command.main([*arguments, "-o", str(tmp_path / "a.csv")]) == 0
    assert command.main([*arguments, "-o", str(tmp_path / "b.csv"), "--uncalibrated"]) == 0
    header, calibrated = table_of(tmp_path / "a.csv")
    _, plain = table_of(tmp_path / "b.csv")
    scores = np.array([row[1:8] for row in plain], np.float32)
    logits = np.log(scores / (1 - scores))
    found = np.array([row[1:8] for row in calibrated], np.float32)
    expected = probabilities(logits, TWO_THIRDS, one_label_each=False)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    given = answers(found, TWO_THIRDS, one_label_each=False)
    labels = [";".join(np.array(header[1:8])[row]) for row in given]
    assert [row[8] for row in calibrated] == labels
    assert [row[8] for row in plain] == labels  # the answers are the network's, however shown
    capsys.readouterr()
    assert command.main([*arguments, "--top=7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == arguments[1]
    assert lines[-1] == "* reaches the threshold of its class"
    starred = {line.split("  ")[-2] for line in lines[1:8] if line.endswith("  *")}
    assert starred == set(np.array(header[1:8])[given[0]])


def test_nothing_is_decoded_far_ahead():
    """However slowly photos are used: so a million of them take no more memory than a few."""
    begun = itertools.count()
    taken = []

    def photos():
        for number in begun:
            taken.append(number)
            yield Photo(str(number), number)

    stream = decoded_ahead(photos(), lambda number: np.full(3, number), ahead=8)
    for number in range(100):
        photo, pixels = next(stream)
        assert (photo.name, pixels[0]) == (str(number), number)
        assert len(taken) <= number + 1 + 8 + 32
    stream.close()
    assert len(taken) <= 100 + 8 + 32


def test_many_broken_photos_are_not_held(weights):
    def photos():
        yield Photo("good", None)
        yield from (Photo(str(number), None, "it is damaged") for number in range(100))

    loaded = Predictor.load(str(weights))
    loaded = dataclasses.replace(loaded, settings=predictor_module.Settings(batch_size=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "decode", lambda *_: np.zeros((256, 256, 3), np.uint8))
        sizes = [len(batch) for batch in loaded.predict(photos())]
    assert sizes == [32] + [1] * 69


def test_what_is_not_finite_is_no_prediction(weights, monkeypatch):
    loaded = Predictor.load(str(weights))
    monkeypatch.setattr(Predictor, "judge", lambda *_: (np.full((1, 7), np.nan), np.zeros((1, 7))))
    monkeypatch.setattr(Predictor, "decode", lambda *_: np.zeros((256, 256, 3), np.uint8))
    ((found,),) = loaded.predict([Photo("a", None)], batch_size=1)
    assert found == ("a", None, None, "the network's output for it is not finite")


def test_batches_are_made_up_to_the_devices(weights):
    loaded = Predictor.load(str(weights))
    assert loaded.batch_size == -(-32 // jax.device_count()) * jax.device_count()
