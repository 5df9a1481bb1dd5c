"""Checkpoints as trainings save them: `inspect` prints the commands that take a network out.

Each is written twice: by hand and, where torch is installed, by torch.save with real objects.
"""

import argparse
import collections
import functools
import os
import pathlib
import shlex
import sys
import tempfile
import time

import jax
import numpy as np
import pytest

from tests.tiny import write_weights
from tests.weights.formats.pickles import (
    Code,
    call,
    named,
    opaque,
    torch_file,
    value,
)
from vtl.errors import UserError
from vtl.models.vit import Architecture
from vtl.weights import __main__ as command
from vtl.weights import convert, extracts, formats, frameworks, sources
from vtl.weights import network as networks
from vtl.weights.formats import safetensors

OBJECT = "an object beside the tensors"
"""Stands for one in the checkpoints below."""


@functools.cache
def network(number=0):
    """The tensors of a ResNet-18 without a head; another number makes another network."""
    with tempfile.TemporaryDirectory() as directory:
        tensors = formats.read(write_weights(pathlib.Path(directory) / "tiny")).tensors
    body = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    return {name: tensor + np.float32(number / 8) for name, tensor in body.items()}


def layer(name, columns=64, rows=8):
    rng = np.random.default_rng(rows)
    weight = rng.normal(size=(rows, columns)).astype(np.float32)
    return {f"{name}.weight": weight, f"{name}.bias": weight[:, 0]}


def under(prefix, *tensors):
    return {prefix + name: t for some in tensors for name, t in some.items()}


def vit(columns=16):
    blocks = (f"blocks.{i}.{part}" for i in range(3) for part in ("norm1", "attn.qkv", "mlp.fc1"))
    layers = [layer(name, columns) for name in ("patch_embed.proj", "norm", *blocks)]
    return under("", {"cls_token": np.ones((1, 1, columns), np.float32)}, *layers)


def dino(backbone):
    return under("module.backbone.", backbone) | under(
        "module.head.", layer("mlp.0"), {"last_layer.weight_g": np.ones((9, 1), np.float32)}
    )


def mlp(name):
    return layer(f"{name}.0") | layer(f"{name}.2", 8)


