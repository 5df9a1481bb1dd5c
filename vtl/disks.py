"""What a file system refuses, as a message: a disk that is full, read-only, failing or gone."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from vtl.errors import UserError
from vtl.untrusted import printable, reason_of

_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException) -> bool:
    """Whether a disk, or somebody's share of it, has no space or no inodes left."""
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def refusals(place: object, again: str = "run the same command again") -> Iterator[None]:
    """Turn any OSError into a UserError of two lines: a program's own `main` uses it once.

    `place` is named if the error names no file. `again` is what to do once all is mended.

    Raises:
        UserError: the file system refused something.
        BrokenPipeError: whoever read what is printed has gone.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        path = printable(place if error.filename is None else error.filename)
        if is_full(error):
            raise UserError(
                f"the disk is full: no space left for {path}\n"
                f"Free some space, or some inodes (`df -i` shows them), then {again}."
            ) from error
        raise UserError(
            f"cannot read or write {path}: {reason_of(error)}\nPut that right, then {again}."
        ) from error
