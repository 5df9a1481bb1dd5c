"""Runs on photos in any layout: the same data gives the same run, and what is unknown stays out."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from configs import deep_features as deep_features_config
from configs import linear_probe as probe_config
from configs.finetune import get_config
from configs.learning_curve import get_config as curve_config
from tests.data.layouts.photos import HOSTILE, write_photo
from tests.data.test_splits import as_coco, as_table
from tests.devkit import write_devkit
from tests.tiny import write_weights
from vtl.data import deep_features, splits
from vtl.errors import UserError
from vtl.export import labelled
from vtl.export.run_facts import Run
from vtl.finetuning import setup
from vtl.preprocessing import TORCHVISION
from vtl.report import __main__ as report_command
from vtl.tasks import features, finetune, learning_curve, probe

TINY = {"data.image_size": 32, "batch_size": 4, "eval_batch_size": 8, "num_epochs": 1.0}
FEATURES = {"data.image_size": 32, "batch_size": 4}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return write_devkit(root, {"trainval": 24, "test": 12}, classes=("cat", "dog", "emu"), size=48)


def fine_tune(workdir, weights, **changes):
    config = get_config()
    config.update_from_flattened_dict({"weights": str(weights)} | TINY | changes)
    with jax.default_matmul_precision(config.precision):
        finetune.run(config, workdir)
    return json.loads((workdir / "results.json").read_text())


def extract(workdir, weights, **changes):
    config = deep_features_config.get_config()
    config.update_from_flattened_dict({"weights": str(weights)} | FEATURES | changes)
    features.run(config.lock(), workdir)
    (path,) = workdir.glob("DF_*.npz")
    return path


def fit_probe(workdir, path, variant=""):
    config = probe_config.get_config(variant)
    config.update_from_flattened_dict({"features": str(path)})
    probe.run(config.lock(), workdir)
    return json.loads((workdir / "results.json").read_text())


def measure(workdir, weights, **changes):
    config = curve_config()
    options = TINY | {"finetune": False, "fractions": (0.5, 1.0), "draws": 1, "head_l2": 0.01}
    config.update_from_flattened_dict({"weights": str(weights)} | options | changes)
    learning_curve.run(config.lock(), workdir)


def arrays(path):
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


@pytest.mark.full
def test_a_devkit_a_table_and_coco_give_the_same_run(tmp_path, devkit, weights):
    """Bit for bit, in scores and in the network; the ids are the files' names."""
    labels = as_table(devkit, tmp_path / "labels.csv")
    ways = {
        "devkit": {"data.root": str(devkit)},
        "table": {
            "data.root": str(devkit / "JPEGImages"),
            "data.labels": str(labels),
            "data.flags": "voc",
        },
        "coco": {"data.root": str(as_coco(devkit, tmp_path / "coco"))},
    }
    found = {}
    for way, changes in ways.items():
        workdir = tmp_path / f"run of {way}"
        results = fine_tune(workdir, weights, **changes)
        scores = {role: arrays(workdir / f"scores_{role}.npz") for role in ("train", "test")}
        for its in scores.values():
            del its["ids"]
        found[way] = results, scores, (workdir / "model.safetensors").read_bytes()
    expected = found.pop("devkit")
    for results, scores, network in found.values():
        for quantity in ("map", "ap", "loss", "chosen_step"):
            assert results[quantity] == expected[0][quantity]
        assert results["held_out"] == expected[0]["held_out"]
        assert network == expected[2]
        for role, its in scores.items():
            for name, array in its.items():
                np.testing.assert_array_equal(array, expected[1][role][name])


