import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import vtl
from vtl import console, files, identity, run_directory
from vtl.console import Progress, format_seconds
from vtl.errors import UserError
from vtl.evaluation import outcome as outcomes
from vtl.run_directory import RunDirectory, begun_with
from vtl.stored_labels import Labels, changed_since

CONTENT = {"data": {"classes": "c0", "train": {"ids": "i0", "labels": "l0"}}, "weights": "w0"}
LINES = [{"step": step, "epoch": step / 4, "loss": 1 / step} for step in (1, 2, 3, 4)]


def make_config(**options) -> ConfigDict:
    optim = {"learning_rate": 0.1, "rules": (("fc/.*", 1.0), (".*", None))}
    return ConfigDict({"task": "finetune", "seed": 0, "optim": optim} | options)


@pytest.fixture
def warned(monkeypatch) -> list[str]:
    """What is warned of, as it reads."""
    seen: list[str] = []
    monkeypatch.setattr(run_directory.logging, "warning", lambda t, *a: seen.append(t % a))
    return seen


def begin(path: Path, config: ConfigDict, content: dict | None = None) -> RunDirectory:
    run = RunDirectory(path, config)
    run.begin(content or CONTENT)
    return run


def error_of(path: Path, config: ConfigDict) -> str:
    with pytest.raises(UserError) as caught:
        RunDirectory(path, config)
    return str(caught.value)


def test_a_new_run_writes_its_config(tmp_path):
    begin(tmp_path / "a" / "run", make_config())
    assert json.loads((tmp_path / "a" / "run" / "config.json").read_text()) == {
        "task": "finetune",
        "seed": 0,
        "optim": {"learning_rate": 0.1, "rules": [["fc/.*", 1.0], [".*", None]]},
    }


def test_looking_writes_nothing(tmp_path):
    RunDirectory(tmp_path / "run", make_config())
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    assert "is no directory" in error_of(tmp_path / "run", make_config())


@pytest.mark.parametrize("target", ["run", "nowhere"])
def test_a_link_to_itself_or_to_nothing_is_refused(tmp_path, target):
    (tmp_path / "run").symlink_to(tmp_path / target)
    assert "is no directory" in error_of(tmp_path / "run", make_config())


def test_nothing_is_written_where_the_directory_was(tmp_path):
    run = begin(tmp_path / "run", make_config())
    run.append_metrics([{"step": 1}])
    (tmp_path / "run").rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="run"):
        run.append_metrics([{"step": 2}])
    (tmp_path / "run").mkdir()
    for write in (
        lambda: run.append_metrics([{"step": 2}]),
        lambda: run.cut_metrics(0),
        lambda: run.write_arrays("curves", {}),
        lambda: run.write_results({}),
    ):
        with pytest.raises(FileNotFoundError, match="renamed or removed, and this is another"):
            write()
    assert list((tmp_path / "run").iterdir()) == []


def test_what_orbax_made_anew_is_in_nobodys_way(tmp_path):
    (tmp_path / "run" / "checkpoints" / "2" / "default").mkdir(parents=True)
    begin(tmp_path / "run", make_config())
    (tmp_path / "other" / "checkpoints" / "2").mkdir(parents=True)
    (tmp_path / "other" / "checkpoints" / "2" / "sha256.json").write_text("{}")
    assert "holds no run" in error_of(tmp_path / "other", make_config())


def test_an_empty_directory_is_as_good_as_none(tmp_path):
    assert not begin(tmp_path, make_config()).is_finished


def test_the_same_config_goes_on(tmp_path):
    begin(tmp_path, make_config()).append_metrics(LINES[:2])
    run = begin(tmp_path, make_config())
    assert run.read_metrics() == LINES[:2]


def test_another_config_is_refused_by_key_and_both_values(tmp_path):
    begin(tmp_path, make_config())
    config = make_config(seed=3)
    config.optim.learning_rate = 0.01
    message = error_of(tmp_path, config)
    assert "optim.learning_rate 0.1 -> 0.01, seed 0 -> 3" in message
    assert str(tmp_path) in message
    assert "--workdir" in message
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