def saved_by():
    """What a training saves -> (names, the options of the commands, whether a head is kept)."""
    one, two = network(), network(1)
    head = layer("fc", rows=7)
    momentum = {"state": {0: {"momentum_buffer": one["conv1.weight"]}}, "param_groups": [{"lr": 1}]}
    training = {"epoch": 3, "optimizer": momentum, "args": OBJECT}
    queue = {"module.queue": np.ones((8, 5), np.float32)}
    return {
        "moco_v1": (
            {
                "arch": "resnet18",
                "state_dict": under("module.encoder_q.", one, head)
                | under("module.encoder_k.", two, head)
                | queue,
                **training,
            },
            "MoCo v1 or v2, DataParallel",
            [
                "--key=state_dict --prefix=module.encoder_q. --drop=fc",
                "--key=state_dict --prefix=module.encoder_k. --drop=fc",
            ],
        ),
        "moco_v2 as published": (
            {"state_dict": under("module.encoder_q.", one, mlp("fc")), **training},
            "MoCo v1 or v2, DataParallel",
            ["--key=state_dict --prefix=module.encoder_q. --drop=fc"],
        ),
        "moco_v3": (
            {
                "state_dict": under("module.base_encoder.", one, mlp("fc"))
                | under("module.momentum_encoder.", two, mlp("fc"))
                | mlp("module.predictor"),
            },
            "MoCo v3, DataParallel",
            [
                "--key=state_dict --prefix=module.base_encoder. --drop=fc",
                "--key=state_dict --prefix=module.momentum_encoder. --drop=fc",
            ],
        ),
        "swav": (
            under("module.", one, mlp("projection_head"), layer("prototypes")),
            "SwAV or DeepCluster v2, DataParallel",
            [r"--prefix=module. --drop='projection\w*|prototypes\w*'"],
        ),
        "byol of lucidrains": (
            under("net.", one, head)
            | under("online_encoder.net.", one, head)
            | mlp("online_encoder.projector.net")
            | under("target_encoder.net.", two, head)
            | mlp("online_predictor.net"),
            "BYOL",
            [
                "--prefix=online_encoder.net. --drop=fc",
                "--prefix=net. --drop=fc",
                "--prefix=target_encoder.net. --drop=fc",
            ],
        ),
        "vicreg": (
            {"model": under("module.backbone.", one) | mlp("module.projector"), **training},
            "VICReg, DataParallel",
            ["--key=model --prefix=module.backbone."],
        ),
        "barlow twins": (
            {
                "model": under("module.backbone.", one)
                | mlp("module.projector")
                | {"module.bn.running_mean": np.ones(8, np.float32)},
                **training,
            },
            "Barlow Twins, DataParallel",
            ["--key=model --prefix=module.backbone."],
        ),
        "dino": (
            {
                "student": dino(two),
                "teacher": dino(one),
                "dino_loss": {"center": np.ones((1, 8), np.float32)},
                **training,
            },
            "DINO, iBOT or DINOv2, DataParallel",
            [
                "--key=teacher --prefix=module.backbone.",
                "--key=student --prefix=module.backbone.",
            ],
        ),
        "simsiam": (
            {"state_dict": under("module.encoder.", one, mlp("fc")) | mlp("module.predictor")},
            "SimSiam, DataParallel",
            ["--key=state_dict --prefix=module.encoder. --drop=fc"],
        ),
        "simclr": (
            {"state_dict": under("backbone.", one, mlp("fc")), **training},
            "SimCLR",
            ["--key=state_dict --prefix=backbone. --drop=fc"],
        ),
        "vissl": (
            {
                "phase": 3,
                "classy_state_dict": {
                    "base_model": {
                        "model": {
                            "trunk": under("_feature_blocks.", one),
                            "heads": layer("0.clf.0"),
                        },
                        "meters": {},
                    }
                },
            },
            "VISSL",
            ["--key=classy_state_dict.base_model.model.trunk --prefix=_feature_blocks."],
        ),
        "mmselfsup": (
            {
                "meta": {"config": "model = dict()", "hooks": OBJECT},
                "state_dict": under("backbone.", one) | mlp("neck") | mlp("head.predictor"),
            },
            "OpenMMLab",
            ["--key=state_dict --prefix=backbone."],
        ),
        "solo-learn": (
            {
                "pytorch-lightning_version": "1.9.0",
                "state_dict": under("backbone.", one)
                | under("momentum_backbone.", two)
                | mlp("momentum_projector")
                | layer("classifier"),
                "hyper_parameters": OBJECT,
            },
            "solo-learn, PyTorch Lightning",
            [
                "--key=state_dict --prefix=backbone.",
                "--key=state_dict --prefix=momentum_backbone.",
            ],
        ),
        "lightning": (
            {
                "pytorch-lightning_version": "2.1.0",
                "state_dict": under("model.", one, head)
                | {"criterion.pos_weight": np.ones(7, np.float32)},
                "callbacks": {"ModelCheckpoint": {"best_model_path": OBJECT}},
            },
            "PyTorch Lightning",
            ["--key=state_dict --prefix=model."],
            True,
        ),
        "data parallel": (
            {"state_dict": under("module.", one, head), **training},
            "DataParallel",
            ["--key=state_dict --prefix=module."],
            True,
        ),
        "compiled": (under("_orig_mod.", one, head), "torch.compile", [""], True),
        "timm": (
            {
                "arch": "resnet18",
                "state_dict": under("", two, head),
                "state_dict_ema": under("", one, head),
                **training,
            },
            "timm, an average of the weights (EMA)",
            ["--key=state_dict_ema", "--key=state_dict"],
            True,
        ),
        "torchvision": (
            {
                "model": under("", two, head),
                "model_ema": under("module.", one, head) | {"n_averaged": np.ones((), np.float32)},
                **training,
            },
            "an average of the weights (EMA), DataParallel",
            ["--key=model_ema --prefix=module.", "--key=model"],
            True,
        ),
        "flat": (one | {"epoch": 3, "args": OBJECT}, "", ["--drop='epoch|args'"]),
        "beside its average": (
            one | {"ema": {"model": two}, "epoch": 3},
            "an average of the weights (EMA)",
            ["--key=ema.model", "--key=. --drop='ema|epoch'"],
        ),
        "unknown": (
            {"critic": under("net.", one, layer("gate")), "actor": under("net.", two)},
            "",
            ["--key=critic --prefix=net. --drop=gate", "--key=actor --prefix=net."],
        ),
    }


