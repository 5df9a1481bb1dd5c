"""The whole fine-tuning run on a tiny network: its files, its resumption, its promises."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.metrics import average_precision_score

from configs import deep_features as deep_features_config
from configs import linear_probe as probe_config
from configs.finetune import VARIANTS, get_config
from tests.devices import environment
from tests.devkit import write_devkit
from tests.tiny import write_weights
from vtl import decisions as decisions_of
from vtl.errors import UserError
from vtl.files import unlock
from vtl.models.resnet import EPSILON, Architecture
from vtl.preprocessing import TORCHVISION
from vtl.run_directory import RunDirectory
from vtl.stops import Interrupted
from vtl.tasks import features, finetune, probe
from vtl.training.checkpoint import Checkpoints
from vtl.training.state import make_mesh
from vtl.weights import sources

CLASSES = ("bird", "cat", "dog", "person")
SPLITS = {"train": 36, "val": 20, "test": 21}
BATCH_SIZE = 8
TIMEOUT_S = 300
TINY = {
    "data.train_split": "train",
    "data.image_size": 32,
    "model.depth": 18,
    "model.width": 0.125,
    "batch_size": BATCH_SIZE,
    "eval_batch_size": BATCH_SIZE,
}
AS_IT_IS = {"data.image_size": 0, "data.resize": "", "held_out": 0.0}
"""The photos as the weights expect them, and all passes."""

# What is random or moves with the batch is all in here.
NUM_STEPS = 40  # 9 * 36 / 8, rounded to even


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    return write_devkit(tmp_path_factory.mktemp("data"), SPLITS, classes=CLASSES, size=64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def make_config(devkit: Path, variant: str = "", **changes: object) -> ConfigDict:
    config = get_config(variant)
    config.update_from_flattened_dict({"data.root": str(devkit)} | changes)
    return config


def run(config: ConfigDict, workdir: Path) -> Path:
    """Run in this process as `vtl.main` does."""
    with jax.default_matmul_precision(config.precision):
        finetune.run(config, workdir)
    return workdir


def start(
    devkit: Path, workdir: Path, variant: str, changes: dict, num_devices: int = 1
) -> subprocess.Popen:
    """Run `python -m vtl.main` with the config that `make_config` gives."""
    options = {"data.root": str(devkit)} | changes
    command = [sys.executable, "-m", "vtl.main", f"--config=configs/finetune.py:{variant}"]
    command += [f"--config.{name}={value}" for name, value in options.items()]
    return _start_process([*command, f"--workdir={workdir}"], num_devices)


def _start_process(command: list[str], num_devices: int) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(num_devices),
        cwd=Path(__file__).parents[1],
    )


def finish(process: subprocess.Popen) -> str:
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    return stdout


def stop_at(process: subprocess.Popen, workdir: Path, step: int, number: int) -> str:
    """Send the signal once metrics.jsonl shows `step`, which must not be near the end."""
    end = time.monotonic() + TIMEOUT_S
    path = workdir / "metrics.jsonl"
    while not path.exists() or f'"step": {step},' not in path.read_text():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, f"step {step} did not come"
        time.sleep(0.02)
    process.send_signal(number)
    stdout, _ = process.communicate(timeout=TIMEOUT_S)
    assert not (workdir / "results.json").exists(), "it finished before the signal"
    return stdout


def stop_in_process(monkeypatch, config: ConfigDict, workdir: Path, step: int) -> None:
    """Stop as by SIGTERM while `step` is recorded."""
    append = RunDirectory.append_metrics

    def append_and_stop(self, lines):
        append(self, lines)
        if lines[-1]["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_metrics", append_and_stop)
        with pytest.raises(Interrupted):
            run(config, workdir)
    unlock(workdir)  # as the end of a process does


def read_metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def read_results(workdir: Path) -> dict:
    return json.loads((workdir / "results.json").read_text())


def read_scores(workdir: Path, role: str) -> dict[str, np.ndarray]:
    with np.load(workdir / f"scores_{role}.npz", allow_pickle=False) as file:
        return dict(file)


def read_uncalibrated(workdir: Path) -> dict[str, np.ndarray]:
    """The scores on test less what depends on the photos that thresholds were chosen on."""
    return {k: v for k, v in read_scores(workdir, "test").items() if k != "probabilities"}


def train_losses(workdir: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(workdir) if "loss" in line]


def restore(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """A checkpoint on all devices of this process, by path of the array."""
    path = (workdir / "checkpoints" / str(step) / "default").absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        like = checkpointer.metadata(path).item_metadata
    checkpoints = Checkpoints(workdir / "checkpoints", best_by=None)
    state = checkpoints.restore(step, dict(like), make_mesh())
    checkpoints.close()
    leaves = jax.tree_util.tree_leaves_with_path(state)
    assert all(len(leaf.devices()) == len(jax.devices()) for _, leaf in leaves)
    return {jax.tree_util.keystr(key): np.asarray(leaf) for key, leaf in leaves}


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def assert_same_arrays(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype, name
        assert actual[name].tobytes() == array.tobytes(), name


def assert_same_run(actual: Path, expected: Path, num_steps: int) -> None:
    """All that a run leaves, to the bit; only speeds may differ."""

    def timeless(workdir: Path) -> list[dict]:
        return [
            {name: value for name, value in line.items() if name != "images_per_second"}
            for line in read_metrics(workdir)
        ]

    assert timeless(actual) == timeless(expected)
    for role in ("train", "test"):
        assert_same_arrays(read_scores(actual, role), read_scores(expected, role))
    assert_same_arrays(restore(actual, num_steps), restore(expected, num_steps))
    for name in ("model.safetensors", "config.json"):
        assert (actual / name).read_bytes() == (expected / name).read_bytes(), name
    same = ("map", "map_interval", "ap", "chosen_step", "weights", "data", "trainable_parameters")
    results = read_results(actual), read_results(expected)
    assert [results[0][name] for name in same] == [results[1][name] for name in same]


# Every variant, from start to end.

WARMUP_STEPS = 5
# Variant -> what else it needs to learn something in a few steps.
LEARNING = {
    "": {"num_epochs": 6.0, "optim.learning_rate": 0.03, "held_out": 0.0},
    "demo": {"num_epochs": 6.0, "optim.learning_rate": 0.03, "held_out": 0.0},
    "laptop": {"num_epochs": 6.0, "optim.learning_rate": 0.03},
    "lab": {"num_epochs": 8.0},
    "head": {
        "num_epochs": 8.0,
        "optim.learning_rate": 1.0,
        "optim.momentum": 0.9,
        "optim.schedule": "cosine",
        "optim.warmup_steps": WARMUP_STEPS,
    },
    "partial": {"num_epochs": 8.0, "optim.learning_rate": 0.3, "held_out": 0.0},
    "scratch": {
        "num_epochs": 9.0,
        "log_every_steps": 1,
        "optim.learning_rate": 0.3,
        "optim.warmup_steps": WARMUP_STEPS,
    },
}


# What is random or moves with the batch is all in here.
INTERRUPTIBLE = TINY | LEARNING["scratch"]


@pytest.fixture(scope="module")
def finished(devkit, weights, tmp_path_factory) -> Callable[[str], Path]:
    """Variant -> the directory of its run, which happens once."""
    directory = tmp_path_factory.mktemp("runs")

    def get(variant: str) -> Path:
        workdir = directory / (variant or "default")
        changes = TINY | LEARNING[variant]
        if variant != "scratch":
            changes |= {"weights": str(weights)}
        return (
            workdir if workdir.exists() else run(make_config(devkit, variant, **changes), workdir)
        )

    return get


# The default one is also that of `tried`, and the others are put together of what these two do.
FEW = ("head",)
each_variant = pytest.mark.parametrize(
    "variant", [*FEW, *(pytest.param(x, marks=pytest.mark.full) for x in VARIANTS if x not in FEW)]
)


def test_every_variant_is_tried():
    assert set(LEARNING) == set(VARIANTS)


@each_variant
def test_results_follow_the_contract(finished, weights, variant):
    results = read_results(finished(variant))
    config = json.loads((finished(variant) / "config.json").read_text())
    assert config["variant"] == variant
    assert (results["task"], results["status"]) == ("finetune", "finished")
    assert (results["variant"], results["seed"]) == (variant, 0)
    assert results["classes"] == list(CLASSES)
    for role in ("train", "test"):
        assert results["num_images"][role] == SPLITS[role]
        for protocol in ("lab", "voc2007", "voc2010"):
            aps = results["ap"][role][protocol]
            assert list(aps) == list(CLASSES)
            assert results["map"][role][protocol] == pytest.approx(np.mean(list(aps.values())))
            low, high = results["map_interval"][role][protocol]
            assert 0 <= low <= results["map"][role][protocol] <= high <= 1
            assert list(results["ap_interval"][role][protocol]) == list(CLASSES)
    assert results["chosen_step"] == read_metrics(finished(variant))[-1]["step"]
    assert results["resumed_from"] is None
    assert results["images_per_second"] > 0
    seconds = dict(results["seconds"])
    assert seconds.pop("total") == pytest.approx(sum(seconds.values()))
    assert {"data", "train", "evaluate"} <= seconds.keys()
    assert results["data"]["splits"] == {"train": "train", "test": "test"}
    assert results["data"]["ids_sha256"].keys() == {"train", "test"}
    assert "commit" in results
    assert results["versions"]["jax"] == jax.__version__
    assert len(results["devices"]) == len(jax.devices())
    if variant == "scratch":
        assert results["weights"] is None
    else:
        assert results["weights"]["name"] == str(weights)
        assert len(results["weights"]["sha256"]) == 64
        assert results["weights"]["preprocessing"]["crop_size"] == 32


@each_variant
def test_scores_are_the_splits_and_give_the_map(finished, devkit, variant):
    results = read_results(finished(variant))
    for role in ("train", "test"):
        scores = read_scores(finished(variant), role)
        ids = (devkit / "ImageSets" / "Main" / f"{role}.txt").read_text().split()
        assert scores["ids"].tolist() == ids
        assert scores["classes"].tolist() == list(CLASSES)
        assert scores["scores"].dtype == np.float32
        assert scores["scores"].shape == scores["labels"].shape == scores["difficult"].shape
        per_class = [
            average_precision_score(labels, column)
            for labels, column in zip(scores["labels"].T, scores["scores"].T, strict=True)
        ]
        assert results["map"][role]["lab"] == pytest.approx(np.mean(per_class), abs=1e-12)


@each_variant
def test_training_is_recorded_and_learns(finished, variant):
    lines = read_metrics(finished(variant))
    trained = [line for line in lines if "loss" in line]
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)
    assert [line["step"] for line in trained] == list(range(1, len(trained) + 1))
    for line in trained:
        assert line["epoch"] == pytest.approx(line["step"] * BATCH_SIZE / SPLITS["train"])
        assert line["learning_rate"] >= 0
        assert 0 <= line["binary_accuracy"] <= 1
    losses = [line["loss"] for line in trained]
    two_passes = 2 * SPLITS["train"] // BATCH_SIZE
    assert np.mean(losses[-two_passes:]) < 0.8 * np.mean(losses[:two_passes])
    chance = np.mean(read_scores(finished(variant), "train")["labels"])
    assert read_results(finished(variant))["map"]["train"]["lab"] > chance + 0.3


@each_variant
def test_the_model_loads_and_what_was_frozen_is_the_same(finished, weights, variant):
    model = sources.load(str(finished(variant)))
    source = sources.load(str(weights))
    assert model.classes == CLASSES
    assert model.preprocessing.crop_size == 32
    crops = variant in ("head", "scratch")
    assert model.preprocessing.resize == ("resize_crop" if crops else "squash")
    assert (model.preprocessing.mean, model.preprocessing.std) == (
        TORCHVISION.mean,
        TORCHVISION.std,
    )
    ours = variant in ("", "partial", "demo", "laptop")
    head = {"transform": "sqrt_l2", "regions": 3} if ours else {}
    assert model.architecture == Architecture(
        18, 0.125, "v1.5", EPSILON["v1.5"], num_classes=len(CLASSES), **head
    )
    assert model.tensors.keys() == source.tensors.keys()
    moved = {
        name
        for name, tensor in model.tensors.items()
        if not np.array_equal(tensor, source.tensors[name])
    }
    head = {"params/fc/kernel", "params/fc/bias"}
    stage = {name for name in source.tensors if name.startswith("params/layer4")}
    statistics = {name for name in source.tensors if name.startswith("batch_stats/")}
    everything = set(source.tensors)
    expected = {
        "": everything - statistics,
        "demo": everything - statistics,
        "laptop": everything - statistics,
        "lab": everything,
        "head": head,
        "partial": head | stage,
        "scratch": everything,
    }
    assert moved == expected[variant]


@pytest.mark.full
def test_a_run_goes_on_as_the_weights_of_another(finished, devkit, tmp_path):
    changes = {"weights": str(finished("scratch")), "head": "keep", "optim.learning_rate": 0.0}
    changes = TINY | changes | {"num_epochs": 0.5} | AS_IT_IS
    workdir = run(make_config(devkit, **changes), tmp_path / "again")
    for role in ("train", "test"):
        assert_same_arrays(read_scores(workdir, role), read_scores(finished("scratch"), role))
    before, after = (sources.load(str(path)) for path in (finished("scratch"), workdir))
    assert_same_arrays(after.tensors, before.tensors)
    assert after.preprocessing == before.preprocessing


@pytest.mark.full
def test_a_run_starts_from_the_head_of_a_probe(devkit, weights, tmp_path):
    """Photos -> features -> probe -> fine-tuning: at rate 0 the scores are still the probe's."""
    config = deep_features_config.get_config()
    photos = {"data.root": str(devkit), "weights": str(weights)}
    shared = {key: value for key, value in TINY.items() if not key.endswith("batch_size")}
    config.update_from_flattened_dict(photos | shared)
    features.run(config, tmp_path / "features")
    config = probe_config.get_config()
    path = tmp_path / "features" / "DF_ResNet18_VOC2007.npz"
    config.update_from_flattened_dict({"features": str(path), "train_split": "train"})
    probe.run(config, tmp_path / "probe")

    changes = {"weights": str(weights), "head_from": str(tmp_path / "probe")}
    changes |= {"optim.learning_rate": 0.0, "num_epochs": 0.5, "held_out": 0.0}
    workdir = run(make_config(devkit, **(TINY | changes)), tmp_path / "run")
    for role in ("train", "test"):
        actual, expected = (read_scores(path, role) for path in (workdir, tmp_path / "probe"))
        assert list(actual["ids"]) == list(expected["ids"])
        np.testing.assert_allclose(actual["scores"], expected["scores"], atol=1e-5)
        assert np.ptp(actual["scores"]) > 0.1


