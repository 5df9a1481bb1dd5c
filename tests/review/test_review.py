"""What looks wrong, and what becomes of the answers."""

import csv
import json

import numpy as np
import pytest

from tests.data.layouts.photos import write_photo
from tests.review.runs import CLASSES, FLIPPED, HOSTILE, write_run
from vtl.data import corrected, duplicates, splits
from vtl.review import __main__ as command
from vtl.review import corrections, neighbours, probabilities, reviewed, suspects

ALL_TRAIN = {"train": "trainval"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("review"))


def found_in(run, ranking="plain"):
    of = reviewed.read(str(run))
    near = neighbours.find(of.features)
    p = probabilities.out_of_fold(
        of.features, of.labels, of.counts, near.groups, one_label_each=of.one_label_each
    )
    return of, p, suspects.find(of, p, near.groups, near.likeness, ranking=ranking, most=50)


def test_flipped_labels_come_first_and_unknown_ones_never(run):
    of, _, found = found_in(run)
    names = {HOSTILE if row == 20 else f"{row:04}.png": row for row in range(60)}
    pairs = [(names[of.ids[s.rows[0]]], s.column) for s in found if s.kind in ("missing", "wrong")]
    assert set(pairs[:3]) == FLIPPED
    assert all(of.counts[row, column] for s in found for row, column, _ in (*s.yes, *s.no))
    places = [entry[:2] for s in found for entry in s.yes]
    assert len(places) == len(set(places))


@pytest.mark.parity
def test_cleanlab_finds_them_too(run):
    pytest.importorskip("cleanlab")
    of, _, found = found_in(run, "cleanlab")
    wrong = [s for s in found if s.kind in ("missing", "wrong")]
    assert {of.ids[s.rows[0]] for s in wrong[:3]} == {"0003.png", HOSTILE, "0040.png"}


def test_a_fold_holds_whole_groups(run):
    of, _, _ = found_in(run)
    groups = np.arange(60) // 6
    p = probabilities.out_of_fold(of.features, of.labels, of.counts, groups, one_label_each=False)
    other = of.labels.copy()
    other[:6] = 1 - other[:6]
    again = probabilities.out_of_fold(of.features, other, of.counts, groups, one_label_each=False)
    np.testing.assert_allclose(again[:6], p[:6], atol=1e-3)  # they were not fitted to
    assert np.abs(again[6:] - p[6:]).max() > 0.01


def test_groups_of_the_data_join_those_of_copies():
    features = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    features[5] = features[4]
    near = neighbours.find(features)
    assert near.groups[4] == near.groups[5]
    assert len(set(near.groups)) == 39
    joined = duplicates.joined(near.groups, ["a" if row in (5, 9) else "" for row in range(40)])
    assert joined[4] == joined[5] == joined[9]
    assert len(set(joined)) == 38


def test_what_is_like_nothing_else():
    rng = np.random.default_rng(0)
    features = rng.normal(0, 0.05, (300, 16)).astype(np.float32) + np.eye(16)[
        np.arange(300) % 4
    ].astype(np.float32)
    features[7] = 0
    features[7, 9] = -1
    assert neighbours.find(features).likeness.argmin() == 7


def test_copies_with_other_labels_are_one_question(tmp_path):
    of, p, _ = found_in(write_run(tmp_path))
    groups = np.arange(60)
    groups[[0, 1]] = 0
    found = suspects.find(of, p, groups, np.ones(60), ranking="plain", most=0)
    copies = [s for s in found if s.kind == "copies"]
    assert copies
    assert {s.rows for s in copies} == {(0, 1)}
    assert {value for s in copies for _, _, value in s.yes} == {1}


def test_with_one_label_each_the_likelier_takes_its_place():
    labels = np.eye(3, dtype=np.uint8)[[0, 1, 2, 0]]
    of = reviewed.Reviewed(
        list("abcd"),
        [],
        np.zeros((4, 1)),
        labels,
        np.ones_like(labels),
        [""] * 4,
        CLASSES,
        True,
        [],
    )
    p = np.array([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]])
    (only,) = suspects.find(of, p, np.arange(4), np.ones(4), ranking="plain", most=9)
    assert (only.column, only.yes, only.no) == (1, ((0, 1, 1), (0, 0, 0)), ())


def test_the_page_is_whole_and_safe(run, tmp_path, capsys):
    page = tmp_path / "review.html"
    assert command.main([str(run), "-o", str(page)]) == 0
    html = page.read_text()
    assert html.count("<script") == 2
    assert "<img" not in html
    assert "script-src 'sha256-" in html.replace("&#39;", "'")
    data = json.loads(html.partition('id="data">')[2].partition("</script>")[0])
    assert tuple(data["classes"]) == CLASSES
    assert HOSTILE in {photo["id"] for photo in data["photos"]}
    assert all(photo["photo"].startswith("data:image/jpeg") for photo in data["photos"])
    assert "0 copies" in capsys.readouterr().out


