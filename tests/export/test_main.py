"""The command line: what it writes, prints and refuses."""

import contextlib
import io
import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

from configs import finetune
from tests.devkit import write_devkit
from tests.export import networks
from vtl.data.voc import CLASSES as VOC_CLASSES
from vtl.evaluation import gallery
from vtl.export import photos, reference
from vtl.export.__main__ import main
from vtl.files import file_sha256
from vtl.weights import heads, sources

OUT = "model.onnx"


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A calibrated network as network.safetensors in an empty current directory."""
    monkeypatch.chdir(tmp_path)
    networks.save(tmp_path / "network.safetensors", decisions=networks.DECISIONS)
    return sources.load("network.safetensors")


def export(*arguments):
    """The exit status, and what is printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(map(str, arguments)))
    return status, out.getvalue(), err.getvalue()


def refusal(*arguments):
    status, printed, message = export(*arguments)
    assert status == 1
    assert not printed
    lines = message.splitlines()
    assert lines[0].startswith("vtl: ")
    assert len(lines) <= 3
    return message


def write_photo(path, height=107, width=150):
    picture = networks.photos(1, 160)[0][:height, :width]
    Image.fromarray(picture).save(path)
    return picture


def ours(weights, picture):
    crop = photos.to_crop(picture, weights.preprocessing)
    return reference.predictor(weights)(crop[None])


def code_of(printed):
    """The lines of Python at the end of what is printed."""
    lines = printed.partition("To run it:\n")[2].splitlines()
    assert all(line.startswith("    ") for line in lines)
    return "\n".join(line[4:] for line in lines).replace("PHOTO.jpg", "photo.png")


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "package"), [("model.onnx", "onnxruntime"), ("model.stablehlo", "flatbuffers")]
)
def test_the_printed_lines_run(network, name, package):
    pytest.importorskip("onnx")
    pytest.importorskip(package)
    picture = write_photo("photo.png")
    status, printed, _ = export("network.safetensors", "-o", name, "--photos", "photo.png")
    assert status == 0
    assert "1 photos of --photos: probabilities differ by at most" in printed
    names = {}
    exec(code_of(printed), names)
    expected = ours(network, picture)
    np.testing.assert_allclose(names["probabilities"], expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(names["logits"], expected.logits, atol=1e-4)


@pytest.mark.parity
def test_the_lines_of_a_card_run_in_openvino(network):
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    picture = write_photo("photo.png", 150, 150)
    assert export("network.safetensors", "-o", OUT, "--resize")[0] == 0
    with open("README.md") as file:
        text = file.read().partition("### OpenVINO\n\n```python\n")[2].partition("```")[0]
    names = {}
    exec(text.replace("PHOTO.jpg", "photo.png"), names)
    expected = ours(network, picture).probabilities
    np.testing.assert_allclose(names["probabilities"], expected, atol=3e-3)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_the_printed_lines_run_in_pytorch(tmp_path, monkeypatch, name):
    pytest.importorskip("torch")
    from tests.references.torch_resnet import TorchResNet

    monkeypatch.chdir(tmp_path)
    networks.save(tmp_path / "network.safetensors", width=1.0, decisions=networks.DECISIONS)
    picture = write_photo("photo.png")
    status, printed, _ = export("network.safetensors", "-o", name)
    assert status == 0
    assert "config for timm: config.json" in printed
    models = types.SimpleNamespace(resnet18=lambda num_classes: TorchResNet(18, num_classes))
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(models=models))
    names = {}
    exec(code_of(printed), names)
    expected = ours(sources.load("network.safetensors"), picture).probabilities
    np.testing.assert_allclose(names["probabilities"].numpy(), expected, atol=1e-5)


@pytest.mark.parity
def test_the_metadata_says_what_it_is_and_where_it_was_tried(network):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    assert export("network.safetensors", "-o", OUT)[0] == 0
    facts = {p.key: p.value for p in onnx.load(OUT).metadata_props}
    assert json.loads(facts["classes"]) == list(networks.CLASSES)
    assert json.loads(facts["thresholds"]) == list(networks.DECISIONS.thresholds)
    assert json.loads(facts["calibration"])["chosen_on"] == "200 photos of val"
    assert json.loads(facts["preprocessing"])["crop_size"] == networks.SIDE
    assert facts["weights_sha256"] == network.sha256
    assert facts["licence"] == "unknown"
    (check,) = json.loads(facts["check"])
    assert check["num_photos"] == photos.NUM_BUILT_IN
    assert check["largest_difference"] < 1e-5
    assert check["changed_answers"] == 0