def test_a_finished_run_is_left_alone(finished, devkit, weights, capsys):
    workdir = finished("head")
    before = snapshot(workdir)
    capsys.readouterr()
    changes = TINY | LEARNING["head"] | {"weights": str(weights)}
    run(make_config(devkit, "head", **changes), workdir)
    out = capsys.readouterr().out
    assert f"{workdir} is finished" in out
    assert f"lab {100 * read_results(workdir)['map']['test']['lab']:.1f}" in out
    assert snapshot(workdir) == before


def test_a_run_of_another_config_is_left_alone(finished, devkit, weights):
    before = snapshot(finished("head"))
    changes = TINY | LEARNING["head"] | {"weights": str(weights), "optim.momentum": 0.5}
    with pytest.raises(UserError, match=r"optim\.momentum 0\.9 -> 0\.5"):
        run(make_config(devkit, "head", **changes), finished("head"))
    assert snapshot(finished("head")) == before


@pytest.mark.full
def test_no_epoch_trains_nothing(finished, devkit, tmp_path):
    changes = {"weights": str(finished("scratch")), "head": "keep"} | AS_IT_IS
    config = make_config(devkit, **(TINY | changes | {"num_epochs": 0.0}))
    workdir = run(config, tmp_path / "run")
    before, after = (sources.load(str(path)) for path in (finished("scratch"), workdir))
    assert_same_arrays(after.tensors, before.tensors)
    assert [line["step"] for line in read_metrics(workdir)] == [0]
    assert read_results(workdir)["chosen_step"] == 0
    before = read_uncalibrated(finished("scratch"))
    assert_same_arrays(read_uncalibrated(workdir), before)