def test_a_key_that_is_new_or_gone_is_named(tmp_path):
    begin(tmp_path, make_config(old=1))
    assert "new absent -> 2, old 1 -> absent" in error_of(tmp_path, make_config(new=2))


def test_only_three_differences_are_listed(tmp_path):
    begin(tmp_path, make_config(a=1, b=1, c=1, d=1, e=1))
    message = error_of(tmp_path, make_config(a=2, b=2, c=2, d=2, e=2))
    assert "(a 1 -> 2, b 1 -> 2, c 1 -> 2 and 2 more)" in message


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    assert "is not empty and holds no run" in error_of(tmp_path, make_config())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_garbled_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"task": ')
    assert str(tmp_path / "config.json") in error_of(tmp_path, make_config())


# Who else is at work there.

HOLD = """
import sys, time
from pathlib import Path
from vtl import files
assert files.lock(Path(sys.argv[1]), "process 7 on elsewhere since yesterday") is None
print("locked", flush=True)
time.sleep(600)
"""


@contextmanager
def another_process_in(path: Path) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_a_second_process_is_told_who_is_at_work(tmp_path):
    early = RunDirectory(tmp_path, make_config())
    with another_process_in(tmp_path):
        assert "is in use by process 7 on elsewhere since yesterday" in error_of(
            tmp_path, make_config()
        )
        # Also one that looked before the other began.
        with pytest.raises(UserError, match="is in use by process 7 on elsewhere") as caught:
            early.begin(CONTENT)
        assert "\n" not in str(caught.value)
        assert [p.name for p in tmp_path.iterdir()] == [files.LOCK_NAME]
    # The other was killed: the system has let go of its lock.
    run = begin(tmp_path, make_config())
    note = (tmp_path / files.LOCK_NAME).read_text()
    assert note.startswith(f"process {os.getpid()} on {platform.node()} since 2")
    run.write_results({})
    assert not (tmp_path / files.LOCK_NAME).exists()


def test_the_lock_of_a_run_killed_at_its_end_goes(tmp_path):
    run = begin(tmp_path, make_config(task="none"))
    run.write_results({})
    (tmp_path / files.LOCK_NAME).write_text("process 7")
    run.check_finished(lambda: CONTENT)
    assert not (tmp_path / files.LOCK_NAME).exists()


def test_a_process_may_begin_again_what_it_has_begun(tmp_path):
    begin(tmp_path, make_config())
    assert not begin(tmp_path, make_config()).is_finished


def test_a_run_that_another_process_finished_meanwhile(tmp_path):
    early = RunDirectory(tmp_path, make_config())
    begin(tmp_path, make_config()).write_results({})
    with pytest.raises(UserError, match="was finished by another process just now"):
        early.begin(CONTENT)


# What a kill leaves.

HEX = "0123456789abcdef" * 2
LEFT = (".lock", "made_of.json", f".made_of.json.{HEX}.tmp", f".config.json.{HEX}.tmp")


