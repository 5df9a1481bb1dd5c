"""A run -> a page of the labels that look wrong; what a person says of them -> a new table.

    vtl review RUN -o review.html
    vtl review apply corrections.csv labels.csv -o labels2.csv

RUN is a run of `vtl deep_features`, or of `vtl linear_probe` on its features. The page is one file
that needs no network and no server. Its button saves corrections.csv. `apply` leaves
labels.csv as it is; it prints a line a change, and keeps all of them in labels2.csv.changes.json.
"""

from vtl import stops

if __name__ == "__main__":
    stops.exit_at_once()  # before the imports below, which take seconds

import argparse
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

from vtl import compile_cache, disks, files
from vtl.data import corrected, duplicates
from vtl.data.layouts import table
from vtl.errors import UserError
from vtl.files import user_path, whole_file
from vtl.review import corrections, neighbours, page, probabilities, reviewed, suspects
from vtl.untrusted import open_plain, printable

MOST = 2000
"""Suspects of a page."""


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or the new table; the exit status is 0 if all went well."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["apply"]:
            options = _parse_apply(given[1:])
            with disks.refusals(options.output):
                return _apply(options)
        options = _parse(given)
        with disks.refusals(options.output):
            return _review(options)
    except UserError as error:
        print(f"vtl: {error}", file=sys.stderr)
        return 1


def _review(options: argparse.Namespace) -> int:
    logging.basicConfig(format="vtl: note: %(message)s")
    compile_cache.use(files.cache_dir() / "xla")
    of = reviewed.read(options.run, options.root, options.labels)
    for note in of.notes:
        print(f"vtl: {note}", file=sys.stderr)
    near = neighbours.find(of.features)
    groups = duplicates.joined(near.groups, of.groups)
    if groups.max() + 1 < 2 * probabilities.NUM_FOLDS:
        raise UserError(
            f"{groups.max() + 1} photos that are not alike are too few to ask what the others say "
            f"of them: {2 * probabilities.NUM_FOLDS} are needed"
        )
    p = probabilities.out_of_fold(
        of.features, of.labels, of.counts, groups, one_label_each=of.one_label_each
    )
    found = suspects.find(
        of, p, near.groups, near.likeness, ranking=options.ranking, most=options.most
    )
    title = f"Labels of {printable(options.run, 80)} that look wrong"
    html, problems = page.make(of, found, title=title, ranking=options.ranking)
    for line in problems[:3]:
        print(f"vtl: {line}", file=sys.stderr)
    content = html.encode(errors="replace")
    with whole_file(options.output) as file:
        file.write(content)
    counts = ", ".join(f"{sum(s.kind == kind for s in found):,} {kind}" for kind in suspects.KINDS)
    print(f"{printable(options.output)}: {counts} ({len(content) / 1e6:.1f} MB)")
    return 0


def _apply(options: argparse.Namespace) -> int:
    if options.table.suffix.lower() not in (".csv", ".tsv"):
        raise UserError(
            f"{printable(options.table)} is no table, and corrections go into a CSV or TSV\n"
            "Correct folders, XML and JSON where they were made: corrections.csv lists what to "
            "change."
        )
    done = corrections.applied(
        corrections.read(options.corrections),
        options.table,
        flags=options.flags,
        separator=options.separator,
    )
    if not _is_written(options.output, done.content):
        changes = [change.record() for change in done.changes]
        corrected.write_log(options.output, done.content, options.table, changes)
        with whole_file(options.output) as file:
            file.write(done.content)
    for change in done.changes:
        print(change)
    for line in done.left:
        print(f"vtl: {line}", file=sys.stderr)
    print(
        f"{printable(options.output)}: {len(done.changes):,} labels changed, "
        f"{done.num_confirmed:,} confirmed"
    )
    return 1 if done.left else 0


def _is_written(path: Path, content: bytes) -> bool:
    """Whether an earlier call wrote it; UserError if something else is there."""
    if not os.path.lexists(path):
        return False
    with suppress(UserError), open_plain(path, max_bytes=len(content)) as file:
        if file.read() == content:
            return True
    raise UserError(f"{printable(path)} is there already: choose another name for -o")


def _parser(name: str) -> argparse.ArgumentParser:
    # `vtl review` says so itself.
    program = sys.argv[0] if sys.argv[0].startswith("vtl ") else "python -m vtl.review"
    return argparse.ArgumentParser(
        prog=f"{program}{name}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _parser("")
    parser.add_argument(
        "run", metavar="RUN", help="its workdir, such as runs/features; or `apply`: see apply -h"
    )
    parser.add_argument(
        "-o", "--output", type=user_path, default=Path("review.html"), help="the page (review.html)"
    )
    parser.add_argument(
        "--ranking",
        choices=suspects.RANKINGS,
        default="plain",
        help='cleanlab needs pip install "vtl[review]"',
    )
    parser.add_argument(
        "--most", type=_count, default=MOST, help=f"contradicted labels on the page ({MOST:,})"
    )
    parser.add_argument("--root", default="", metavar="FOLDER", help="where the photos are now")
    parser.add_argument("--labels", default="", metavar="FILE", help="their labels now")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {printable(text, 40)}")
    return int(text)


def _parse_apply(arguments: list[str]) -> argparse.Namespace:
    parser = _parser(" apply")
    parser.add_argument("corrections", type=user_path, help="what the page saved")
    parser.add_argument("table", type=user_path, help="the table of labels, which stays as it is")
    parser.add_argument("-o", "--output", type=user_path, required=True, help="the new table")
    parser.add_argument(
        "--flags", choices=table.FLAGS, default="yes_no", help="1/0 or VOC's 1/-1/0, as data.flags"
    )
    parser.add_argument(
        "--separator",
        choices=("", "none", *table.SEPARATORS),
        default="",
        metavar="SIGN",
        help="between labels in one cell: ; or | or , or none; vtl finds it, as data.separator",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    with stops.in_one_line():
        sys.exit(main())
