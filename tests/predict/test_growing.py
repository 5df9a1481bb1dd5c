"""The table of predictions: its rows, and that a stop costs nothing."""

import csv
import dataclasses
import errno
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.layouts.photos import HOSTILE, write_photo, write_photos
from tests.devices import environment
from tests.predict.tiny_runs import json_rows
from tests.tiny import write_weights
from vtl.errors import UserError
from vtl.files import growing_file
from vtl.predict import __main__ as command
from vtl.predict import growing, table
from vtl.predict.photos import Photo
from vtl.predict.predictor import Prediction
from vtl.weights import formats
from vtl.weights.formats import safetensors

CLASSES = ("cat", "labels", "a;b", "=1+1", "twice", "twice")
MADE_OF = {"network": "a" * 64, "batch size": 4}


def stream(count=21, broken=(5, 11)):
    for number in range(count):
        problem = "it is damaged" if number in broken else ""
        yield Photo(f"{number}.jpg", Path(str(number)), problem)


def predict(photos, stop_at=None, size=4):
    """Batches of 4 legible photos, with numbers by the photo and its place in its batch."""
    waiting, place = [], 0
    for photo in photos:
        if photo.path.name == str(stop_at):
            raise KeyboardInterrupt
        number = int(photo.path.name)
        numbers = np.float32([number / 7, place / 3, 0.25, 1e-7, 0.9, 1])
        waiting.append(
            Prediction(photo.name, None, None, photo.problem)
            if photo.problem
            else Prediction(photo.name, numbers, numbers > 0.5)
        )
        place += not photo.problem
        if place in (0, size):
            yield waiting
            waiting, place = [], 0
    if waiting:
        yield waiting


def write(output, *, stop_at=None, photos=stream, made_of=MADE_OF):
    return growing.write(
        output,
        made_of,
        table.rows_for(output, CLASSES),
        photos,
        lambda photos: predict(photos, stop_at),
        batch_size=4,
    )