@pytest.mark.parametrize("names", [LEFT[:1], LEFT[:2], LEFT[:3], LEFT, (".DS_Store", "._run")])
def test_a_run_killed_while_it_began_begins_again(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("{")
    run = begin(tmp_path, make_config())
    run.write_results({})
    left = {p.name for p in tmp_path.iterdir()} - {".DS_Store", "._run"}
    assert left == {"config.json", "made_of.json", "results.json"}
    assert json.loads((tmp_path / "made_of.json").read_text())["content"] == CONTENT


def test_what_a_kill_left_half_written_goes_and_nothing_else(tmp_path):
    begin(tmp_path, make_config())
    for name in (f".model.safetensors.{HEX}.tmp", "notes.tmp", ".notes"):
        (tmp_path / name).write_text("")
    begin(tmp_path, make_config()).write_results({})
    found = {p.name for p in tmp_path.iterdir()}
    assert found == {"config.json", "made_of.json", "results.json", "notes.tmp", ".notes"}


# What a run is made of.


def moved(**options) -> ConfigDict:
    return make_config(data={"root": "/old"}, weights="/old/w", **options)


@pytest.mark.parametrize("is_finished", [False, True])
def test_the_same_content_elsewhere_goes_on(tmp_path, warned, is_finished):
    run = begin(tmp_path, moved())
    if is_finished:
        run.write_results({})
    config = moved()
    config.data.root, config.weights = "/new", "/new/w"
    again = RunDirectory(tmp_path, config)
    if is_finished:
        again._config["task"] = "none"  # which has nothing to show
        again.check_finished(lambda: CONTENT)
    else:
        again.begin(CONTENT)
        assert json.loads((tmp_path / "config.json").read_text())["weights"] == "/new/w"
    assert warned == ["data.root /old -> /new, weights /old/w -> /new/w: the content is the same"]


CHANGES = {
    "labels of the train split": {"data": {"train": {"labels": "l1"}}},
    "ids of the train split": {"data": {"train": {"ids": "i1"}}},
    "classes": {"data": {"classes": "c1", "train": {"labels": "l1"}}},
    "weights": {"weights": "w1"},
}


@pytest.mark.parametrize("is_finished", [False, True])
@pytest.mark.parametrize("what", CHANGES)
def test_other_content_is_refused_by_name(tmp_path, what, is_finished):
    run = begin(tmp_path, make_config())
    if is_finished:
        run.write_results({})
    before = (tmp_path / "made_of.json").read_bytes()
    again = RunDirectory(tmp_path, make_config())
    with pytest.raises(UserError, match=f"was begun with other {what} than are there") as caught:
        again.check_finished(lambda: CHANGES[what]) if is_finished else again.begin(CHANGES[what])
    assert "\n" not in str(caught.value)
    assert (tmp_path / "made_of.json").read_bytes() == before
    # Nobody is locked out.
    assert files.locked_by(tmp_path) is None


def labels_of(labels, label_mask=None, ids="abc", classes=("cat", "dog")):
    known = None if label_mask is None else np.array(label_mask, np.uint8)
    return {"train": Labels(tuple(ids), classes, np.array(labels, np.uint8), known)}


STORED = labels_of([[0, 1], [1, 0], [1, 1]], [[1, 1], [1, 0], [1, 1]])["train"]


def write_stored(run, name):
    arrays = STORED._asdict()
    if name == "DF_a.npz":
        keys = {"ids": "ids_train", "labels": "Y_train", "label_mask": "mask_train"}
        arrays = {keys.get(key, key): array for key, array in arrays.items()}
    np.savez(run.path / name, **arrays)


@pytest.mark.parametrize("name", ["scores_train.npz", "labels_train.npz", "DF_a.npz"])
@pytest.mark.parametrize(
    ("now", "said"),
    [
        (labels_of([[0, 1], [1, 1], [0, 0]]), "3 labels of 2 photos have changed since."),
        # Rows in another order, a photo that is new, and one that is gone.
        (
            labels_of([[1, 0], [1, 1], [0, 1]], ids="cda"),
            "1 labels of 1 photos have changed since.",
        ),
        (labels_of([[0, 1], [1, 1], [1, 1]], [[1, 1], [1, 0], [1, 1]]), ""),
        (labels_of([[0, 1], [1, 1], [0, 0]], classes=("cat", "cow")), ""),
        (labels_of([[0, 1]], ids="z"), ""),
    ],
)
def test_a_refusal_of_other_labels_counts_them(tmp_path, name, now, said):
    run = begin(tmp_path, make_config())
    write_stored(run, name)
    with pytest.raises(UserError, match="labels of the train split") as caught:
        run.compare(CHANGES["labels of the train split"], lambda: now)
    assert str(caught.value).splitlines()[1:] == ([said] if said else [])


def test_labels_that_a_run_does_not_hold_are_not_counted(tmp_path):
    run, now = begin(tmp_path, make_config()), labels_of([[1, 0], [0, 1], [0, 0]])
    for content in (b"", b"PK no zip"):
        (tmp_path / "scores_train.npz").write_bytes(content)
        with pytest.raises(UserError, match="labels of the train split") as caught:
            run.compare(CHANGES["labels of the train split"], lambda: now)
        assert "\n" not in str(caught.value)
    write_stored(run, "scores_train.npz")
    with pytest.raises(UserError, match="other weights") as caught:
        run.compare(CHANGES["weights"], lambda: now)
    assert "\n" not in str(caught.value)


def test_what_a_run_writes_of_its_labels_is_what_is_compared(tmp_path):
    run = begin(tmp_path, make_config())
    run.write_labels("train", STORED)
    now = labels_of([[1, 1], [1, 0], [1, 1]], [[1, 1], [1, 0], [0, 1]])
    assert changed_since(tmp_path, now) == "2 labels of 2 photos have changed since."
    run.write_labels("train", now["train"]._replace(label_mask=np.ones((3, 2))))
    with np.load(tmp_path / "labels_train.npz") as arrays:
        assert sorted(arrays.files) == ["classes", "ids", "labels"]


def test_moved_and_changed_is_refused(tmp_path):
    begin(tmp_path, moved())
    config = moved()
    config.weights = "/new/w"
    with pytest.raises(UserError, match="other weights"):
        RunDirectory(tmp_path, config).begin(CONTENT | {"weights": "w1"})
    with pytest.raises(UserError, match="weights /old/w -> /new/w"):
        RunDirectory(tmp_path, config).check_finished(lambda: {"data": CONTENT["data"]})
    config.weights = ""
    assert "holds a run of another config (weights /old/w -> " in error_of(tmp_path, config)


def test_a_finished_run_whose_data_is_gone_is_still_shown(tmp_path, warned):
    begin(tmp_path, make_config(task="none")).write_results({})

    def gone() -> dict:
        raise UserError("/old is gone")

    RunDirectory(tmp_path, make_config(task="none")).check_finished(gone)
    assert warned == ["what the run was made of can't be compared: /old is gone"]


def test_a_run_of_before_made_of_json_goes_by_its_config(tmp_path):
    begin(tmp_path, moved())
    (tmp_path / "made_of.json").unlink()
    config = moved()
    config.weights = "/new/w"
    assert "weights /old/w -> /new/w" in error_of(tmp_path, config)
    begin(tmp_path, moved())
    assert json.loads((tmp_path / "made_of.json").read_text())["content"] == CONTENT


def test_the_id_of_a_run_is_of_what_it_is_made_of(tmp_path):
    ids = {
        begin(tmp_path / str(i), config, content).run_id
        for i, (config, content) in enumerate(
            [
                (moved(), CONTENT),
                (moved(seed=1), CONTENT),
                (moved(), CONTENT | {"weights": "w1"}),
            ]
        )
    }
    assert len(ids) == 3
    config = moved()
    config.weights = "/new/w"
    assert begin(tmp_path / "moved", config).run_id in ids


@pytest.mark.parametrize("content", ["[]", "{", '{"run": 1}', '{"run": "", "content": []}'])
def test_a_damaged_made_of_json_is_named(tmp_path, content):
    begin(tmp_path, make_config())
    (tmp_path / "made_of.json").write_text(content)
    assert str(tmp_path / "made_of.json") in error_of(tmp_path, make_config())


# What was written is read by nobody's word.


def test_outputs_that_were_changed_are_named(tmp_path, warned):
    run = begin(tmp_path, make_config(task="none"))
    for name in ("scores_test.npz", "model.safetensors", "head.safetensors"):
        (tmp_path / name).write_bytes(b"as it was")
    run.write_results({})
    run.check_finished(lambda: CONTENT)
    (tmp_path / "head.safetensors").unlink()
    run.check_finished(lambda: CONTENT)
    assert len(warned) == 1
    assert "head.safetensors is missing" in warned[0]
    (tmp_path / "model.safetensors").write_bytes(b"as it isn't")
    with pytest.raises(UserError, match=r"model\.safetensors is not what the run wrote"):
        run.check_finished(lambda: CONTENT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "should be an object"),
        ("{}", "it lacks status"),
        ('{"status": 3}', "'status' is 3 and should be text"),
        ("[" * 5000, "can't be read"),
        ('{"status": "finished"}', "it lacks classes, map, map_interval"),
    ],
)
def test_damaged_results_name_file_and_key(tmp_path, content, message):
    run = begin(tmp_path, make_config())
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        outcomes.was_finished(run, lambda: CONTENT)
    assert str(caught.value).startswith(str(tmp_path / "results.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"step": NaN}', '{"step": "1"}', "\0\0"])
def test_a_damaged_line_of_metrics_is_named(tmp_path, line):
    run = begin(tmp_path, make_config())
    run.append_metrics(LINES)
    text = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join([*text[:2], line + "\n", *text[2:]]))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 3"):
        run.cut_metrics(2)


@pytest.mark.parametrize("name", ["config.json", "results.json", "metrics.jsonl", "made_of.json"])
def test_no_link_is_followed_out_of_the_run(tmp_path, name):
    run = begin(tmp_path / "run", make_config())
    (tmp_path / "elsewhere").write_text('{"step": 1, "status": "finished"}\n')
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leads out of"):
        (RunDirectory(tmp_path / "run", make_config()), run.is_finished, run.read_metrics())


def test_metrics_are_one_json_object_a_line(tmp_path):
    run = begin(tmp_path, make_config())
    run.append_metrics(LINES[:1])
    run.append_metrics(LINES[1:])
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == LINES
    assert run.read_metrics() == LINES


def test_no_metrics_yet(tmp_path):
    run = begin(tmp_path, make_config())
    assert run.read_metrics() == []
    assert run.last_metric("loss") is None
    run.cut_metrics(0)
    assert run.read_metrics() == []


def test_last_metric_is_the_newest(tmp_path):
    run = begin(tmp_path, make_config())
    run.append_metrics([{"step": 1, "speed": 5.0}, {"step": 2, "speed": 7.0}, {"step": 3}])
    assert run.last_metric("speed") == 7.0
    assert run.last_metric("map") is None


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (2, 2), (3, 3), (4, 4), (9, 4)])
def test_cut_metrics_drops_what_came_after(tmp_path, step, kept):
    run = begin(tmp_path, make_config())
    run.append_metrics(LINES)
    run.cut_metrics(step)
    assert run.read_metrics() == LINES[:kept]


