"""`python -m vtl.weights`, as people type it."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from tests.tiny import write_weights
from vtl import files
from vtl.data import fetch, glyphs, images
from vtl.decisions import Decisions
from vtl.errors import UserError
from vtl.models.resnet import ResNet
from vtl.preprocessing import CAFFE, TORCHVISION, normalise
from vtl.weights import __main__ as command
from vtl.weights import formats, network, sources, summary, verify
from vtl.weights.formats import safetensors


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["vtl.weights", *map(str, arguments)])
    command.main()


def test_summary_of_a_file(tmp_path, monkeypatch, capsys):
    run(monkeypatch, "summary", write_weights(tmp_path / "tiny.safetensors"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["path", "output", "shape", "parameters"]
    assert lines[1].split() == ["conv1", "112", "x", "112", "x", "8", "1,176"]
    assert lines[-2].split() == ["fc", "7", "455"]
    counts = [int(line.split()[-1].replace(",", "")) for line in lines[1:-1]]
    assert lines[-1].startswith(f"{sum(counts):,} parameters")


def test_summary_without_a_head(tmp_path, monkeypatch, capsys):
    tensors = formats.read(write_weights(tmp_path / "tiny.safetensors")).tensors
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    safetensors.write(tmp_path / "headless.safetensors", kept, {})
    run(monkeypatch, "summary", tmp_path / "headless.safetensors")
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if line.startswith("fc")]
    statistics = sum(t.size for name, t in kept.items() if ".running_" in name)
    parameters = sum(t.size for t in kept.values()) - statistics
    assert lines[-1] == f"{parameters:,} parameters, {statistics:,} running statistics"


def test_summary_of_resnet50_has_the_published_size():
    last = summary.summary(ResNet(1000), 224).splitlines()[-1]
    assert last == "25,557,032 parameters, 53,120 running statistics"


def test_what_is_not_there_is_a_few_short_lines(tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "summary", tmp_path / "nothing.safetensors")
    assert str(caught.value).startswith("vtl: weights=")
    assert "no such file or finished run" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.fixture
def tiny(tmp_path):
    return write_weights(tmp_path / "tiny.safetensors")


@pytest.fixture
def a_source(tmp_path, monkeypatch, tiny):
    """The path of a source's file; somebody copies the tiny network there by hand."""
    monkeypatch.setenv("VTL_CACHE", str(tmp_path / "cache"))
    download = fetch.Download("served.safetensors", ("https://localhost:1/served.safetensors",))
    source = sources.Source(download, "ResNet-18", 11_689_512, TORCHVISION, None, "MIT")
    monkeypatch.setitem(sources.SOURCES, "served", source)
    return tmp_path / "cache" / "weights" / "served.safetensors"


def copy(file, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.read_bytes())


def test_list_names_every_source_and_where_it_is(a_source, tiny, monkeypatch, capsys):
    run(monkeypatch, "list")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert sources.SOURCES.keys() < lines.keys()
    assert "ResNet-50                 76.13   103 MB  BSD-3-Clause" in lines["torchvision_v1"]
    assert "caffe, nearest 256 > 224" in lines["keras_v1"]
    assert lines["served"].split()[2] == lines["served"].split()[-1] == "-"
    copy(tiny, a_source)
    run(monkeypatch, "list")
    last = [line for line in capsys.readouterr().out.splitlines() if line.startswith("served")][-1]
    assert last.split()[-1] == str(a_source)


def test_fetch_says_where_and_pins_the_hash(a_source, tiny, monkeypatch, capsys):
    monkeypatch.setenv("VTL_OFFLINE", "1")
    with pytest.raises(
        SystemExit, match=r"could not fetch served.safetensors \(VTL_OFFLINE is set\)"
    ):
        run(monkeypatch, "fetch", "served")
    copy(tiny, a_source)
    run(monkeypatch, "fetch", "served")
    assert capsys.readouterr().out == (
        f"served: {a_source}, {tiny.stat().st_size:,} bytes, sha256 {files.file_sha256(tiny)}\n"
    )
    a_source.write_bytes(tiny.read_bytes()[:-1] + b"x")
    with pytest.raises(
        SystemExit, match=r"is not the expected file: .* the first one had"
    ) as caught:
        run(monkeypatch, "fetch", "served")
    assert len(str(caught.value).splitlines()) <= 3
    with pytest.raises(SystemExit, match="nothing is no source"):
        run(monkeypatch, "fetch", "nothing")