def test_labels_of_now_count_and_changed_ones_are_counted(tmp_path, capsys):
    run = write_run(tmp_path)
    table = tmp_path / "photos" / "labels.csv"
    lines = table.read_text().splitlines()
    assert lines[4].startswith('"0003.png"')
    lines[4] = '"0003.png",train,1,0,0'
    (tmp_path / "photos" / "labels2.csv").write_text("\n".join(lines))
    page = tmp_path / "r.html"
    assert command.main([str(run), "--labels=labels2.csv", "-o", str(page)]) == 0
    assert "1 labels of 1 photos have changed" in capsys.readouterr().err


def test_runs_without_features_are_refused_with_the_way_out(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for config, said in (
        ({"task": "finetune", "weights": "w", "data": {"name": "", "root": "p"}}, "vtl deep_feat"),
        ({"task": "relu_study"}, "no features"),
        ({"task": "features"}, "no results.json"),
        ([], "object"),
    ):
        (run / "config.json").write_text(json.dumps(config))
        assert command.main([str(run), "-o", str(tmp_path / "r.html")]) == 1
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) <= 3
    assert not (tmp_path / "r.html").exists()


def test_photos_that_moved_are_asked_for(tmp_path, capsys):
    run, page = write_run(tmp_path), str(tmp_path / "r.html")
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert command.main([str(run), "-o", page]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(f"are not in {tmp_path}/photos, seen from here")
    assert second.startswith("Add --root=FOLDER")
    assert command.main([str(run), "-o", page, f"--root={tmp_path}/moved"]) == 0
    (run / "DF_tiny.npz").unlink()
    assert command.main([str(run), "-o", page, f"--root={tmp_path}/moved"]) == 1
    assert "DF_tiny.npz: no such file; `vtl deep_features` makes one" in capsys.readouterr().err


def apply(tmp_path, table, answers, *options):
    """The new table's text, and what was printed; None if it was refused."""
    (tmp_path / "t.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    with (tmp_path / "corrections.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("photo", "class", "label", "was"), *answers])
    output = tmp_path / "new.csv"
    for path in (output, corrected.log_of(output)):
        path.unlink(missing_ok=True)
    status = command.main(
        [
            "apply",
            *map(str, (tmp_path / "corrections.csv", tmp_path / "t.csv", "-o", output)),
            *options,
        ]
    )
    return (output.read_bytes().decode() if output.exists() else None), status


def test_only_what_is_corrected_changes(tmp_path, capsys):
    table = '\ufeffphoto, cat ,dog\r\n"a.jpg", yes ,no\r\nb.jpg,"no",?\r\n\r\n"c\n1.jpg",no,yes\r\n'
    new, status = apply(
        tmp_path,
        table,
        [("a.jpg", "dog", 1, 0), ("c\n1.jpg", "cat", "?", 0), ("b", "cat", 0, 0)],
    )
    assert status == 0
    assert new == table.replace('"a.jpg", yes ,no', '"a.jpg", yes ,yes').replace(
        '"c\n1.jpg",no,yes', '"c\n1.jpg",?,yes'
    )
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "line 2: a.jpg: dog 0 -> 1"
    assert len(out) == 3
    assert "2 labels changed, 1 confirmed" in out[-1]
    assert (tmp_path / "t.csv").read_bytes() == table.encode()


def test_a_cell_of_labels(tmp_path, capsys):
    table = "file\tlabels\nx/1.jpg\tcat; dog\n2.jpg\t\n3.jpg\tdog\n"
    new, status = apply(
        tmp_path,
        table,
        [("x/1.jpg", "cat", 0, 1), ("2.jpg", "dog", 1, 0), ("3.jpg", "dog", "?", 1)],
    )
    assert new == "file\tlabels\nx/1.jpg\tdog\n2.jpg\tdog\n3.jpg\tdog\n"
    assert status == 1  # one answer could not be written
    assert "can't say" in capsys.readouterr().err


def test_voc_flags_and_formulas(tmp_path):
    new, _ = apply(tmp_path, "photo,=c\n-1.jpg,-1\n", [("'-1.jpg", "'=c", 1, 0)], "--flags=voc")
    assert new == "photo,=c\n-1.jpg,1\n"


