import json

import pytest

from tests.report.synthetic import write_run
from vtl.errors import UserError
from vtl.report import low_shot, page, runs
from vtl.report.language import LANGUAGES, Language


def measured():
    choice = {"cost": 1.0, "map": [0.4, 0.5], "mean": 0.45, "deviation": 0.05}
    of_k = {"classes": 4, "left_out": [], "all_negatives": []}
    return {
        "protocol": "voc2010",
        "seeds": [0, 1],
        "negatives_for_each_positive": 3,
        "costs": [1.0],
        "by_k": {
            "1": of_k | {"chosen_on_train": choice, "chosen_on_test": choice | {"mean": 0.5}},
            "9": of_k | {"classes": 0, "chosen_on_train": None, "chosen_on_test": None},
        },
    }


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_table_has_a_row_for_each_number(tmp_path, code):
    path = write_run(tmp_path / "run", "probe", results={"low_shot": measured()})
    run, language = runs.read(path, "run"), Language(code)
    section = low_shot.section(run, language)
    first, last = section["table"].rows
    shown = ["1", "4", "45.0 ± 5.0", "50.0 ± 5.0"]
    if code == "fr":
        shown = [text.replace(".", ",") for text in shown]
    assert [cell.text for cell in first] == shown
    assert [cell.text for cell in last[2:]] == ["\N{EN DASH}"] * 2
    assert "voc2010" in section["note"]
    html = page.make([run], [], "vtl report", language)
    assert str(language("low_shot")) in html
    assert shown[2] in html


def test_other_runs_have_no_such_table(tmp_path):
    run = runs.read(write_run(tmp_path / "run", "probe"), "run")
    assert low_shot.section(run, Language("en")) is None
    assert "Low-shot" not in page.make([run], [], "vtl report", Language("en"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"by_k": {"<b>": measured()["by_k"]["1"]}}, "low_shot.by_k"),
        ({"seeds": []}, "low_shot.seeds"),
        ({"by_k": {"1": {"classes": 4}}}, "low_shot.by_k.1"),
    ],
)
def test_what_is_damaged_is_one_line(tmp_path, change, message):
    path = write_run(tmp_path / "run", "probe", results={"low_shot": measured() | change})
    assert json.loads((path / "results.json").read_text())["low_shot"]
    with pytest.raises(UserError, match=message) as caught:
        runs.read(path, "run")
    assert "\n" not in str(caught.value)
