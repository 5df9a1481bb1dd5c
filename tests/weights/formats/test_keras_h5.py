import zipfile

import h5py
import numpy as np
import pytest

from tests.weights.files import assert_same, normal, refusal, saved
from vtl.errors import UserError
from vtl.weights import formats


def keras_file(path, weights, under="", pieces=1):
    """Writes {layer: {weight name: array}} as Keras does; `pieces` as for a long list of names."""
    with h5py.File(path, "w") as file:
        root = file.require_group(under) if under else file

        def name(group, attribute, names):
            split = np.array_split(np.array([n.encode() for n in names]), pieces)
            for piece, part in enumerate(split):
                group.attrs[attribute if pieces == 1 else f"{attribute}{piece}"] = part

        name(root, "layer_names", list(weights))
        for layer, arrays in weights.items():
            group = root.create_group(layer)
            name(group, "weight_names", list(arrays))
            for weight, array in arrays.items():
                group[weight] = array


KERNEL = {"conv1_conv": {"conv1_conv/kernel:0": normal(7, 7, 3, 8)}}


@pytest.mark.parametrize("under", ["", "model_weights"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_keras_layout(tmp_path, under, pieces):
    gamma, half = normal(8), normal(8).astype(np.float16)
    weights = {
        "input_1": {},
        **KERNEL,
        "conv1_bn": {"conv1_bn/gamma:0": gamma, "conv1_bn/moving_mean:0": half},
        "probs": {"probs/kernel": gamma.astype(">f4"), "step": np.array(5)},
    }
    keras_file(tmp_path / "w.pth", weights, under, pieces)
    read = formats.read(tmp_path / "w.pth")
    assert read.format == "keras_legacy_h5"
    assert read.metadata == {}
    assert read.dtypes == ("float16", "float32")
    expected = {
        "conv1_conv/kernel": KERNEL["conv1_conv"]["conv1_conv/kernel:0"],
        "conv1_bn/gamma": gamma,
        "conv1_bn/moving_mean": half.astype(np.float32),
        "probs/kernel": gamma,
        "step": np.array(5),
    }
    assert_same(read.tensors, expected)


def test_keras_links_lead_nowhere(tmp_path):
    secret, path = tmp_path / "secret.h5", tmp_path / "w.h5"
    keras_file(secret, KERNEL)
    for link in (h5py.ExternalLink(secret, "/conv1_conv"), h5py.SoftLink("/elsewhere")):
        keras_file(path, KERNEL)
        with h5py.File(path, "a") as file:
            del file["conv1_conv"]
            file["conv1_conv"] = link
        assert "conv1_conv is a link to somewhere else; refused" in refusal(path)
    with h5py.File(path, "w") as file:
        file["model_weights"] = h5py.ExternalLink(secret, "/")
    assert "model_weights is a link to somewhere else; refused" in refusal(path)


def external(group, name, path):
    group.create_dataset(name, (4,), "f4", external=[(str(path), 0, 16)])


def virtual(group, name, path):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(path, "data", (4,))
    group.create_virtual_dataset(name, layout)


def compressed(group, name, path):
    group.create_dataset(name, (1 << 20,), "f4", compression="gzip")


def strings(group, name, path):
    group.create_dataset(name, data=["a", "b"])


def records(group, name, path):
    group.create_dataset(name, (2,), np.dtype([("a", "f4")]))


def deeper(group, name, path):
    group.create_group(name)


@pytest.mark.parametrize("write", [external, virtual, compressed, strings, records, deeper])
def test_keras_weights_are_plain_arrays(tmp_path, write):
    path = tmp_path / "w.h5"
    keras_file(path, KERNEL)
    other = saved(tmp_path, bytes(16), "other.bin")
    with h5py.File(path, "a") as file:
        del file["conv1_conv/conv1_conv/kernel:0"]
        write(file["conv1_conv"], "conv1_conv/kernel:0", other)
    assert "conv1_conv/kernel:0 isn't a plain array of numbers" in refusal(path)


def test_keras_sizes_are_held_against_the_file(tmp_path):
    path = tmp_path / "w.h5"
    keras_file(path, KERNEL)
    with h5py.File(path, "a") as file:
        del file["conv1_conv/conv1_conv/kernel:0"]
        # never written, so it takes no room until it is read
        file.create_dataset("conv1_conv/conv1_conv/kernel:0", (1 << 40,), "f4")
    assert "list of weights promises 4398046511104 bytes" in refusal(path)
    # one array under many names
    keras_file(path, KERNEL)
    with h5py.File(path, "a") as file:
        group = file["conv1_conv"]
        for name in map(str, range(9)):
            group[name] = group["conv1_conv/kernel:0"]
        group.attrs["weight_names"] = [b"%d" % n for n in range(9)]
    assert "list of weights promises" in refusal(path)


def test_keras_incomplete(tmp_path):
    path = tmp_path / "w.h5"
    keras_file(path, KERNEL)
    with h5py.File(path, "a") as file:
        del file["conv1_conv/conv1_conv/kernel:0"]
    assert "lists conv1_conv/kernel:0 but doesn't hold it" in refusal(path)
    keras_file(path, {"a": {"w": normal(2)}, "b": {"w": normal(2)}})
    assert "has two weights named w" in refusal(path)
    keras_file(path, KERNEL)
    whole = path.read_bytes()
    for size in (8, 100, len(whole) // 2, len(whole) - 1):
        refusal(saved(tmp_path, whole[:size]))


def test_other_hdf5(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file["images"] = normal(3)
    assert "is HDF5 of no known layout; expected" in refusal(path)


# Keras 3


def keras_3_file(path, variables, names=None):
    """Writes {group: [array, ...]} as `save_weights` does; `names` are the layers' own, by group.

    Versions that note no names leave out the groups of layers without variables.
    """
    with h5py.File(path, "w") as file:
        for group, arrays in variables.items():
            stored = file.create_group(f"{group}/vars")
            if names:
                stored.attrs["name"] = names[group]
            for index, array in enumerate(arrays):
                stored[str(index)] = array


NUMBERED = {
    "layers/conv2d": [normal(7, 7, 3, 8), normal(8)],
    "layers/batch_normalization": [normal(8), normal(8).astype(np.float16)],
    "optimizer": [np.array(3)],
}
NAMED = {
    "layers/conv2d": "conv1_conv",
    "layers/batch_normalization": "conv1_bn",
    "optimizer": "adam",
}


def keras_archive(path, data, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", data)


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(
    ("names", "conv", "norm"),
    [
        (NAMED, "conv1_conv", "conv1_bn"),
        (None, "layers/conv2d", "layers/batch_normalization"),
    ],
)
def test_keras_3_layers_go_by_their_own_names_or_their_numbers(
    tmp_path, archived, names, conv, norm
):
    path = tmp_path / "w.weights.h5"
    keras_3_file(path, NUMBERED, names)
    if archived:
        keras_archive(tmp_path / "w.keras", path.read_bytes())
        path = tmp_path / "w.keras"
    weights = formats.read(path)
    assert weights.format == "keras3_weights_h5"
    assert weights.metadata == {}
    assert weights.dtypes == ("float16", "float32")
    kernel, bias = NUMBERED["layers/conv2d"]
    gamma, beta = NUMBERED["layers/batch_normalization"]
    expected = {
        f"{norm}/vars/0": gamma,
        f"{norm}/vars/1": beta.astype(np.float32),
        f"{conv}/vars/0": kernel,
        f"{conv}/vars/1": bias,
        "optimizer/vars/0": np.array(3),
    }
    assert_same(weights.tensors, expected)


def test_keras_3_names_of_nested_models_and_their_clashes(tmp_path):
    path = tmp_path / "w"
    variables = {"layers/functional/layers/conv2d": [normal(3)], "layers/dense": [normal(2)]}
    keras_3_file(path, variables)
    assert sorted(formats.read(path).tensors) == [f"{group}/vars/0" for group in sorted(variables)]
    keras_3_file(path, variables, dict(zip(variables, ["conv1_conv", "dense"], strict=True)))
    assert sorted(formats.read(path).tensors) == ["conv1_conv/vars/0", "dense/vars/0"]
    keras_3_file(path, variables, dict.fromkeys(variables, "same"))
    assert "has two weights named same/vars/0" in refusal(path)


def test_keras_3_links_lead_nowhere(tmp_path):
    secret, path = tmp_path / "secret.h5", tmp_path / "w"
    keras_3_file(secret, NUMBERED)
    for link in (h5py.ExternalLink(secret, "/layers/conv2d"), h5py.SoftLink("/optimizer")):
        for at in ("layers/dense", "layers/conv2d/vars/2", "elsewhere"):
            keras_3_file(path, NUMBERED)
            with h5py.File(path, "a") as file:
                file[at] = link
            assert f"{at.rpartition('/')[2]} is a link to somewhere else" in refusal(path)
    for target in ("/", "layers", "layers/conv2d"):
        keras_3_file(path, NUMBERED)
        with h5py.File(path, "a") as file:
            file["layers/conv2d/again"] = file[target]
        assert "layers/conv2d/again is in this file under two names; refused" in refusal(path)


@pytest.mark.parametrize("write", [external, virtual, compressed, strings, records])
def test_keras_3_variables_are_plain_arrays(tmp_path, write):
    path = tmp_path / "w"
    keras_3_file(path, NUMBERED)
    other = saved(tmp_path, bytes(16), "other.bin")
    with h5py.File(path, "a") as file:
        write(file["layers/conv2d/vars"], "2", other)
    assert "layers/conv2d/vars/2 isn't a plain array of numbers" in refusal(path)
    keras_archive(tmp_path / "w.keras", path.read_bytes())
    assert "layers/conv2d/vars/2 isn't a plain array" in refusal(tmp_path / "w.keras")


def test_keras_3_sizes_are_held_against_the_file(tmp_path):
    path = tmp_path / "w"
    keras_3_file(path, NUMBERED)
    with h5py.File(path, "a") as file:
        file.create_dataset("layers/dense/vars/0", (1 << 40,), "f4")
    assert "list of weights promises" in refusal(path)
    keras_archive(tmp_path / "w.keras", path.read_bytes())
    assert "list of weights promises" in refusal(tmp_path / "w.keras")


def test_keras_3_archives_are_stored_and_whole(tmp_path):
    path = tmp_path / "w.keras"
    keras_archive(path, bytes(1 << 20), zipfile.ZIP_DEFLATED)
    assert "is a compressed zip" in refusal(path)
    keras_archive(path, b"no HDF5")
    assert "damaged or incomplete" in refusal(path)
    keras_3_file(tmp_path / "w", NUMBERED)
    whole = (tmp_path / "w").read_bytes()
    keras_archive(path, whole[: len(whole) // 2])
    assert "damaged or incomplete" in refusal(path)
    keras_archive(path, whole)
    assert "looks truncated" in refusal(saved(tmp_path, path.read_bytes()[:-100]))


# What the file says of its model


@pytest.mark.parametrize("kind", [bytes, str])
def test_the_config_of_a_model_is_read_beside_its_weights(tmp_path, kind):
    path = tmp_path / "w.h5"
    keras_file(path, KERNEL, under="model_weights")
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = b"{}" if kind is bytes else "{}"
    assert formats.read(path).metadata == {"model_config": "{}"}
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = 3
    assert formats.read(path).metadata == {}
    keras_3_file(path, NUMBERED)
    keras_archive(tmp_path / "w.keras", path.read_bytes())
    with zipfile.ZipFile(tmp_path / "w.keras", "a") as archive:
        archive.writestr("config.json", '{"class_name": "Functional"}')
    found = formats.read(tmp_path / "w.keras").metadata
    assert found == {"model_config": '{"class_name": "Functional"}'}


def test_keras_names_and_layers_are_counted_before_they_are_read(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w", track_order=True) as file:
        file.create_group("model_weights")
        file["model_weights"].attrs.create("layer_names", np.full(20_001, b"a"))
    assert "holds 20,001 names" in refusal(path)
    with h5py.File(path, "w") as file:
        for number in range(20_001):
            file.create_group(f"layers/{number}", track_order=False)
    assert "holds 20,001 entries in one place" in refusal(path)
    # Names that are texts of any length, which could all be the one long text.
    for length, is_read in ((100, True), (1 << 20, False)):
        keras_file(path, KERNEL)
        with h5py.File(path, "a") as file:
            file.attrs["model_config"] = "x" * length
            names = np.array(["conv1_conv", *[""] * 2_000], dtype=object)
            file.attrs.create("layer_names", names, dtype=h5py.string_dtype())
        message = refusal(path)
        assert ("holds 2001 names of up to 1,0" in message) != is_read


# Held against Keras


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


def small_model(keras):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv1_conv")(inputs)
    x = keras.layers.BatchNormalization(name="conv1_bn")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="predictions")(x))


@pytest.mark.parity
def test_keras_own_files(tmp_path, keras):
    from keras.src.legacy.saving import legacy_h5_format

    model = small_model(keras)
    weights_only, full = tmp_path / "weights.h5", tmp_path / "full.h5"
    with h5py.File(weights_only, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    legacy_h5_format.save_model_to_hdf5(model, full)
    expected = {variable.path: np.asarray(variable.value) for variable in model.weights}
    assert "conv1_bn/moving_variance" in expected
    for path in (weights_only, full):
        tensors = formats.read(path).tensors
        assert_same({name: tensors.pop(name) for name in expected}, expected)
        assert tensors == {}


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_keras_3_own_files(tmp_path, keras, dtype):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    model = small_model(keras)
    keras.config.set_dtype_policy(previous)
    model.compile("sgd", "mse")
    model.fit(np.zeros((1, 8, 8, 3)), np.zeros((1, 2)), verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    model.save(tmp_path / "model.keras")
    expected = {
        f"{layer.name}/vars/{index}": np.asarray(variable.value).astype(np.float32)
        for layer in model.layers
        for index, variable in enumerate(layer.weights)
    }
    assert len(expected) == 8
    for path in (tmp_path / "model.weights.h5", tmp_path / "model.keras"):
        weights = formats.read(path)
        assert weights.format == "keras3_weights_h5"
        assert dtype in weights.dtypes
        assert_same({name: weights.tensors.pop(name) for name in expected}, expected)
        assert all(name.startswith("optimizer/vars/") for name in weights.tensors)


@pytest.mark.parametrize("damage", ["endless text", "free space of no length"])
def test_a_damaged_heap_of_texts_is_refused(tmp_path, damage):
    """HDF5 itself runs on for ever."""
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["conv1_conv", "conv1_bn"]
    content = bytearray(path.read_bytes())
    text = content.index(b"GCOL") + 16
    if damage == "endless text":
        content[text + 8 : text + 16] = b"\xff" * 8
    else:
        content[text : text + 16] = bytes(16)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged: its texts"):
        formats.read(path)
