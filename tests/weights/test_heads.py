"""Heads meet classes by name, and a damaged one is one line."""

import json

import numpy as np
import pytest

from tests.tiny import write_weights
from tests.weights.files import normal
from vtl.decisions import Decisions
from vtl.errors import UserError
from vtl.models import HEAD
from vtl.models.resnet import Architecture
from vtl.preprocessing import TORCHVISION
from vtl.weights import formats, heads, metadata, sources
from vtl.weights.formats import safetensors

CLASSES = ("cat", "dog", "emu")
NETWORK = Architecture(18, 1 / 64, "v1.5", 1e-5, num_classes=None)


def saved_head(directory, *, classes=CLASSES, features=None):
    kernel, bias = normal(NETWORK.num_channels, len(classes)), normal(len(classes)) + 1
    features = {"weights": {"sha256": "a" * 64}} if features is None else features
    heads.save(directory, kernel, bias, classes=classes, features=features)
    return kernel, bias


def load(directory, classes=CLASSES):
    return heads.load(
        directory,
        classes=classes,
        weights_sha256="a" * 64,
        architecture=NETWORK,
        preprocessing=TORCHVISION,
    ).params


def refusal(call, *arguments, **options):
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    lines = str(caught.value).splitlines()
    assert len(lines) <= 3
    assert all(line.isprintable() for line in lines)
    return str(caught.value)


@pytest.mark.parametrize("order", [CLASSES, ("emu", "cat", "dog"), ("dog", "cat", "emu")])
def test_a_probes_columns_go_by_name(tmp_path, order):
    kernel, bias = saved_head(tmp_path)
    head = load(tmp_path, order)
    for column, name in enumerate(order):
        np.testing.assert_array_equal(head["kernel"][:, column], kernel[:, CLASSES.index(name)])
        assert head["bias"][column] == bias[CLASSES.index(name)]


@pytest.mark.parametrize(
    ("have", "want", "message"),
    [
        (CLASSES, ("cat", "dog", "zebra"), "only the head has emu; only the data has zebra"),
        (CLASSES, ("cat", "dog"), "only the head has emu"),
        (("cat", "dog"), CLASSES, "only the data has emu"),
        (("cat", "cat", "dog"), ("cat", "dog", "cat"), "a name is there twice"),
    ],
)
def test_a_head_for_other_classes_is_refused_by_name(tmp_path, have, want, message):
    saved_head(tmp_path, classes=have)
    assert message in refusal(load, tmp_path, want)


def test_a_repeated_name_in_the_same_order_is_the_same(tmp_path):
    kernel, _ = saved_head(tmp_path, classes=("cat", "cat"))
    np.testing.assert_array_equal(load(tmp_path, ("cat", "cat"))["kernel"], kernel)


def test_features_that_name_no_weights_are_a_line(tmp_path, caplog):
    saved_head(tmp_path, features={})
    load(tmp_path)
    assert "its features don't say of which weights they are" in caplog.text


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"weights": {"sha256": "b" * 64}}, "its features came from other weights (sha256 bbbb"),
        ({"layer": "layer3"}, "its features are 8 numbers of layer3 with pool=1"),
        ({"pool": 2}, "its features are 8 numbers of layer4 with pool=2"),
    ],
)
def test_features_of_another_network_are_refused(tmp_path, features, message):
    saved_head(tmp_path, features=features)
    assert message in refusal(load, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: "{",
        lambda meta: "[" * 100_000,
        lambda meta: "[]",
        lambda meta: "{}",
        lambda meta: json.dumps(meta | {"classes": 3}),
        lambda meta: json.dumps(meta | {"classes": []}),
        lambda meta: json.dumps(meta | {"classes": ["\x1b[31m", "a", "b"]}),
        lambda meta: json.dumps(meta | {"features": []}),
        lambda meta: json.dumps(meta | {"features": {"weights": 3}}),
        lambda meta: json.dumps(meta | {"features": {"weights": {"sha256": 3}}}),
        lambda meta: json.dumps(meta | {"features": {"weights": {"preprocessing": {}}}}),
        lambda meta: json.dumps(meta | {"features": {"layer": None}}),
        lambda meta: json.dumps(meta | {"features": {"pool": "1"}}),
    ],
)
def test_damaged_metadata_of_a_head_is_one_line(tmp_path, change):
    saved_head(tmp_path)
    file = formats.read(tmp_path / heads.FILE_NAME)
    meta = json.loads(file.metadata["vtl_head"])
    safetensors.write(tmp_path / heads.FILE_NAME, file.tensors, {"vtl_head": change(meta)})
    message = refusal(load, tmp_path)
    assert message.startswith(f"{tmp_path / heads.FILE_NAME}: its metadata `vtl_head` is damaged")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "it lacks fc.bias, fc.weight"),
        ({"fc.weight": normal(3, 4)}, "it lacks fc.bias"),
        ({"fc.weight": normal(3, 4), "fc.bias": normal(2)}, "don't fit its 3 classes"),
        ({"fc.weight": normal(3), "fc.bias": normal(3)}, "don't fit its 3 classes"),
        ({"fc.weight": np.full((3, 4), np.nan, np.float32), "fc.bias": normal(3)}, "fc.weight"),
        ({"fc.weight": normal(3, 4), "fc.bias": np.ones(3, int)}, "fc.bias holds other than"),
    ],
)
def test_damaged_tensors_of_a_head_are_named(tmp_path, tensors, message):
    meta = {"vtl_head": metadata.head_text(CLASSES, {}, "none")}
    safetensors.write(tmp_path / heads.FILE_NAME, tensors, meta)
    assert message in refusal(load, tmp_path)


