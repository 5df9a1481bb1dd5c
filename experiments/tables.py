"""What every experiment writes: a CSV whose rows name the commit that they were measured at."""

import csv
from pathlib import Path
from typing import Any

from vtl import console, run_directory

Row = dict[str, Any]

run_directory.commit()  # cached from here on, because the first table makes the checkout dirty


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV. A row may lack columns; one without a commit gets that of this code."""
    rows = [{**row, "commit": row.get("commit", run_directory.commit())} for row in rows]
    columns = max((list(row) for row in rows), key=len)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[Row]:
    """The rows of a table; an empty list if there is no table yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def show(row: Row) -> None:
    """Print a row for people, at once."""
    console.say("  ".join(f"{column} {value}" for column, value in row.items()))
