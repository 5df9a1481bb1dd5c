"""Mixtures of the start and what was trained: their weights, the choice, and what comes of it."""

import itertools
import json
import os
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs.finetune import get_config
from tests.devkit import write_devkit
from tests.tiny import write_weights
from vtl.data.split import Split, ids_sha256
from vtl.errors import UserError
from vtl.files import unlock
from vtl.finetuning import mixtures
from vtl.finetuning.job import Job
from vtl.run_directory import RunDirectory
from vtl.stops import Interrupted
from vtl.tasks import finetune
from vtl.training.checkpoint import Checkpoints
from vtl.training.state import make_mesh
from vtl.weights import sources

CLASSES = ("bird", "cat", "dog", "person")
TINY = {
    "data.train_split": "train",
    "data.image_size": 32,
    "batch_size": 8,
    "eval_batch_size": 8,
    "regions": 2,
    "held_out": 0.3,
    "num_epochs": 2.0,
    "mix_with_start": (0.3, 0.6),
}


def test_a_mixture_is_between_start_and_end_and_exact_where_they_are_equal():
    rng = np.random.default_rng(0)
    start, trained = (
        {"params": {"w": rng.normal(size=99)}, "batch_stats": {"var": rng.random(9)}}
        for _ in range(2)
    )
    start, trained = jax.tree.map(np.float32, (start, trained))
    frozen = rng.normal(size=99).astype(np.float32)
    start["params"]["frozen"] = trained["params"]["frozen"] = frozen
    mixed = mixtures.mixture(start, trained, 0.25, make_mesh())
    assert mixed["params"]["frozen"].tobytes() == frozen.tobytes()
    for group, name in (("params", "w"), ("batch_stats", "var")):
        expected = 0.75 * start[group][name] + 0.25 * trained[group][name]
        np.testing.assert_allclose(mixed[group][name], expected, rtol=1e-5, atol=1e-7)
    assert mixtures.mixture(start, trained, mixtures.TRAINED, make_mesh()) is trained


def score(*, step, trained, mixes=(0.2, 0.5), best_at=0.0, before=np.inf):
    """Scores of a network with one weight: its photos rank best where that is `best_at`.

    Its loss is by how much it exceeds 0.3 in the first photo.
    """
    labels = np.array([[0], [1], [0], [1]], np.uint8)
    ids = tuple("abcd")
    none = np.zeros_like(labels)
    split = Split("val", ids, ids, labels, 1 - none, none, ("cat",), ids_sha256(ids))

    def logits(variables, images):
        off = abs(float(variables["w"]) - best_at)
        return np.array([[off], [0.3], [2 * off], [0.6]], np.float32)

    job = SimpleNamespace(
        config=SimpleNamespace(mix_with_start=mixes),
        logits=logits,
        loss=lambda logits, split: float(logits[0, 0]) - 0.3,
        mesh=make_mesh(),
    )
    state = SimpleNamespace(step=step, variables={"w": np.float32(trained)})
    asked = []

    def start():
        asked.append(1)
        return {"w": np.float32(0)}

    return *mixtures.score(job, start, state, None, split, before), len(asked)


def test_the_best_of_a_state_and_its_mixtures_is_chosen_and_its_logits_kept():
    scores, logits, _ = score(step=3, trained=1.0)  # off by 1, 0.5 and 0.2
    below = (1 / 3 + 2 / 4) / 2
    assert scores == {
        "val_map_lab": pytest.approx(below),
        "val_loss": pytest.approx(0.7),
        "val_map_lab_mix_0.5": pytest.approx((1 / 2 + 2 / 4) / 2),
        "val_map_lab_mix_0.2": pytest.approx((1 / 1 + 2 / 3) / 2),
        "best_val_map_lab": scores["val_map_lab_mix_0.2"],
        "mix": 0.2,
    }
    assert logits[0, 0] == np.float32(0.2)
    scores, logits, _ = score(step=3, trained=1.0, best_at=1.0)
    assert (scores["mix"], scores["best_val_map_lab"], logits[0, 0]) == (1.0, 1.0, 0.0)
    scores, _, _ = score(step=3, trained=0.1)  # all are perfect: the nearest to the start
    assert (scores["mix"], scores["best_val_map_lab"]) == (0.2, 1.0)


def test_a_state_whose_loss_is_higher_than_before_training_does_not_count():
    scores, logits, _ = score(step=3, trained=1.0, best_at=1.0, before=0.1)
    # What was trained ranks best, and has the lowest loss.
    assert (scores["mix"], scores["best_val_map_lab"]) == (1.0, 1.0)
    scores, logits, _ = score(step=3, trained=1.0, mixes=(0.2, 0.9), best_at=0.0, before=0.1)
    assert (scores["mix"], logits[0, 0]) == (0.2, np.float32(0.2))
    scores, logits, _ = score(step=3, trained=1.0, mixes=(), best_at=0.0, before=0.1)
    assert scores.keys() == {"val_map_lab", "val_loss"}
    assert logits[0, 0] == 1
    assert mixtures.best_map(scores) < 0
    of_before = {"step": 3, "val_map_lab": 0.25}  # an earlier version wrote no loss
    assert mixtures.best_map(of_before) == 0.25


@pytest.mark.parametrize(("step", "mixes"), [(0, (0.2, 0.5)), (3, ())])
def test_without_a_step_or_a_mixture_the_start_is_not_asked_for(step, mixes):
    scores, _, asked = score(step=step, trained=1.0, mixes=mixes)
    assert asked == 0
    assert scores["best_val_map_lab"] == scores["val_map_lab"]
    assert scores.get("mix") == (1.0 if mixes else None)