CASES = tuple(saved_by())
each = pytest.mark.parametrize("case", CASES)


def run(monkeypatch, line):
    """Type a command line."""
    _, _, *arguments = shlex.split(line)
    monkeypatch.setattr(sys, "argv", ["vtl weights", *arguments])
    command.main()


def check(case, monkeypatch, capsys):
    """Type what `inspect` prints of saved.pth, in this directory."""
    _, names, options, *has_head = saved_by()[case]
    run(monkeypatch, "vtl weights inspect saved.pth")
    printed = capsys.readouterr().out
    assert (f"saved by:      {names}\n" in printed) == bool(names)
    convert = "vtl weights convert saved.pth -o out.safetensors"
    commands = [line.strip() for line in printed.splitlines() if line.startswith("    ")]
    assert commands == [f"{convert} {option}".strip() for option in options]
    numbers = (0, 1) if len(commands) == 2 else (0, 0, 1)
    if case == "beside its average":
        numbers = (1, 0)
    for line, number in zip(commands, numbers, strict=False):
        run(monkeypatch, line)
        found = formats.read("out.safetensors").tensors
        assert ("fc.weight" in found) == bool(has_head)
        body = {name: tensor for name, tensor in found.items() if not name.startswith("fc.")}
        assert body.keys() == network().keys()
        for name, tensor in network(number).items():
            np.testing.assert_array_equal(body[name], tensor, err_msg=name)


def with_objects(item, made):
    """The value with what `made` makes of its arrays and of OBJECT."""
    if isinstance(item, dict):
        return {name: with_objects(inner, made) for name, inner in item.items()}
    return made(item) if isinstance(item, np.ndarray) or item is OBJECT else item


@each
def test_what_inspect_prints_takes_the_network_out(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved, *_ = saved_by()[case]
    objects = with_objects(saved, lambda item: opaque() if item is OBJECT else item)
    torch_file(tmp_path / "saved.pth", objects)
    check(case, monkeypatch, capsys)


@pytest.mark.parity
@each
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_the_same_of_what_torch_saves(case, new, tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)

    def made(item):
        if item is not OBJECT:
            return torch.from_numpy(np.array(item))
        return argparse.Namespace(
            path=pathlib.PurePosixPath(*"abcdefghijklmnopqrst"),
            scores=collections.defaultdict(list, best=[np.float64(0.7), np.ones(3)]),
            criterion=torch.nn.CrossEntropyLoss(torch.ones(3)),
            sizes={1, 2},
            call=os.path.join,
            schedule=functools.partial(max, 1),
            shape=torch.Size([3]),
        )

    saved, *_ = saved_by()[case]
    torch.save(with_objects(saved, made), "saved.pth", _use_new_zipfile_serialization=new)
    check(case, monkeypatch, capsys)


# Refusals


def refusal(path, selection=extracts.WHOLE):
    """The lines that a file is refused with."""
    with pytest.raises(UserError) as caught:
        sources.of(str(path), formats.survey(path), selection=selection)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}")
    assert len(lines) <= 3
    return lines


def file_of(case, tmp_path):
    saved, *_ = saved_by()[case]
    objects = with_objects(saved, lambda item: opaque() if item is OBJECT else item)
    return torch_file(tmp_path / "it's.pth", objects)


def test_a_refusal_ends_on_the_commands(tmp_path):
    path = file_of("dino", tmp_path)
    convert = f"vtl weights convert {shlex.quote(str(path))} -o out.safetensors"
    with pytest.raises(UserError) as caught:
        sources.load(str(path))
    assert str(caught.value).splitlines() == [
        f"{path}: holds several dicts of tensors: student, teacher; `vtl weights convert` takes "
        "one by --key",
        f"teacher.module.backbone, which its authors evaluate: {convert} --key=teacher "
        "--prefix=module.backbone.",
        f"student.module.backbone: {convert} --key=student --prefix=module.backbone.",
    ]
    first, *lines = refusal(file_of("byol of lucidrains", tmp_path))
    assert "holds 3 networks, under" in first
    assert lines[0].endswith("--prefix=online_encoder.net. --drop=fc")
    assert lines[1] == f"2 others: vtl weights inspect {shlex.quote(str(path))}"
    first, last = refusal(file_of("lightning", tmp_path))
    assert "not a ResNet's tensors: criterion.pos_weight; the other 102 are" in first
    assert last == f"state_dict.model: {convert} --key=state_dict --prefix=model."


