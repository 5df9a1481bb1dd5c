"""What `vtl review apply` writes beside a new table: what it changed, and of which table.

`labels2.csv` has `labels2.csv.changes.json` beside it, which counts for as long as the table is the
one that was written.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtl import schema
from vtl.errors import UserError
from vtl.files import file_sha256, write_json
from vtl.untrusted import plain_sha256, printable, read_json

FORMAT_VERSION = 1
MAX_CHANGES = 1_000_000

_CHANGE = schema.record(
    {"line": schema.count, **dict.fromkeys(("photo", "class", "was", "label"), schema.text)}
)
_LOG = schema.record(
    {
        "from": schema.text,
        "sha256": schema.text,
        "changes": schema.list_of(_CHANGE, most=MAX_CHANGES),
    }
)


def log_of(table: Path) -> Path:
    """Where the log of a table is, if it has one."""
    return table.with_name(f"{table.name}.changes.json")


def write_log(table: Path, content: bytes, origin: Path, changes: Sequence[dict[str, Any]]) -> None:
    """Write the log of a table of this content: the table it comes from, and a record a label.

    It goes first: without its table a log says nothing, and the next one takes its place.
    """
    log = {"format_version": FORMAT_VERSION, "from": origin.name}
    log |= {"from_sha256": file_sha256(origin), "sha256": hashlib.sha256(content).hexdigest()}
    write_json(log_of(table), log | {"changes": list(changes)})


def notes(table: Path) -> list[str]:
    """By its log, how many labels of a table differ from those of the table that it comes from.

    None if it has no log, or was changed since.
    """
    path = log_of(table)
    if not path.exists():
        return []
    try:
        with schema.of_file(path):
            log = read_json(path, inside=path.parent)
            _LOG(log, "")
        if plain_sha256(table) != log["sha256"]:
            return []
    except UserError as error:
        return [f"what was corrected is not known: {error}"]
    changes = log["changes"]
    photos = {change["line"] for change in changes}
    return [
        f"{len(changes):,} labels of {len(photos):,} photos differ from "
        f"{printable(log['from'], 80)}'s, by {printable(path.name, 80)}"
    ]
