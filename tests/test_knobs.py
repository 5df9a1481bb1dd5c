"""Values that no knob can have are named before anything is begun."""

import math
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from vtl import config_files, knobs
from vtl.errors import UserError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("[a-z]*.py"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_epochs", math.nan, "must be a finite number, got nan"),
        ("num_epochs", 1e12, "must be at most 100000, got 1000000000000.0"),
        ("batch_size", 10**9, "must be at most 65536, got 1000000000"),
        ("optim.warmup_steps", -1, "must be at least 0, got -1"),
        ("optim.momentum", 1.0, "must be at most 0.9999, got 1.0"),
        ("l2s", (0.1, 0.0), "must be at least 1e-12, got 0.0"),
        ("learning_rates", ("a",), "must be a number, got 'a'"),
        ("learning_rates", (0.1, math.inf), "must be a finite number, got inf"),
        ("seed", -1, "must be at least 0, got -1"),
        ("seed", 1 << 32, "must be at most 4294967295, got 4294967296"),
        ("seeds", (1.5,), "must be a whole number, got 1.5"),
        ("data.root", "a\x1b[2J", "must not have unprintable characters"),
    ],
)
def test_what_no_knob_can_be(name, value, message):
    config = ConfigDict({"data": {}, "optim": {}})
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=f"^{name} {message}"):
        knobs.check(config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_default_is_in_range(path):
    module = config_files.load(path)
    for variant in ("", *module.VARIANTS):
        knobs.check(module.get_config(variant))
    assert len(module.VARIANTS) > 0


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = ConfigDict({"weights": "~/w.pth", "data": {"root": "~/photos"}, "name": "a~b"})
    knobs.expand_paths(config.lock())
    assert config.to_dict() == {
        "weights": "/home/somebody/w.pth",
        "data": {"root": "/home/somebody/photos"},
        "name": "a~b",
    }
