"""What lies beside an exported file, and whose it is: no file that others wrote is replaced."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from vtl.errors import UserError
from vtl.files import file_sha256, whole_file
from vtl.identity import json_sha256
from vtl.untrusted import open_plain, printable

_MARK = "<!-- written by vtl export for "
_MAX_CARD_BYTES = 1 << 22
_OWN_KEY = "vtl_export"
"""In a config.json of ours: the sha256 of the rest, which shows that nobody changed it."""


def check_place(output: Path, *, overwrite: bool) -> None:
    """Refuse a place that can't be written, or a file there that vtl export didn't write.

    Raises:
        UserError: the folder is missing, or there is a folder or somebody's file of that name.
    """
    shown = printable(output)
    if not os.path.isdir(output.parent):
        raise UserError(
            f"cannot write {shown}: there is no folder {printable(output.parent)}\n"
            "Make it, or name another file with -o."
        )
    if output.is_dir():
        raise UserError(f"cannot write {shown}: it is a folder\nName a file with -o.")
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"cannot write {shown}: {printable(output.parent)} may not be written to")
    if not overwrite and os.path.lexists(output) and not _is_ours(output):
        raise UserError(
            f"{shown} is there, and is no export that a card beside it tells of\n"
            "Choose another name with -o, or replace it with --overwrite."
        )


def _cards(output: Path) -> list[Path]:
    """Where the card of an export may be, the best place first."""
    names = ("README.md", f"{output.stem}_README.md", f"{output.name}_README.md")
    return [output.parent / name for name in names]


def _is_ours(output: Path) -> bool:
    return any(
        _card_of(card) == (output.name, file_sha256(output))
        for card in _cards(output)
        if card.is_file()
    )


def _card_of(path: Path) -> tuple[str, str] | None:
    """The name and sha256 of the file that an unchanged card of ours is about."""
    with open_plain(path) as file:
        first, _, rest = file.read(_MAX_CARD_BYTES).partition(b"\n")
    try:
        stated = json.loads(first.decode().removeprefix(_MARK).removesuffix(" -->"))
        name, of_file, of_card = (stated[key] for key in ("file", "sha256", "card"))
    except (ValueError, TypeError, KeyError):
        return None
    return (name, of_file) if hashlib.sha256(rest).hexdigest() == of_card else None


def write_card(output: Path, text: str) -> Path:
    """Write the model card beside `output`, which is written; returns where.

    Raises:
        UserError: there are other people's files at all places where it may be.
    """
    for place in _cards(output):
        about = _card_of(place) if place.is_file() else None
        if not os.path.lexists(place) or (about and about[0] == output.name):
            break
    else:
        raise UserError(f"{printable(place)} and others are there: the card was not written")
    content = text.encode()
    mark = {
        "file": output.name,
        "sha256": file_sha256(output),
        "card": hashlib.sha256(content).hexdigest(),
    }
    with whole_file(place) as file:
        file.write(f"{_MARK}{json.dumps(mark)} -->\n".encode() + content)
    return place


def write_config(output: Path, config: dict[str, Any]) -> Path:
    """Write timm's config.json beside `output`, or under another name if there is another's."""
    for name in ("config.json", f"{output.stem}_config.json", f"{output.name}_config.json"):
        place = output.parent / name
        if not os.path.lexists(place) or _is_our_config(place):
            break
    else:
        raise UserError(f"{printable(place)} and others are there: no config was written")
    content = config | {_OWN_KEY: json_sha256(config)}
    with whole_file(place) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
    return place


def _is_our_config(path: Path) -> bool:
    if not path.is_file():
        return False
    with open_plain(path) as file:
        try:
            value = json.loads(file.read(_MAX_CARD_BYTES))
        except (ValueError, RecursionError):
            return False
    return isinstance(value, dict) and value.pop(_OWN_KEY, None) == json_sha256(value)
