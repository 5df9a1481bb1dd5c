import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vtl import files

KILLED = """
import os, sys
from pathlib import Path
from vtl import files
target = Path(sys.argv[2])
with getattr(files, sys.argv[1])(target) as unfinished:
    if sys.argv[1] == "whole_directory":
        (unfinished / "a").write_text("half")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("kind", ["whole_file", "whole_directory"])
def test_what_a_killed_process_was_writing_is_removed(tmp_path, kind):
    (tmp_path / ".mine.tmp").write_text("kept")
    subprocess.run([sys.executable, "-c", KILLED, kind, tmp_path / "target"], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    files.remove_litter(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine.tmp"]


@pytest.mark.parametrize("kind", ["whole_file", "whole_directory"])
def test_whoever_writes_again_removes_what_a_killed_process_left(tmp_path, kind):
    for name in ("target", "other"):
        subprocess.run([sys.executable, "-c", KILLED, kind, tmp_path / name], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with getattr(files, kind)(tmp_path / "target"):
        pass
    assert sorted(path.name[:6] for path in tmp_path.iterdir()) == [".other", "target"]


def test_what_is_being_written_stays(tmp_path):
    with (
        files.whole_file(tmp_path / "a") as file,
        files.whole_directory(tmp_path / "b") as directory,
    ):
        (directory / "c").write_text("c")
        files.remove_litter(tmp_path)
        file.write(b"a")
    assert (tmp_path / "a").read_bytes() == b"a"
    assert (tmp_path / "b" / "c").read_text() == "c"
    assert len(list(tmp_path.iterdir())) == 2


def test_writing_beside_others_who_clear_away(tmp_path):
    is_done = threading.Event()

    def clear_away():
        while not is_done.is_set():
            files.remove_litter(tmp_path)

    cleaner = threading.Thread(target=clear_away)
    cleaner.start()
    try:
        for number in range(300):
            with files.whole_file(tmp_path / "a") as file:
                file.write(b"%d" % number)
    finally:
        is_done.set()
        cleaner.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"299"


def test_a_directory_that_another_process_made_stays(tmp_path):
    with files.whole_directory(tmp_path / "a") as directory:
        (directory / "mine").touch()
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "theirs").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "theirs"]


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """A cache with weights/w, in which not even root can write, and a place for another."""
    cache = tmp_path / "cache"
    (cache / "weights").mkdir(parents=True)
    (cache / "weights" / "w").touch()
    monkeypatch.setenv("VTL_CACHE", str(cache))
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    files._temporary_cache_dir.cache_clear()
    real = files.tempfile.TemporaryFile

    def refuse(dir):
        if dir == cache:
            raise PermissionError(13, "Permission denied", os.path.join(dir, "tmp1234"))
        return real(dir=dir)

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    yield cache
    files._temporary_cache_dir.cache_clear()


def test_a_read_only_cache_is_read(read_only, caplog):
    caplog.set_level("WARNING")
    assert files.cache_holding("weights/w") == read_only
    assert caplog.text == ""
    other = files.cache_holding("weights/w", "weights/missing")
    assert other == files.cache_dir() != read_only
    assert caplog.text.count(f"cannot write to the cache {read_only} (Permission denied)") == 1


def test_a_writable_cache_is_the_one(tmp_path, monkeypatch):
    monkeypatch.setenv("VTL_CACHE", str(tmp_path))
    (tmp_path / "a").touch()
    assert files.cache_holding("a") == files.cache_holding("b") == files.cache_dir() == tmp_path


def test_a_path_of_a_person_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.user_path("~/photos") == tmp_path / "photos"
    assert files.user_path("a/~b") == Path("a/~b")
    assert files.user_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    path = tmp_path / "missing" / "scores.npz"
    with pytest.raises(FileNotFoundError) as caught, files.whole_file(path):
        pass
    assert caught.value.filename == str(path)
    path = tmp_path / "scores.npz"
    with pytest.raises(OSError, match=r"scores\.npz") as caught, files.whole_file(path):
        raise OSError(errno.EIO, "Input/output error")  # as a write's, which names no file
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