def write_large(root):
    """JPEGs several times as large as is stored: 16 of train, 8 of test."""
    waves = np.sin(np.mgrid[:200, :256] / 5).sum(axis=0)
    for number in range(24):
        part, name = ("train", "test")[number // 16], ("cat", "dog")[number % 2]
        path = root / part / name / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = 127 + 50 * waves[..., None] + np.arange(3) * number
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return {"data.root": str(root)}


def test_own_photos_are_decoded_fast_unless_their_run_was_begun_otherwise(tmp_path, weights, capfd):
    own = write_large(tmp_path / "photos")
    found = {}
    for name, decode in (("new", {}), ("told", {"data.decode": "exact"})):
        path = extract(tmp_path / name, weights, **own | decode)
        results = json.loads((tmp_path / name / "results.json").read_text())
        config = json.loads((tmp_path / name / "config.json").read_text())
        of_file = deep_features.read(path).meta["data"]
        recorded = {results["data"]["decode"], config["data"]["decode"], of_file["decode"]}
        assert recorded == {decode.get("data.decode", "fast")}
        found[name] = arrays(path)["X_train"]
    assert (found["new"] != found["told"]).any()

    # As versions did that knew no other way, finished or not.
    del config["data"]["decode"]
    (tmp_path / "told" / "config.json").write_text(json.dumps(config))
    capfd.readouterr()
    extract(tmp_path / "told", weights, **own)
    assert "is finished" in capfd.readouterr().out
    (tmp_path / "told" / "results.json").unlink()
    (path,) = (tmp_path / "told").glob("DF_*.npz")
    path.unlink()
    np.testing.assert_array_equal(
        arrays(extract(tmp_path / "told", weights, **own))["X_train"], found["told"]
    )
    with pytest.raises(UserError, match=r"\(data\.decode exact -> fast\)"):
        extract(tmp_path / "told", weights, **own | {"data.decode": "fast"})
    with pytest.raises(UserError, match=r"is .quick.: choose one of auto, exact, fast"):
        extract(tmp_path / "odd", weights, **own | {"data.decode": "quick"})


def test_a_file_is_tried_on_photos_decoded_as_its_runs(tmp_path):
    own, seen = write_large(tmp_path / "photos"), {}
    pixels = TORCHVISION.override(resize="squash", image_size=32)
    for name, data in (("none", {}), ("exact", {"decode": "exact"}), ("fast", {"decode": "fast"})):
        config = get_config().data.to_dict() | {"root": own["data.root"], "decode": None} | data
        config = {key: value for key, value in config.items() if value is not None}
        run = Run(tmp_path, {"data": config}, {})
        seen[name] = labelled.of_run(run, ("cat", "dog"), pixels, 4).crops
    np.testing.assert_array_equal(seen["none"], seen["exact"])
    assert (seen["fast"] != seen["exact"]).any()


@pytest.mark.full
@pytest.mark.parametrize("task", ["finetune", "learning_curve"])
def test_training_on_own_photos_records_that_they_are_decoded_fast(tmp_path, weights, task):
    own = write_large(tmp_path / "photos")
    module, get = (finetune, get_config) if task == "finetune" else (learning_curve, curve_config)
    config = get("" if task == "finetune" else "laptop")
    config.update_from_flattened_dict({"weights": str(weights)} | TINY | own | {"held_out": 0.0})
    if task == "learning_curve":
        config.fractions, config.draws = (0.9, 1.0), 1
    module.run(config.lock(), tmp_path / "run")
    for name in ("results.json", "config.json"):
        assert json.loads((tmp_path / "run" / name).read_text())["data"]["decode"] == "fast"


def write_unknown(tmp_path, values):
    """24 photos with three classes, of which 30 % of the labels are blank or have `values`."""
    rng = np.random.default_rng(0)
    lines = ["photo,split,cat,dog,emu"]
    for number in range(36):
        write_photo(tmp_path / "photos" / f"{number}.png", number, size=40)
        flags = rng.integers(0, 2, 3)
        cells = [str(flag) for flag in flags]
        for column in np.flatnonzero(rng.random(3) < 0.3):
            cells[column] = values
        lines.append(f"{number}.png,{'train' if number < 24 else 'test'},{','.join(cells)}")
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(lines))
    return tmp_path / "photos", path


