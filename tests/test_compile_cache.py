"""A compiled program that was cut short is removed, so that JAX writes it anew."""

import os
import time
import warnings
import zlib

import jax
import pytest

from vtl import compile_cache

COMPLAINT = "Error reading persistent compilation cache entry for 'jit_f': error: incomplete"


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    whole = zlib.compress(bytes(1000))
    contents = {"whole": whole, "cut": whole[:-4], "zeros": bytes(20), "empty": b"", "new": b""}
    for name, content in contents.items():
        path = tmp_path / f"{name}-cache"
        path.write_bytes(content)
        if name != "new":
            os.utime(path, (time.time() - 1000,) * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = []
        warnings.showwarning = lambda message, *args, **options: shown.append(str(message))
        compile_cache.use(tmp_path)
        yield tmp_path, shown


def test_damaged_programs_go_and_one_line_says_so(directory, caplog):
    path, shown = directory
    for _ in range(3):
        warnings.warn(COMPLAINT, stacklevel=1)
    # A young one may still be written by another process.
    assert sorted(entry.name for entry in path.iterdir()) == ["new-cache", "whole-cache"]
    assert [record.getMessage() for record in caplog.records] == [
        f"3 damaged programs in {path} are compiled again"
    ]
    assert shown == []


def test_other_warnings_are_shown(directory):
    path, shown = directory
    warnings.warn("another", stacklevel=1)
    assert shown == ["another"]
    assert len(list(path.iterdir())) == 5
