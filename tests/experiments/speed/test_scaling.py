from experiments import tables
from experiments.speed import scaling


def row(part, value, rate):
    rates = [rate, rate + 2.0, rate + 1.0]
    return {"part": part, **scaling.summary(value, "evaluation", rates, 10.4)}


def test_the_rows_of_other_parts_are_kept(tmp_path):
    path = tmp_path / "scaling.csv"
    assert tables.read_csv(path) == []
    before = [row("batch", 4, 1.0), row("devices", 1, 2.0)]
    for line in before:
        line["commit"] = "the one before"
    tables.write_csv(path, before)
    tables.write_csv(
        path, scaling.replace_part(tables.read_csv(path), "devices", [row("devices", 2, 3.0)])
    )
    tables.write_csv(
        path, scaling.replace_part(tables.read_csv(path), "photos", [row("photos", 1000, 4.0)])
    )
    rows = tables.read_csv(path)
    assert [(line["part"], line["value"]) for line in rows] == [
        ("photos", "1000"),
        ("batch", "4"),
        ("devices", "2"),
    ]
    assert rows[1]["commit"] == "the one before"
    assert rows[2]["commit"] != "the one before"
    assert rows[2]["images_per_second"] == "4.0"
    assert rows[2]["range"] == "3.00 to 5.00"
    assert rows[2]["peak_anonymous_mib"] == "10"