def correct(labels, path):
    """A table in which a photo of train and one of test have three other labels each."""
    lines = labels.read_text().splitlines()
    for line in (2, 30):
        name, split, *cells = lines[line].split(",")
        lines[line] = ",".join([name, split, *("1" if cell == "0" else "0" for cell in cells)])
    path.write_text("\n".join(lines))
    return path


@pytest.mark.full
@pytest.mark.parametrize("run", [fine_tune, extract, measure])
def test_a_finished_run_counts_the_labels_that_were_corrected_since(tmp_path, weights, run):
    root, labels = write_unknown(tmp_path, "")
    run(tmp_path / "run", weights, **{"data.root": str(root), "data.labels": str(labels)})
    corrected = {"data.root": str(root), "data.labels": str(correct(labels, tmp_path / "l2.csv"))}
    with pytest.raises(
        UserError, match=r"begun with other labels of the t.*\n6 labels of 2 photos "
    ):
        run(tmp_path / "run", weights, **corrected)


@pytest.mark.full
def test_a_finished_probe_counts_the_labels_of_its_features_made_anew(tmp_path, weights):
    root, labels = write_unknown(tmp_path, "")
    options = {"data.root": str(root), "data.labels": str(labels)}
    fit_probe(tmp_path / "probe", extract(tmp_path / "before", weights, **options))
    correct(labels, labels)
    now = extract(tmp_path / "now", weights, **options)
    with pytest.raises(UserError, match=r"with other features than .*\n6 labels of 2 photos "):
        fit_probe(tmp_path / "probe", now)


def with_other_values(by_role):
    """The same splits, with 1 in place of each unknown label."""
    return {
        role: dataclasses.replace(its, labels=np.where(its.label_mask, its.labels, 1))
        for role, its in by_role.items()
    }


@pytest.mark.full
@pytest.mark.parametrize("loss", ["sigmoid_bce", "asymmetric", "focal"])
def test_what_is_unknown_moves_nothing(tmp_path, weights, monkeypatch, loss):
    """Neither loss nor metric: with other values there, every output is the same."""
    root, labels = write_unknown(tmp_path, "")
    options = {"data.root": str(root), "data.labels": str(labels), "loss": loss}
    options |= {"class_weights": "balanced"}
    results = [fine_tune(tmp_path / "blank", weights, **options)]
    of_config = splits.of_config
    monkeypatch.setattr(setup, "of_config", lambda data: with_other_values(of_config(data)))
    results.append(fine_tune(tmp_path / "others", weights, **options))
    for quantity in ("map", "map_interval", "ap", "loss", "binary_accuracy", "start", "held_out"):
        assert results[0][quantity] == results[1][quantity]
    assert results[0]["num_unknown"]["train"] > 10
    networks = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("blank", "others")
    ]
    assert networks[0] == networks[1]
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("blank", "others")]
    kept = [
        [
            {k: v for k, v in json.loads(line).items() if "second" not in k}
            for line in text.splitlines()
        ]
        for text in lines
    ]
    assert kept[0] == kept[1]


@pytest.mark.full
@pytest.mark.parametrize("variant", ["", "lbfgs"])
def test_what_is_unknown_moves_no_probe(tmp_path, weights, variant):
    root, labels = write_unknown(tmp_path, "?")
    path = extract(tmp_path / "f", weights, **{"data.root": str(root), "data.labels": str(labels)})
    assert path.name == "DF_ResNet18_photos.npz"
    found = deep_features.read(path)
    assert found.splits["train"].label_mask.mean() < 0.85
    changed = arrays(path)
    for role in ("train", "test"):
        changed[f"Y_{role}"] = np.where(changed[f"mask_{role}"], changed[f"Y_{role}"], 1)
    np.savez(tmp_path / "changed.npz", **changed)
    one = fit_probe(tmp_path / "one", path, variant)
    other = fit_probe(tmp_path / "other", tmp_path / "changed.npz", variant)
    for quantity in ("map", "ap", "loss", "binary_accuracy"):
        assert one[quantity] == other[quantity]
    heads = [(tmp_path / name / "scores_test.npz") for name in ("one", "other")]
    np.testing.assert_array_equal(*(arrays(head)["logits"] for head in heads))


