import pytest

from experiments import grid, scaling


def row(part, value, rate):
    found = scaling.summary(value, "evaluation", [rate, rate + 2.0, rate + 1.0], 10.4)
    return {"part": part, "value": value, **found}


def test_the_rows_of_other_parts_are_kept(tmp_path):
    path = tmp_path / "scaling.csv"
    assert scaling.read(path) == []
    before = [row("batch", 4, 1.0), row("devices", 1, 2.0)]
    for line in before:
        line["commit"] = "the one before"
    grid.write_csv(path, before)
    grid.write_csv(
        path, scaling.replace_part(scaling.read(path), "devices", [row("devices", 2, 3.0)])
    )
    grid.write_csv(
        path, scaling.replace_part(scaling.read(path), "photos", [row("photos", 1000, 4.0)])
    )
    found = scaling.read(path)
    assert [(line["part"], line["value"]) for line in found] == [
        ("photos", "1000"),
        ("batch", "4"),
        ("devices", "2"),
    ]
    assert found[1]["commit"] == "the one before"
    assert found[2]["commit"] != "the one before"
    assert found[2]["images_per_second"] == "4.0"
    assert found[2]["range"] == "3.00 to 5.00"
    assert found[2]["peak_anonymous_mib"] == "10"


def test_a_full_disk_is_told_beforehand(tmp_path):
    scaling.check_free(tmp_path, 1)
    with pytest.raises(SystemExit, match=r"bytes are needed in .* set TMPDIR"):
        scaling.check_free(tmp_path, 1 << 60)