def test_inspect(tiny, monkeypatch, capsys):
    run(monkeypatch, "inspect", tiny)
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines()[:-1])
    facts = {name: value.strip() for name, value in lines.items()}
    assert facts["format"] == "safetensors, stored as float32"
    assert facts["network"] == "ResNet-18 of width 0.125, v1.5 stride, eps 1e-05"
    assert facts["classes"] == "7"
    assert facts["parameters"] == "177,167, and 1,200 running statistics"
    assert facts["sha256"] == files.file_sha256(tiny)
    for fact in ("RGB/255 with torchvision's mean and std", "bilinear resize_crop to 256", "224"):
        assert fact in facts["preprocessing"]
    assert facts["class names"].endswith("other 6 (several per photo)")


def test_inspect_names_a_known_file_and_what_is_unusual(monkeypatch, capsys, tiny, tmp_path):
    run(monkeypatch, "inspect", "demo")
    out = capsys.readouterr().out
    assert "stored as float16" in out
    assert out.count("(demo)") == 1
    run(monkeypatch, "inspect", tiny)
    assert "FAULT mean 0 and variance 1 in all BatchNorms" in capsys.readouterr().out


def test_convert_keeps_every_number_and_applies_the_options(tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.safetensors"
    run(monkeypatch, "convert", tiny, "-o", out)
    before, after = sources.load(str(tiny)), sources.load(str(out))
    assert before.tensors.keys() == after.tensors.keys()
    for name, tensor in before.tensors.items():
        np.testing.assert_array_equal(after.tensors[name], tensor)
    for field in ("architecture", "preprocessing", "classes", "multi_label"):
        assert getattr(after, field) == getattr(before, field)

    seven = (0.5,) * 7
    decisions = Decisions(seven, seven, seven, "f1", "200 photos of val")
    with_thresholds = tmp_path / "decided.safetensors"
    variables = traverse_util.unflatten_dict(
        {tuple(name.split("/")): tensor for name, tensor in before.tensors.items()}
    )
    sources.save(
        with_thresholds,
        variables,
        before.architecture,
        before.preprocessing,
        before.classes,
        multi_label=True,
        decisions=decisions,
    )
    run(monkeypatch, "convert", with_thresholds, "-o", out)
    assert sources.load(str(out)).decisions == decisions
    run(monkeypatch, "inspect", out)
    assert "by f1, chosen on 200 photos of val" in capsys.readouterr().out

    run(monkeypatch, "convert", tiny, "-o", out, "--preprocessing=caffe", "--dtype=float16")
    other = sources.load(str(out))
    assert other.preprocessing == verify.with_pixels(before.preprocessing, CAFFE)
    assert other.dtypes == ("float16",)
    assert out.stat().st_size < 0.6 * tiny.stat().st_size
    run(monkeypatch, "convert", tiny, "-o", out, "--channels=bgr", "--epsilon=0.001")
    other = sources.load(str(out))
    assert other.preprocessing == dataclasses.replace(before.preprocessing, channels="bgr")
    assert other.architecture.epsilon == 0.001


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--epsilon=-1"], "2"),
        (["--epsilon=nan"], "2"),
        (["--preprocessing=jpeg"], "2"),
        (["--variant=v1"], "a ResNet-18 is the same in v1 and v1.5"),
    ],
)
def test_convert_refuses_bad_options(tiny, tmp_path, monkeypatch, options, text):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "convert", tiny, "-o", tmp_path / "out.safetensors", *options)
    assert text in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_convert_where_nothing_can_be_written(tiny, tmp_path, monkeypatch):
    for place in (tmp_path / "missing" / "out.safetensors", tmp_path, tiny / "out.safetensors"):
        with pytest.raises(SystemExit, match="cannot read or write"):
            run(monkeypatch, "convert", tiny, "-o", place)
    with pytest.raises(SystemExit, match="no such file"):
        run(monkeypatch, "convert", "x" * 5000, "-o", tmp_path / "out.safetensors")
    tensors = dict(formats.read(tiny).tensors)
    del tensors["layer3.1.bn2.weight"]
    safetensors.write(tmp_path / "part.safetensors", tensors, {})
    with pytest.raises(SystemExit, match="the weights lack params/layer3_1/bn2/scale"):
        run(monkeypatch, "convert", tmp_path / "part.safetensors", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_convert_of_a_file_without_a_head(tiny, tmp_path, monkeypatch):
    tensors = {k: v for k, v in formats.read(tiny).tensors.items() if not k.startswith("fc.")}
    safetensors.write(tmp_path / "headless.safetensors", tensors, {})
    run(
        monkeypatch,
        "convert",
        tmp_path / "headless.safetensors",
        "-o",
        tmp_path / "out.safetensors",
    )
    weights = sources.load(str(tmp_path / "out.safetensors"))
    assert weights.architecture.num_classes is None
    assert weights.classes is None


def test_numbers_that_are_none_are_looked_at_and_not_used(tiny, tmp_path, monkeypatch, capsys):
    file = formats.read(tiny)
    broken = file.tensors["layer3.0.bn2.running_var"].copy()
    broken[3] = np.nan
    nan = tmp_path / "nan.safetensors"
    tensors = file.tensors | {"layer3.0.bn2.running_var": broken}
    safetensors.write(nan, tensors, file.metadata)
    run(monkeypatch, "inspect", nan)
    fault = "FAULT batch_stats/layer3_0/bn2/var holds NaN or infinity"
    assert fault in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "verify", nan)
    assert caught.value.code == 1
    assert fault in capsys.readouterr().out
    for command_, *more in (
        ["summary"],
        ["convert", "-o", tmp_path / "out"],
        ["classify", "x.jpg"],
    ):
        with pytest.raises(SystemExit, match=r"batch_stats/layer3_0/bn2/var holds NaN or infinity"):
            run(monkeypatch, command_, nan, *more)
    assert not (tmp_path / "out").exists()