@pytest.mark.full
def test_a_folder_a_class_is_trained_with_softmax(tmp_path, weights, capfd):
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 5), ("test", 5)):
        for name, colour in (
            ("rot", (200, 30, 30)),
            ("grün", (30, 200, 30)),
            ("b l", (30, 30, 200)),
        ):
            for number in range(count):
                path = tmp_path / "my photos" / part / name / HOSTILE[number]
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = rng.integers(0, 256, (40, 40, 3)) // 3
                Image.fromarray((noise + np.array(colour) // 2).astype(np.uint8)).save(path)
    results = fine_tune(tmp_path / "run", weights, **{"data.root": str(tmp_path / "my photos")})
    assert results["classes"] == ["b l", "grün", "rot"]
    assert results["one_label"]["test"]["accuracy"] > 0.6
    assert np.sum(results["one_label"]["test"]["confusion"]) == 15
    assert results["data"]["name"] == "my photos"
    assert results["data"]["splits"] == {"train": "train", "val": "val", "test": "test"}
    scores = arrays(tmp_path / "run" / "scores_test.npz")
    np.testing.assert_allclose(scores["scores"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.exp(scores["logits"]), scores["scores"], rtol=1e-5)
    assert scores["ids"][0].startswith("test/b l/")
    shown = capfd.readouterr().out
    assert "one label each, on test: accuracy" in shown
    assert "class   train  val  test" in shown
    for language, sentence in {"en": "are taken for what they are", "fr": "sont reconnues"}.items():
        path = tmp_path / f"{language}.html"
        options = [str(tmp_path / "run"), "-o", str(path), "--lang", language]
        assert report_command.main(options) == 0
        assert sentence in path.read_text()
        assert "ln(1 " not in path.read_text()
        assert "warn_other" not in path.read_text()


@pytest.mark.full
@pytest.mark.parametrize("duplicates", ["warn", "drop_from_train"])
def test_duplicates_and_broken_photos_are_in_the_results(tmp_path, weights, duplicates):
    root, labels = write_unknown(tmp_path, "1")
    (root / "30.png").write_bytes((root / "3.png").read_bytes())
    (root / "5.png").write_bytes(b"broken")
    options = {"data.root": str(root), "data.labels": str(labels), "data.broken": "skip"}
    results = fine_tune(tmp_path / "run", weights, **options, **{"data.duplicates": duplicates})
    assert list(results["data"]["broken"]["train"]) == ["5.png"]
    assert results["data"]["duplicates"] == {"same file": 1}
    assert "30.png" in (tmp_path / "run" / "duplicates.csv").read_text()
    expected = 23 if duplicates == "warn" else 22
    assert results["num_images"] == {"train": expected, "test": 12}


def write_layout(root, layout):
    """Photos with hostile names, in two classes and two splits; returns the options for them."""
    names = {
        (split, kind): [f"{kind} {name}" if name[0] != "." else name for name in HOSTILE]
        for split in ("train", "test")
        for kind in ("Ä#1", "b b")
    }
    if layout == "folders":
        for number, ((split, kind), its) in enumerate(names.items()):
            for name in its:
                write_photo(root / split / kind / name, number)
        return {"data.root": str(root)}
    every = [
        (
            split,
            kind,
            f"{split} {kind} {name}".replace("/", "_")[:250]
            if len(name) < 100
            else f"{split[:2]}{kind[:1]}{name}",
        )
        for (split, kind), its in names.items()
        for name in its
    ]
    folder = {"coco": "{}", "yolo": "images/{}", "table": "", "devkit": "JPEGImages"}[layout]
    for number, (split, _, name) in enumerate(every):
        write_photo(root / folder.format(split) / name, number)
    classes = ["Ä#1", "b b"]
    if layout == "table":
        lines = [
            '"{}";{};{}'.format(name.replace('"', '""'), split, kind) for split, kind, name in every
        ]
        (root / "labels.csv").write_text("\n".join(["photo;split;label", *lines]))
        return {"data.root": str(root), "data.labels": "labels.csv"}
    if layout == "yolo":
        (root / "classes.txt").write_text("\n".join(classes))
        for split, kind, name in every:
            path = root / "labels" / split / f"{name.rpartition('.')[0]}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{classes.index(kind)} .5 .5 .1 .1\n")
        return {"data.root": str(root)}
    if layout == "coco":
        (root / "annotations").mkdir()
        for split in ("train", "test"):
            its = [(kind, name) for its_split, kind, name in every if its_split == split]
            content = {
                "images": [{"id": n, "file_name": name} for n, (_, name) in enumerate(its)],
                "categories": [{"id": n, "name": name} for n, name in enumerate(classes)],
                "annotations": [
                    {"image_id": n, "category_id": classes.index(kind)}
                    for n, (kind, _) in enumerate(its)
                ],
            }
            path = root / "annotations" / f"instances_{split}2026.json"
            path.write_text(json.dumps(content))
            (root / split).rename(root / f"{split}2026")
        return {"data.root": str(root)}
    main = root / "ImageSets" / "Main"
    main.mkdir(parents=True)
    for split in ("train", "test"):
        its = [
            (kind, name.rpartition(".")[0]) for its_split, kind, name in every if its_split == split
        ]
        (main / f"{split}.txt").write_text("".join(f"{name}\n" for _, name in its))
        for kind in classes:
            lines = [f"{name} {1 if its_kind == kind else -1}\n" for its_kind, name in its]
            (main / f"{kind}_{split}.txt").write_text("".join(lines))
    return {"data.root": str(root), "data.train_split": "train"}


@pytest.mark.full
@pytest.mark.parametrize("layout", ["folders", "table", "coco", "yolo", "devkit"])
def test_every_layout_with_hostile_names_ends_in_an_map(tmp_path, weights, layout):
    options = write_layout(tmp_path / "my data", layout)
    results = fine_tune(tmp_path / "run", weights, **options, num_epochs=0.0)
    in_their_order = layout in ("coco", "yolo")
    assert results["classes"] == (["Ä#1", "b b"] if in_their_order else ["b b", "Ä#1"])
    assert results["num_images"] == {"train": 2 * len(HOSTILE), "test": 2 * len(HOSTILE)}
    assert 0 < results["map"]["test"]["lab"] <= 1
    assert results["data"]["name"] == "my data"
    assert ("one_label" in results) == (layout != "devkit")


@pytest.mark.full
def test_a_step_of_whose_labels_none_is_known_has_no_loss(tmp_path, weights, capfd):
    """Of 24 photos two have labels; a split without any has no loss either."""
    root, labels = write_unknown(tmp_path, "")
    head, *lines = labels.read_text().splitlines()
    blank = [line.rsplit(",", 3)[0] + ",,," for line in lines]
    labels.write_text("\n".join([head, "0.png,train,1,0,1", "1.png,train,0,1,0", *blank[2:]]))
    options = {"data.root": str(root), "data.labels": str(labels), "head": "zeros"}
    results = fine_tune(tmp_path / "run", weights, held_out=0.0, **options)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if "learning_rate" in line]
    losses = [line["loss"] for line in steps if "loss" in line]
    assert len(steps) == 6
    assert 1 <= len(losses) <= 2
    assert min(losses) > 0
    assert all(("binary_accuracy" in line) == ("loss" in line) for line in steps)
    assert results["loss"]["test"] is None
    assert results["loss"]["train"] > 0
    assert "mAP on test: none, because no class has a positive; no label is known" in (
        capfd.readouterr().out
    )
    options = [str(tmp_path / "run"), "-o", str(tmp_path / "page.html")]
    assert report_command.main(options) == 0