def change_labels(devkit: Path, weights: Path) -> None:
    for path in (devkit / "ImageSets" / "Main").glob("cat_train.txt"):
        rows = [row.split() for row in path.read_text().splitlines()]
        path.write_text("".join(f"{photo} {-int(flag)}\n" for photo, flag in rows))


def change_weights(devkit: Path, weights: Path) -> None:
    with safe_open(weights, framework="numpy") as file:
        metadata = {key: v for key, v in file.metadata().items() if key != "vtl_sha256"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors | {"bn1.bias": tensors["bn1.bias"] + 1}, weights, metadata)


def add_class(devkit: Path, weights: Path) -> None:
    for path in (devkit / "ImageSets" / "Main").glob("cat_*.txt"):
        shutil.copy(path, path.with_name(path.name.replace("cat", "cow")))


CHANGES = {
    "labels of the train split": change_labels,
    "weights": change_weights,
    "classes": add_class,
}


@pytest.mark.full
def test_a_run_goes_on_with_the_same_content_alone(devkit, weights, tmp_path, monkeypatch, capsys):
    """Stopped; moved data goes on, changed data is refused by name, before and after the end."""
    places = {}
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        shutil.copytree(devkit, tmp_path / name / "devkit")
        shutil.copy(weights, tmp_path / name / "w.safetensors")
        places[name] = tmp_path / name / "devkit", tmp_path / name / "w.safetensors"

    def config(name: str) -> ConfigDict:
        root, file = places[name]
        changes = {"weights": str(file), "num_epochs": 3.0, "log_every_steps": 1, "head": "zeros"}
        return make_config(root, **(TINY | changes))

    stop_in_process(monkeypatch, config("old"), tmp_path / "run", step=6)
    whole = run(config("old"), tmp_path / "whole")
    for what, change in CHANGES.items():
        shutil.rmtree(tmp_path / "changed", ignore_errors=True)
        shutil.copytree(tmp_path / "new", tmp_path / "changed")
        places["changed"] = (
            tmp_path / "changed" / "devkit",
            tmp_path / "changed" / "w.safetensors",
        )
        change(*places["changed"])
        for workdir in (tmp_path / "run", whole):
            before = snapshot(workdir)
            with pytest.raises(UserError, match=f"was begun with other {what} than are there"):
                run(config("changed"), workdir)
            assert snapshot(workdir) == before
    run(config("new"), tmp_path / "run")
    name = "model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    capsys.readouterr()
    run(config("new"), whole)
    assert f"{whole} is finished" in capsys.readouterr().out