# Whole runs.


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    splits = {"train": 36, "val": 20, "test": 21}
    return write_devkit(tmp_path_factory.mktemp("data"), splits, classes=CLASSES, size=64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def run(devkit, weights, workdir, **changes):
    config = get_config()
    given = {"data.root": str(devkit), "weights": str(weights)}
    config.update_from_flattened_dict(given | TINY | changes)
    finetune.run(config, workdir)
    return json.loads((workdir / "results.json").read_text())


def tensors(workdir):
    return sources.load(str(workdir)).tensors


def assert_is_mixture(workdir, start, results):
    """The saved network lies between the start's and the last checkpoint's."""
    checkpoints = Checkpoints(workdir / "checkpoints", best_by=None)
    step = results["chosen_step"]
    like = checkpoints._manager.item_metadata(step)
    state = checkpoints.restore(step, like, make_mesh())
    checkpoints.close()
    mix, mixed, moved = results["chosen_mix"], tensors(workdir), 0
    assert 0 < mix < 1
    for name, before in tensors(start).items():
        group, *keys = name.split("/")
        trained = state[group]
        for key in keys:
            trained = trained[key]
        moved += not np.array_equal(before, trained)
        expected = before + np.float32(mix) * (np.asarray(trained) - before)
        np.testing.assert_allclose(mixed[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert moved > 50


@pytest.fixture
def later_is_better(monkeypatch):
    """The last mixture that is scored is always the best: that with the most of the start."""
    better = itertools.count()
    monkeypatch.setattr(mixtures, "mean_ap_of", lambda *arguments: next(better) / 1000)
    monkeypatch.setattr(Job, "loss", lambda *arguments: 1.0)


@pytest.mark.full
@pytest.mark.usefixtures("later_is_better")
def test_the_trial_chooses_a_mixture_and_the_outcome_is_of_it(devkit, weights, tmp_path, capsys):
    results = run(devkit, weights, tmp_path / "run")
    found = results["held_out"]
    assert found["maps"] == [0.0, 0.001, 0.004]
    assert found["mixed_maps"] == [0.0, 0.003, 0.006]
    assert found["mixes"] == [1.0, 0.3, 0.3]
    assert (found["best_step"], found["best_mix"]) == (found["steps"][-1], 0.3)
    assert (results["chosen_step"], results["chosen_mix"]) == (9, 0.3)
    run(devkit, weights, tmp_path / "start", num_epochs=0.0)
    assert_is_mixture(tmp_path / "run", tmp_path / "start", results)
    chosen_on = f"{found['num_images']} photos held out of train"
    assert results["decisions"]["chosen_on"] == chosen_on

    # What the saved network scores is what the results say of it.
    again = run(devkit, tmp_path / "run", tmp_path / "again", head="keep", num_epochs=0.0)
    assert again["map"] == results["map"]
    start, trained = results["start"]["test"], results["trained"]["test"]
    mixed = results["map"]["test"]["lab"]
    assert len({start, trained, mixed}) == 3
    out = capsys.readouterr().out
    assert (
        f"mAP on test (lab): {100 * start:.1f} before training, {100 * trained:.1f} after it, "
        f"{100 * mixed:.1f} mixed\nmodel.safetensors is 0.3 of the trained weights"
    ) in out
    at_best = ", ".join(f"{100 * mean_ap:.1f}" for mean_ap in found["mixed_maps"][1:])
    assert f"after each pass, at best mixed with the start {at_best}\n" in out


@pytest.mark.full
@pytest.mark.usefixtures("later_is_better")
def test_val_chooses_a_mixture_and_a_run_that_was_stopped_has_the_same(
    devkit, weights, tmp_path, monkeypatch
):
    changes = {"batch_norm": "batch", "data.val_split": "val"}  # its statistics move
    whole = run(devkit, weights, tmp_path / "whole", **changes)
    assert (whole["chosen_step"], whole["chosen_mix"]) == (9, 0.3)
    assert whole["trained"].keys() == {"val", "test"}
    run(devkit, weights, tmp_path / "start", num_epochs=0.0, **{"data.val_split": "val"})
    assert_is_mixture(tmp_path / "whole", tmp_path / "start", whole)

    append = RunDirectory.append_metrics

    def append_and_stop(self, lines):
        append(self, lines)
        if lines[-1]["step"] == 5 and "val_map_lab" in lines[-1]:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_metrics", append_and_stop)
        with pytest.raises(Interrupted):
            run(devkit, weights, tmp_path / "stopped", **changes)
    unlock(tmp_path / "stopped")  # as the end of a process does
    assert run(devkit, weights, tmp_path / "stopped", **changes)["resumed_from"] == 5
    networks = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")
    ]
    assert networks[0] == networks[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": "last"}, "keep=last takes the last state as it is"),
        ({"held_out": 0.0}, "needs photos to choose a mixture by"),
        ({"mix_with_start": (0.5, 1.0)}, "mix_with_start must be at most 0.99, got 1.0"),
        ({"mix_with_start": (0,)}, "mix_with_start must be at least 0.01, got 0"),
    ],
)
def test_what_can_be_no_mixture_is_said_before_anything_is_begun(
    devkit, weights, tmp_path, changes, message
):
    with pytest.raises(UserError, match=message):
        run(devkit, weights, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()