@pytest.mark.parity
def test_int8_is_measured_on_the_photos(network):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    assert "measures its scales on photos" in refusal("demo", "-o", OUT, "--dtype=int8")
    write_photo("photo.png")
    options = ("--dtype=int8", "--photos", "photo.png")
    status, printed, err = export("network.safetensors", "-o", OUT, *options)
    assert status == 0
    assert "int8: beside float32" in printed
    assert "the same that its scales come from" in printed
    assert "no labels are known here" in printed
    assert "a file of weights names no photos" in err
    with open(OUT, "rb") as file:
        assert len(file.read()) < 0.5 * sum(t.nbytes for t in network.tensors.values())


def write_run(directory, devkit):
    """A finished fine-tuning's directory, with a gallery, for the devkit's classes."""
    directory.mkdir()
    weights = networks.load(directory / "model.safetensors")
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(64, len(VOC_CLASSES))).astype(np.float32)
    tensors = {name: t for name, t in weights.tensors.items()}
    tensors |= {f"params/{heads.HEAD}/kernel": kernel}
    tensors |= {f"params/{heads.HEAD}/bias": np.zeros(len(VOC_CLASSES), np.float32)}
    from flax import traverse_util

    variables = traverse_util.unflatten_dict({tuple(k.split("/")): t for k, t in tensors.items()})
    architecture = weights.architecture.__class__(
        **(vars(weights.architecture) | {"num_classes": len(VOC_CLASSES)})
    )
    sources.save(
        directory / "model.safetensors",
        variables,
        architecture,
        weights.preprocessing,
        VOC_CLASSES,
        multi_label=True,
    )
    config = finetune.get_config()
    config.data.root = str(devkit)
    (directory / "config.json").write_text(config.to_json())
    results = {
        "classes": list(VOC_CLASSES),
        "map": {"test": {"lab": 0.5}},
        "map_interval": {"test": {"lab": [0.4, 0.6]}},
        "ap": {"test": {"lab": dict.fromkeys(VOC_CLASSES, 0.25)}},
        "num_images": {"test": 20},
        "weights": {"name": "timm_a1", "sha256": "0" * 64},
        "data": {"name": "VOC|2007"},
        "answers": {"test": answered(0.75)},
        "commit": None,
    }
    (directory / "results.json").write_text(json.dumps(results))
    crops = networks.photos(4)
    choices = [gallery.Choice(row, 0, "hit") for row in range(4)]
    maps = np.zeros((4, 3, 3, len(VOC_CLASSES)), np.float32)
    np.savez(directory / "gallery_test.npz", **gallery.pack(choices, crops, maps, kernel[0]))
    return directory


def answered(value):
    """What results.json says of answers that are all as good."""
    of_class = {key: {"value": value, "interval": None} for key in ("precision", "recall", "f1")}
    return {
        "by_class": dict.fromkeys(VOC_CLASSES, of_class),
        "macro": of_class,
        "micro": of_class,
        "before_calibration": {"brier": 0.1, "reliability": 0.01},
    }


