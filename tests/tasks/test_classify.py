import json

import numpy as np
import pytest

from configs.pretrain_demo import get_config
from vtl.data import glyphs
from vtl.preprocessing import normalise
from vtl.stops import Interrupted
from vtl.tasks import classify
from vtl.training.checkpoint import Checkpoints
from vtl.weights import network, sources


def make_config(**changes):
    config = get_config()
    tiny = {
        "model.depth": 18,
        "model.width": 0.125,
        "image_size": 32,
        "num_images": 96,
        "epoch_size": 32,
        "num_held_out": 40,
        "batch_size": 16,
        "optim.warmup_steps": 2,
    }
    config.update_from_flattened_dict(tiny | changes)
    return config.lock()


def read_results(workdir):
    return json.loads((workdir / "results.json").read_text())


@pytest.mark.full
def test_the_network_is_saved_with_what_it_needs(tmp_path, capsys):
    classify.run(make_config(), tmp_path / "run")
    results = read_results(tmp_path / "run")
    assert (results["task"], results["status"]) == ("classify", "finished")
    assert 0 <= results["top1"] <= 1
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "top1" in line] == [0, 2, 4, 6]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all(0 <= line["accuracy"] <= 1 for line in steps)

    weights = sources.load(str(tmp_path / "run"))
    assert weights.classes == glyphs.CLASSES
    assert weights.preprocessing.crop_size == 32
    model, variables = network.as_published(weights)
    held_out = glyphs.Glyphs(40, 32, classify.HELD_OUT_SEED)
    images = normalise(held_out[np.arange(40)], weights.preprocessing)
    logits, _ = model.apply(variables, images, norms_by_batch=())
    top1 = np.mean(np.asarray(logits).argmax(axis=1) == held_out.labels)
    assert top1 == pytest.approx(results["top1"], abs=1 / 40)  # float16 may turn one

    capsys.readouterr()
    classify.run(make_config(), tmp_path / "run")
    assert "is finished" in capsys.readouterr().out


@pytest.mark.full
def test_a_killed_run_resumes_to_the_same_network(tmp_path, monkeypatch):
    classify.run(make_config(), tmp_path / "uninterrupted")
    real = classify.loop.run

    def stop_after_a_save(*args):
        (checkpoints,) = (x for x in args if isinstance(x, Checkpoints))
        save, calls = checkpoints.save, []

        def save_and_stop(*saved):
            save(*saved)
            calls.append(1)
            if len(calls) == 2:
                checkpoints.wait()
                raise Interrupted("stopped")

        monkeypatch.setattr(checkpoints, "save", save_and_stop)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(classify.loop, "run", stop_after_a_save)
        with pytest.raises(Interrupted):
            classify.run(make_config(), tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
    classify.run(make_config(), tmp_path / "run")
    assert read_results(tmp_path / "run")["resumed_from"] == 2
    saved = [tmp_path / name / "model.safetensors" for name in ("uninterrupted", "run")]
    assert saved[0].read_bytes() == saved[1].read_bytes()
