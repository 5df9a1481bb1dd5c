import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.devices import environment
from vtl.errors import UserError
from vtl.run_directory import MANIFEST
from vtl.training.checkpoint import Checkpoints, _without_orbax
from vtl.training.state import TrainState, make_mesh, replicated

BEST_BY = "val_map_lab"


def make_state(step: int) -> TrainState:
    """A small state with every kind of leaf; its values are specific to the step."""
    rng = np.random.default_rng(step)
    params = {
        "conv1": {"kernel": rng.normal(size=(3, 3, 3, 4)).astype(np.float32)},
        "fc": {
            "kernel": rng.normal(size=(4, 2)).astype(np.float32),
            "bias": np.zeros(2, np.float32),
        },
    }
    params["fc"]["bias"][:] = [-0.0, 1e-45]
    batch_stats = {"bn1": {"mean": rng.normal(size=4).astype(np.float32)}}
    opt_state = {"trace": jax.tree.map(lambda p: p * 2, params), "count": np.int32(step)}
    state = TrainState(np.int32(step), params, batch_stats, opt_state)
    return jax.device_put(state, replicated(make_mesh()))


def open_checkpoints(directory: Path) -> Checkpoints:
    return Checkpoints(directory / "checkpoints", best_by=BEST_BY)


def save_all(directory: Path, scores: dict[int, float | None]) -> None:
    """Save a state for each step, with its score if it has one."""
    checkpoints = open_checkpoints(directory)
    for step, score in scores.items():
        checkpoints.save(make_state(step), {} if score is None else {BEST_BY: score})
    checkpoints.close()


def restore(checkpoints: Checkpoints, step: int) -> TrainState:
    shapes = jax.eval_shape(lambda: make_state(0))
    return checkpoints.restore(step, shapes, make_mesh())


def check_equal(restored: TrainState, step: int) -> None:
    expected = make_state(step)
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.sharding == replicated(make_mesh())
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def steps_on_disk(directory: Path) -> set[int]:
    return {int(p.name) for p in (directory / "checkpoints").iterdir() if p.name.isdigit()}


@pytest.fixture
def warnings(monkeypatch):
    """The warnings about checkpoints, as they read."""
    texts: list[str] = []

    def warning(text: str, *args: object) -> None:
        # orbax warns about damaged files through the same module.
        if text.startswith("checkpoint"):
            texts.append(text % args)

    monkeypatch.setattr("vtl.training.checkpoint.logging.warning", warning)
    return texts


