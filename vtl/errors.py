"""The one exception that is meant for the person at the keyboard."""

from collections.abc import Collection


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
