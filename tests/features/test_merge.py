"""Shards that are joined are what one run computes, and what doesn't belong together is refused."""

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util

from configs import linear_probe
from configs.deep_features import get_config
from tests.devkit import write_devkit
from tests.tiny import write_weights
from vtl import files, identity
from vtl.data import batches, deep_features, split
from vtl.errors import UserError
from vtl.features import __main__ as program
from vtl.features import extract
from vtl.features.merge import merge
from vtl.features.shards import Shard
from vtl.run_directory import RunDirectory
from vtl.tasks import features, probe
from vtl.weights import sources

NUM_SHARDS = 4
NPZ = "DF_ResNet18_VOC2007.npz"


def compute(place: Path, devkit: Path, weights: Path, shard: str = "", **changes) -> Path:
    """Run the task; returns the directory that it wrote."""
    config = get_config()
    own = {"data.root": str(devkit), "data.image_size": 32, "data.resize": "squash"}
    own |= {"weights": str(weights), "pooling": "average", "batch_size": 4, "shard": shard}
    config.update_from_flattened_dict(own | changes)
    features.run(config.lock(), place)
    return place / f"shard_{shard.replace('/', '_of_')}" if shard else place


class Farm:
    """Three batches of train and two of test in a whole run, and in four shards of it."""

    def __init__(self, root: Path):
        self.root = root
        self.devkit = write_devkit(root, {"trainval": 11, "test": 7}, ("bird", "cat", "dog"), 48)
        self.weights = write_weights(root / "tiny.safetensors")
        self.whole = compute(root / "whole", self.devkit, self.weights)
        for index in range(NUM_SHARDS):
            compute(root / "shards", self.devkit, self.weights, f"{index}/{NUM_SHARDS}")


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        root = tmp_path_factory.mktemp("farm")
        patched.setenv("VTL_CACHE", str(root / "cache"))
        yield Farm(root)