# The best checkpoint.


def val_curve(workdir: Path) -> dict[int, float]:
    return {x["step"]: x["val_map_lab"] for x in read_metrics(workdir) if "val_map_lab" in x}


@pytest.mark.full
def test_the_best_on_val_is_chosen(devkit, tmp_path, monkeypatch):
    config = make_config(devkit, "scratch", **(INTERRUPTIBLE | {"data.val_split": "val"}))
    workdir = run(config, tmp_path / "run")
    curve = val_curve(workdir)
    assert list(curve) == [0, 5, 9, 14, 18, 23, 27, 32, 36, 40]
    results = read_results(workdir)
    assert curve[results["chosen_step"]] == max(curve.values())
    assert results["map"]["val"]["lab"] == max(curve.values())
    bias = sources.load(str(workdir)).tensors["params/fc/bias"]
    chosen = restore(workdir, results["chosen_step"])
    np.testing.assert_array_equal(chosen["['params']['fc']['bias']"], bias)

    stop_in_process(monkeypatch, config, tmp_path / "interrupted", step=30)
    run(config, tmp_path / "interrupted")
    assert_same_run(tmp_path / "interrupted", workdir, NUM_STEPS)


@pytest.mark.full
def test_the_start_may_be_the_best_on_val(finished, devkit, tmp_path):
    changes = {"weights": str(finished("scratch")), "head": "keep"} | AS_IT_IS
    # Trained at a rate that ruins it, and scored on the photos that it comes from.
    changes |= {"data.train_split": "val", "data.val_split": "train"}
    changes |= {"optim.learning_rate": 0.5, "num_epochs": 1.0}
    workdir = run(make_config(devkit, **(TINY | changes)), tmp_path / "run")
    curve = val_curve(workdir)
    assert max(curve, key=curve.__getitem__) == 0
    assert read_results(workdir)["chosen_step"] == 0
    before = read_uncalibrated(finished("scratch"))
    assert_same_arrays(read_uncalibrated(workdir), before)