def test_convert_names_the_classes_of_a_head(tiny, tmp_path, monkeypatch):
    tensors = formats.read(tiny).tensors
    safetensors.write(tmp_path / "plain.safetensors", tensors, {})
    names, out = tmp_path / "names.txt", tmp_path / "out.safetensors"
    arguments = ("convert", tmp_path / "plain.safetensors", "-o", out, f"--classes={names}")
    names.write_text("".join(f"name {i}\n" for i in range(7)))
    run(monkeypatch, *arguments)
    assert sources.load(str(out)).classes == tuple(f"name {i}" for i in range(7))
    for text, said in (("a\nb\n", "has 2 names, and the head has 7"), ("a\n" * 7, "twice")):
        names.write_text(text)
        with pytest.raises(SystemExit, match=said):
            run(monkeypatch, *arguments)


@pytest.mark.full
def test_verify_prints_the_verdict_and_fails_on_a_fault(tiny, monkeypatch, capsys):
    run(monkeypatch, "verify", "demo")
    out = capsys.readouterr().out
    assert out.startswith("ok ")
    assert "known file (demo)" in out
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "verify", tiny)
    assert caught.value.code == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("FAULT mean 0 and variance 1 in all BatchNorms")
    assert "never trained" in line


def test_classify(tmp_path, monkeypatch, capsys):
    """The demo's network knows letters and shapes, one per picture."""
    pictures = glyphs.Glyphs(8, 48, 1)
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for path, pixels in zip(paths, pictures[np.arange(8)], strict=True):
        Image.fromarray(pixels).save(path)
    run(monkeypatch, "classify", "demo", *paths)
    lines = capsys.readouterr().out.splitlines()
    assert lines[::6] == [str(path) for path in paths]
    first = [line.split()[-1] for line in lines[1::6]]
    right = [glyphs.CLASSES[label] for label in pictures.labels]
    assert sum(a == b for a, b in zip(first, right, strict=True)) >= 6