def test_no_checkpoint(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.latest() is None
    assert checkpoints.best() is None
    checkpoints.close()


def test_a_round_trip_is_equal_to_the_bit(tmp_path):
    save_all(tmp_path, {3: None})
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.latest() == 3
    check_equal(restore(checkpoints, 3), 3)
    checkpoints.close()


def test_a_save_is_complete_after_wait(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(make_state(1))
    checkpoints.wait()
    text = (tmp_path / "checkpoints" / "1" / MANIFEST).read_text()
    files = {
        str(p.relative_to(tmp_path / "checkpoints" / "1"))
        for p in (tmp_path / "checkpoints" / "1").rglob("*")
        if p.is_file()
    }
    assert all(json.dumps(name) in text for name in files - {MANIFEST})
    assert checkpoints.latest() == 1
    checkpoints.close()


def test_close_finishes_what_is_being_written(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(make_state(1))
    checkpoints.close()
    again = open_checkpoints(tmp_path)
    assert again.latest() == 1
    check_equal(restore(again, 1), 1)
    again.close()


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
    # The next training step donates its buffers.
    checkpoints = open_checkpoints(tmp_path)
    state = make_state(1)
    checkpoints.save(state)
    overwrite = jax.jit(lambda s: jax.tree.map(jnp.zeros_like, s), donate_argnums=0)
    jax.block_until_ready(overwrite(state))
    checkpoints.close()
    again = open_checkpoints(tmp_path)
    check_equal(restore(again, 1), 1)
    again.close()


def test_keeps_the_latest_two_and_the_best(tmp_path):
    save_all(tmp_path, {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.6, 5: None})
    assert steps_on_disk(tmp_path) == {2, 4, 5}
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.latest() == 5
    assert checkpoints.best() == 2
    check_equal(restore(checkpoints, 2), 2)
    checkpoints.close()


def test_a_stop_between_equally_good_steps_does_not_decide_which_is_best(tmp_path):
    save_all(tmp_path / "undisturbed", {2: 1.0, 4: 1.0})
    save_all(tmp_path / "stopped", {2: 1.0, 3: None, 4: 1.0})
    for run in ("undisturbed", "stopped"):
        checkpoints = open_checkpoints(tmp_path / run)
        assert checkpoints.best() == 2
        checkpoints.close()


def test_keeps_the_best_over_a_restart(tmp_path):
    save_all(tmp_path, {1: 0.9, 2: 0.5})
    save_all(tmp_path, {3: 0.6, 4: 0.7})
    assert steps_on_disk(tmp_path) == {1, 3, 4}


def test_keeps_the_latest_two_if_nothing_is_scored(tmp_path):
    save_all(tmp_path, dict.fromkeys(range(1, 5)))
    assert steps_on_disk(tmp_path) == {3, 4}
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.best() is None
    checkpoints.close()


def test_scores_by_another_name_choose_nothing(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(make_state(1), {"test_map_lab": 0.9})
    checkpoints.wait()
    assert checkpoints.best() is None
    checkpoints.close()


def test_the_same_step_twice_is_saved_once(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(make_state(2), {BEST_BY: 0.5})
    checkpoints.wait()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    checkpoints.save(make_state(7).replace(step=jnp.int32(2)), {BEST_BY: 0.9})
    checkpoints.wait()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    checkpoints.close()


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped": (flip_byte, "has changed"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size - 1), "has changed"),
    "emptied": (lambda path: os.truncate(path, 0), "has changed"),
    "deleted": (Path.unlink, "is missing"),
}


@pytest.mark.parametrize(
    "damage",
    [
        "flipped",
        "deleted",
        *(pytest.param(x, marks=pytest.mark.full) for x in ("truncated", "emptied")),
    ],
)
def test_damage_to_any_file_is_found_and_named(tmp_path, warnings, damage):
    harm, reason = DAMAGES[damage]
    save_all(tmp_path, {1: 0.5, 2: 0.4})
    step = tmp_path / "checkpoints" / "2"
    files = [p for p in sorted(step.rglob("*")) if p.is_file() and p.name != MANIFEST]
    files = [p for p in files if p.stat().st_size]
    assert len(files) >= 4
    for path in files:
        name, content = str(path.relative_to(step)), path.read_bytes()
        aside = tmp_path / "aside"
        subprocess.run(["cp", "-r", step, aside], check=True)
        harm(path)
        assert path.exists() is (damage != "deleted")
        warnings.clear()
        checkpoints = open_checkpoints(tmp_path)
        assert checkpoints.latest() == 1, name
        (warning,) = warnings
        assert warning.startswith(f"checkpoint 2 is damaged ({name} {reason}): set aside as ")
        (kept,) = tmp_path.glob("damaged_checkpoint_2_*")
        assert warning.endswith(str(kept))
        shutil.rmtree(kept)
        check_equal(restore(checkpoints, 1), 1)
        checkpoints.close()
        assert steps_on_disk(tmp_path) == {1}
        aside.rename(step)
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "was never finished"),
        (b'{"a": ', f"is damaged ({MANIFEST} is unreadable)"),
        (b"\xff\x00", f"is damaged ({MANIFEST} is unreadable)"),
    ],
)
def test_a_manifest_that_is_missing_or_garbled(tmp_path, warnings, content, reason):
    save_all(tmp_path, {1: None, 2: None})
    manifest = tmp_path / "checkpoints" / "2" / MANIFEST
    manifest.unlink()
    if content is not None:
        manifest.write_bytes(content)
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.latest() == 1
    (warning,) = warnings
    assert warning.startswith(f"checkpoint 2 {reason}: set aside as ")
    assert "\n" not in warning
    checkpoints.close()
    # Nothing of it is lost.
    (kept,) = tmp_path.glob("damaged_checkpoint_2_*")
    assert len([p for p in kept.rglob("*") if p.is_file()]) >= 4


@pytest.mark.parametrize("content", [b"[]", b"null", b'"abc"', b"{}"])
def test_a_manifest_that_is_json_of_another_kind(tmp_path, content):
    save_all(tmp_path, {1: None, 2: None})
    (tmp_path / "checkpoints" / "2" / MANIFEST).write_bytes(content)
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.latest() == 1
    checkpoints.close()


def test_all_damaged(tmp_path, warnings):
    save_all(tmp_path, {1: None, 2: None})
    for step in (1, 2):
        flip_byte(tmp_path / "checkpoints" / str(step) / MANIFEST)
        (tmp_path / "checkpoints" / str(step) / MANIFEST).unlink()
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.latest() is None
    assert len(warnings) == 2
    assert steps_on_disk(tmp_path) == set()
    # The run starts from scratch in the same directory.
    checkpoints.save(make_state(1))
    checkpoints.wait()
    assert checkpoints.latest() == 1
    checkpoints.close()


def test_a_damaged_step_can_be_saved_again(tmp_path):
    save_all(tmp_path, {1: None, 2: None})
    (tmp_path / "checkpoints" / "2" / MANIFEST).unlink()
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.latest() == 1
    checkpoints.save(make_state(2))
    checkpoints.wait()
    assert checkpoints.latest() == 2
    check_equal(restore(checkpoints, 2), 2)
    checkpoints.close()


def test_what_a_kill_leaves_behind_is_no_checkpoint(tmp_path):
    save_all(tmp_path, {1: None})
    directory = tmp_path / "checkpoints"
    (directory / f"2.{MANIFEST}.tmp").write_text("{")
    (directory / "2.orbax-checkpoint-tmp-0").mkdir()
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.latest() == 1
    checkpoints.save(make_state(2))
    checkpoints.wait()
    assert checkpoints.latest() == 2
    checkpoints.close()


def is_damaged(path: Path) -> bool:
    return path.name.startswith("damaged_checkpoint_")


@pytest.mark.parametrize("name", [".DS_Store", ".nfs000000000123", "desktop.ini", "._manifest"])
def test_files_that_are_none_of_ours_are_no_damage(tmp_path, warnings, name):
    save_all(tmp_path, {1: 0.9, 2: 0.5, 3: 0.7})
    directory = tmp_path / "checkpoints"
    for place in (directory, *directory.glob("*/"), *directory.glob("*/default/")):
        (place / name).write_bytes(b"\0")
    checkpoints = open_checkpoints(tmp_path)
    assert (checkpoints.latest(), checkpoints.best()) == (3, 1)
    check_equal(restore(checkpoints, 3), 3)
    checkpoints.save(make_state(4), {BEST_BY: 0.6})
    checkpoints.close()
    assert steps_on_disk(tmp_path) == {1, 3, 4}
    assert warnings == []


@pytest.mark.parametrize("how", ["copied", "linked"])
def test_a_step_under_another_number_is_not_that_step(tmp_path, warnings, how):
    save_all(tmp_path, {1: None, 2: None})
    step, other = (tmp_path / "checkpoints" / name for name in ("2", "9"))
    shutil.copytree(step, other) if how == "copied" else other.symlink_to(step)
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.latest() == 2
    (warning,) = warnings
    reason = "is a copy of checkpoint 2" if how == "copied" else "is a link"
    assert warning.startswith(f"checkpoint 9 {reason}: set aside as ")
    check_equal(restore(checkpoints, 2), 2)
    checkpoints.close()


def test_a_checkpoint_of_another_run_is_not_this_runs(tmp_path, warnings):
    for run, steps in (("a", (1, 2)), ("b", (4,))):
        checkpoints = Checkpoints(tmp_path / run / "checkpoints", best_by=None, run=run)
        for step in steps:
            checkpoints.save(make_state(step))
        checkpoints.close()
    shutil.copytree(tmp_path / "b" / "checkpoints" / "4", tmp_path / "a" / "checkpoints" / "4")
    checkpoints = Checkpoints(tmp_path / "a" / "checkpoints", best_by=None, run="a")
    assert checkpoints.latest() == 2
    assert warnings[0].startswith("checkpoint 4 is of another run: set aside as ")
    checkpoints.close()


def as_before(step: Path) -> None:
    """Seal a checkpoint as vtl 0.1 did, without its step and run."""
    manifest = json.loads((step / MANIFEST).read_text())
    (step / MANIFEST).write_text(json.dumps(manifest["files"]))


def test_checkpoints_of_vtl_0_1_are_read(tmp_path, warnings):
    save_all(tmp_path, {1: 0.9, 2: 0.5})
    for step in (1, 2):
        as_before(tmp_path / "checkpoints" / str(step))
    shutil.copytree(tmp_path / "checkpoints" / "1", tmp_path / "checkpoints" / "5")
    checkpoints = Checkpoints(tmp_path / "checkpoints", best_by=BEST_BY, run="a")
    check_equal(restore(checkpoints, 2), 2)
    # Their manifest doesn't say of which step they are; the state does.
    with pytest.raises(UserError, match=r"checkpoints/5 holds the state of step 1"):
        restore(checkpoints, 5)
    checkpoints.close()
    assert warnings == []


def test_what_a_kill_left_half_done_goes_without_a_word(tmp_path, warnings):
    save_all(tmp_path, {1: None, 2: None})
    directory = tmp_path / "checkpoints"
    shutil.copytree(directory / "2", directory / "3")
    (directory / "3" / MANIFEST).unlink()
    (directory / ".3.unsealed").touch()
    (directory / ".2.unsealed").touch()  # killed between the seal and the end of the mark
    shutil.copytree(directory / "1", directory / ".0.obsolete")
    shutil.copytree(directory / "1", directory / "4.orbax-checkpoint-tmp-0")
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.latest() == 2
    checkpoints.close()
    assert {p.name for p in directory.iterdir()} == {"1", "2"}
    assert not any(map(is_damaged, tmp_path.iterdir()))
    assert warnings == []


def test_no_inodes_left_is_a_full_disk(tmp_path, monkeypatch):
    """Before orbax finds out, whose threads print a traceback for each file."""
    checkpoints = open_checkpoints(tmp_path)
    space = dict.fromkeys(("f_blocks", "f_bfree", "f_bavail"), 1 << 20) | {"f_frsize": 4096}
    status = SimpleNamespace(**space, f_favail=20)
    monkeypatch.setattr("vtl.training.checkpoint.os.statvfs", lambda path: status)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoints.save(make_state(1))
    assert caught.value.errno == errno.ENOSPC
    status.f_favail = 0  # as of file systems that don't count them
    checkpoints.save(make_state(1))
    checkpoints.close()
    assert steps_on_disk(tmp_path) == {1}


def test_what_orbax_makes_anew_of_a_directory_that_went_away_is_not_sealed(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    wait = checkpoints._manager.wait_until_finished

    def wait_until_gone() -> None:
        wait()
        (tmp_path / "checkpoints" / ".1.unsealed").unlink(missing_ok=True)

    checkpoints._manager.wait_until_finished = wait_until_gone
    checkpoints.save(make_state(1))
    with pytest.raises(FileNotFoundError):
        checkpoints.wait()
    assert not (tmp_path / "checkpoints" / "1" / MANIFEST).exists()
    checkpoints._manager.close()


def test_of_orbaxs_other_writes_nothing_is_printed_once_one_has_failed():
    seen = []
    hook = _without_orbax(seen.append)
    hook(SimpleNamespace(exc_value=RuntimeError("Event loop is closed")))
    other = SimpleNamespace(exc_value=RuntimeError("another"))
    hook(other)
    assert seen == [other]


def test_of_equally_good_ones_the_oldest_is_kept(tmp_path):
    save_all(tmp_path, {1: 0.5, 2: 0.5, 3: 0.4, 4: 0.4})
    assert steps_on_disk(tmp_path) == {1, 3, 4}


ODD = {
    "a link out": lambda path: (path.unlink(), path.symlink_to("/etc/hostname")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_plain_file_is_damage(tmp_path, warnings, odd):
    save_all(tmp_path, {1: None, 2: None})
    for name in ("_CHECKPOINT_METADATA", MANIFEST):
        save_all(tmp_path, {2: None})
        ODD[odd](tmp_path / "checkpoints" / "2" / name)
        checkpoints = open_checkpoints(tmp_path)
        assert checkpoints.latest() == 1
        checkpoints.close()
    assert len(warnings) == 2


@pytest.mark.parametrize("name", ["../1/default/_METADATA", "/etc/hostname", "a\0b"])
def test_a_manifest_reads_nothing_elsewhere(tmp_path, warnings, name):
    save_all(tmp_path, {1: None, 2: None})
    manifest = tmp_path / "checkpoints" / "2" / MANIFEST
    content = json.loads(manifest.read_text())
    content["files"][name] = "0" * 64
    manifest.write_text(json.dumps(content))
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.latest() == 1
    assert "lies elsewhere" in warnings[0]
    checkpoints.close()


@pytest.mark.parametrize("name", ["5", "9" * 30, "007", "old", "²"])
def test_what_is_called_like_a_step_and_is_none(tmp_path, name):
    save_all(tmp_path, {1: None, 2: None})
    (tmp_path / "checkpoints" / name).write_text("")
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.latest() == 2
    checkpoints.save(make_state(5))
    checkpoints.wait()
    assert checkpoints.latest() == 5
    checkpoints.close()


def test_a_state_of_another_network_is_named(tmp_path):
    save_all(tmp_path, {1: None})
    checkpoints = open_checkpoints(tmp_path)
    like = jax.eval_shape(lambda: make_state(0))
    like.params["fc"]["bias"] = jax.ShapeDtypeStruct((3,), jnp.float32)
    message = (
        r"1 is of another network or other classes: its params/fc/bias is \(2,\) and not \(3,\)"
    )
    with pytest.raises(UserError, match=message):
        checkpoints.restore(1, like, make_mesh())
    checkpoints.close()


def test_the_best_is_never_a_damaged_one(tmp_path):
    save_all(tmp_path, {1: 0.9, 2: 0.5, 3: 0.7})
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.best() == 1
    checkpoints.close()
    best = tmp_path / "checkpoints" / "1"
    copy = shutil.copytree(best, tmp_path / "copy")
    files = [p.relative_to(copy) for p in copy.rglob("*") if p.is_file() and p.stat().st_size]
    for path in files:
        os.truncate(best / path, (copy / path).stat().st_size // 2)
        checkpoints = open_checkpoints(tmp_path)
        assert checkpoints.latest() == 3
        assert checkpoints.best() == 3, path
        checkpoints.close()
        shutil.copytree(copy, best)


def on_eight_devices(directory: Path, call: str) -> None:
    script = f"""
import jax
from pathlib import Path
from tests.training import test_checkpoint as t
assert jax.device_count() == 8
directory = Path({str(directory)!r})
{call}
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], env=environment(8), cwd=root, check=True)


def test_saved_on_eight_devices_and_restored_on_one(tmp_path):
    on_eight_devices(tmp_path, "t.save_all(directory, {4: None})")
    checkpoints = open_checkpoints(tmp_path)
    check_equal(restore(checkpoints, 4), 4)
    checkpoints.close()


def test_saved_on_one_device_and_restored_on_eight(tmp_path):
    save_all(tmp_path, {4: None})
    on_eight_devices(
        tmp_path,
        "c = t.open_checkpoints(directory); t.check_equal(t.restore(c, c.latest()), 4); c.close()",
    )