# Tried first on a held-out part of train.

TRIED = TINY | {
    "data.resize": "squash",
    "held_out": 0.3,
    "num_epochs": 3.0,
    "transform": "sqrt_l2",
    "regions": 2,
    "head_l2": 0.0,
    "optim.learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def tried(devkit, weights, tmp_path_factory):
    config = make_config(devkit, **(TRIED | {"weights": str(weights)}))
    return run(config, tmp_path_factory.mktemp("tried") / "run")


@pytest.mark.full
def test_how_far_to_train_is_tried_first(tried):
    results, trial = read_results(tried), read_results(tried / "held_out")
    found = results["held_out"]
    assert found == {name: trial[name] for name in found}
    assert 5 <= found["num_images"] <= 16
    assert found["steps"][0] == 0
    assert len(found["steps"]) == 4
    counts = np.array(found["losses"]) <= found["losses"][0]
    best = found["steps"][int(np.argmax(np.where(counts, found["maps"], -1)))]
    assert found["best_step"] == best
    num_steps = round(3 * SPLITS["train"] / BATCH_SIZE)
    assert results["chosen_step"] == round(best / found["num_steps"] * num_steps)
    assert not (tried / "held_out" / "checkpoints").exists()
    assert (tried / "checkpoints").exists()


def test_thresholds_are_chosen_on_what_was_held_out(tried):
    results, held_out = read_results(tried), read_results(tried / "held_out")
    chosen = results["decisions"]
    if results["chosen_step"]:
        assert chosen["chosen_on"] == f"{held_out['num_images']} photos held out of train"
    else:
        assert chosen["chosen_on"].endswith("photos of train, out of fold")
    decisions = sources.load(str(tried)).decisions
    by_class = chosen["by_class"].values()
    assert decisions.thresholds == tuple(entry["threshold"] for entry in by_class)
    scores = read_scores(tried, "test")
    expected = decisions_of.probabilities(scores["logits"], decisions, one_label_each=False)
    assert scores["probabilities"].tobytes() == expected.tobytes()
    counted = 1 - scores["difficult"]
    given = scores["probabilities"] >= np.float32(decisions.thresholds)
    is_wrong = (given != (scores["labels"] == 1)) & (counted == 1)
    with (tried / "errors_test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = list(scores["classes"])
    assert {(row["file"], row["class"]) for row in rows} == {
        (scores["ids"][n], classes[c]) for n, c in np.argwhere(is_wrong)
    }


def test_the_start_stands_beside_the_end(tried, weights, devkit, capsys):
    results = read_results(tried)
    capsys.readouterr()
    run(make_config(devkit, **(TRIED | {"weights": str(weights)})), tried)
    out = capsys.readouterr().out
    assert f"mAP on {results['held_out']['num_images']} photos held out of train (lab): " in out
    assert results["chosen_step"] > 0
    assert list(results["start"]) == ["test"]
    start, end = results["start"]["test"], results["map"]["test"]["lab"]
    assert f"mAP on test (lab): {100 * start:.1f} before training, {100 * end:.1f} after it" in out


def test_maps_of_the_gallery_sum_to_the_logits(tried, finished):
    with np.load(tried / "gallery_test.npz") as file:
        gallery = dict(file)
    test = read_scores(tried, "test")
    np.testing.assert_array_equal(gallery["ids"], test["ids"][gallery["rows"]])
    np.testing.assert_array_equal(gallery["scores"], test["scores"][gallery["rows"]])
    np.testing.assert_array_equal(gallery["labels"], test["labels"][gallery["rows"]])
    scores = gallery["scores"][gallery["photo"], gallery["column"]]
    logits = gallery["map"].mean(axis=(1, 2)) + gallery["bias"][gallery["column"]]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), scores, atol=1e-5)
    assert set(gallery["kind"]) == {"hit", "false alarm", "miss"}
    assert not (finished("head") / "gallery_train.npz").exists()


