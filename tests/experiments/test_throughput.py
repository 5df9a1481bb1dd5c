import csv
import itertools

import numpy as np
import pytest

from experiments import bench, grid, throughput, workers
from experiments.throughput import Peers, measure, read_options

EVERYTHING = "training, everything, BatchNorm frozen"
MACHINE = {
    "batch_size": 4,
    "image_size": 64,
    "dtype": "float32",
    "precision": "TF32 off",
    "in_flight": 1,
}
MACHINE |= {"hardware": "abacus", "cores": 2, "versions": "jax 1", "glibc_tunables": ""}


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


def peers_of(**makers):
    peers = Peers()
    for peer, of in makers.items():
        peers.makers[peer] = of
    return peers


def test_ratio_is_ours_over_theirs_by_medians_and_the_first_call_apart(clock):
    peers = peers_of(
        vtl={EVERYTHING: lambda: clock(30.0, 1.0, 2.0, 8.0)},
        torch={EVERYTHING: lambda: clock(3.0, 4.0, 1.0, 4.0)},
    )
    ours, theirs = measure(peers, EVERYTHING, num_images=4, repetitions=3)
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
    peers = peers_of(
        **{p: {EVERYTHING: lambda p=p: lambda: calls.append(p)} for p in ("vtl", "b", "c")}
    )
    measure(peers, EVERYTHING, num_images=1, repetitions=2)
    assert calls == ["vtl", "b", "c"] * 3


def test_a_peer_whose_first_call_fails_is_left_out_from_then_on(clock, capsys):
    def no_compiler():
        raise workers.PeerError("RuntimeError: no C++ compiler")

    peers = peers_of(
        vtl=dict.fromkeys(("a", "b"), lambda: clock(1.0)),
        compiled={"a": lambda: no_compiler, "b": lambda: clock(1.0)},
    )
    assert [row["peer"] for row in measure(peers, "a", 1, 1)] == ["vtl"]
    assert [row["peer"] for row in measure(peers, "b", 1, 1)] == ["vtl"]
    assert peers.left_out == {"compiled": "RuntimeError: no C++ compiler"}
    assert capsys.readouterr().out == "compiled is left out: RuntimeError: no C++ compiler\n"


def test_a_fault_of_ours_is_raised():
    def broken():
        raise workers.PeerError("ZeroDivisionError: division by zero")

    with pytest.raises(workers.PeerError, match="division by zero"):
        measure(peers_of(vtl={"a": lambda: broken}), "a", 1, 1)


def test_our_steps_run_in_a_process_of_their_own(tmp_path, capsys, monkeypatch):
    table = tmp_path / "table.csv"
    options = [
        "--peers=",
        "--steps=evaluation",
        "--repetitions=1",
        "--batch-size=1",
        "--in-flight=2",
    ]
    options += ["--image-size=32", f"--out={table}"]
    monkeypatch.setattr("sys.argv", ["throughput", *options])
    throughput.main()
    with table.open() as file:
        (row,) = csv.DictReader(file)
    assert (row["step"], row["peer"]) == ("evaluation", "vtl")
    assert float(row["images_per_second"]) > 0
    assert "jax" in row["versions"]
    assert table.with_suffix(".md").read_text().startswith("# Images a second")
    assert "| evaluation |" in capsys.readouterr().out


def test_the_tables(clock, tmp_path):
    peers = peers_of(
        vtl={"evaluation": lambda: clock(0.5), EVERYTHING: lambda: clock(2.0)},
        onnxruntime={"evaluation": lambda: clock(0.4)},
    )
    peers.left_out["keras"] = "ModuleNotFoundError: No module named 'keras'"
    rows = [row for name in ("evaluation", EVERYTHING) for row in measure(peers, name, 4, 2)]
    rows = [row | MACHINE for row in rows]
    text = throughput.markdown(rows, peers.left_out, "python -m experiments.throughput")
    assert (
        "abacus, 2 cores; batches of 4 at 64 pixels; float32, TF32 off; 1 in flight; jax 1;" in text
    )
    assert (
        "| step | vtl | onnxruntime |\n"
        "| --- | --- | --- |\n"
        "| evaluation | 8.0 | 10.0 (0.80) |\n"
        f"| {EVERYTHING} | 2.0 | - |\n"
    ) in text
    assert f"| {EVERYTHING} | 2.0 | - |\n\n- keras is left out: ModuleNotFound" in text
    grid.write_csv(tmp_path / "table.csv", rows)
    with (tmp_path / "table.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [(row["step"], row["peer"]) for row in read] == [
        ("evaluation", "vtl"),
        ("evaluation", "onnxruntime"),
        (EVERYTHING, "vtl"),
    ]
    assert read[1]["ratio_to_vtl"] == "0.8"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--peers=pytorch,caffe", "--peers: there is no 'caffe', but pytorch, pytorch_compile"),
        ("--steps=inference", "--steps matches none of: evaluation; training"),
        ("--steps=(", "--steps is no regular expression"),
        ("--dtype=float16", "invalid choice: 'float16'"),
        ("--batch-size=0", "--batch-size must be at least 1"),
        ("--in-flight=0", "--in-flight must be at least 1"),
        ("--image-size=8", "--image-size must be at least 32"),
        ("--repetitions=many", "invalid int value: 'many'"),
    ],
)
def test_nonsense_is_refused_in_one_line(option, message, capsys):
    with pytest.raises(SystemExit):
        read_options([option])
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_options():
    options = read_options(["--steps=BatchNorm", "--peers=keras,pytorch"])
    assert options.steps == [EVERYTHING, "training, everything, BatchNorm batch"]
    assert options.peers == ["keras", "pytorch"]
    assert read_options([]).peers == list(throughput.PEERS)
    assert read_options(["--peers="]).peers == []


@pytest.mark.parametrize("size", [64, 448])
def test_photos_are_crops_that_differ(size):
    crops = bench.photos(4, size)
    assert crops.shape == (4, size, size, 3)
    assert crops.dtype == np.uint8
    assert len({crop.tobytes() for crop in crops}) == 4


def test_keras_names_of_layers():
    keras_steps = pytest.importorskip("experiments.peers.keras_steps", reason="keras")
    assert keras_steps._our_name("conv5_block1_1_conv") == "layer4_block1_1_conv"
    assert keras_steps._our_name("conv1_conv") == "conv1_conv"


def test_torch_normalises_as_its_reference():
    torch = pytest.importorskip("torch")
    from experiments.peers import torch_steps
    from tests.references.torch_resnet import normalised

    scorer, images = torch_steps.Scorer(), bench.photos(1, 32)
    scorer.network = torch.nn.Identity()
    np.testing.assert_allclose(scorer(torch.tensor(images)), normalised(images), atol=1e-6)