def left_in(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(params=["p.csv", "p.jsonl"])
def output(request, tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / request.param


@pytest.fixture
def whole(output, tmp_path):
    """The bytes of a file that nobody stopped."""
    write(tmp_path / output.name)
    return (tmp_path / output.name).read_bytes()


def test_the_file_takes_its_name_at_the_end(output):
    tally = write(output)
    assert dataclasses.astuple(tally) == (21, 2, "5.jpg: it is damaged", 0)
    assert left_in(output.parent) == [output.name]
    assert len(output.read_bytes().splitlines()) == 21 + (output.suffix == ".csv")


@pytest.mark.parametrize("stop_at", [0, 1, 4, 5, 6, 12, 20])
def test_a_stop_costs_nothing(output, whole, stop_at):
    with pytest.raises(KeyboardInterrupt):
        write(output, stop_at=stop_at)
    unfinished = f"unfinished_{output.name}"
    assert left_in(output.parent) == [unfinished, f"{unfinished}.json"]
    tally = write(output)
    assert tally.num_kept <= stop_at
    assert stop_at - tally.num_kept <= 5
    assert (tally.num_photos, tally.num_broken) == (21, 2)
    assert output.read_bytes() == whole
    assert left_in(output.parent) == [output.name]


@pytest.mark.parametrize("rest", [0, 1, 30, 200, 301, 402])
def test_half_a_line_is_written_again(output, whole, rest):
    with pytest.raises(KeyboardInterrupt):
        write(output, stop_at=15)
    unfinished = output.with_name(f"unfinished_{output.name}")
    content = unfinished.read_bytes()
    unfinished.write_bytes(content[: len(content) - rest] + b"\0" * (rest // 2))
    write(output)
    assert output.read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"made_of": MADE_OF | {"network": "b" * 64}}, "it was written with another network"),
        ({"made_of": MADE_OF | {"batch size": 2}}, "another batch size"),
        ({"photos": lambda: stream(3, ())}, "it has 9 rows, and there are 3 photos now"),
        (
            {"photos": lambda: itertools.islice(stream(), 1, None)},
            "its row 1 is of 0.jpg, where now 1.jpg comes",
        ),
    ],
)
def test_what_is_of_others_is_set_aside(output, changes, said, caplog, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(output, stop_at=9)
    before = output.with_name(f"unfinished_{output.name}").read_bytes()
    assert write(output, **changes).num_kept == 0
    assert said in caplog.text
    aside, made = left_in(output.parent)
    assert made == output.name
    assert aside.startswith(f"damaged_unfinished_{output.name}_")
    assert output.with_name(aside).read_bytes() == before
    write(tmp_path / output.name, **changes)
    assert output.read_bytes() == (tmp_path / output.name).read_bytes()


def test_a_file_without_its_note_is_set_aside(output, caplog):
    with pytest.raises(KeyboardInterrupt):
        write(output, stop_at=9)
    output.with_name(f"unfinished_{output.name}.json").unlink()
    assert write(output).num_kept == 0
    assert "that says what it was made of" in caplog.text


def test_one_process_at_a_time(output):
    with growing_file(output.with_name(f"unfinished_{output.name}")) as file:
        file.write(b"of another process")
        file.flush()
        with pytest.raises(BlockingIOError, match="another process writes it"):
            write(output)
    assert output.with_name(f"unfinished_{output.name}").read_bytes() == b"of another process"


def test_what_is_there_is_not_replaced_unasked(output):
    output.write_text("mine")
    with pytest.raises(UserError, match="exists already: choose another name, or --overwrite"):
        growing.check_free(output, overwrite=False)
    growing.check_free(output, overwrite=True)
    with pytest.raises(UserError, match="is a directory"):
        growing.check_free(output.parent, overwrite=True)


# The rows.


def test_columns_are_called_by_their_classes():
    assert table.columns(("cat", "dog")) == ("cat", "dog")
    expected = ("cat", "class 1: labels", "a;b", "class 3: =1+1", "class 4: twice")
    assert table.columns(CLASSES) == (*expected, "class 5: twice")
    assert table.columns(("File", "x")) == ("class 0: File", "x")
    both = ("class 1: error", "error")
    assert table.columns(both) == ("class 0: class 1: error", "class 1: error")
    assert len(set(table.columns(("", "class 0: ", "-1", "class 2: -1")))) == 4


def test_a_csv_is_read_back_exactly():
    rows = table.CsvRows(CLASSES)
    numbers = np.random.default_rng(0).random(6).astype(np.float32) ** 20
    given = np.array([True, False, True, False, True, True])
    line = rows.line(Prediction('=a "b", c.jpg', numbers, given))
    (cells,) = csv.reader([line.decode()], strict=True)
    assert cells[0] == './=a "b", c.jpg'
    np.testing.assert_array_equal(np.array(cells[1:7], np.float32), numbers)
    (labels,) = csv.reader([cells[7]], delimiter=";")
    assert labels == ["cat", "a;b", "class 4: twice", "class 5: twice"]
    assert cells[8] == ""
    (cells,) = csv.reader([rows.line(Prediction("x", None, None, "two\nlines")).decode()])
    assert cells == ["x", *[""] * 7, "two lines"]


def test_json_lines_are_read_back_exactly():
    rows = table.JsonRows(("cat", "größe"))
    line = rows.line(Prediction("ä.jpg", np.float32([0.1, 1e-9]), np.array([False, True])))
    assert (
        line
        == (
            '{"file": "ä.jpg", "probabilities": {"cat": 0.1, "größe": 1e-09}, '
            '"labels": ["größe"], "error": null}\n'
        ).encode()
    )
    broken = json.loads(rows.line(Prediction("x", None, None, "why")))
    assert broken == {"file": "x", "probabilities": {}, "labels": [], "error": "why"}


# The command.


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def test_hostile_and_broken_photos_are_rows(tiny, tmp_path, capsys):
    names = [*HOSTILE, "new\nline.jpg"]
    write_photos(tmp_path / "p", names)
    (tmp_path / "p" / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    (tmp_path / "p" / "pipe?.png").mkdir()
    for name in ("a.csv", "a.jsonl"):
        out = tmp_path / name
        assert command.main([str(tiny), str(tmp_path / "p"), "-o", str(out)]) == 1
        said = capsys.readouterr().err.splitlines()[-2:]
        assert said[0] == f"vtl: 1 of {len(names) + 1} photos can't be read"
        assert said[1].startswith(f"The first is {tmp_path}/p/broken.jpg: cannot read photo")
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(names) + 1
    (broken,) = (row for row in rows if row["error"])
    assert broken["file"].endswith("broken.jpg")
    assert broken["other 0"] == broken["labels"] == ""
    assert {Path(row["file"]).name for row in rows} == {
        *(name.replace("\n", "\\n") for name in names),
        "broken.jpg",
    }
    assert [row["file"] for row in json_rows(tmp_path / "a.jsonl")] == [r["file"] for r in rows]


def test_the_likeliest_classes_are_printed(tiny, tmp_path, capsys):
    write_photo(tmp_path / "a.jpg", 0)
    (tmp_path / "b.jpg").write_bytes(b"no photo")
    assert command.main([str(tiny), str(tmp_path), "--top=2"]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == str(tmp_path / "a.jpg")
    assert [line[:10].endswith("%  ") for line in lines[1:3]] == [True, True]
    assert lines[3:4] == [str(tmp_path / "b.jpg")]
    assert lines[4].startswith("  not read: cannot read photo")
    assert err.startswith("vtl: 1 of 2 photos can't be read\nThe first is ")


def refused(capsys, *arguments):
    assert command.main(list(map(str, arguments))) == 1
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line and not line.startswith("predicting:")]
    assert 1 <= len(said) <= 3
    assert said[0].startswith("vtl: ")
    return said[0]


def test_refusals(tiny, tmp_path, capsys):
    photo = write_photo(tmp_path / "a.jpg", 0)
    tensors = {k: v for k, v in formats.read(tiny).tensors.items() if not k.startswith("fc.")}
    safetensors.write(tmp_path / "headless.safetensors", tensors, {})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    assert "has no head" in refused(capsys, tmp_path / "headless.safetensors", photo)
    assert "run: no model.safetensors there" in refused(capsys, tmp_path / "run", photo)
    wrong = refused(capsys, tiny, photo, "-o", tmp_path / "p.xlsx")
    assert wrong.endswith("must end in .csv or .jsonl")
    assert "exists already" in refused(capsys, tiny, photo, "-o", write_csv(tmp_path))
    assert "none.jpg can't be opened" in refused(capsys, tiny, photo, tmp_path / "none.jpg")
    (tmp_path / "file").write_text("")
    said = refused(capsys, tiny, photo, "-o", tmp_path / "file" / "p.csv")
    assert said.startswith(f"vtl: cannot read or write {tmp_path / 'file'}")
    assert not list(tmp_path.glob("unfinished*"))


def write_csv(directory):
    (directory / "there.csv").write_text("mine")
    return directory / "there.csv"


def test_a_full_disk_is_a_line_and_loses_nothing(tiny, tmp_path, capsys, monkeypatch):
    write_photo(tmp_path / "a.jpg", 0)

    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    arguments = (tiny, tmp_path / "a.jpg", "-o", tmp_path / "p.csv")
    with monkeypatch.context() as patch:
        patch.setattr(table.CsvRows, "line", fails)
        said = refused(capsys, *arguments)
    assert said == f"vtl: the disk is full: no space left for {tmp_path / 'p.csv'}"
    assert command.main(list(map(str, arguments))) == 0


@pytest.mark.full
def test_killed_and_stopped_it_goes_on_with_the_same_bytes(tiny, tmp_path):
    write_photos(tmp_path / "p", [f"{number:04d}.jpg" for number in range(160)])
    whole, output = tmp_path / "whole.csv", tmp_path / "p.csv"
    assert command.main([str(tiny), str(tmp_path / "p"), "-o", str(whole)]) == 0
    program = [sys.executable, "-c", SLOWLY, str(tiny), str(tmp_path / "p"), "-o", str(output)]
    unfinished = output.with_name("unfinished_p.csv")
    lines = 0
    for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130)):
        process = subprocess.Popen(
            program, stderr=subprocess.PIPE, text=True, env=environment(1), cwd=ROOT
        )
        end = time.monotonic() + 60
        while not unfinished.exists() or unfinished.read_bytes().count(b"\n") <= lines + 32:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == status
        lines = unfinished.read_bytes().count(b"\n")
    assert said.endswith("\nvtl: stopped; run the same command again to go on\n")
    assert not output.exists()
    assert command.main([str(tiny), str(tmp_path / "p"), "-o", str(output)]) == 0
    assert output.read_bytes() == whole.read_bytes()


ROOT = Path(__file__).parents[2]
SLOWLY = """
import sys, time
from vtl import stops
from vtl.predict import __main__ as command
from vtl.predict.predictor import Predictor
judge = Predictor.judge
def judge_slowly(*arguments):
    time.sleep(0.2)
    return judge(*arguments)
Predictor.judge = judge_slowly
with stops.in_one_line():
    sys.exit(command.main())
"""