def test_a_head_with_regions_is_saved_scored_and_read_back(tried, devkit, tmp_path):
    """The file alone gives the run's scores."""
    model = sources.load(str(tried))
    own = model.architecture
    assert (own.pooling, own.transform, own.regions) == ("average", "sqrt_l2", 2)
    changes = {"weights": str(tried), "head": "keep", "num_epochs": 0.0} | AS_IT_IS
    workdir = run(make_config(devkit, **(TINY | changes)), tmp_path / "again")
    assert_same_arrays(read_uncalibrated(workdir), read_uncalibrated(tried))


@pytest.mark.full
def test_where_training_does_harm_the_start_is_kept(finished, devkit, tmp_path, capsys):
    """A network that knows such photos, trained at a rate that ruins it."""
    changes = {"weights": str(finished("scratch")), "transform": "none", "regions": 0} | AS_IT_IS
    changes |= {"held_out": 0.3, "num_epochs": 2.0}
    changes |= {"optim.learning_rate": 10.0, "optim.momentum": 0.0, "optim.clip_norm": 1.0}
    workdir = run(make_config(devkit, **(TINY | changes)), tmp_path / "run")
    results = read_results(workdir)
    assert (results["chosen_step"], results["start"]) == (0, {})
    assert len(results["held_out"]["maps"]) == 3
    assert "so model.safetensors holds the start" in capsys.readouterr().out
    before, after = (sources.load(str(path)).tensors for path in (finished("scratch"), workdir))
    assert all(np.array_equal(after[name], t) for name, t in before.items() if "/fc/" not in name)

    last = {"keep": "last", "num_epochs": 1.0}
    workdir = run(make_config(devkit, **(TINY | changes | last)), tmp_path / "last")
    assert read_results(workdir)["held_out"] is None
    assert read_results(workdir)["chosen_step"] == round(SPLITS["train"] / BATCH_SIZE)


@pytest.mark.full
def test_a_trial_that_diverges_leaves_the_start(devkit, weights, tmp_path, capsys):
    changes = {"weights": str(weights), "optim.learning_rate": 1e30, "log_every_steps": 1}
    workdir = run(make_config(devkit, **(TRIED | changes)), tmp_path / "run")
    results = read_results(workdir)
    assert (results["chosen_step"], len(results["held_out"]["maps"])) == (0, 1)
    assert "before training, then training diverged" in capsys.readouterr().out


@pytest.mark.full
def test_a_given_head_is_not_tried(finished, devkit, tmp_path, capsys):
    changes = {"weights": str(finished("scratch")), "head": "keep"} | AS_IT_IS | {"held_out": 0.3}
    changes |= {"optim.learning_rate": 0.0}
    workdir = run(make_config(devkit, **(TINY | changes)), tmp_path / "run")
    assert read_results(workdir)["held_out"] is None
    assert "the given head may know all of these photos" in capsys.readouterr().out


