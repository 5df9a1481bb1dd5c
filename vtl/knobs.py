"""What the value of a knob can be, by its name, in whatever task."""

import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from vtl.errors import UserError
from vtl.files import user_path
from vtl.untrusted import printable

_SEED = 0, (1 << 32) - 1
"""JAX keeps 32 bits of a seed: two seeds that differ only above would give the same run."""

_RANGES: dict[str, tuple[float, float]] = {
    "split_fractions": (0, 1),
    "seed": _SEED,
    "seeds": _SEED,
    "rate_seeds": _SEED,
    "num_epochs": (0, 1e5),
    "batch_size": (1, 1 << 16),
    "eval_batch_size": (1, 1 << 16),
    "epoch_size": (1, 1e8),
    "log_every_steps": (1, 1e9),
    "image_size": (0, 4096),
    "pool": (1, 64),
    "gallery_photos": (0, 1000),
    "num_images": (1, 1e8),
    "num_held_out": (1, 1e8),
    "learning_rate": (0, math.inf),
    "learning_rates": (0, math.inf),
    "warmup_steps": (0, 1e9),
    "momentum": (0, 0.9999),
    "weight_decay": (0, 1e9),
    "weight_decays": (0, 1e9),
    "clip_norm": (0, math.inf),
    "head_l2": (0, 1e12),
    "held_out": (0, 0.9),
    "mix_with_start": (0.01, 0.99),
    "l2s": (1e-12, 1e12),
    "num_seeds": (1, 1000),
    "num_folds": (2, 1000),
    "svm_costs": (1e-12, 1e12),
    "svm_folds": (2, 1000),
    "svm_positive_weight": (1e-3, 1e3),
    "low_shot": (1, 1e8),
    "low_shot_draws": (1, 1000),
    "fractions": (1e-6, 1),
    "draws": (1, 1000),
    "num_resamples": (1, 1e6),
    "measurements_per_epoch": (1, 1e4),
    "loss_tolerance": (0, 1e6),
    "num_hidden": (1, 1e6),
    "kernel_size": (1, 28),
    "padding": (0, 28),
}
"""The least and the most that a number, or each number of a tuple, can sensibly be."""


def check(config: ConfigDict) -> None:
    """Check every value that its name alone can rule out.

    Raises:
        UserError: a number is not finite or out of its range, a tuple of numbers holds something
            else, or a text can't be a name or path.
    """
    for name, value in _walk(config):
        for item in value if isinstance(value, tuple | list) else (value,):
            _check_item(name, item)


def expand_paths(config: ConfigDict) -> None:
    """Expand `~` to the home directory in every text that begins with it."""
    for name, value in list(_walk(config)):
        if isinstance(value, str) and value.startswith("~"):
            with config.unlocked():
                config.update_from_flattened_dict({name: str(user_path(value))})


def _check_item(name: str, value: Any) -> None:
    last_word = name.rpartition(".")[2]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value}")
    if isinstance(value, str) and not value.isprintable():
        raise UserError(f"{name} must not have unprintable characters, got {printable(value)}")
    if last_word not in _RANGES:
        return
    least, most = _RANGES[last_word]
    if not isinstance(value, int | float):
        raise UserError(f"{name} must be a number, got {printable(repr(value), 40)}")
    if (least, most) == _SEED and not isinstance(value, int):
        raise UserError(f"{name} must be a whole number, got {value}")
    if value < least:
        raise UserError(f"{name} must be at least {least:.10g}, got {value}")
    if value > most:
        raise UserError(f"{name} must be at most {most:.10g}, got {value}")


def _walk(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every knob's dotted name and its value."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