def test_one_label_a_cell_changes_place(tmp_path):
    new, _ = apply(
        tmp_path,
        "photo,label\n1.jpg,cat\n2.jpg,dog\n",
        [("1.jpg", "dog", 1, 0), ("1.jpg", "cat", 0, 1)],
    )
    assert new == "photo,label\n1.jpg,dog\n2.jpg,dog\n"


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([("gone.jpg", "cat", 1, 0)], "has no photo gone.jpg"),
        ([("1.jpg", "cow", 1, 0)], "has no column 'cow'"),
        ([("1.jpg", "cat", 1, 0)], "is 1 there, and was 0"),
        ([("1.jpg", "cat", 0, 1), ("1.jpg", "cat", 1, 1)], "contradict each other"),
        ([("1.jpg", "cat", 2, 1)], "is none of 1, 0"),
        ([("1.jpg", "cat")], "has 2 cells"),
    ],
)
def test_corrections_that_dont_fit_are_refused(tmp_path, capsys, answers, said):
    new, status = apply(tmp_path, "photo,cat\n1.jpg,1\n2.jpg,0\n", answers)
    assert (new, status) == (None, 1)
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) <= 3


def test_nothing_is_written_over_and_only_tables_are_corrected(tmp_path, capsys):
    for name in ("corrections.csv", "labels.json"):
        (tmp_path / name).write_text("photo,class,label,was\n1.jpg,cat,0,1\n")
    given, taken = str(tmp_path / "corrections.csv"), tmp_path / "new.csv"
    (tmp_path / "t.csv").write_text("photo,cat\n1.jpg,1\n")
    arguments = ["apply", given, str(tmp_path / "t.csv"), "-o", str(taken)]
    for content in ("photo,cat\n1.jpg,1\n", "photo,cat\n1.jpg,0\n\n", ""):
        taken.write_text(content)
        assert command.main(arguments) == 1
        assert "is there already" in capsys.readouterr().err
        assert taken.read_text() == content
    taken.unlink()
    said = [(command.main(arguments), capsys.readouterr().out) for _ in range(2)]
    assert said[0] == said[1]  # the same command again
    assert said[0][0] == 0
    other = str(tmp_path / "other.csv")
    assert command.main(["apply", given, str(tmp_path / "labels.json"), "-o", other]) == 1
    assert "is no table" in capsys.readouterr().err


def test_the_corrected_table_is_read_as_corrected(tmp_path):
    write_run(tmp_path)
    table = tmp_path / "photos" / "labels.csv"
    (tmp_path / "c.csv").write_text(
        "photo,class,label,was\n0003.png,cat,1,0\n"
        f'"{HOSTILE.replace(chr(34), chr(34) * 2)}","\'{CLASSES[1]}",0,1\n'
    )
    new = tmp_path / "photos" / "labels2.csv"
    assert command.main(["apply", str(tmp_path / "c.csv"), str(table), "-o", str(new)]) == 0
    before, now = (splits.read(tmp_path / "photos", labels=path) for path in (table, new))
    changed = [
        (photo, int(column))
        for role, split in now.items()
        for photo, row, old in zip(
            split.ids, np.asarray(split.labels), np.asarray(before[role].labels), strict=True
        )
        for column in np.flatnonzero(row != old)
    ]
    assert sorted(changed) == sorted([("0003.png", 0), (HOSTILE, 1)])


def test_a_run_on_a_corrected_table_says_how_many_labels_differ(tmp_path, caplog):
    answers = [("1.jpg", "cat", 0, 1), ("1.jpg", "dog", 1, 0), ("3.jpg", "dog", 0, 0)]
    table = "photo,cat,dog\n1.jpg,1,0\n2.jpg,0,1\n3.jpg,1,0\n"
    assert apply(tmp_path, table, answers)[1] == 0
    for number in (1, 2, 3):
        write_photo(tmp_path / "photos" / f"{number}.jpg", number, 8)
    new, log = tmp_path / "new.csv", tmp_path / "new.csv.changes.json"

    def said() -> list[str]:
        caplog.clear()
        splits.read(tmp_path / "photos", labels=new, fractions=(1, 0, 0), names=ALL_TRAIN)
        return caplog.messages

    expected = "2 labels of 1 photos differ from t.csv's, by new.csv.changes.json"
    assert said() == [expected]
    assert json.loads(log.read_text())["changes"][0] == {
        "line": 2,
        "photo": "1.jpg",
        "class": "cat",
        "was": "1",
        "label": "0",
    }
    log.write_text(log.read_text().replace('"changes"', '"changed"'))
    assert said() == [f"what was corrected is not known: {log}: it lacks changes"]
    log.write_text(log.read_text().replace('"changed"', '"changes"'))
    new.write_text(new.read_text().replace("2.jpg,0,1", "2.jpg,1,1"))
    assert said() == []  # the log is of another table


def test_cells_as_they_are_written():
    cells = corrections._raw_cells
    assert cells('"a,""b""", c,\r\n', ",") == ['"a,""b"""', " c", ""]
    assert cells('b"\n', ",") == ['b"']
    assert cells('"b\n', ",") is None