@pytest.mark.full
def test_keep_last_takes_the_last_though_val_says_otherwise(finished, devkit, tmp_path):
    changes = {"weights": str(finished("scratch")), "head": "keep"} | AS_IT_IS
    changes |= {"data.train_split": "val", "data.val_split": "train", "keep": "last"}
    changes |= {"optim.learning_rate": 0.5, "num_epochs": 1.0}
    workdir = run(make_config(devkit, **(TINY | changes)), tmp_path / "run")
    assert max(val_curve(workdir), key=val_curve(workdir).__getitem__) == 0
    results = read_results(workdir)
    assert results["chosen_step"] == max(val_curve(workdir))
    assert results["start"].keys() == {"val", "test"}
    assert results["start"]["val"] == val_curve(workdir)[0]


@pytest.mark.full
@pytest.mark.parametrize("where", ["held_out", "train"])
def test_a_run_stopped_in_either_part_ends_as_it_would_have(
    tried, devkit, weights, tmp_path, monkeypatch, where
):
    config = make_config(devkit, **(TRIED | {"weights": str(weights), "log_every_steps": 1}))
    whole = run(config, tmp_path / "whole")
    append, num_lines = RunDirectory.append_metrics, {"held_out": 0, "train": 0}

    def append_and_stop(self, lines):
        append(self, lines)
        part = "held_out" if self.path.name == "held_out" else "train"
        num_lines[part] += len(lines)
        if part == where and num_lines[part] == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    assert read_results(whole)["chosen_step"] > 0
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_metrics", append_and_stop)
        with pytest.raises(Interrupted):
            run(config, tmp_path / "run")
    for directory in (tmp_path / "run", tmp_path / "run" / "held_out"):
        unlock(directory)  # as the end of a process does
    run(config, tmp_path / "run")
    assert read_results(tmp_path / "run")["held_out"] == read_results(whole)["held_out"]
    assert_same_run(tmp_path / "run", whole, read_results(whole)["chosen_step"])


# Stopped and started again.


@pytest.fixture(scope="module")
def uninterrupted(finished):
    return finished("scratch")


@pytest.mark.full
def test_kill_loses_nothing(devkit, uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    process = start(devkit, workdir, "scratch", INTERRUPTIBLE)
    stop_at(process, workdir, 12, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert "going on from step " in finish(start(devkit, workdir, "scratch", INTERRUPTIBLE))
    assert read_results(workdir)["resumed_from"] in (5, 9, 14, 18, 23, 27, 32, 36)
    assert_same_run(workdir, uninterrupted, NUM_STEPS)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGINT, signal.SIGHUP],
)
@pytest.mark.full
def test_a_signal_saves_and_leaves(devkit, uninterrupted, tmp_path, number):
    workdir = tmp_path / "run"
    process = start(devkit, workdir, "scratch", INTERRUPTIBLE)
    stdout = stop_at(process, workdir, 6, number)
    assert process.returncode == 130
    done = read_metrics(workdir)[-1]["step"]
    assert 6 <= done < NUM_STEPS
    assert f"stopped after step {done}, which is saved; run the same command again" in stdout
    run(make_config(devkit, "scratch", **INTERRUPTIBLE), workdir)
    assert read_results(workdir)["resumed_from"] == done
    assert_same_run(workdir, uninterrupted, NUM_STEPS)


class PowerCut(BaseException):
    """Ends a run at a moment of the test's choosing, with nothing saved on the way out."""


