"""Which rows are whose, and which shard a process is."""

import itertools

import pytest

from configs.deep_features import get_config
from vtl.errors import UserError
from vtl.features import shards
from vtl.features.shards import Shard


@pytest.fixture(autouse=True)
def outside_of_arrays(monkeypatch):
    for name in shards.INDEX_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def config_of(shard: str, **changes):
    config = get_config()
    config.update_from_flattened_dict({"shard": shard} | changes)
    return config.lock()


@pytest.mark.parametrize("num_shards", [1, 2, 3, 8, 50])
@pytest.mark.parametrize(
    ("num_photos", "batch_size"), [(0, 4), (1, 4), (7, 4), (320, 32), (999, 7)]
)
def test_every_row_is_in_one_shard_in_whole_batches(num_photos, batch_size, num_shards):
    parts = [Shard(i, num_shards).rows(num_photos, batch_size) for i in range(num_shards)]
    assert list(itertools.chain.from_iterable(parts)) == list(range(num_photos))
    assert all(part.start % batch_size == 0 for part in parts)
    num_batches = [-(-len(part) // batch_size) for part in parts]
    assert max(num_batches) - min(num_batches) <= 1


@pytest.mark.parametrize("spelled", ["0/8", "3/8", "7/8"])
def test_a_shard_is_named(spelled):
    config = config_of(spelled)
    assert str(shards.take(config)) == config.shard == spelled


@pytest.mark.parametrize("name", shards.INDEX_VARIABLES)
def test_auto_is_the_number_of_the_array_task(monkeypatch, name):
    monkeypatch.setenv(name, "5")
    # Where one task of eight is submitted again, Slurm says so:
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "1")
    config = config_of("auto/8")
    assert shards.take(config) == Shard(5, 8)
    assert config.shard == "5/8"  # as if it had been named


def test_nobody_becomes_a_shard_unasked(monkeypatch):
    for name in shards.INDEX_VARIABLES:
        monkeypatch.setenv(name, "5")
    assert shards.take(config_of("")) is None
    assert shards.take(config_of("1/8")) == Shard(1, 8)


@pytest.mark.parametrize(
    ("spelled", "environment", "message"),
    [
        ("8/8", {}, "shard 8/8 does not exist: shards count from 0, and the last of 8 is 7/8"),
        ("0/0", {}, "shard 0/0 does not exist"),
        ("3", {}, "shard is '3': write it as 0/8 to 7/8, as auto/8 in a job array"),
        ("-1/8", {}, "shard is '-1/8': write it as"),
        ("auto", {}, "shard is 'auto': write it as"),
        ("auto/8", {}, "SLURM_ARRAY_TASK_ID and JOB_COMPLETION_INDEX are not set\n"),
        (
            "auto/8",
            {"SLURM_ARRAY_TASK_ID": "8"},
            "is 8, and the last of 8 shards is 7\nNumber .*=0-7",
        ),
        (
            "auto/8",
            {"JOB_COMPLETION_INDEX": "x"},
            "JOB_COMPLETION_INDEX is 'x' and should be a num",
        ),
    ],
)
def test_what_is_no_shard(monkeypatch, spelled, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as error:
        shards.take(config_of(spelled))
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize("duplicates", ["error", "drop_from_train"])
def test_what_needs_all_photos_is_refused(duplicates):
    with pytest.raises(UserError, match=f"data.duplicates={duplicates} needs all photos"):
        shards.take(config_of("0/8", **{"data.duplicates": duplicates}))


def test_a_shard_of_a_farm_that_has_begun_is_known(tmp_path):
    shard = Shard(2, 8)
    assert shard.begun(tmp_path) == tmp_path / shard.name
    for name in ("shard_1_of_9", "shard_7_of_8", shard.name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    assert shard.begun(tmp_path) == tmp_path / shard.name
    (tmp_path / shard.name / "config.json").unlink()
    assert shard.begun(tmp_path) == tmp_path / "shard_7_of_8"
