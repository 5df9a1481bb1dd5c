import dataclasses
import hashlib
from pathlib import Path

import jax
import numpy as np

from vtl.data import glyphs
from vtl.tasks import classify
from vtl.weights import network, sources
from vtl.weights.preprocessing import normalise


def test_the_demo_network_is_in_the_package_and_knows_its_letters(monkeypatch, tmp_path):
    """Of pictures it never saw; a wrong conversion or preprocessing would show here."""
    monkeypatch.setenv("VTL_CACHE", str(tmp_path))
    source, weights = sources.SOURCES["demo"], sources.load("demo")
    assert weights.path.parent == Path(sources.__file__).parent
    assert weights.path.stat().st_size < 3.2e6
    assert hashlib.sha256(weights.path.read_bytes()).hexdigest() == source.download.sha256
    assert not list(tmp_path.rglob("*.safetensors"))
    assert weights.preprocessing == source.preprocessing
    assert weights.classes == glyphs.CLASSES
    architecture = dataclasses.asdict(weights.architecture)
    assert (architecture["depth"], architecture["width"]) == (50, 0.25)

    model, variables = network.as_published(weights)
    pictures = glyphs.Glyphs(500, source.preprocessing.crop_size, classify.HELD_OUT_SEED)
    images = normalise(pictures[np.arange(500)], source.preprocessing)
    logits, _ = jax.jit(lambda x: model.apply(variables, x, live_norms=()))(images)
    top1 = np.mean(np.asarray(logits).argmax(axis=1) == pictures.labels)
    assert abs(100 * top1 - source.top1) < 5