@pytest.mark.full
@pytest.mark.parametrize("stop_after", [0, 2])
def test_stopped_in_the_first_epoch(devkit, uninterrupted, tmp_path, monkeypatch, stop_after):
    config = make_config(devkit, "scratch", **INTERRUPTIBLE)
    append = RunDirectory.append_metrics

    def append_and_stop(self, lines):
        append(self, lines)
        if lines[-1]["step"] == stop_after:
            raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "append_metrics", append_and_stop)
        with pytest.raises(PowerCut):
            run(config, tmp_path / "run")
    run(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", uninterrupted, NUM_STEPS)


@pytest.mark.full
def test_from_eight_devices_to_one_and_back(devkit, uninterrupted, tmp_path, monkeypatch):
    if jax.default_backend() != "cpu" or len(jax.devices()) != 1:
        pytest.skip("compares eight virtual CPU devices with one")
    config = make_config(devkit, "scratch", **INTERRUPTIBLE)

    def loss(workdir: Path, step: int) -> float:
        return train_losses(workdir)[step - 1]

    # From eight to one, beside the same on eight.
    eight, one = tmp_path / "eight", tmp_path / "one"
    process = start(devkit, eight, "scratch", INTERRUPTIBLE, num_devices=8)
    stop_at(process, eight, 6, signal.SIGTERM)
    assert process.returncode == 130
    step = read_metrics(eight)[-1]["step"]
    shutil.copytree(eight, one)
    code = (
        "import sys, numpy, pathlib, tests.test_end_to_end as t; "
        "numpy.savez(sys.argv[3], **t.restore(pathlib.Path(sys.argv[1]), int(sys.argv[2])))"
    )
    restored = tmp_path / "restored.npz"
    command = [sys.executable, "-c", code, str(eight), str(step), str(restored)]
    finish(_start_process(command, num_devices=8))
    with np.load(restored) as arrays:
        assert_same_arrays(restore(one, step), dict(arrays))
    run(config, one)
    assert read_results(one)["resumed_from"] == step
    assert len(read_results(one)["devices"]) == 1
    process = start(devkit, eight, "scratch", INTERRUPTIBLE, num_devices=8)
    stop_at(process, eight, step + 1, signal.SIGKILL)
    assert loss(one, step + 1) == pytest.approx(loss(eight, step + 1), rel=1e-5)

    # And back: from one to eight.
    back = tmp_path / "back"
    stop_in_process(monkeypatch, config, back, step=7)
    step = read_metrics(back)[-1]["step"]
    process = start(devkit, back, "scratch", INTERRUPTIBLE, num_devices=8)
    stop_at(process, back, step + 1, signal.SIGKILL)
    assert loss(back, step + 1) == pytest.approx(loss(uninterrupted, step + 1), rel=1e-5)


@pytest.mark.full
def test_a_loss_that_is_not_finite_ends_the_run(devkit, tmp_path):
    changes = INTERRUPTIBLE | {"optim.learning_rate": 1e30, "optim.warmup_steps": 6}
    config = make_config(devkit, "scratch", **changes)
    workdir = tmp_path / "run"
    # Warm-up starts at 0: the first step changes nothing, and the second ruins it.
    with pytest.raises(UserError, match=r"the loss is nan at step \d+.*checkpoint 0 is the last"):
        run(config, workdir)
    assert not (workdir / "results.json").exists()
    assert all(np.isfinite(line["loss"]) for line in read_metrics(workdir) if "loss" in line)
    state = restore(workdir, 0)
    assert all(np.isfinite(array).all() for array in state.values())
    with pytest.raises(UserError, match="is the last good one"):
        run(config, workdir)


def test_one_step_by_hand_of_the_schedule(finished):
    """The recorded rate is the one that was applied."""
    lines = [line for line in read_metrics(finished("head")) if "loss" in line]
    rate, warmup = LEARNING["head"]["optim.learning_rate"], WARMUP_STEPS
    decay = optax.cosine_decay_schedule(rate, len(lines) - warmup)
    expected = [
        rate * i / warmup if i < warmup else float(decay(i - warmup)) for i in range(len(lines))
    ]
    np.testing.assert_allclose([line["learning_rate"] for line in lines], expected, atol=1e-6)


@pytest.mark.full
def test_the_demo_fetches_nothing(tmp_path, vtl_cache):
    """Each task's `:demo`, by the commands of the README but shorter, in an empty directory."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "xla").symlink_to(vtl_cache / "xla")
    root = Path(__file__).parents[1]
    short = {"num_epochs": 0.1, "data.image_size": 32}

    def start_demo(name: str, options: dict) -> str:
        command = [sys.executable, "-m", "vtl.main", f"--config={root}/configs/{name}.py:demo"]
        command += [f"--config.{option}={value}" for option, value in options.items()]
        nowhere = {"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"}
        process = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(root), "VTL_CACHE": str(cache)} | nowhere,
            timeout=TIMEOUT_S,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    printed = start_demo("finetune", short)
    assert "mAP on test: lab " in printed
    results = json.loads((tmp_path / "runs/finetune_demo/results.json").read_text())
    assert results["classes"] == list("0123456789")
    assert (results["weights"]["name"], results["data"]["name"]) == ("demo", "demo")
    assert results["weights"]["preprocessing"]["resize"] == "squash"
    assert results["map"]["test"]["voc2007"] > 0.25
    start_demo("finetune", short | {"weights": "", "head": "random"} | {"variant": "scratch"})
    scratch = json.loads((tmp_path / "runs/finetune_scratch/results.json").read_text())
    assert results["map"]["test"]["voc2007"] > scratch["map"]["test"]["voc2007"] + 0.03
    assert "runs/finetune_demo is finished" in start_demo("finetune", short)

    start_demo("deep_features", {"data.image_size": 32})
    assert "mAP on test: lab " in start_demo("linear_probe", {})
    results = json.loads((tmp_path / "runs/probe_demo/results.json").read_text())
    assert len(results["ap"]["test"]["voc2007"]) == 10
    assert all((cache / name).is_dir() for name in ("images", "demo-v1"))
    assert not any((cache / name).exists() for name in ("weights", "voc2007"))
