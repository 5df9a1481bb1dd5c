"""Run directories -> one HTML page.

python -m vtl.report runs/relu runs/probe runs/finetune -o report.html

The page is one file that needs no network. What is no finished run is named in a line, and the page
is made from the others; the exit status is then 1.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from vtl.files import whole_file
from vtl.report import compare, page, runs
from vtl.report.language import LANGUAGES, Language


def main(arguments: list[str] | None = None) -> int:
    """Write the page; the exit status is 0 if every directory is in it."""
    parser = argparse.ArgumentParser(
        prog="python -m vtl.report", description="Run directories -> one HTML page."
    )
    parser.add_argument("runs", nargs="+", type=Path, help="directories of finished runs")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"))
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="the page's language")
    options = parser.parse_args(arguments)

    paths = [Path(path) for path in dict.fromkeys(map(os.path.abspath, options.runs))]
    found, refused = runs.read_all(paths)
    for line in refused:
        _complain(line)
    if not found:
        _complain("no run is left to make a page of")
        return 1
    data_sets = compare.by_data_set(found)
    for data_set in data_sets[1:]:
        names = ", ".join(run.name for run in data_set.runs)
        first = data_sets[0].first.name
        _complain(f"{names}: other photos or classes than {first}, compared apart")
    given = [*map(str, options.runs), "-o", str(options.output)]
    given += ["--lang", options.lang] if options.lang != "en" else []
    command = f"python -m vtl.report {shlex.join(given)}"
    html = page.make(found, refused, command, Language(options.lang))
    try:
        with whole_file(options.output) as file:
            file.write(html.encode())
    except OSError as error:
        _complain(f"cannot write {options.output}: {error.strerror}")
        return 1
    runs_found = f"{len(found)} run{'s' if found[1:] else ''}"
    print(f"{runs_found}: {options.output} ({len(html.encode()) / 1e6:.1f} MB)")
    return 1 if refused else 0


def _complain(line: str) -> None:
    print(f"vtl: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