def test_names_that_nobody_knows_are_left_out_only_if_asked(tmp_path):
    path = torch_file(tmp_path / "w.pth", network() | layer("gate"))
    first, last = refusal(path)
    assert "not a ResNet's tensors: gate.bias, gate.weight; the other 100 are" in first
    assert last == (
        "the network without gate, if they are no part of it: vtl weights convert "
        f"{path} -o out.safetensors --drop=gate"
    )


@pytest.mark.parametrize(
    ("selection", "text"),
    [
        (("args", "", ""), "--key=args is no dict of tensors there; these are: student, teacher"),
        (("", "module.", ""), "holds several dicts of tensors: student, teacher"),
        (("teacher", "backbone.", ""), "no name begins with --prefix=backbone.; module.backbone.b"),
        (("teacher", "module.backbone.", "fcc"), ", teacher: --drop=fcc matches no name"),
        (("teacher", "", ""), "not a ResNet's tensors: module.head.last_layer.weight_g"),
        (("teacher", "module.backbone.", "layer4"), "stages of [2, 2, 2, 0] blocks make up none"),
    ],
)
def test_a_selection_that_selects_no_network(tmp_path, selection, text):
    first, *lines = refusal(file_of("dino", tmp_path), extracts.Selection(*selection))
    assert text in first
    assert lines[0].endswith("--key=teacher --prefix=module.backbone.")


def test_a_pattern_that_is_none_is_named(tmp_path):
    contents = formats.survey(file_of("moco_v1", tmp_path))
    with pytest.raises(UserError, match=r"^--drop=\(fc is no regular expression: missing \)"):
        extracts.take(contents, extracts.Selection(drop="(fc"))


def test_drop_matches_whole_parts_from_the_prefix_on(tmp_path):
    names = ["fc.0.weight", "fc1.weight", "mlp.fc.weight", "fc", "queue_ptr", "fc._orig_mod.bias"]
    ones = np.ones(1, np.float32)
    path = torch_file(tmp_path / "w", {f"a._orig_mod.{name}": ones for name in names} | {"b": ones})
    contents = formats.survey(path)
    taken = extracts.take(contents, extracts.Selection("", "a.", r"fc|queue\w*"))
    assert [*taken.file.tensors] == ["fc1.weight", "mlp.fc.weight"]
    assert taken.outside == ("b",)
    assert len(taken.dropped) == 4
    assert extracts.summary(taken, extracts.Selection("", "a.", "fc")) == [
        "left out, not under a.: 1 (b)",
        "left out, by --drop: 4 (a._orig_mod.fc.0.weight, a._orig_mod.fc, a._orig_mod.queue_ptr, "
        "…)",
    ]
    taken = extracts.take(contents, extracts.Selection(drop="a.*"))
    assert [*taken.file.tensors] == ["b"]


def test_what_vtl_wrote_is_taken_whole(tmp_path):
    path = write_weights(tmp_path / "tiny.safetensors")
    first, *_ = refusal(path, extracts.Selection(drop="fc"))
    assert first.endswith("read it whole, without --key, --prefix and --drop")


