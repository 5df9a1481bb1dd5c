import json
import shutil

import numpy as np
import pytest

from configs.relu_study import get_config
from vtl.errors import UserError
from vtl.relu_study import curves, study, task

FIGURES = {
    f"{name}.png"
    for name in ("learning_curves", "epochs_to_convergence", "learning_rates", "gradient_norms")
}
SHORT = {
    "networks": ("perceptron",),
    "seeds": (1, 2, 3),
    "thresholds": (0.5, 0.9, 0.999),
    "main_threshold": 0.5,
    "num_resamples": 200,
    "perceptron.num_epochs": 2.0,
    "perceptron.learning_rates": (0.3, 1e6),
    "perceptron.num_hidden": 16,
}


def run(workdir, variant="digits", **changes):
    config = get_config(variant)
    config.update_from_flattened_dict(SHORT | changes)
    task.run(config.lock(), workdir)
    return json.loads((workdir / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study") / "run"
    return workdir, run(workdir)


def test_the_run_directory(finished):
    workdir, results = finished
    files = {path.name for path in workdir.iterdir()}
    measured = {f"curves_perceptron_{name}.npz" for name in ("sigmoid", "tanh", "relu")}
    assert (
        files
        == {"config.json", "made_of.json", "metrics.jsonl", "results.json"} | FIGURES | measured
    )
    assert results["status"] == "finished"
    assert results["trainable_parameters"] == {"perceptron": 65 * 16 + 17 * 10}
    assert results["data"]["num_images"] == {"train": 1197, "held_out": 300, "test": 300}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    # 37.4 batches an epoch and ten moments: every 4 steps, 19 times in two epochs.
    assert len(lines) == 3 * (2 + 3) * 19
    assert lines[1]["step"] == 8
    assert lines[1]["epoch"] == pytest.approx(8 * 32 / 1197)
    assert {line["seed"] for line in lines if line["phase"] == "final"} == {1, 2, 3}
    assert {line["seed"] for line in lines if line["phase"] == "search"} == {0}
    relu = next(line for line in lines if line["activation"] == "relu")
    measured = {"gradient_norms/dense1", "gradient_norms/dense2", "dead/dense1"}
    assert measured < relu.keys()
    assert "saturated/dense1" not in relu


def test_results_follow_from_the_curves(finished):
    workdir, results = finished
    for name in ("sigmoid", "tanh", "relu"):
        summary = results["networks"]["perceptron"]["activations"][name]
        assert summary["learning_rate"] == 0.3
        assert summary["rates"][1]["diverged"] == 1
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        times = []
        for seed in (1, 2, 3):
            of_run = [
                (line["epoch"], line["accuracy"])
                for line in lines
                if (line["phase"], line["activation"], line["seed"]) == ("final", name, seed)
            ]
            times.append(min((e for e, accuracy in of_run if accuracy >= 0.5), default=np.inf))
            assert summary["seeds"][str(seed)]["accuracy"] == pytest.approx(of_run[-1][1])
        expected = np.median(times)
        main = summary["epochs_to_accuracy"]["0.5"]
        assert main["median"] == pytest.approx(expected)
        assert main["num_reached"] == 3
        never = summary["epochs_to_accuracy"]["0.999"]
        assert (never["median"], never["text"], never["num_reached"]) == (None, ">2 [>2, >2]", 0)
        assert never["share_converged_by_epoch"] == []
        assert 0.5 < summary["test_accuracy"]["median"] <= 1
    best = results["networks"]["perceptron"]["best"]
    summaries = results["networks"]["perceptron"]["activations"].values()
    chosen = results["networks"]["perceptron"]["activations"][best["activation"]]
    assert chosen["accuracy"]["median"] == max(each["accuracy"]["median"] for each in summaries)


def test_all_activations_see_the_same_batches_and_the_start_is_the_seeds(finished):
    workdir, _ = finished
    read = {
        name: curves.read(
            workdir / f"curves_perceptron_{name}.npz", [(0.3, 0), (1e6, 0)], (1, 2, 3)
        )
        for name in ("sigmoid", "tanh", "relu")
    }
    for name, phases in read.items():
        assert phases["final"]["seed"].tolist() == [1, 2, 3]
        assert len(np.unique(phases["final"]["train_loss"][:, 0])) == 3, name
        assert phases["final"]["epoch"].tolist() == read["relu"]["final"]["epoch"].tolist()


def test_a_second_start_prints_the_outcome(finished, capsys):
    workdir, results = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.iterdir()}
    run(workdir)
    printed = capsys.readouterr().out
    assert "is finished" in printed
    for sentence in results["networks"]["perceptron"]["conclusion"]:
        assert sentence in printed
    assert "accuracy on 300 held-out digits is at least 50, 90, 99.9 %" in printed
    assert "Perceptron  ReLU " in printed
    assert before == {path: path.stat().st_mtime_ns for path in workdir.iterdir()}


@pytest.mark.full
def test_a_killed_run_keeps_what_is_finished(finished, tmp_path, monkeypatch):
    workdir, results = finished
    killed = tmp_path / "run"
    shutil.copytree(workdir, killed)
    for name in ("results.json", "curves_perceptron_relu.npz", *FIGURES):
        (killed / name).unlink()
    measured = []

    def measure(network, model, *rest):
        measured.append(model.activation)
        return original(network, model, *rest)

    original = task._measure
    monkeypatch.setattr(task, "_measure", measure)
    again = run(killed)
    assert measured == ["relu"]
    assert again["networks"] == results["networks"]
    assert (killed / "metrics.jsonl").read_text() == (workdir / "metrics.jsonl").read_text()


def without(key):
    return lambda arrays: {name: x for name, x in arrays.items() if name != key}


def changed(key, change):
    return lambda arrays: arrays | {key: change(arrays[key])}


ODD_CURVES = {
    "'search/loss'": without("search/loss"),
    "'final/test_loss'": without("final/test_loss"),
    "'final/epoch' has the shape": changed("final/epoch", lambda x: x[:-1]),
    "'search/epoch' does not grow": changed("search/epoch", lambda x: x[::-1]),
    "'final/accuracy' has 1 values that are NaN": changed(
        "final/accuracy", lambda x: np.where(np.arange(x.size).reshape(x.shape), x, np.nan)
    ),
    "'search/learning_rate' are not those of the config": changed(
        "search/learning_rate", lambda x: 2 * x
    ),
    "'final/seed' are not those of the config": changed("final/seed", lambda x: x + 1),
    "'final/seed' holds float64": changed("final/seed", lambda x: x * 1.0),
}


@pytest.mark.parametrize("message", ODD_CURVES)
def test_odd_curves_are_named(finished, tmp_path, message):
    with np.load(finished[0] / "curves_perceptron_relu.npz") as file:
        arrays = dict(file)
    path = tmp_path / "curves.npz"
    np.savez(path, **arrays)
    runs = [(0.3, 0), (1e6, 0)]
    assert curves.read(path, runs, (1, 2, 3))["final"].keys() >= {"loss", "test_loss", "dead"}
    np.savez(path, **ODD_CURVES[message](arrays))
    with pytest.raises(UserError, match=message) as caught:
        curves.read(path, runs, (1, 2, 3))
    assert str(caught.value).startswith(str(path))


@pytest.mark.full
def test_damaged_curves_are_set_aside_and_measured_again(finished, tmp_path, capsys):
    workdir, results = finished
    damaged = tmp_path / "run"
    shutil.copytree(workdir, damaged)
    (damaged / "results.json").unlink()
    content = (damaged / "curves_perceptron_tanh.npz").read_bytes()[:500]
    (damaged / "curves_perceptron_tanh.npz").write_bytes(content)
    again = run(damaged)
    assert again["networks"] == results["networks"]
    (aside,) = damaged.glob("damaged_curves_perceptron_tanh_*")
    assert aside.read_bytes() == content
    assert f"kept as {aside.name}, and measured again" in capsys.readouterr().out


def test_every_rate_diverges(tmp_path, capsys):
    changes = {"perceptron.learning_rates": (1e6,), "activations": ("relu", "tanh")}
    results = run(tmp_path / "run", **changes)
    perceptron = results["networks"]["perceptron"]
    summaries = perceptron["activations"].values()
    assert [summary["status"] for summary in summaries] == ["diverged", "diverged"]
    assert perceptron["best"] is None
    (sentence,) = perceptron["conclusion"]
    assert sentence.startswith("ReLU and tanh diverged at every learning rate")
    assert "Perceptron  ReLU        diverged" in capsys.readouterr().out


@pytest.mark.full
def test_the_labs_network(tmp_path):
    changes = {
        "networks": ("lenet",),
        "lenet.num_epochs": 0.5,
        "lenet.num_hidden": 8,
        "rate_seeds": (0, 1),
        "activations": ("sigmoid", "relu", "gelu"),
    }
    results = run(tmp_path / "run", "lab_digits", **changes)
    summaries = results["networks"]["lenet"]["activations"]
    assert set(summaries["relu"]["dead"]) == {"conv1", "conv2"}
    assert set(summaries["relu"]["saturated"]) == {"dense1"}
    assert set(summaries["gelu"]["saturated"]) == {"dense1"}
    assert set(summaries["sigmoid"]["saturated"]) == {"conv1", "conv2", "dense1"}
    assert all(summary["learning_rate"] == 0.1 for summary in summaries.values())
    runs = [(0.1, 0), (0.1, 1)]
    phases = curves.read(tmp_path / "run" / "curves_lenet_relu.npz", runs, SHORT["seeds"])
    assert phases["search"]["seed"].tolist() == [0, 1]
    # The same seed at the same rate is the same run, whatever runs beside it.
    np.testing.assert_allclose(
        phases["search"]["loss"][1], phases["final"]["loss"][0], rtol=1e-4, atol=1e-5
    )


def test_variants():
    default, lab, digits = (get_config(variant) for variant in ("", "lab", "digits"))
    assert default.dense_activation == ""
    assert (lab.dense_activation, len(lab.lenet.learning_rates)) == ("sigmoid", 1)
    assert lab.lenet.learning_rates == lab.perceptron.learning_rates
    assert (lab.data.name, digits.data.name) == ("mnist", "digits")
    for config in (default, lab, digits):
        assert config.main_threshold in config.thresholds
        assert len(config.seeds) >= 5
        assert not set(config.seeds) & set(config.rate_seeds)
    with pytest.raises(ValueError, match="it has digits, lab, lab_digits"):
        get_config("labs")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activations": ("sigmoid", "rely")}, r"activations is 'rely': choose one of sigmoid, "),
        ({"activations": ("Dense",)}, r"activations is 'Dense': choose one of sigmoid, "),
        ({"activations": ("relu", "relu")}, "activations must not repeat a value"),
        ({"activations": ()}, "activations must not be empty"),
        ({"dense_activation": "softmax"}, "dense_activation is 'softmax'"),
        ({"networks": ("alexnet",)}, "networks is 'alexnet': choose one of perceptron, lenet"),
        ({"initialisation": "zeros"}, "initialisation is 'zeros': choose one of suited"),
        ({"perceptron.learning_rates": ()}, r"perceptron\.learning_rates must not be empty"),
        ({"lenet.learning_rates": ()}, r"lenet\.learning_rates must not be empty"),
        (
            {"lenet.learning_rates": (0.1, -1.0)},
            r"lenet\.learning_rates must be at least 0, got -1\.0",
        ),
        ({"lenet.num_epochs": 0.0}, r"lenet\.num_epochs must be above 0, got 0\.0"),
        ({"seeds": ()}, "seeds must not be empty"),
        ({"seeds": (-1,)}, "seeds must be at least 0, got -1"),
        ({"thresholds": (97.0,)}, r"thresholds must be shares.*, got 97\.0"),
        ({"main_threshold": 0.6}, r"main_threshold must be one of thresholds, got 0\.6"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"data.num_held_out": 1497}, "data.num_held_out must be below .* 1497, got 1497"),
        ({"lenet.padding": 0}, r"images of 8 x 8 pixels don't fit lenet\.kernel_size=3"),
        ({"data.name": "cifar"}, r"data\.name is 'cifar'"),
        ({"data.name": "mnist", "data.root": "/nowhere"}, "/nowhere is not a directory"),
    ],
)
def test_bad_options_leave_nothing_behind(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path / "run", **changes)
    assert len(str(caught.value).splitlines()) <= 3
    assert not (tmp_path / "run").exists()


def test_the_rate_is_chosen_by_epochs_then_loss():
    epochs = np.arange(1, 21) / 10
    accuracy = np.tile(np.linspace(0.8, 0.99, 20), (3, 1))
    accuracy[2] -= 0.05
    loss = np.tile(np.linspace(1.0, 0.3, 20), (3, 1))
    loss[1] -= 0.1
    search = {
        "learning_rate": np.array([0.1, 0.2, 0.3]),
        "seed": np.zeros(3, int),
        "epoch": epochs,
        "train_loss": loss,
        "loss": loss,
        "accuracy": accuracy,
        "gradient_norms": {"dense1": np.ones_like(loss)},
    }
    assert study.best_rate(search, 3, 0.95) == 0.2
    search["loss"] = loss + np.array([[0], [np.nan], [0]])
    assert study.best_rate(search, 3, 0.95) == 0.1
    assert np.isinf(study.times_to(search, 0.95)).tolist() == [False, True, True]
