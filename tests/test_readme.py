"""The README's Python runs as it stands, but for where the weights and the photos are."""

import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from tests.devkit import write_devkit
from tests.tiny import write_weights

README = Path(__file__).parents[1] / "README.md"


def test_the_exercises(tmp_path, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    devkit = write_devkit(tmp_path, {"trainval": 35, "test": 20})
    weights = write_weights(tmp_path / "tiny.safetensors")
    for placeholder, path in (("keras_v1", weights), ("VOCdevkit/VOC2007", devkit)):
        assert code.count(f'"{placeholder}"') == 1
        code = code.replace(f'"{placeholder}"', repr(str(path)))
    names = {}
    exec(code, names)
    printed = capsys.readouterr().out

    assert re.search(r"^layer4_1/conv2 +7 x 7 x 64 +36,864$", printed, re.MULTILINE)
    X, Y, losses = (names[name] for name in ("X", "Y", "losses"))
    assert X["trainval"].shape == (35, 64)
    assert X["test"].shape == (20, 64)
    assert len(np.unique(X["trainval"], axis=0)) == 35
    assert losses.shape == (22,)
    assert np.isfinite(losses).all()
    scores = names["probe"].predict(names["head"], X["test"])
    columns = zip(Y["test"].T, scores.T, strict=True)
    aps = [average_precision_score(y, score) for y, score in columns if y.any()]
    assert names["result"]["map"]["lab"] == pytest.approx(np.mean(aps), abs=1e-6)
    assert f"{100 * np.mean(aps):.1f} [" in printed
