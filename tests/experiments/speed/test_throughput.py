import csv
import functools
import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.speed import bench, throughput, workers
from experiments.speed.throughput import measure

EVERYTHING = "training, everything, BatchNorm frozen"


@pytest.fixture
def clock(monkeypatch):
    """A step that takes a given time by a clock that steps alone advance."""
    now = [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])

    def step_of(*seconds):
        taken = itertools.chain(seconds, itertools.repeat(seconds[-1]))

        def step():
            now[0] += next(taken)

        return step

    return step_of


def test_ratio_is_ours_over_theirs_by_medians_and_the_first_call_apart(clock):
    makers = {
        "vtl": {EVERYTHING: lambda: clock(30.0, 1.0, 2.0, 8.0)},
        "torch": {EVERYTHING: lambda: clock(3.0, 4.0, 1.0, 4.0)},
    }
    ours, theirs = measure(makers, EVERYTHING, num_images=4, repetitions=3)
    assert ours == {
        "step": EVERYTHING,
        "peer": "vtl",
        "images_per_second": 2.0,
        "range": "0.50 to 4.00",
        "first_call_seconds": 30.0,
        "ratio_to_vtl": 1.0,
    }
    assert theirs["images_per_second"] == 1.0
    assert theirs["ratio_to_vtl"] == 2.0
    assert theirs["first_call_seconds"] == 3.0


def test_repetitions_are_interleaved():
    calls = []
    makers = {peer: {"a": lambda p=peer: lambda: calls.append(p)} for peer in ("vtl", "b", "c")}
    measure(makers, "a", num_images=1, repetitions=2)
    assert calls == ["vtl", "b", "c"] * 3


def test_a_peer_whose_first_call_fails_is_left_out_from_then_on(clock, capsys):
    def no_compiler():
        raise workers.PeerError("RuntimeError: no C++ compiler")

    makers = {
        "vtl": dict.fromkeys(("a", "b"), lambda: clock(1.0)),
        "compiled": {"a": lambda: no_compiler, "b": lambda: clock(1.0)},
    }
    assert [row["peer"] for row in measure(makers, "a", 1, 1)] == ["vtl"]
    assert [row["peer"] for row in measure(makers, "b", 1, 1)] == ["vtl"]
    assert capsys.readouterr().out == "compiled is left out: RuntimeError: no C++ compiler\n"


def test_another_network_has_the_steps_and_peers_that_know_it(capsys):
    options = throughput.read_options(["--network=efficientnet_lite0"])
    assert options.peers == ["pytorch", "pytorch_compile"]
    assert options.steps == [
        "evaluation",
        EVERYTHING,
        "training, everything, BatchNorm batch",
    ]
    assert throughput.read_options([]).peers == list(throughput.PEERS)
    with pytest.raises(SystemExit):
        throughput.read_options(["--network=efficientnet_lite0", "--peers=keras"])
    assert "--peers must be among pytorch, pytorch_compile" in capsys.readouterr().err


def test_a_vit_has_one_training():
    options = throughput.read_options([f"--network={bench.VIT}"])
    assert options.steps == ["evaluation", EVERYTHING]


@pytest.mark.parity
@pytest.mark.parametrize("network", bench.NETWORKS)
def test_our_network_has_the_parameters_of_its_peer(network):
    pytest.importorskip("torch")
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is missing")
    from experiments.speed.peers import torch_steps

    model, photos = throughput.network_of(bench.Setting(1, 64, network)), jnp.zeros((1, 64, 64, 3))
    init = functools.partial(model.init, norms_by_batch=())
    ours = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0), photos)["params"])
    theirs = torch_steps.network_of(network).parameters()
    assert sum(leaf.size for leaf in ours) == sum(parameter.numel() for parameter in theirs)


@pytest.mark.full
def test_our_vit_trains():
    setting = bench.Setting(batch_size=1, image_size=32, network=bench.VIT)
    step = throughput.our_makers(setting)[EVERYTHING]()
    step()


@pytest.mark.full
def test_our_steps_run_in_a_process_of_their_own(tmp_path, monkeypatch):
    table = tmp_path / "table.csv"
    options = ["--peers=", "--steps=evaluation", "--repetitions=1", "--batch-size=1"]
    options += ["--in-flight=2", "--image-size=32", f"--out={table}"]
    monkeypatch.setattr("sys.argv", ["throughput", *options])
    throughput.main()
    with table.open() as file:
        (row,) = csv.DictReader(file)
    assert (row["step"], row["peer"]) == ("evaluation", "vtl")
    assert float(row["images_per_second"]) > 0
    assert "jax" in row["versions"]


@pytest.mark.parametrize("size", [64, 448])
def test_photos_are_crops_that_differ(size):
    crops = bench.photos(4, size)
    assert crops.shape == (4, size, size, 3)
    assert crops.dtype == np.uint8
    assert len({crop.tobytes() for crop in crops}) == 4


@pytest.mark.parity
def test_keras_names_of_layers():
    keras_steps = pytest.importorskip("experiments.speed.peers.keras_steps", reason="keras")
    assert keras_steps._our_name("conv5_block1_1_conv") == "layer4_block1_1_conv"
    assert keras_steps._our_name("conv1_conv") == "conv1_conv"


@pytest.mark.parity
def test_torch_normalises_as_its_reference():
    torch = pytest.importorskip("torch")
    from experiments.speed.peers import torch_steps
    from tests.references.torch_resnet import normalised

    scorer, images = torch_steps.Scorer(), bench.photos(1, 32)
    scorer.network = torch.nn.Identity()
    np.testing.assert_allclose(scorer(torch.tensor(images)), normalised(images), atol=1e-6)


def test_a_peer_may_stay_in_float32():
    setting = bench.Setting(1, 32, dtype="bfloat16")
    assert throughput.setting_of("openvino_float32", setting).dtype == "float32"
    assert throughput.setting_of("openvino", setting) is setting
    peers = ["vtl_float32", "onnxruntime_float32", "openvino"]
    assert throughput.read_options([f"--peers={','.join(peers)}"]).peers == peers
    with pytest.raises(SystemExit):
        throughput.read_options(["--peers=vtl"])