@pytest.fixture
def copied(farm, tmp_path):
    """Its shards, to be spoilt."""
    return Path(shutil.copytree(farm.root / "shards", tmp_path / "shards"))


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def error_of(directories: list[Path], tmp_path: Path) -> str:
    with pytest.raises(UserError) as error:
        merge(directories, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert len(str(error.value).splitlines()) <= 2
    return str(error.value)


def test_together_they_are_what_one_run_computes(farm, tmp_path):
    path = merge([farm.root / "shards"], tmp_path / "merged")
    assert path == tmp_path / "merged" / NPZ
    found, expected = arrays_of(path), arrays_of(farm.whole / NPZ)
    assert list(found) == list(expected)
    meta, of_one = (json.loads(str(arrays.pop("meta"))) for arrays in (found, expected))
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert meta["data"].pop("duplicates") is None  # nobody looked
    assert of_one["data"].pop("duplicates") == {}
    assert meta == of_one


def test_the_outcome_is_a_finished_run(farm, tmp_path, capsys):
    merged = merge([farm.root / "shards"], tmp_path / "merged").parent
    assert sorted(p.name for p in tmp_path.iterdir()) == ["merged"]
    assert sorted(p.name for p in merged.iterdir()) == sorted(p.name for p in farm.whole.iterdir())
    made_of, of_one = ((p / "made_of.json").read_text() for p in (merged, farm.whole))
    assert made_of == of_one
    results = json.loads((merged / "results.json").read_text())
    assert results["num_images"] == {"train": 11, "test": 7}
    assert len(results["shards"]) == NUM_SHARDS
    capsys.readouterr()
    compute(merged, farm.devkit, farm.weights)  # which has nothing to do
    assert "is finished" in capsys.readouterr().out


@pytest.mark.full
def test_a_probe_takes_the_whole_and_no_shard(farm, tmp_path):
    path = merge([farm.root / "shards"], tmp_path / "merged")
    heads = []
    for number, its in enumerate((path, farm.whole / NPZ)):
        config = linear_probe.get_config("lbfgs")
        config.update_from_flattened_dict({"features": str(its), "l2s": (1.0,), "num_folds": 2})
        probe.run(config.lock(), tmp_path / f"probe{number}")
        heads.append(arrays_of(tmp_path / f"probe{number}" / "scores_test.npz")["logits"])
    np.testing.assert_array_equal(*heads)
    (shard,) = (farm.root / "shards" / "shard_1_of_4").glob("DF_*.npz")
    config.unlock()
    config.features = str(shard)
    with pytest.raises(UserError, match=r"shard 1/4 and not all features.*vtl features merge"):
        probe.run(config.lock(), tmp_path / "refused")


def test_some_shards_are_empty(farm):
    shards = [
        deep_features.read(next(path.glob("DF_*.npz")), is_shard=True)
        for path in sorted((farm.root / "shards").iterdir())
    ]
    assert [len(data.splits["train"].features) for data in shards] == [0, 4, 4, 3]
    assert [len(data.splits["test"].features) for data in shards] == [0, 4, 0, 3]


def break_photos(devkit: Path, target: Path, is_broken) -> Path:
    """A copy of the devkit in which photos are broken by their numbers."""
    copy = Path(shutil.copytree(devkit, target / "VOCdevkit" / "VOC2007"))
    for path in (copy / "JPEGImages").iterdir():
        if is_broken(int(path.stem)):
            path.write_bytes(b"broken")
    return copy


def test_a_shard_decodes_its_own_photos(farm, tmp_path):
    its = {1, 2, 3, 4, 12, 13, 14, 15}  # the first batch of train, and of test
    devkit = break_photos(farm.devkit, tmp_path, lambda number: number not in its)
    shard = compute(tmp_path, devkit, farm.weights, "0/2")
    assert json.loads((shard / "results.json").read_text())["num_images"] == {"train": 4, "test": 4}


def test_broken_photos_are_left_out_as_in_one_run(farm, tmp_path):
    """All four of train in the first shard, and two elsewhere: batches are others than in one."""
    devkit = break_photos(farm.devkit, tmp_path, lambda number: number <= 4 or number in (6, 13))
    skip = {"data.broken": "skip"}
    whole = compute(tmp_path / "whole", devkit, farm.weights, **skip)
    for index in range(3):
        compute(tmp_path / "shards", devkit, farm.weights, f"{index}/3", **skip)
    path = merge([tmp_path / "shards"], tmp_path / "merged")
    found, expected = deep_features.read(path), deep_features.read(whole / NPZ)
    for role, its in expected.splits.items():
        assert found.splits[role].ids == its.ids
        np.testing.assert_array_equal(found.splits[role].labels, its.labels)
        np.testing.assert_allclose(found.splits[role].features, its.features, rtol=0, atol=1e-6)
    assert found.meta["data"]["broken"] == expected.meta["data"]["broken"]
    assert len(found.meta["data"]["broken"]["train"]) == 5


def test_a_shard_that_was_stopped_goes_on(farm, tmp_path, monkeypatch):
    expected = compute(tmp_path / "uninterrupted", farm.devkit, farm.weights, "1/2")
    real, calls = batches.place, []

    def place_until_killed(array, rows, sharding):
        calls.append(len(array))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(array, rows, sharding)

    monkeypatch.setattr(extract, "BATCHES_BETWEEN_SAVES", 1)
    monkeypatch.setattr(batches, "place", place_until_killed)
    with pytest.raises(KeyboardInterrupt):
        compute(tmp_path, farm.devkit, farm.weights, "1/2")
    assert "is not finished: run its command again" in error_of(
        [tmp_path / "shard_1_of_2"], tmp_path
    )
    found = compute(tmp_path, farm.devkit, farm.weights, "1/2")
    assert len(calls) == 2 + 2  # of two batches of train one was there; then one of test
    (one,), (other,) = found.glob("DF_*.npz"), expected.glob("DF_*.npz")
    assert one.read_bytes() == other.read_bytes()


def test_the_same_command_is_another_shard_in_each_task_of_an_array(farm, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    compute(farm.root / "shards", farm.devkit, farm.weights, "auto/4")
    assert "shard_2_of_4 is finished" in capsys.readouterr().out


def test_runs_without_the_knob_are_of_all_photos(farm, tmp_path, capsys):
    old = Path(shutil.copytree(farm.whole, tmp_path / "old"))
    edit(old / "config.json", lambda config: config.pop("shard"))
    compute(old, farm.devkit, farm.weights)
    assert "is finished" in capsys.readouterr().out


def test_photos_and_weights_may_lie_elsewhere_on_each_machine(farm, copied, tmp_path):
    shutil.rmtree(copied / "shard_1_of_4")
    devkit = Path(shutil.copytree(farm.devkit, tmp_path / "VOCdevkit" / "VOC2007"))
    weights = Path(shutil.copy(farm.weights, tmp_path / "others.safetensors"))
    other = compute(tmp_path / "other", devkit, weights, "1/4")
    path = merge([copied, other], tmp_path / "merged")
    np.testing.assert_array_equal(
        arrays_of(path)["X_train"], arrays_of(farm.whole / NPZ)["X_train"]
    )


def write_weaker(weights: Path, path: Path) -> Path:
    """The same network with other numbers."""
    its = sources.load(str(weights))
    tensors = {tuple(name.split("/")): 0.9 * tensor for name, tensor in its.tensors.items()}
    variables = traverse_util.unflatten_dict(tensors)
    sources.save(
        path, variables, its.architecture, its.preprocessing, its.classes, multi_label=True
    )
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shard": "0/2"}, "one is 0/2, the other 1/4"),
        ({"weights": "weaker"}, "they have other weights"),
        ({"devkit": "relabelled"}, "labels of the test split"),
        ({"devkit": "more"}, "they have other ids of the test split, ids of the train split"),
        ({"pooling": "maximum"}, "pooling maximum -> average"),
        ({"layer": "layer3"}, 'layer layer3 -> ""'),
        ({"batch_size": 2}, "batch_size 2 -> 4"),
        ({"data.image_size": 64}, "data.image_size 64 -> 32"),
    ],
)
def test_shards_of_another_run_are_refused(farm, copied, tmp_path, changes, says):
    shutil.rmtree(copied / "shard_0_of_4")
    changes = {"shard": "0/4"} | changes
    weights, devkit = farm.weights, farm.devkit
    if changes.pop("weights", None):
        weights = write_weaker(weights, tmp_path / "weaker.safetensors")
    if kind := changes.pop("devkit", None):
        splits = {"trainval": 11, "test": 7} if kind == "relabelled" else {"trainval": 9, "test": 9}
        devkit = write_devkit(tmp_path, splits, ("bird", "cat", "dog"), 48, seed=1)
    other = compute(tmp_path / "other", devkit, weights, **changes)
    message = error_of([copied, other], tmp_path)
    assert "are not of the same run" in message
    assert says in message