@pytest.mark.parametrize("cut", [1, 10, -2, -1])
def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path, cut):
    run = begin(tmp_path, make_config())
    run.append_metrics(LINES[:3])
    last = json.dumps(LINES[3]) + "\n"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(last[:cut])
    assert run.read_metrics() == LINES[:3]
    run.cut_metrics(9)
    run.append_metrics(LINES[3:])
    assert run.read_metrics() == LINES


def test_metrics_that_are_not_finite_are_no_json(tmp_path):
    run = begin(tmp_path, make_config())
    run.append_metrics(LINES[:1])
    with pytest.raises(ValueError, match="Out of range float"):
        run.append_metrics([{"step": 2, "loss": float("nan")}])


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    files.write_json(path, {"a": 1})

    def fail(self, target):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    files.write_json(path, {"a": 1})
    fsync, seen = os.fsync, []

    def spy(descriptor):
        seen.append(json.loads(path.read_text()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    files.write_json(path, {"a": 2})
    assert seen == [{"a": 1}]
    assert json.loads(path.read_text()) == {"a": 2}


def test_results_say_where_they_come_from(tmp_path, monkeypatch):
    def version_of_others(name, version=metadata.version):
        assert name != "vtl"  # which may run from a checkout that nobody installed
        return version(name)

    monkeypatch.setattr(metadata, "version", version_of_others)
    run = begin(tmp_path, make_config())
    run.write_results({"map": {"lab": 0.5}})
    results = json.loads((tmp_path / "results.json").read_text())
    assert run.is_finished
    assert results["map"] == {"lab": 0.5}
    assert results["versions"]["jax"] == jax.__version__
    assert results["versions"]["numpy"] == np.__version__
    assert results["versions"]["orbax-checkpoint"] == metadata.version("orbax-checkpoint")
    assert results["versions"]["python"].startswith("3.")
    assert results["versions"]["vtl"] == vtl.__version__
    assert len(results["devices"]) == jax.device_count()
    # This machine's processor by its name, such as `cpu: AMD EPYC`, and not `cpu: cpu`.
    assert results["devices"][0] == f"cpu: {run_directory.cpu_model()}"
    assert results["devices"][0] not in ("cpu: cpu", "cpu: ")
    # None where the code runs from no checkout.
    assert results["commit"] is None or re.search(r"[0-9a-f]{40}(-dirty)?$", results["commit"])


def test_no_checkout_no_commit(monkeypatch):
    run_directory.commit.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert run_directory.commit() is None
    run_directory.commit.cache_clear()


def test_the_commit_of_a_checkout_that_holds_vtl_by_chance_is_not_recorded(tmp_path, monkeypatch):
    """Such as a virtual environment inside somebody's repository."""

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / "env" / "vtl"
    package.mkdir(parents=True)
    monkeypatch.setattr(run_directory, "__file__", str(package / "run_directory.py"))
    git("init")
    git("commit", "--allow-empty", "-m", "theirs")
    (package / "run_directory.py").touch()
    commits = []
    for _ in range(2):
        run_directory.commit.cache_clear()
        commits.append(run_directory.commit())
        git("add", ".")
        git("commit", "--allow-empty", "-m", "with vtl in it")
    run_directory.commit.cache_clear()
    assert commits[0] is None
    assert re.fullmatch(r"[0-9a-f]{40}", commits[1])


def test_a_run_of_another_status_is_not_finished(tmp_path):
    run = begin(tmp_path, make_config())
    files.write_json(tmp_path / "results.json", {"status": "diverged"})
    assert not run.is_finished


IDS = ("000001", "000002", "000004")
LABELS = np.array([[1, 0], [0, 1], [0, 0]], np.uint8)


def test_scores_can_be_read_without_pickle(tmp_path):
    scores = np.random.default_rng(0).random((3, 2))
    run = begin(tmp_path, make_config())
    logits = np.log(scores / (1 - scores))
    run.write_scores("test", IDS, ("cat", "dog"), scores, logits, LABELS, 1 - LABELS)
    written = {".lock", "config.json", "made_of.json", "scores_test.npz"}
    assert {p.name for p in tmp_path.iterdir()} == written
    with np.load(tmp_path / "scores_test.npz", allow_pickle=False) as written:
        assert set(written) == {"ids", "scores", "logits", "labels", "difficult", "classes"}
        assert written["ids"].tolist() == list(IDS)
        assert written["classes"].tolist() == ["cat", "dog"]
        assert written["scores"].dtype == np.float32
        assert np.array_equal(written["scores"], scores.astype(np.float32))
        assert np.array_equal(written["logits"], logits.astype(np.float32))
        assert np.array_equal(written["labels"], LABELS)
        assert np.array_equal(written["difficult"], 1 - LABELS)


def test_scores_without_ids_or_difficult_leave_them_out(tmp_path):
    run = begin(tmp_path, make_config())
    zeros = np.zeros((3, 2))
    run.write_scores("test", None, ("cat", "dog"), zeros, zeros, LABELS, None)
    with np.load(tmp_path / "scores_test.npz", allow_pickle=False) as written:
        assert set(written) == {"scores", "logits", "labels", "classes"}


def test_split_last():
    outcome = {"train": {"map": 1, "ap": 2}, "test": {"map": 3, "ap": 4}}
    assert outcomes.split_last(outcome) == {
        "map": {"train": 1, "test": 3},
        "ap": {"train": 2, "test": 4},
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (41.4, "41 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.5, "1 h 00 min"),
        (7530, "2 h 05 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand: a list whose last entry is now."""
    now = [100.0]
    monkeypatch.setattr(console.time, "perf_counter", lambda: now[-1])
    return now


def metrics_of(*steps: int) -> list[dict]:
    return [
        {"step": s, "epoch": s * 4 / 16, "loss": 0.5 * s, "binary_accuracy": 0.75} for s in steps
    ]


def test_progress_prints_a_line_an_epoch(clock, capsys):
    progress = Progress(0, 8, batch_size=4, num_images=16)
    progress.show(metrics_of(1, 2))
    assert progress.speed() == {}
    clock.append(110.0)
    progress.show(metrics_of(3, 4))
    # Not a terminal: nothing is redrawn.
    assert capsys.readouterr().out == ""
    progress.end_epoch({"val_map_lab": 0.825})
    # The first call compiled; the two steps after it took 10 s, so the four left take 20.
    assert capsys.readouterr().out == (
        "epoch 1.0/2.0  step 4/8  loss 1.7500  binary accuracy 75.00%  0.8 images/s  20 s left"
        "  val map lab 82.50%\n"
    )
    assert progress.speed() == {"images_per_second": 0.8}


def test_progress_does_not_time_the_evaluation(clock, capsys):
    progress = Progress(0, 8, batch_size=4, num_images=16)
    progress.show(metrics_of(1, 2, 3, 4))
    clock.append(1000.0)
    progress.end_epoch({})
    assert capsys.readouterr().out == (
        "epoch 1.0/2.0  step 4/8  loss 1.2500  binary accuracy 75.00%\n"
    )
    clock.append(1002.0)
    progress.show(metrics_of(5, 6))
    assert progress.speed() == {"images_per_second": 4.0}


def test_steps_without_a_known_label_have_no_loss_to_show(clock, capsys):
    progress = Progress(0, 8, batch_size=4, num_images=16)
    nothing = {"step": 3, "epoch": 0.75, "learning_rate": 0.1}
    progress.show([*metrics_of(1, 2), nothing])
    progress.end_epoch({})
    clock.append(1001.0)
    progress.show([nothing])
    progress.end_epoch({})
    both, none = capsys.readouterr().out.splitlines()
    assert "loss 0.7500" in both
    assert none.startswith("epoch 0.8/2.0  step 3/8")
    assert "loss" not in none


def test_progress_redraws_on_a_terminal(clock, capsys, monkeypatch):
    monkeypatch.setattr(console.sys.stdout, "isatty", lambda: True)
    progress = Progress(0, 8, batch_size=4, num_images=16)
    progress.show(metrics_of(1))
    progress.end_epoch({})
    line = "epoch 0.2/2.0  step 1/8  loss 0.5000  binary accuracy 75.00%"
    assert capsys.readouterr().out == f"\r\033[K{line}\r\033[K{line}\n"


def test_a_knob_that_came_later_is_no_other_config():
    before = {"seed": 0}
    added = {"thresholds": "f1", "loss": "", "class_weights": "none"}
    assert identity.changes(before, before | added) == {}
    assert list(identity.changes(before, before | {"thresholds": "precision:0.9"})) == [
        "thresholds"
    ]
    assert identity.changes(before, before | {"mix_with_start": []}) == {}
    assert identity.changes(before, before | {"data": {"decode": "exact"}}) == {}
    assert list(identity.changes(before, before | {"data": {"decode": "fast"}})) == ["data.decode"]
    assert list(identity.changes(before, before | {"mix_with_start": [0.5]})) == ["mix_with_start"]
    assert list(identity.changes(before, before | {"loss": "focal"})) == ["loss"]
    assert list(identity.changes(before, before | {"solver": ""})) == ["solver"]
    assert list(identity.changes(before | {"thresholds": "f1"}, before)) == ["thresholds"]


def test_a_directory_says_with_what_its_run_was_begun(tmp_path):
    assert begun_with(tmp_path, "data.decode") is None
    begin(tmp_path / "of before", make_config(data={"root": "photos"}))
    begin(tmp_path / "now", make_config(data={"decode": "fast"}))
    assert begun_with(tmp_path / "of before", "data.decode") == "exact"
    assert begun_with(tmp_path / "now", "data.decode") == "fast"
    (tmp_path / "now" / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json"):
        begun_with(tmp_path / "now", "data.decode")
