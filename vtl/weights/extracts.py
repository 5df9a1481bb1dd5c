"""One network out of a file that holds more: an entry of it, under a prefix, without some names."""

import re
from typing import NamedTuple

from vtl.errors import UserError
from vtl.untrusted import printable
from vtl.weights import metadata
from vtl.weights.formats import Contents, WeightsFile
from vtl.weights.formats.contents import OUTERMOST, some_keys
from vtl.weights.layouts.names import plain_name


class Selection(NamedTuple):
    """What is taken of a file; the default is all of its one network.

    `key` names an entry of `Contents`, "." the outermost dict. `prefix` is what stands before the
    network's names; others are left out. `drop` is a regular expression of names that are left out,
    too: it matches one or more whole parts of a name from the prefix on, as `fc` does of
    `fc.0.weight` and not of `fc1.weight`.
    """

    key: str = ""
    prefix: str = ""
    drop: str = ""


WHOLE = Selection()


class Taken(NamedTuple):
    """A network, and the names in the file of what was left out."""

    file: WeightsFile
    outside: tuple[str, ...]
    """Of the prefix."""
    dropped: tuple[str, ...]


def take(contents: Contents, selection: Selection) -> Taken:
    """What `selection` names of a file.

    Names that are matched are those without what PyTorch puts between them (`_orig_mod.`).

    Raises:
        UserError: there is no such entry, nothing under the prefix, nothing to drop, or no pattern;
            or what is taken can't be read.
    """
    if selection == WHOLE:
        return Taken(contents.whole(), (), ())
    if metadata.NETWORK_KEY in contents.metadata:
        raise UserError(
            f"{printable(contents.path)}: vtl wrote it, as one network: read it whole, without "
            "--key, --prefix and --drop"
        )
    key = _key(contents, selection.key)
    entry = contents.entries[key]
    prefix, dropped_by = plain_name(selection.prefix), _pattern(selection.drop)
    kept: dict[str, str] = {}
    outside, dropped = [], []
    for name in (*entry.names, *entry.others):
        plain = plain_name(name)
        if not plain.startswith(prefix):
            outside.append(name)
        elif dropped_by and dropped_by.match(plain, len(prefix)):
            dropped.append(name)
        else:
            kept[name] = plain.removeprefix(prefix)
    where = f"{printable(contents.path)}{f', {printable(key, 60)}' if key else ''}"
    if len(outside) == len(entry.names) + len(entry.others):
        first = printable(next(iter(entry.names)), 80)
        raise UserError(
            f"{where}: no name begins with --prefix={printable(selection.prefix, 60)}; "
            f"{first} is the first"
        )
    if selection.drop and not dropped:
        raise UserError(f"{where}: --drop={printable(selection.drop, 60)} matches no name")
    if len(set(kept.values())) < len(kept):
        raise UserError(f"{where}: holds a tensor twice, with and without `_orig_mod.`")
    return Taken(contents.take(key, kept), tuple(outside), tuple(dropped))


def _key(contents: Contents, key: str) -> str:
    if not key:
        return contents.only()
    if key == OUTERMOST:
        key = ""
    if key not in contents.entries:
        raise UserError(
            f"{printable(contents.path)}: --key={printable(key, 60) or OUTERMOST} is no dict of "
            f"tensors there; these are: {some_keys(contents.networks())}"
        )
    return key


def _pattern(drop: str) -> re.Pattern[str] | None:
    """Matches where one or more whole parts of a name do."""
    if not drop:
        return None
    try:
        return re.compile(rf"(?:{drop})(?=[./]|$)")
    except re.error as error:
        raise UserError(
            f"--drop={printable(drop, 60)} is no regular expression: {error}"
        ) from error


def summary(taken: Taken, selection: Selection) -> list[str]:
    """What was left out, in a line for each reason."""
    lines = []
    if taken.outside:
        where = f"not under {printable(selection.prefix, 60)}"
        lines.append(f"left out, {where}: {_some(taken.outside)}")
    if taken.dropped:
        lines.append(f"left out, by --drop: {_some(taken.dropped)}")
    return lines


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(printable(name, 60) for name in names[:3])
    return f"{len(names)} ({shown}{', …' if len(names) > 3 else ''})"