def test_gaps_and_overlaps_are_named(farm, copied, tmp_path):
    shutil.copytree(copied / "shard_1_of_4", tmp_path / "again")
    message = error_of([copied, tmp_path / "again"], tmp_path)
    assert "again" in message
    assert "are both shard 1/4: leave one of them out" in message
    shutil.rmtree(copied / "shard_1_of_4")
    shutil.rmtree(copied / "shard_3_of_4")
    assert error_of([copied], tmp_path) == (
        "missing of 4 shards: 1, 3\nMake them by the same command, with --config.shard=1/4."
    )


def flip_a_bit(shard: Path) -> None:
    (path,) = shard.glob("DF_*.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose(shard: Path) -> None:
    next(shard.glob("DF_*.npz")).unlink()


def forge(**arrays):
    """Other arrays in the features, and results.json as if the run had written them."""

    def change(shard: Path) -> None:
        (path,) = shard.glob("DF_*.npz")
        files.write_npz(path, arrays_of(path) | arrays, compressed=False)
        sha256 = files.file_sha256(path)
        edit(shard / "results.json", lambda r: r.update(sha256=sha256, files={path.name: sha256}))

    return change


def in_results(**changes):
    return lambda shard: edit(shard / "results.json", lambda results: results.update(changes))


DAMAGES = {
    "a flipped bit": (flip_a_bit, "is not what the run wrote"),
    "no features": (lose, "has lost its features"),
    "no results": (lambda shard: (shard / "results.json").unlink(), "is not finished"),
    "no record": (lambda shard: (shard / "made_of.json").unlink(), "is not finished"),
    "a cut record": (lambda shard: (shard / "made_of.json").write_text("{"), "made_of.json"),
    "other labels": (forge(Y_train=np.ones((4, 3))), "other photos or labels than each says"),
    "fewer rows": (
        forge(**{f"{key}_train": np.ones((1, 3)) for key in ("X", "Y", "difficult")}),
        "ids_train has 4 rows",
    ),
    "a narrower array": (
        forge(X_train=np.ones((4, 3)), X_test=np.ones((4, 3))),
        "holds other features than its results.json says",
    ),
    "another file": (in_results(features="../x_shard_1_of_4.npz"), "has lost its features"),
    "another index": (
        lambda shard: edit(shard / "results.json", lambda r: r["shard"].update(index=2)),
        "contradicts itself",
    ),
    "other rows": (
        lambda shard: edit(
            shard / "results.json", lambda r: r["shard"]["rows"].update(test=[0, 3])
        ),
        "the rows of test in one shard don't follow the last's",
    ),
    "no shard in results": (in_results(shard=None), "'shard' is null"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_can_t_be_believed_is_refused(copied, tmp_path, damage):
    change, says = DAMAGES[damage]
    change(copied / "shard_1_of_4")
    assert says in error_of([copied], tmp_path)


def test_what_is_no_shard_is_refused(farm, copied, tmp_path):
    assert "whole is no shard: it holds all features" in error_of([copied, farm.whole], tmp_path)
    edit(copied / "shard_1_of_4" / "config.json", lambda config: config.update(task="probe"))
    assert "is no shard: it holds a run of the task probe" in error_of([copied], tmp_path)
    (tmp_path / "empty").mkdir()
    assert "empty is no shard, and has none in it" in error_of([tmp_path / "empty"], tmp_path)
    assert "is no directory" in error_of([farm.weights], tmp_path)


def test_nothing_is_written_over(farm, tmp_path):
    merge([farm.root / "shards"], tmp_path / "merged")
    before = (tmp_path / "merged" / NPZ).read_bytes()
    with pytest.raises(UserError, match="merged holds finished features: choose another"):
        merge([farm.root / "shards"], tmp_path / "merged")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        merge([farm.root / "shards"], farm.root / "shards")
    assert (tmp_path / "merged" / NPZ).read_bytes() == before


def test_other_versions_are_told(copied, tmp_path, caplog):
    in_results(versions={"jax": "0.1"})(copied / "shard_1_of_4")
    merge([copied], tmp_path / "merged")
    assert "the shards are by different versions" in caplog.text


def split_of(labels: split.Flags, label_mask: np.ndarray) -> split.Split:
    ids = tuple(f"{row:06d}" for row in range(len(labels)))
    return split.Split(
        name="train",
        ids=ids,
        paths=(Path("photo.jpg"),) * len(ids),
        classes=tuple(f"c{column}" for column in range(labels.shape[1])),
        labels=labels,
        label_mask=label_mask,
        difficult=split.every(0, labels.shape),
        ids_sha256=split.ids_sha256(ids),
    )


def write_shards(directory: Path, whole: split.Split, batch_size: int, width: int) -> None:
    """A shard a batch, as the task leaves them; the features are its index."""
    splits, num_shards = {"train": whole}, len(whole) // batch_size
    for index in range(num_shards):
        shard = Shard(index, num_shards)
        part = shard.part_of(splits, batch_size)
        config = get_config()
        config.shard = str(shard)
        run = RunDirectory(directory / shard.name, config)
        data = identity.of_splits(splits) | identity.of_photos(part)
        run.begin({"data": data, "weights": "w", "preprocessing": "p"})
        meta = {
            "weights": {"sha256": "w", "preprocessing": {}},
            "data": split.describe_splits("birds", part),
            "shard": shard.record(splits, batch_size),
        }
        name, features = f"DF_{shard.name}.npz", np.full((batch_size, width), index, np.float32)
        deep_features.write(run.path / name, {"train": features}, part, meta)
        run.write_results({"network": {}, "features": name, "sha256": "", **meta})


def test_the_features_of_only_one_are_in_memory(tmp_path):
    """Joining 40 MB takes no more memory than joining 20."""

    def peak(num_shards):
        flags = split.every(1, (num_shards * 100, 1))
        write_shards(tmp_path / f"{num_shards}", split_of(flags, flags), 100, 10_000)
        tracemalloc.start()
        path = merge([tmp_path / f"{num_shards}"], tmp_path / f"merged_{num_shards}")
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        data = deep_features.read(path).splits["train"].features
        np.testing.assert_array_equal(data[:, 0], np.repeat(np.arange(num_shards), 100))
        return highest

    assert peak(10) < peak(5) + 2e6


@pytest.mark.parametrize("are_known", [True, False])
def test_labels_come_together_however_they_are_held(tmp_path, are_known):
    """One a photo, or some of them unknown, in the last shard alone."""
    numbers = np.arange(12) % 3
    labels = split.OneHot(numbers, 3)
    label_mask = split.every(1, (12, 3))
    if not are_known:
        labels, label_mask = labels[:], np.array(label_mask)
        label_mask[-1, 1] = 0
    write_shards(tmp_path / "shards", split_of(labels, label_mask), 4, 2)
    found = deep_features.read(merge([tmp_path / "shards"], tmp_path / "merged")).splits["train"]
    np.testing.assert_array_equal(found.labels, np.eye(3, dtype=np.uint8)[numbers])
    if are_known:
        assert found.label_mask is None
    else:
        np.testing.assert_array_equal(found.label_mask, label_mask)


def test_the_program(farm, tmp_path, capsys, monkeypatch):
    def start(*arguments):
        monkeypatch.setattr("sys.argv", ["vtl features", *map(str, arguments)])
        program.main()

    start("merge", farm.root / "shards", "-o", tmp_path / "merged")
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'merged' / NPZ}: nobody has looked")
    with pytest.raises(SystemExit) as stop:
        start("merge", farm.whole, "-o", tmp_path / "other")
    assert str(stop.value).startswith("vtl: ")
