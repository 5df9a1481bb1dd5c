"""Photos and weights for processes that train together."""

from pathlib import Path

import pytest

from tests.devkit import write_devkit
from tests.tiny import write_weights


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> list[str]:
    """Arguments that name a small network's weights and photos whose number no batch divides."""
    directory: Path = tmp_path_factory.mktemp("photos")
    root = write_devkit(directory, {"train": 37, "test": 10}, classes=("cat", "dog"), size=96)
    weights = write_weights(directory / "w.safetensors")
    return [
        f"--config.data.root={root}",
        f"--config.weights={weights}",
        "--config.data.train_split=train",
    ]
