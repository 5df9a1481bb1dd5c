"""What a file system refuses is a message, whatever it is."""

import errno
import os

import pytest

from vtl import disks
from vtl.errors import UserError


def refused(error: BaseException) -> str:
    with pytest.raises(UserError) as caught, disks.refusals("runs/mine"):
        raise error
    return str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(number):
    message = refused(OSError(number, os.strerror(number), "runs/mine/a.npz"))
    assert message.startswith("the disk is full: no space left for runs/mine/a.npz\n")
    assert message.endswith("then run the same command again.")


@pytest.mark.parametrize(
    "number", [errno.EROFS, errno.EIO, errno.ENOENT, errno.EACCES, errno.ESTALE, errno.ENAMETOOLONG]
)
def test_any_other_failure(number):
    message = refused(OSError(number, os.strerror(number), "a\x1b.npz"))
    assert message == (
        f"cannot read or write a\\x1b.npz: {os.strerror(number)}\n"
        "Put that right, then run the same command again."
    )


def test_an_error_that_names_no_file():
    assert "cannot read or write runs/mine: Input/output error" in refused(
        OSError(errno.EIO, os.strerror(errno.EIO))
    )


@pytest.mark.parametrize("error", [BrokenPipeError(), UserError("mine"), ValueError("a mistake")])
def test_what_is_no_refusal_stays_as_it_is(error):
    with pytest.raises(type(error)) as caught, disks.refusals("runs/mine"):
        raise error
    assert caught.value is error
