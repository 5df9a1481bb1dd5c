"""Errors that the user can put right, and the checks that raise them."""

from collections.abc import Collection


def escaped(text: str) -> str:
    """The text with every character that a terminal would not print as its escape sequence."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


class UserError(Exception):
    """Something the user can put right: a missing file, a broken photo, a misspelt option.

    The message has one to three short lines: what is wrong, where, and what to do. The first line
    makes sense on its own. `vtl.main` prints the message without a traceback and exits with status
    1.
    """

    def __init__(self, message: str):
        """Names in the message may come from anywhere: what is in them is shown, and not done."""
        super().__init__("\n".join(escaped(line) for line in message.split("\n")))


class FetchError(UserError):
    """A download failed. `vtl.main` adds a config that needs none."""


class Diverged(UserError):
    """The loss of a training run is no longer finite."""


def check_choice(option: str, value: str, choices: Collection[str]) -> None:
    """Raise UserError unless `value`, which the config gives for `option`, is one of `choices`."""
    if value not in choices:
        raise UserError(f"{option} is '{value}': choose one of {', '.join(choices)}")
