"""A network and photos -> a table of predictions, or a page of the photos that it gets wrong.

    vtl predict RUN photos -o predictions.csv              a row a photo, a column a class
    vtl predict RUN photos.csv 'more/**/*.jpg' -o all.jsonl
    vtl predict RUN 1.jpg 2.jpg                            prints the five likeliest classes
    vtl predict RUN photos --errors-page=errors.html       labelled photos: what it gets wrong

RUN is the directory of a finished run (a fine-tuning or a linear probe), a weight file, or the name
of a source. Photos are files, folders with all that is below them, tables (CSV, TSV) that name
some, and patterns in quotation marks. A photo that can't be read is a row that says why, and the
exit status is then 1. What was stopped goes on where it was, by the same command. Many processes
share the photos out, and the first of them writes and prints.
"""

from vtl import stops

if __name__ == "__main__":
    stops.exit_at_once()  # before the imports below, which take seconds

import argparse
import dataclasses
import logging
import sys

from vtl import compile_cache, disks, dtypes, files, places, processes
from vtl.data import images, splits
from vtl.errors import UserError
from vtl.predict import errors_page, growing, likeliest, photos, table
from vtl.predict.predictor import Predictor
from vtl.predict.tally import Tally
from vtl.untrusted import printable


def main(arguments: list[str] | None = None) -> int:
    """Predict; the exit status is 0 if every photo could be read."""
    options = _parse(arguments)
    try:
        place = options.output or options.errors_page or "a file"
        with processes.as_one(), disks.refusals(place, "run the same command again"):
            status = _predict(options)
            processes.finish(status)
            return status
    except UserError as error:
        return _end(f"vtl: {error}", 1)
    except KeyboardInterrupt:
        again = "; run the same command again to go on" if options.output else ""
        return _end(f"{stops.TOLD}{again}", stops.EXIT_STATUS)


def _predict(options: argparse.Namespace) -> int:
    _check(options)
    processes.join(vars(options))
    processes.meet()
    logging.basicConfig(format="vtl: note: %(message)s")
    if options.output:
        growing.check_free(options.output, overwrite=options.overwrite)
    compile_cache.use(files.cache_dir() / "xla")
    predictor = Predictor.load(
        options.network,
        trunk=options.weights,
        uncalibrated=options.uncalibrated,
        decode=options.decode,
        dtype=options.dtype,
    )
    if options.errors_page:
        tally = _write_page(predictor, options)
    else:
        photos.check(options.photos, options.root)
        if options.output:
            tally = _write(predictor, options)
        else:
            stream = photos.stream(options.photos, options.root)
            tally = likeliest.show(predictor, stream, options.top)
    if tally.num_broken:
        print(f"vtl: {tally.complaint()}", file=sys.stderr)
    return 1 if tally.num_broken else 0


def _check(options: argparse.Namespace) -> None:
    """What can be said before anything is read."""
    if options.errors_page and (options.output or len(options.photos) > 1):
        raise UserError(
            "--errors-page takes one folder of labelled photos, and no -o\n"
            "Run vtl predict a second time for a table."
        )
    if not options.errors_page and (options.labels or options.split):
        raise UserError("--labels and --split say which labelled photos --errors-page=PAGE is of")
    if options.output:
        table.check_suffix(options.output)


def _write(predictor: Predictor, options: argparse.Namespace) -> Tally:
    rows = table.rows_for(options.output, predictor.classes)
    tally = growing.write(
        options.output,
        {
            "network": predictor.weights.sha256,
            "choice of probabilities": "calibrated" if predictor.is_calibrated else "scores",
            "batch size": predictor.batch_size,
            "way to compute": dataclasses.asdict(predictor.settings),
        },
        rows,
        lambda: photos.stream(options.photos, options.root),
        predictor.predict,
        batch_size=predictor.batch_size,
        num_photos=photos.known_count(options.photos),
    )
    kept = f", {tally.num_kept:,} of them before it was stopped" if tally.num_kept else ""
    print(f"{printable(options.output)}: {tally.num_photos:,} photos{kept}")
    return tally


def _write_page(predictor: Predictor, options: argparse.Namespace) -> Tally:
    (root,) = options.photos
    by_role = splits.read(root, labels=options.labels or None)
    if options.split:
        if options.split not in by_role:
            names = ", ".join(by_role)
            raise UserError(f"{printable(root)} has no split {options.split}: it has {names}")
        by_role = {options.split: by_role[options.split]}
    title = f"What {printable(options.network, 80)} gets wrong"
    line, tally = errors_page.write(options.errors_page, predictor, by_role, title)
    print(f"{printable(options.errors_page)}: {line}")
    return tally


def _end(message: str, status: int) -> int:
    """Print the message; a stop, and each of many processes, waits for no threads."""
    message, status = processes.last_words(message, status)
    if status == stops.EXIT_STATUS or processes.count() > 1:
        stops.leave(message, sys.stderr, status)
    print(message, file=sys.stderr)
    return status


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        # `vtl predict` says so itself.
        prog=sys.argv[0] if sys.argv[0].startswith("vtl ") else "python -m vtl.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", metavar="RUN", help="a finished run, a weight file or a source")
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="see above")
    parser.add_argument(
        "-o", "--output", type=files.user_path, help="the table to write: NAME.csv or NAME.jsonl"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    parser.add_argument(
        "--uncalibrated",
        action="store_true",
        help="the run's scores, also of a network with calibrated probabilities",
    )
    parser.add_argument(
        "--decode",
        choices=images.DECODE,
        default="",
        help="how large JPEGs are decoded; the default is as the run's were, or fast",
    )
    parser.add_argument(
        "--dtype",
        choices=(dtypes.AUTO, *dtypes.DTYPES),
        default="",
        help="of activations; the default is the run's, auto is bfloat16 where that is faster",
    )
    parser.add_argument(
        "--top", type=_positive, default=likeliest.TOP, help="how many classes are printed"
    )
    parser.add_argument(
        "--root",
        type=files.user_path,
        metavar="FOLDER",
        help="where names in tables start from; the default is the table's folder",
    )
    parser.add_argument(
        "--weights", default="", metavar="FILE", help="of a probe: where its network is now"
    )
    parser.add_argument(
        "--errors-page",
        type=files.user_path,
        metavar="PAGE",
        help="an HTML page of what it gets wrong; PHOTO is then a folder of labelled photos",
    )
    parser.add_argument("--labels", default="", metavar="FILE", help="their table, or COCO file")
    parser.add_argument(
        "--split", choices=splits.ROLES, help="one of their splits, instead of all together"
    )
    places.add_arguments(parser)
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


if __name__ == "__main__":
    with stops.in_one_line():
        sys.exit(main())
