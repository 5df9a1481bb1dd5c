import shutil

import pytest

from tests.report.synthetic import write_run
from vtl.report import __main__ as command
from vtl.report import search
from vtl.report.search import runs_in


@pytest.fixture
def root(tmp_path):
    for name in ("bob/probe", "alice/week 2/finetune", "alice/week 1"):
        write_run(tmp_path / "runs" / name, "probe")
    return tmp_path / "runs"


def test_runs_are_found_at_any_depth_but_not_inside_of_a_run(root):
    write_run(root / "bob" / "probe" / "held_out", "probe")
    shutil.copytree(root / "bob", root / ".hidden")
    names = ("alice/week 1", "alice/week 2/finetune", "bob/probe")
    assert runs_in(root) == ([root / name for name in names], [])


def test_a_run_without_its_config_is_one(root):
    (root / "bob" / "probe" / "config.json").unlink()
    assert root / "bob" / "probe" in runs_in(root).paths


def test_the_search_ends(root, monkeypatch):
    deep = root / "/".join("abcdefg")
    write_run(deep, "probe")
    assert deep not in runs_in(root).paths
    monkeypatch.setattr(search, "MAX_RUNS", 1)
    found = runs_in(root)
    assert len(found.paths) == 1
    assert "holds more than 1 runs" in found.problems[0]
    monkeypatch.setattr(search, "MAX_ENTRIES", 1)
    assert "holds more than" in runs_in(root).problems[-1]


def test_links_are_not_followed(root, tmp_path, capsys):
    outside = write_run(tmp_path / "outside", "probe")
    (root / "carol").mkdir()
    (root / "carol" / "loop").symlink_to(root)
    (root / "carol" / "of bob").symlink_to(root / "bob" / "probe")
    (root / "carol" / "photos").symlink_to(tmp_path)
    (root / "carol" / "run").symlink_to(outside)
    found = runs_in(root)
    assert len(found.paths) == 3
    assert found.problems == [f"{root}/carol/run is a link that leads out of {root}: not followed"]
    assert command.main([str(root), "-o", str(tmp_path / "report.html")]) == 1
    assert "carol/run is a link" in capsys.readouterr().err


def test_a_link_that_is_given_is_followed(root, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(root / "bob" / "probe")
    assert runs_in(link).paths == [link]


def test_a_directory_that_may_not_be_entered_is_named(root, monkeypatch):
    scandir = search.os.scandir

    def refuse(path):
        if path.name == "alice":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(search.os, "scandir", refuse)
    assert runs_in(root) == (
        [root / "bob" / "probe"],
        [f"{root}/alice can't be read: Permission denied"],
    )
