"""The whole learning curve on a tiny network: its points, its resumption, its promises."""

import csv
import json

import numpy as np
import pytest

from configs.learning_curve import get_config
from tests.devkit import write_devkit
from tests.tiny import write_weights
from vtl.errors import UserError
from vtl.files import unlock
from vtl.report import page, runs
from vtl.report.language import Language
from vtl.tasks import learning_curve

CLASSES = ("bird", "cat", "dog")
TINY = {
    "data.train_split": "train",
    "data.image_size": 32,
    "batch_size": 8,
    "eval_batch_size": 8,
    "regions": 2,
    "held_out": 0.0,
    "head_l2": 0.01,
    "fractions": (0.1, 0.3, 0.6, 1.0),
    "draws": 2,
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    root = tmp_path_factory.mktemp("given")
    devkit = write_devkit(root, {"train": 100, "test": 40}, classes=CLASSES, size=48)
    return {"data.root": str(devkit), "weights": str(write_weights(root / "tiny.safetensors"))}


def config_of(given, **changes):
    config = get_config()
    config.update_from_flattened_dict(given | TINY | changes)
    return config


def results_of(workdir):
    return json.loads((workdir / "results.json").read_text())


@pytest.mark.full
def test_the_probe_alone(given, tmp_path, capsys):
    workdir = tmp_path / "run"
    config = config_of(given, finetune=False, fractions=(0.3, 1.0))
    learning_curve.run(config, workdir)
    found = results_of(workdir)["curve"]
    assert found["photos"] == [30, 100]
    assert "fine_tuned" not in found
    assert [len(maps) for maps in found["probe"]["maps"]] == [2, 2]
    assert len(set(found["probe"]["maps"][-1])) == 1
    assert found["probe"]["map"][-1] > found["probe"]["map"][0] + 0.05
    assert all(0 <= low < high <= 1 for low, high in found["probe"]["map_interval"])
    with (workdir / "subsets.csv").open() as file:
        rows = list(csv.DictReader(file))
    for draw in ("draw_0", "draw_1"):
        shares = np.array([float(row[draw]) for row in rows])
        assert [int(np.sum(shares <= share)) for share in found["fractions"]] == found["photos"]
    said = capsys.readouterr().out
    assert "neither: mAP" in said
    learning_curve.run(config, workdir)
    again = capsys.readouterr().out
    assert said.strip().splitlines()[-4] in again  # the sentence
    html = page.make([runs.read(workdir, "mine")], [], "vtl report", Language("en"))
    assert "<strong>mine</strong>: twice the labels: " in html


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "zeros"}, "head=probe"),
        ({"fractions": (0.1, 0.5)}, "1.0 among them"),
        ({"fractions": (1.0,)}, "two or more"),
        ({"num_epochs": 0.0}, "num_epochs is 0"),
        ({"data.test_split": ""}, "data.test_split"),
        ({"fractions": (0.01, 1.0)}, "too few"),
        ({"optim.schedule": "juggle"}, "constant, cosine"),
        ({"optim.warmup_steps": 5}, "warmup"),  # more than the least share has steps
    ],
)
def test_what_makes_no_curve_is_refused(given, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        learning_curve.run(config_of(given, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.full
def test_points_are_fine_tunings_that_resume(given, tmp_path, monkeypatch):
    """At a rate of 0 fine-tuning is the probe, to rounding."""
    changes = {"fractions": (0.3, 1.0), "num_epochs": 1.0, "optim.learning_rate": 0.0}
    config, workdir = config_of(given, **changes), tmp_path / "run"
    tune, trained = learning_curve.tuning.tune, []

    def tune_two(*arguments, **options):
        if len(trained) == 2:
            raise UserError("stopped")
        trained.append(arguments[1]["train"].ids)
        return tune(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(learning_curve.tuning, "tune", tune_two)
        with pytest.raises(UserError, match="stopped"):
            learning_curve.run(config, workdir)
    for path in (workdir, workdir / "fine_tuned" / "1_0"):
        unlock(path)  # as the end of a process does
    before = (workdir / "fine_tuned" / "0.3_0" / "results.json").stat().st_mtime_ns
    probes = workdir / "logits_probe.npz"
    probes.write_bytes(probes.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"can't be read.*\nDelete {probes}: the same command"):
        learning_curve.run(config, workdir)
    unlock(workdir)
    probes.unlink()
    learning_curve.run(config, workdir)
    assert (workdir / "fine_tuned" / "0.3_0" / "results.json").stat().st_mtime_ns == before
    assert [len(ids) for ids in trained] == [30, 30]
    assert trained[0] != trained[1]
    found = results_of(workdir)["curve"]
    assert sorted(path.name for path in (workdir / "fine_tuned").iterdir()) == [
        "0.3_0",
        "0.3_1",
        "1_0",
    ]
    assert not list(workdir.rglob("checkpoints"))
    np.testing.assert_allclose(found["difference"]["map"], 0, atol=1e-9)
    np.testing.assert_allclose(found["difference"]["map_interval"], 0, atol=1e-9)
    assert found["probe"]["twice"]["why_nothing"] == "few_shares"
