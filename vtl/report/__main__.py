"""Run directories -> one HTML page.

vtl report runs/relu runs/probe runs/finetune -o report.html
vtl report --class runs -o class.html --csv marks.csv

The page is one file that needs no network. A directory that holds no finished run is reported in
one line and left out; the exit status is then 1. For a directory that holds runs, the page shows
all of them. With --class it is a table to mark from, in which every directory has a row.
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
from vtl.report import class_page, compare, marks, marks_csv, page, ranking
from vtl.report.language import LANGUAGES, Language
from vtl.report.runs import read_all
from vtl.report.search import runs_in
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
    found = [runs_in(directory) for directory in given]
    paths = list(dict.fromkeys(path for of in found for path in of.paths))
    problems = [line for of in found for line in of.problems]
    if options.is_class:
        return _write_class(options, given, paths, problems)
    runs, refused = read_all(paths)
    refused = [*problems, *refused]
    for line in refused:
        _complain(line)
    if not runs:
        _complain("there is no finished run to make a page of")
        return 1
    _name_runs_compared_apart(compare.by_data_set(runs))
    language = Language(options.lang)
    html = page.make(
        runs, refused, _command(options), language, with_answers=not options.no_answers
    ).encode()
    with whole_file(options.output) as file:
        file.write(html)
    print(f"{_num_runs(len(runs))}: {options.output} ({len(html) / 1e6:.1f} MB)")
    return 1 if refused else 0


def _write_class(
    options: argparse.Namespace, given: list[Path], paths: list[Path], problems: list[str]
) -> int:
    """Write the table, and the CSV; a run that can't be read is a row like the others."""
    for line in problems:
        _complain(line)
    rows = ranking.of_runs(paths, ranking.names_below(paths, given))
    if all(row.kind is None for row in rows):
        for row in rows:
            _complain(f"{row.name}: {marks.said(row, Language('en'))}")
        _complain("there is no finished run to make a table of")
        return 1
    language = Language(options.lang)
    html = class_page.make(rows, problems, _command(options), language).encode()
    with whole_file(options.output) as file:
        file.write(html)
    if options.csv:
        with disks.refusals(options.csv), whole_file(options.csv) as file:
            file.write(marks_csv.write(rows, language).encode())
    num_ranked = sum(row.rank is not None for row in rows)
    written = f"{options.output}, {options.csv}" if options.csv else f"{options.output}"
    print(f"{_num_runs(len(rows))}, {num_ranked} ranked: {written}")
    return 1 if problems else 0


def _num_runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"


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
    parser.add_argument(
        "--class",
        dest="is_class",
        action="store_true",
        help="a table to mark from: a row a run, edited and copied runs out of the ranking",
    )
    parser.add_argument("--csv", type=user_path, help="with --class: write the rows there, too")
    parser.add_argument(
        "--no-answers", action="store_true", help="leave out the answers to the lab's questions"
    )
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="the page's language")
    options = parser.parse_args(arguments)
    if options.csv and not options.is_class:
        parser.error("--csv writes the rows of a class: give --class")
    return options


def _command(options: argparse.Namespace) -> str:
    """The command that makes this page, for the page itself."""
    arguments = ["--class"] if options.is_class else []
    arguments += [*map(str, options.runs), "-o", str(options.output)]
    if options.csv:
        arguments += ["--csv", str(options.csv)]
    if options.no_answers:
        arguments.append("--no-answers")
    if options.lang != "en":
        arguments += ["--lang", options.lang]
    return printable(f"vtl report {shlex.join(arguments)}", 4000)


def _name_runs_compared_apart(data_sets: list[compare.DataSet]) -> None:
    for data_set in data_sets[1:]:
        names = ", ".join(run.name for run in data_set.runs)
        first = data_sets[0].first.name
        _complain(f"{names}: photos or classes differ from those of {first}, compared separately")
        changed = compare.changed_labels(data_sets[0].first, data_set.first)
        if changed and changed[0]:
            _complain(f"{changed[0]:,} labels of {changed[1]:,} photos differ")


def _complain(line: str) -> None:
    print(f"vtl: {line}", file=sys.stderr)


if __name__ == "__main__":
    with stops.in_one_line():
        sys.exit(main())
