import json

import pytest

from tests.learning_curve.test_curve import conclude, law_of, results_of
from tests.report.synthetic import VERSIONS
from vtl.errors import UserError
from vtl.report import learning_curve, page, runs
from vtl.report.language import LANGUAGES, Language


def write(path, **options):
    """A finished run of a planted curve."""
    found = results_of(conclude(law_of(0.2, 0.1, 0.5), **options))
    results = {
        "task": "learning_curve",
        "variant": "",
        "status": "finished",
        "seed": 0,
        "classes": ["cat", "dog"],
        "curve": found,
        "weights": None,
        "versions": VERSIONS,
        "devices": ["cpu: cpu"],
    }
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"task": "learning_curve", "seed": 0}))
    (path / "results.json").write_text(json.dumps(results))
    return runs.read(path, path.name)


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_page_has_the_sentence_the_figure_and_the_table(tmp_path, code):
    run, language = write(tmp_path / "mine", tuned=0.02), Language(code)
    section = learning_curve.section(run, language)
    found = run.results["curve"]
    twice = found["probe"]["twice"]
    gain = language.percent(twice["gain"], signed=True)
    assert f"{gain} {language.interval(twice['interval'])}" in section["sentence"]
    assert str(language(f"label_curve_more_{found['more']}")) in section["sentence"]
    first, *_, last = section["table"].rows
    assert [cell.text for cell in first[:2]] == ["5 %", "50"]
    assert last[4].text.startswith(language.percent(0.02, signed=True))
    assert [cell.text for cell in last[5:]] == ["2 min 05 s"] * 2
    assert "cat" in section["missing"][0]
    html = page.make([run], [], "vtl report", language)
    assert str(section["sentence"]) in html
    assert "<svg" in str(section["figure"])
    assert str(section["figure"]).count("stroke-dasharray") == 2  # a law each


def test_where_nothing_can_be_said_no_law_is_drawn(tmp_path):
    run, language = write(tmp_path / "few", num_photos=50), Language("en")
    section = learning_curve.section(run, language)
    said = "twice the labels: nothing can be said: there are fewer than 100 photos"
    assert said in section["sentence"]
    assert "stroke-dasharray" not in section["figure"]
    assert len(section["table"].headings) == 4


def test_a_damaged_curve_is_left_out(tmp_path):
    path = tmp_path / "mine"
    write(path)
    results = json.loads((path / "results.json").read_text())
    results["curve"]["photos"] = ["<b>"] * 5
    (path / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"curve\.photos"):
        runs.read(path, "mine")
