"""Run directories -> one HTML page.

vtl report runs/relu runs/probe runs/finetune -o report.html

The page is one file that needs no network. A directory that holds no finished run is reported in
one line and left out; the exit status is then 1. For a directory that holds runs, the page shows
all of them.
"""

from vtl import stops

if __name__ == "__main__":
    stops.exit_at_once()  # before the imports below, which take seconds

import argparse
import os
import shlex
import sys
from pathlib import Path

from vtl import disks
from vtl.errors import UserError
from vtl.files import user_path, whole_file
from vtl.report import compare, page
from vtl.report.language import LANGUAGES, Language
from vtl.report.runs import read_all, runs_in
from vtl.untrusted import printable


def main(arguments: list[str] | None = None) -> int:
    """Write the page; the exit status is 0 if every directory is in it."""
    options = _parse(arguments)
    try:
        with disks.refusals(options.output):
            return _write_page(options)
    except UserError as error:
        _complain(str(error))
        return 1


def _write_page(options: argparse.Namespace) -> int:
    given = [Path(path) for path in dict.fromkeys(map(os.path.abspath, options.runs))]
    paths = [path for directory in given for path in runs_in(directory)]
    runs, refused = read_all(paths)
    for line in refused:
        _complain(line)
    if not runs:
        _complain("there is no finished run to make a page of")
        return 1
    _name_runs_compared_apart(compare.by_data_set(runs))
    html = page.make(runs, refused, _command(options), Language(options.lang)).encode()
    with whole_file(options.output) as file:
        file.write(html)
    num_runs = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    print(f"{num_runs}: {options.output} ({len(html) / 1e6:.1f} MB)")
    return 1 if refused else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        # `vtl report` says so itself.
        prog=sys.argv[0] if sys.argv[0].startswith("vtl ") else "python -m vtl.report",
        description="Run directories -> one HTML page.",
    )
    parser.add_argument(
        "runs", nargs="+", type=user_path, help="finished runs' directories, or one that holds them"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=user_path,
        default=Path("report.html"),
        help="the page to write; the default is report.html",
    )
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="the page's language")
    return parser.parse_args(arguments)


def _command(options: argparse.Namespace) -> str:
    """The command that makes this page, for the page itself."""
    arguments = [*map(str, options.runs), "-o", str(options.output)]
    if options.lang != "en":
        arguments += ["--lang", options.lang]
    return printable(f"vtl report {shlex.join(arguments)}", 4000)


def _name_runs_compared_apart(data_sets: list[compare.DataSet]) -> None:
    for data_set in data_sets[1:]:
        names = ", ".join(run.name for run in data_set.runs)
        first = data_sets[0].first.name
        _complain(f"{names}: photos or classes differ from those of {first}, compared separately")


def _complain(line: str) -> None:
    print(f"vtl: {line}", file=sys.stderr)


if __name__ == "__main__":
    with stops.in_one_line():
        sys.exit(main())