@pytest.mark.parity
def test_a_run_brings_its_photos_labels_and_figures(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    devkit = write_devkit(tmp_path, {"trainval": 20, "test": 22})
    run = write_run(tmp_path / "run", devkit)
    before = {path.name: file_sha256(path) for path in run.iterdir()}
    status, printed, err = export(run, "-o", run / OUT, "--dtype=float16", "--num-photos", 12)
    assert (status, err) == (0, "")
    assert "4 photos of the run's gallery_test.npz" in printed
    assert "float16: beside float32 in onnxruntime" in printed
    assert "12 photos of test" in printed
    assert "float16: mAP (lab) on the same photos:" in printed
    card = (run / "README.md").read_text()
    assert "50.0 [40.0, 60.0]" in card
    assert "| class | AP (lab) | precision | recall | f1 |" in card
    assert "| aeroplane | 25.0 | 75.0 | 75.0 | 75.0 |" in card
    assert "timm\\_a1, whose licence is: Apache-2.0" in card
    assert "VOC\\|2007" in card
    assert before.items() <= {path.name: file_sha256(path) for path in run.iterdir()}.items()


@pytest.mark.parity
def test_a_probe_is_joined_with_its_network(network, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    probe = tmp_path / "probe"
    probe.mkdir()
    features = {"weights": {"name": "gone.safetensors", "sha256": network.sha256}}
    heads.save(
        probe, np.eye(64, 2, dtype=np.float32), np.ones(2), classes=("a", "b"), features=features
    )
    assert "Say where it is now: --weights=FILE" in refusal(probe, "-o", OUT)
    status, printed, _ = export(probe, "-o", OUT, "--weights=network.safetensors")
    assert status == 0
    assert "the same answers" in printed


@pytest.mark.parity
def test_nothing_of_others_is_overwritten(network, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    (tmp_path / "README.md").write_text("# mine\n")
    (tmp_path / OUT).write_bytes(b"mine")
    assert "--overwrite" in refusal("network.safetensors", "-o", OUT)
    assert (tmp_path / OUT).read_bytes() == b"mine"
    status, printed, _ = export("network.safetensors", "-o", OUT, "--overwrite")
    assert status == 0
    assert "model_README.md: README.md is about something else" in printed
    assert (tmp_path / "README.md").read_text() == "# mine\n"
    assert export("network.safetensors", "-o", OUT)[0] == 0  # our own, unchanged
    with (tmp_path / "model_README.md").open("a") as file:
        file.write("a note of the user's\n")
    assert "--overwrite" in refusal("network.safetensors", "-o", OUT)
    assert export("network.safetensors", "-o", OUT, "--overwrite")[0] == 0
    assert (tmp_path / "model_README.md").read_text().endswith("a note of the user's\n")
    assert (tmp_path / "model.onnx_README.md").exists()


@pytest.mark.parity
def test_a_runtime_that_is_missing_is_named(network, monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert 'pip install -e ".[export]"' in refusal("network.safetensors", "-o", OUT)
    status, printed, _ = export("network.safetensors", "-o", OUT, "--unchecked")
    assert status == 0
    assert "not run before it was written" in printed
    facts = {p.key: p.value for p in onnx.load(OUT).metadata_props}
    assert facts["check"] == "unchecked"


def test_without_the_extra_one_line_says_what_to_install(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert 'pip install -e ".[export]"' in refusal("network.safetensors", "-o", OUT)


def test_what_cannot_be_exported_is_refused(network, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"task": "finetune"}')
    (tmp_path / "run" / "model.safetensors").write_bytes(b"")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "config.json").write_text('{"task": "relu_study"}')
    (tmp_path / "study" / "results.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.jpg").write_text("no photo")
    cases = {
        "has not finished": ("run", "-o", OUT),
        "leaves no network": ("study", "-o", OUT),
        "no model.safetensors there": ("empty", "-o", OUT),
        "its ending says what to write": ("network.safetensors", "-o", "model.tflite"),
        "there is no folder": ("network.safetensors", "-o", "nowhere/model.onnx"),
        "it is a folder": ("network.safetensors", "-o", tmp_path / "empty.onnx"),
        "no.jpg": ("network.safetensors", "-o", OUT, "--photos", "no.jpg"),
        "there is no photo in": ("network.safetensors", "-o", OUT, "--photos", "empty"),
        "are for .onnx files": ("network.safetensors", "-o", "a.stablehlo", "--resize"),
        "width 0.125": ("network.safetensors", "-o", "a.safetensors"),
        "is for a finished probe": ("network.safetensors", "-o", OUT, "--weights=demo"),
        "must be at least 1": ("network.safetensors", "-o", OUT, "--num-photos=0"),
    }
    (tmp_path / "empty.onnx").mkdir()
    there = sorted(tmp_path.rglob("*"))
    for words, arguments in cases.items():
        assert words in refusal(*arguments), arguments
        assert sorted(tmp_path.rglob("*")) == there


def test_a_network_without_a_head_is_refused(network, tmp_path):
    from flax import traverse_util

    body = {
        tuple(name.split("/")): tensor
        for name, tensor in network.tensors.items()
        if f"/{heads.HEAD}/" not in name
    }
    architecture = network.architecture.__class__(
        **(vars(network.architecture) | {"num_classes": None})
    )
    sources.save(
        tmp_path / "body.safetensors",
        traverse_util.unflatten_dict(body),
        architecture,
        network.preprocessing,
        None,
        multi_label=False,
    )
    assert "has no head" in refusal("body.safetensors", "-o", OUT)


@pytest.mark.full
@pytest.mark.parity
def test_the_demos_network_in_every_format_it_has(tmp_path, monkeypatch):
    for package in ("onnx", "onnxruntime", "flatbuffers"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    for name in ("a.onnx", "a.stablehlo"):
        assert export("demo", "-o", name)[0] == 0
    assert export("demo", "-o", "b.onnx", "--resize")[0] == 0
    assert "Apache-2.0" in (tmp_path / "README.md").read_text()