def test_prefixes_of_safetensors(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.write(path, under("visual.", network()) | layer("text.proj"), {})
    contents = formats.survey(path)
    taken = sources.of("w", contents, selection=extracts.Selection("", "visual.", ""))
    assert taken.architecture.depth == 18
    assert taken.left_out == ("left out, not under visual.: 2 (text.proj.bias, text.proj.weight)",)


def test_a_list_of_tensors_has_no_names(tmp_path):
    shadow = {"decay": 0.9, "shadow_params": [*network().values()]}
    with pytest.raises(UserError, match=r"holds 100 tensors as a list \(ema\.shadow_params\), so"):
        formats.survey(torch_file(tmp_path / "w", {"ema": shadow}))
    contents = formats.survey(torch_file(tmp_path / "w", {"ema": shadow, "model": network()}))
    assert contents.lists == {"ema.shadow_params": 100}
    assert contents.whole().tensors.keys() == network().keys()


def test_vision_transformers_are_recognised_by_their_names_too(tmp_path):
    """Whether a network can be read is for the layouts to say."""
    two = {
        "state_dict": under("module.base_encoder.", vit(), mlp("head"))
        | under("module.momentum_encoder.", vit(), mlp("head"))
    }
    mae = {
        "model": vit()
        | layer("decoder_embed")
        | layer("decoder_blocks.0.norm1")
        | {"mask_token": np.ones((1, 1, 8), np.float32)}
    }
    expected = {
        "MoCo v3, DataParallel": (
            two,
            [
                ("state_dict", "module.base_encoder.", "head"),
                ("state_dict", "module.momentum_encoder.", "head"),
            ],
        ),
        "MAE": (mae, [("model", "", r"decoder_\w+|mask_token")]),
        "DINO, iBOT or DINOv2, DataParallel": (
            {"student": dino(vit()), "teacher": dino(vit()), "args": opaque()},
            [("teacher", "module.backbone.", ""), ("student", "module.backbone.", "")],
        ),
    }
    for names, (saved, selections) in expected.items():
        seen = frameworks.look(formats.survey(torch_file(tmp_path / "w", saved)))
        assert seen.names == names
        assert [found.selection for found in seen.networks] == selections
        assert not any(found.unknown for found in seen.networks)


@functools.cache
def vit_network(number=0):
    """The tensors of a small Vision Transformer without a head, by timm's names."""
    model = networks.with_any_head(VIT)
    tensors = convert.from_variables(jax.device_get(networks.initialise(model, number)), VIT)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}


VIT = Architecture(
    **{"width": 64, "depth": 4, "heads": 1, "patch": 16, "mlp_width": 32, "grid": 2},
    num_classes=None,
    pooling="token",
)


@pytest.mark.parametrize("case", ["moco v3", "dino", "mae"])
def test_what_inspect_prints_takes_a_vision_transformer_out(case, tmp_path, monkeypatch, capsys):
    one, two = vit_network(), vit_network(1)
    decoder = layer("decoder_embed") | layer("decoder_blocks.0.attn.qkv") | layer("decoder_norm")
    saved = {
        "moco v3": {
            "state_dict": under("module.base_encoder.", one, mlp("head"))
            | under("module.momentum_encoder.", two, mlp("head"))
            | mlp("module.predictor")
        },
        "dino": {"student": dino(two), "teacher": dino(one), "args": opaque()},
        "mae": {"model": one | decoder | {"mask_token": np.ones((1, 1, 64), np.float32)}},
    }[case]
    monkeypatch.chdir(tmp_path)
    torch_file(tmp_path / "saved.pth", saved)
    run(monkeypatch, "vtl weights inspect saved.pth")
    printed = capsys.readouterr().out.splitlines()
    commands = [line.strip() for line in printed if line.startswith("    ")]
    for line, expected in zip(commands, (one, two), strict=False):
        run(monkeypatch, line)
        found = formats.read("out.safetensors").tensors
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    assert len(commands) == (1 if case == "mae" else 2)


def test_another_network_is_not_made_one_of_ours_by_leaving_parts_out(tmp_path):
    """CLIP's ResNet has three convolutions where ours has one, and attention after the last."""
    clip = under(
        "visual.", network(), layer("attnpool.q_proj"), {"conv2.weight": network()["conv1.weight"]}
    )
    path = torch_file(tmp_path / "w", clip | layer("token_embedding"))
    seen = frameworks.look(formats.survey(path))
    assert seen.names == "CLIP"
    assert "attention in place of the mean (attnpool.q_proj.weight)" in seen.networks[0].complaint
    assert not any("convert" in line for line in refusal(path))


def test_a_pickle_of_jax_is_named(tmp_path):
    path = tmp_path / "pretrain_res50x1.pkl"
    path.write_bytes(b"\x80\x03" + named("haiku._src.data_structures.FlatMapping") + b")\x81.")
    with pytest.raises(UserError, match="is a pickle of JAX, as DeepMind's BYOL is"):
        formats.read(path)
    path.write_bytes(b"\x80\x03" + named("numpy.core.multiarray._reconstruct") + b")\x81.")
    with pytest.raises(UserError, match=r"not one of torch.save \(asks for numpy.core.multiarr"):
        formats.read(path)


