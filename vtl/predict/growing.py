"""A file of predictions that grows beside the output, and goes on where it was stopped.

Of many processes the first one writes it.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from absl import logging
from tqdm import tqdm

from vtl import files, processes
from vtl.errors import UserError
from vtl.predict.decoding import is_full
from vtl.predict.photos import Photo
from vtl.predict.predictor import Prediction
from vtl.predict.table import Rows
from vtl.predict.tally import Tally
from vtl.untrusted import printable, read_json

Photos = Callable[[], Iterator[Photo]]
Predict = Callable[[Iterable[Photo]], Iterator[list[Prediction]]]


class _Differs(Exception):
    """What was written is not the beginning of what would be written now."""


@processes.by_first
def check_free(output: Path, *, overwrite: bool) -> None:
    """UserError if there is something at `output` that would be lost."""
    if os.path.lexists(output) and (output.is_dir() or not overwrite):
        what = "is a directory" if output.is_dir() else "exists already"
        way_out = "" if output.is_dir() else ", or --overwrite to replace it"
        raise UserError(f"{printable(output)} {what}: choose another name{way_out}")


def write(
    output: Path,
    made_of: dict[str, Any],
    rows: Rows,
    photos: Photos,
    predict: Predict,
    *,
    batch_size: int,
    num_photos: int | None = None,
) -> Tally:
    """Write the predictions of all photos; where an earlier call was stopped, go on.

    Args:
        output: where the file is once it is whole; until then `unfinished_NAME` grows beside it.
        made_of: what the rows depend on, by name; a file that was made of something else is set
            aside, and so is one of other photos.
        rows: how a prediction is written.
        photos: gives the photos from the first one on, each time in the same order.
        predict: the predictions of photos, `batch_size` legible ones at a time.
        batch_size: whole batches of an earlier call are kept, so that all bytes are the same.
        num_photos: if it is known.

    Raises:
        OSError: it can't be written, or another process writes it.
    """
    if not processes.is_first():
        return _follow(photos, predict)
    output.parent.mkdir(parents=True, exist_ok=True)
    growing = output.with_name(f"unfinished_{output.name}")
    note = growing.with_name(f"{growing.name}.json")
    while True:
        with files.growing_file(growing) as file:
            stream = photos()
            try:
                tally = _kept(file, note, made_of, rows, stream, batch_size)
            except _Differs as difference:
                _set_aside(growing, difference)
                continue
            _tell(tally)
            if not file.tell():
                files.write_json(note, made_of)
                file.write(rows.header())
            _append(file, rows, predict(stream), tally, num_photos)
        files.finish(growing, output)
        note.unlink(missing_ok=True)
        return tally


def _follow(photos: Photos, predict: Predict) -> Tally:
    """As `write` in a process that writes nothing, but predicts its share."""
    tally = Tally(**_tell(Tally()))
    rest = itertools.islice(photos(), tally.num_kept, None)
    for predictions in predict(rest):
        _count(tally, predictions)
    return tally


@processes.by_first
def _tell(kept: Tally) -> dict[str, Any]:
    """The first process's tally, in all."""
    return dataclasses.asdict(kept)


def _count(tally: Tally, predictions: Iterable[Prediction]) -> None:
    for prediction in predictions:
        tally.count(prediction.name, prediction.problem)


def _append(
    file: BinaryIO,
    rows: Rows,
    batches: Iterable[list[Prediction]],
    tally: Tally,
    num_photos: int | None,
) -> None:
    """Write and count the predictions, so that a stop loses at most a batch."""
    with tqdm(
        desc="predicting", unit="photo", total=num_photos, initial=tally.num_kept
    ) as progress:
        for predictions in batches:
            file.write(b"".join(map(rows.line, predictions)))
            file.flush()
            _count(tally, predictions)
            progress.update(len(predictions))


def _set_aside(growing: Path, difference: _Differs) -> None:
    aside = files.set_aside(growing, growing.name, growing.parent)
    logging.warning(
        "%s is not used: %s\nIt is now called %s; all photos are predicted anew.",
        printable(growing),
        difference,
        printable(aside.name),
    )


def _kept(
    file: BinaryIO,
    note: Path,
    made_of: dict[str, Any],
    rows: Rows,
    stream: Iterator[Photo],
    batch_size: int,
) -> Tally:
    """The tally of what is kept of a file; it is cut there, and `stream` has gone as far.

    Raises:
        _Differs: it is made of something else, or of other photos.
    """
    tally, header = Tally(), rows.header()
    file.seek(0)
    if os.fstat(file.fileno()).st_size <= len(header):
        file.truncate()
        return tally
    if not note.exists():
        raise _Differs(f"there is no {printable(note.name)} that says what it was made of")
    if file.read(len(header)) != header:
        raise _Differs("its first line is another")
    _compare(made_of, note)
    num_rows, end = _whole_batches(file, rows, batch_size)
    file.seek(len(header))
    for number in range(1, num_rows + 1):
        row, photo = rows.read(file.readline()), next(stream, None)
        if photo is None:
            raise _Differs(f"it has {num_rows:,} rows, and there are {number - 1:,} photos now")
        if row.file != rows.file(photo.name):
            raise _Differs(
                f"its row {number:,} is of {printable(row.file, 80)}, where now "
                f"{printable(photo.name, 80)} comes"
            )
        tally.count(row.file, row.error)
    tally.num_kept = num_rows
    file.seek(end)
    file.truncate()
    return tally


def _compare(made_of: dict[str, Any], note: Path) -> None:
    try:
        before = read_json(note)
    except UserError as error:
        raise _Differs(str(error)) from None
    before = before if isinstance(before, dict) else {}
    if changed := [name for name in made_of if before.get(name) != made_of[name]]:
        raise _Differs(f"it was written with another {' and another '.join(changed)}")


def _whole_batches(file: BinaryIO, rows: Rows, batch_size: int) -> tuple[int, int]:
    """How many rows are kept, and where they end: up to the last whole batch of legible photos."""
    kept, end, num_legible = 0, file.tell(), 0
    for num_rows, line in enumerate(iter(file.readline, b""), start=1):
        try:
            if not line.endswith(b"\n"):
                break
            row = rows.read(line)
        except ValueError:  # after a crash a disk may hold zeros where the last rows were
            break
        num_legible += not row.error
        if is_full(num_rows - kept, num_legible, batch_size):
            kept, end, num_legible = num_rows, file.tell(), 0
    return kept, end