@pytest.mark.full
def test_classify_with_a_run_of_several_classes_per_photo(tiny, tmp_path, monkeypatch, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (26, 30, 3), np.uint8)
    photo = Image.fromarray(pixels).resize((300, 260), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "photo.jpg")
    (tmp_path / "run").mkdir()
    tiny.rename(tmp_path / "run" / "model.safetensors")
    run(monkeypatch, "classify", tmp_path / "run", tmp_path / "photo.jpg")
    lines = capsys.readouterr().out.splitlines()
    weights = sources.load(str(tmp_path / "run"))
    model, variables = network.as_published(weights)
    photo = images.load_rgb(tmp_path / "photo.jpg")
    pixels = images.resize(photo, 256, "resize_crop", "bilinear")[None, 16:240, 16:240]
    logits, _ = model.apply(variables, normalise(pixels, weights.preprocessing), norms_by_batch=())
    scores = 1 / (1 + np.exp(-np.asarray(logits)[0]))
    expected = [f"{scores[c]:.1%}  other {c}" for c in np.argsort(-scores)[:5]]
    assert [line.strip() for line in lines[1:]] == expected


def test_classify_refuses_bad_input(tiny, tmp_path, monkeypatch):
    Image.new("RGB", (300, 260)).save(tmp_path / "photo.jpg")
    with pytest.raises(SystemExit, match=r"none.jpg can't be opened: No such file"):
        run(monkeypatch, "classify", tiny, tmp_path / "none.jpg")
    tensors = {k: v for k, v in formats.read(tiny).tensors.items() if not k.startswith("fc.")}
    safetensors.write(tmp_path / "headless.safetensors", tensors, {})
    with pytest.raises(SystemExit, match="has no head"):
        run(monkeypatch, "classify", tmp_path / "headless.safetensors", tmp_path / "photo.jpg")


def test_imagenets_names():
    weights = dataclasses.replace(
        sources.load("demo"),
        classes=None,
        architecture=dataclasses.replace(sources.load("demo").architecture, num_classes=1000),
    )
    names = sources.class_names(weights)
    assert len(set(names)) == 1000
    assert [names[c] for c in (0, 950, 951, 999)] == ["tench", "orange", "lemon", "toilet tissue"]


@pytest.fixture
def special(tmp_path):
    """A network whose head isn't torchvision's."""
    weights = sources.load(str(write_weights(tmp_path / "tiny.safetensors")))
    net = network.Network(
        network.make_model(weights.architecture), weights.architecture, weights.preprocessing, None
    )
    net = network.with_head(net, pooling="average", transform="sqrt_l2", regions=3)
    variables = network.as_published(weights)[1]
    path = tmp_path / "special.safetensors"
    network.save(path, variables, net, weights.classes, multi_label=True)
    return path


def test_a_special_head_is_shown_and_noted(special, monkeypatch, capsys):
    expected = "the average of the last stage, its square roots divided by their norm; a logit is"
    run(monkeypatch, "summary", special)
    assert f"the head sees {expected}" in capsys.readouterr().out
    run(monkeypatch, "inspect", special)
    out = capsys.readouterr().out
    assert f"head:          {expected}" in out
    assert "note  the head is not the published one" in out


def test_a_special_head_is_kept_by_a_conversion(special, tmp_path, monkeypatch):
    run(monkeypatch, "convert", special, "-o", tmp_path / "out.safetensors")
    before, after = (sources.load(str(p)) for p in (special, tmp_path / "out.safetensors"))
    assert after.architecture == before.architecture
    assert not after.architecture.has_plain_head


@pytest.mark.parametrize(
    "change",
    [{"pooling": "median"}, {"transform": 3}, {"regions": 1}, {"regions": 8}, {"regions": 2.0}],
)
def test_a_head_that_vtl_does_not_know_is_one_line(special, tmp_path, change):
    file = formats.read(special)
    meta = json.loads(file.metadata["vtl"])
    meta["architecture"] |= change
    safetensors.write(tmp_path / "x.safetensors", file.tensors, {"vtl": json.dumps(meta)})
    with pytest.raises(UserError, match="its metadata `vtl` is damaged") as caught:
        sources.load(str(tmp_path / "x.safetensors"))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("regions", [1, 8, -1, 2.5])
def test_a_number_of_regions_that_means_nothing(special, regions):
    weights = sources.load(str(special))
    net = network.Network(
        network.make_model(weights.architecture), weights.architecture, None, None
    )
    with pytest.raises(UserError, match=r"regions must be 0, or from 2 to 7"):
        network.with_head(net, pooling="average", transform="none", regions=regions)