def test_a_file_of_something_else_is_no_head(tmp_path):
    assert "no finished probe there" in refusal(load, tmp_path)
    write_weights(tmp_path / heads.FILE_NAME)
    assert "it lacks the metadata `vtl_head`" in refusal(load, tmp_path)


# The weights' own head


def test_a_kept_heads_columns_go_by_name(tmp_path):
    weights = sources.load(str(write_weights(tmp_path / "tiny.safetensors")))
    order = weights.classes[::-1]
    same, reversed_ = (heads.keep(weights, names).params for names in (weights.classes, order))
    np.testing.assert_array_equal(same["kernel"], weights.tensors["params/fc/kernel"])
    np.testing.assert_array_equal(reversed_["kernel"], same["kernel"][:, ::-1])
    np.testing.assert_array_equal(reversed_["bias"], same["bias"][::-1])
    message = refusal(heads.keep, weights, ("zebra", *weights.classes[1:]))
    assert "only the head has other 0; only the data has zebra" in message


def test_a_head_that_names_no_classes_is_no_match(tmp_path):
    file = formats.read(write_weights(tmp_path / "tiny.safetensors"))
    safetensors.write(tmp_path / "plain.safetensors", file.tensors, {})
    weights = sources.load(str(tmp_path / "plain.safetensors"))
    message = refusal(heads.keep, weights, tuple(f"other {i}" for i in range(7)))
    assert "doesn't say which of its 7 columns is of which class" in message
    assert "choose head=probe, zeros or random" in message
    assert "--classes=NAMES.txt" in message
    headless = {name: t for name, t in file.tensors.items() if not name.startswith("fc.")}
    safetensors.write(tmp_path / "plain.safetensors", headless, {})
    weights = sources.load(str(tmp_path / "plain.safetensors"))
    assert "has no head: choose" in refusal(heads.keep, weights, ("cat",))


def test_a_thousand_columns_without_names_are_imagenets(tmp_path):
    file = formats.read(write_weights(tmp_path / "tiny.safetensors"))
    tensors = file.tensors | {"fc.weight": normal(1000, 64), "fc.bias": normal(1000)}
    safetensors.write(tmp_path / "plain.safetensors", tensors, {})
    weights = sources.load(str(tmp_path / "plain.safetensors"))
    names = sources.known_class_names(weights)
    moved = names[1:] + names[:1]
    kept = heads.keep(weights, moved).params
    np.testing.assert_array_equal(kept["bias"], np.roll(tensors["fc.bias"], -1))


def test_nan_in_the_head_is_named_where_the_head_is_used(tmp_path):
    file = formats.read(write_weights(tmp_path / "tiny.safetensors"))
    tensors = file.tensors | {"fc.bias": np.full(7, np.nan, np.float32)}
    safetensors.write(tmp_path / "nan.safetensors", tensors, file.metadata)
    weights = sources.load(str(tmp_path / "nan.safetensors"))
    assert "params/fc/bias holds NaN" in refusal(heads.keep, weights, weights.classes)
    tensors |= {"fc.bias": tensors["fc.weight"][:, 0], "bn1.bias": np.full(8, np.inf, np.float32)}
    safetensors.write(tmp_path / "nan.safetensors", tensors, file.metadata)
    message = refusal(sources.load, str(tmp_path / "nan.safetensors"))
    assert message.startswith(f"{tmp_path / 'nan.safetensors'}: params/bn1/bias holds NaN")
    assert sources.load(str(tmp_path / "nan.safetensors"), must_work=False).classes


def test_a_probe_and_its_network_are_one_network(tmp_path):
    path = write_weights(tmp_path / "trunk.safetensors")
    trunk = sources.load(str(path))
    decisions = Decisions((1.0,) * 3, (0.0,) * 3, (0.5,) * 3, "f1", "val")
    width = trunk.architecture.num_channels
    kernel, bias = normal(width, 3), normal(3)
    (tmp_path / "probe").mkdir()
    heads.save(
        tmp_path / "probe",
        kernel,
        bias,
        classes=CLASSES,
        features={"weights": trunk.record(TORCHVISION) | {"name": str(path)}},
        transform="sqrt_l2",
        decisions=decisions,
    )
    joined = heads.load_network(str(tmp_path / "probe"))
    assert joined.classes == CLASSES
    assert joined.multi_label
    assert joined.decisions == decisions
    assert joined.architecture.transform == "sqrt_l2"
    np.testing.assert_array_equal(joined.tensors[f"params/{HEAD}/kernel"], kernel)
    name = "params/layer1_0/conv1/kernel"
    np.testing.assert_array_equal(joined.tensors[name], trunk.tensors[name])

    moved = path.rename(tmp_path / "moved.safetensors")
    assert "--weights=FILE" in refusal(heads.load_network, str(tmp_path / "probe"))
    again = heads.load_network(str(tmp_path / "probe"), trunk=str(moved))
    assert again.sha256 == joined.sha256
    message = refusal(heads.load_network, str(tmp_path / "probe"), trunk="demo")
    assert "other weights" in message
    assert "leave it out" in refusal(heads.load_network, "demo", trunk=str(moved))
