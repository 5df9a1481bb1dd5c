"""Thousands of damaged run directories: a page, or one line on each."""

import contextlib
import csv
import io
import json
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.faults import NUM_FAULTS, mutations
from tests.faults.mutate import mutated
from tests.report.synthetic import write_run, write_study
from vtl import identity
from vtl.report import class_page, marks_csv, page, ranking, runs
from vtl.report.language import Language

NUM_CASES = NUM_FAULTS // 5
DRAWN_EVERY = 20
"""Of the pages all are made, and the figures of every twentieth drawn, which takes longest."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    (root / "outside.json").write_text('{"secret": "outside"}')
    kinds = {"full": write_run, "probe": write_run}
    for name, write in kinds.items():
        write(root / name, name, classes=("cat", "dog"))
        for role in ("train", "test"):
            add_logits(root / name / f"scores_{role}.npz")
        of_test = dict.fromkeys(("ids", "labels", "difficult"), "0" * 64)
        made_of = identity.made_of({}, {"data": {"test": of_test}})
        (root / name / "made_of.json").write_text(json.dumps(made_of))
    write_study(root / "study", {"perceptron": {"sigmoid": [6.0, None], "relu": [2.0, 2.5]}})
    return root


def add_logits(path):
    with np.load(path) as file:
        arrays = dict(file)
    scores = arrays["scores"].astype(np.float64)
    np.savez(path, **arrays, logits=np.log(scores / (1 - scores)).astype(np.float32))


def damage(directory, outside, rng):
    """Damage one of the run's files in one of the ways there are."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    path = files[rng.integers(len(files))]
    kind = rng.integers(10)
    if kind == 0:
        mutations.replace_file(path, rng, outside)
    elif kind == 1:
        path.write_bytes(mutated(path.read_bytes(), rng))
    elif path.suffix == ".npz":
        with np.load(path) as file:
            arrays = mutations.mutated_arrays(dict(file), rng)
        path.write_bytes(mutations.npz_bytes(arrays))
    elif path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        row = rng.integers(len(lines))
        lines[row] = mutations.mutated_json(lines[row], rng)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        path.write_text(json.dumps(mutations.mutated_json(json.loads(path.read_text()), rng)))


def no_drawing(figure, file, **options):
    file.write("<svg></svg>")


@pytest.mark.full
def test_damaged_run_directories_give_a_page_or_a_line(sound, tmp_path, monkeypatch):
    outcomes = mutations.Outcomes()
    for seed in range(NUM_CASES):
        rng = np.random.default_rng(seed)
        directory = tmp_path / "run"
        shutil.rmtree(directory, ignore_errors=True)
        name = ("full", "probe", "study")[rng.integers(3)]
        shutil.copytree(sound / name, directory)
        damage(directory, sound / "outside.json", rng)

        def read(directory=directory, seed=seed):
            given = [directory, sound / "probe"] if seed % 10 == 0 else [directory]
            found, refused = runs.read_all(given)
            if bad := [line for line in refused if not mutations.is_good_line(line)]:
                return f"poor line: {bad[0]}"
            if not found:
                return "line"
            context = monkeypatch.context() if seed % DRAWN_EVERY else contextlib.nullcontext()
            with context as patch:
                if patch is not None:
                    patch.setattr(Figure, "savefig", no_drawing)
                html = page.make(found, refused, "vtl report", Language("en"))
            html.encode()
            if "outside" in html and "secret" in html:
                return "read outside"
            if "\x1b" in html or "<b>&amp;" in html:
                return "raw text in the page"
            if len(html) > 5e6:
                return f"a page of {len(html)} bytes"
            return "right"

        outcomes.note(seed, read)
    print(dict(outcomes.counts))
    assert not outcomes.bad, "\n".join(outcomes.bad[:30])
    assert outcomes.counts["line"] > NUM_CASES / 3
    assert outcomes.counts["right"] > NUM_CASES / 10


@pytest.mark.full
def test_damaged_run_directories_are_rows_of_a_class(sound, tmp_path):
    """Whatever one run holds, the others keep their rows, and nothing gets out of its cell."""
    outcomes, language = mutations.Outcomes(), Language("en")
    for seed in range(NUM_CASES // 2):
        rng = np.random.default_rng(seed)
        directory = tmp_path / "run"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(sound / ("full", "probe", "study")[rng.integers(3)], directory)
        damage(directory, sound / "outside.json", rng)

        def read(directory=directory):
            rows = ranking.of_runs([directory, sound / "probe"], ["run", "sound"])
            by_name = {row.name: row for row in rows}
            if by_name["sound"].status not in ("ranked", "copy", "labels", "photos"):
                return f"the sound run is {by_name['sound'].status}"
            table = marks_csv.write(rows, language)
            html = class_page.make(rows, [], "vtl report", language)
            if "outside" in html + table and "secret" in html + table:
                return "read outside"
            if "\x1b" in html + table or "<b>&amp;" in html:
                return "raw text in the page"
            if len(list(csv.reader(io.StringIO(table)))) != 3:
                return "a CSV of other rows"
            if len(html) > 1e6:
                return f"a page of {len(html)} bytes"
            return "right" if by_name["run"].reasons == [] else "line"

        outcomes.note(seed, read)
    print(dict(outcomes.counts))
    assert not outcomes.bad, "\n".join(outcomes.bad[:30])
    assert outcomes.counts["line"] > NUM_CASES / 6
