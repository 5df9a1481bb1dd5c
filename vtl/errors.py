"""Errors that the user can put right, and the checks that raise them."""

import operator
from collections.abc import Collection, Mapping
from typing import Any


class UserError(Exception):
    """Something the user can put right: a missing file, a broken photo, a misspelt option.

    The message has one to three short lines: what is wrong, where, and what to do. The first line
    makes sense on its own. `vtl.main` prints the message without a traceback and exits with status
    1.
    """


class FetchError(UserError):
    """A download failed. `vtl.main` adds a config that needs none."""


class Diverged(UserError):
    """The loss of a training run is no longer finite."""


def check_choice(option: str, value: str, choices: Collection[str]) -> None:
    """Raise UserError unless `value`, which the config gives for `option`, is one of `choices`."""
    if value not in choices:
        raise UserError(f"{option} is '{value}': choose one of {', '.join(choices)}")


def check_least(config: Any, least: Mapping[str, float]) -> None:
    """Raise UserError if an option of `config` is below its minimum.

    `least` maps dotted option names to their minimums, as in {"data.image_size": 0}.
    """
    for option, minimum in least.items():
        value = operator.attrgetter(option)(config)
        if not value >= minimum:  # also true for NaN
            raise UserError(f"{option} must be at least {minimum:g}, got {value}")
