"""What the person at the keyboard can put right: the exceptions, and checks that raise them."""

import operator
from collections.abc import Collection, Mapping
from typing import Any


class UserError(Exception):
    """Something the user can put right: a missing file, a broken photo, a misspelt option.

    The message is one line that says what is wrong, where, and what to do. `vtl.main` prints it
    without a traceback and exits with status 1.
    """


class FetchError(UserError):
    """A download that failed; `vtl.main` names what needs none."""


class Diverged(UserError):
    """A training whose loss is no longer finite."""


def check_choice(option: str, value: str, choices: Collection[str]) -> None:
    """Raise UserError where `value` is none of what the config's `option` may be."""
    if value not in choices:
        raise UserError(f"{option} is '{value}': choose one of {', '.join(choices)}")


def check_least(config: Any, least: Mapping[str, float]) -> None:
    """Raise UserError where an option of `config` is below its least possible value.

    An option goes by its dotted name, as in {"data.image_size": 0}.
    """
    for option, smallest in least.items():
        value = operator.attrgetter(option)(config)
        if not value >= smallest:  # NaN is none either
            raise UserError(f"{option} must be at least {smallest:g}, got {value}")