# Attacks


def doubled(times):
    """A tuple of two of the one before, and so on."""
    code = value(("a", 1)) + b"q\x64"
    for number in range(101, times + 101):
        code += (
            b"0h" + bytes([number - 1]) + b"h" + bytes([number - 1]) + b"\x86q" + bytes([number])
        )
    return code


SYSTEM = call("os.system", value("touch owned"))


@pytest.mark.parametrize(
    "code",
    [
        SYSTEM,
        call("builtins.eval", value("open('owned', 'w')")),
        call("builtins.exec", value("open('owned', 'w')")),
        call("subprocess.Popen", value(["touch", "owned"])),
        call("builtins.__import__", value("antigravity")),
        call("importlib.import_module", value("antigravity")),
        # what a call returns is called, and an object of what it returns is made
        SYSTEM + b"(tR",
        SYSTEM + b")\x81",
        call("operator.methodcaller", value("system"), value("touch owned"))
        + b"("
        + named("os.environ")
        + b"tR",
        # NEWOBJ_EX, and states, items and attributes of all kinds
        named("a.Config") + b")" + doubled(40) + b"\x92",
        call("a.Config") + SYSTEM + b"b",
        call("a.Config") + b"N" + value({"__class__": 1, "name": "b"}) + b"\x86b",
        call("a.Config") + doubled(40) + b"b",
        call("a.Config") + b"(" + doubled(40) + b"Nu",
        call("a.Config") + b"(" + SYSTEM + doubled(40) + b"e",
        call("a.Config") + b"(" + doubled(40) + b"\x90",
        call("a.Config", *[b"N"] * 10_000),
        call("a.Config", doubled(40)),
        named("vtl.weights.formats.unpickler.Inert") + value({"__setstate__": 1}) + b"b",
        # forty thousand objects of forty thousand classes
        b"](" + b"".join(named(f"a.C{i}") + b")\x81" for i in range(40_000)) + b"e",
    ],
)
def test_objects_beside_the_tensors_do_nothing(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = {"args": Code(code), "model": network(), "after": Code(code)}
    before = set(sys.modules)
    start = time.monotonic()
    contents = formats.survey(torch_file(tmp_path / "w", saved))
    assert time.monotonic() - start < 30
    assert contents.whole().tensors.keys() == network().keys()
    assert not frameworks.look(contents).networks[0].complaint
    assert set(sys.modules) == before
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("saved", "text"),
    [
        ({"state_dict": opaque()}, "holds no dict of tensors (asks for argparse.Namespace; only"),
        ({"state_dict": Code(SYSTEM)}, "holds no dict of tensors (asks for os.system; only"),
        (opaque("a.b\x1b[31m"), r"holds no dict of tensors (asks for a.b\x1b[31m; only"),
        ({"w": Code(call("torch._utils._rebuild_qtensor"))}, "holds a quantised network"),
        ({"model": opaque("torch.nn.modules.linear.Linear")}, "is a whole module (asks for torch"),
    ],
)
def test_an_object_in_place_of_the_tensors_is_named(saved, text, tmp_path):
    with pytest.raises(UserError) as caught:
        formats.survey(torch_file(tmp_path / "w", saved))
    assert text in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.full
@pytest.mark.parametrize(
    "saved",
    [
        # a list of tensors many times over, and dicts in each other
        {"a": Code(b"](" + b"N" * 100_000 + b"eq\xf0")}
        | {f"{i}": Code(b"h\xf0") for i in range(50_000)},
        {"a": Code(b"}q\xf0(X\x01\x00\x00\x00bh\xf0u")},
        {str(i): {"w": np.ones(1, np.float32)} for i in range(5000)},
        # names that patterns could take forever over, and many stems
        network() | {"loss" * 50_000 + "!": 3, "ema_" * 50_000: 4, "x_loss": 5},
        {f"{'a.' * i}{name}": t for i in range(40) for name, t in network().items()},
    ],
    ids=["list", "circle", "many dicts", "long names", "many networks"],
)
def test_looking_takes_bounded_time(saved, tmp_path):
    start = time.monotonic()
    try:
        refusal(torch_file(tmp_path / "w", saved))
    except UserError as error:
        assert "no dict of tensors" in str(error)  # noqa: PT017
    assert time.monotonic() - start < 60
