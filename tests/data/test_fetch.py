import errno
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from vtl import files
from vtl.data import fetch as fetch_module
from vtl.data.archives import unpack_tar
from vtl.data.fetch import Download, fetch
from vtl.errors import UserError
from vtl.files import cache_dir, file_sha256

BODY = np.random.default_rng(0).bytes(1_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()


class Mirror(http.server.ThreadingHTTPServer):
    """Serves one body. `drops[i]` is how many bytes of answer i are sent before the line is cut."""

    def __init__(
        self, body=BODY, *, status=200, ranges=True, drops=(), length=True, gate=None, headers=()
    ):
        super().__init__(("127.0.0.1", 0), MirrorHandler)
        self.body, self.status, self.ranges, self.length = body, status, ranges, length
        self.drops = list(drops)
        self.gate = gate
        self.headers = dict(headers)
        self.validators: list[str | None] = []
        self.requested_ranges: list[str | None] = []
        self.host = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.host}/file.bin"


class MirrorHandler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self):
        mirror = self.server
        requested = self.headers["Range"]
        mirror.requested_ranges.append(requested)
        mirror.validators.append(self.headers["If-Range"])
        if mirror.gate is not None:
            if len(mirror.requested_ranges) > 1:
                mirror.gate.set()
            mirror.gate.wait(timeout=20)
        status, body = mirror.status, mirror.body
        is_same = self.headers["If-Range"] in (None, mirror.headers.get("ETag"))
        if status == 200 and requested and mirror.ranges and is_same:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            status, body = (206, body[start:]) if start < len(body) else (416, b"")
        self.send_response(status)
        for name, value in mirror.headers.items():
            self.send_header(name, value)
        if mirror.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: mirror.drops.pop(0)] if mirror.drops else body)

    def log_message(self, *args):
        pass


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def serve():
    mirrors = []

    def start(*args, **kwargs):
        mirror = Mirror(*args, **kwargs)
        thread = threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        mirrors.append((mirror, thread))
        return mirror

    yield start
    for mirror, thread in mirrors:
        mirror.shutdown()
        thread.join()
        mirror.server_close()


def download(*urls, **kwargs):
    return Download("file.bin", urls, **({"size": len(BODY), "sha256": SHA256} | kwargs))


def user_error(function, *args):
    with pytest.raises(UserError) as info:
        function(*args)
    message = str(info.value)
    assert len(message.splitlines()) <= 3
    return message


def test_fetch_downloads_once_with_a_progress_bar(serve, tmp_path, capsys):
    mirror = serve()
    wanted = download(mirror.url, md5=MD5)
    path = fetch(wanted, tmp_path / "new" / "directory")
    assert path == tmp_path / "new" / "directory" / "file.bin"
    assert path.read_bytes() == BODY
    assert "file.bin" in capsys.readouterr().err
    assert fetch(wanted, path.parent) == path
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        ".file.bin.lock",
        "file.bin",
        "file.bin.verified",
    ]
    assert mirror.requested_ranges == [None]


@pytest.mark.parametrize("facts", [{}, {"size": None}, {"sha256": SHA256[:8]}])
def test_part_file_is_resumed_from_its_end(serve, tmp_path, facts):
    mirror = serve()
    (tmp_path / "file.bin.part").write_bytes(BODY[:400_000])
    assert fetch(download(mirror.url, **facts), tmp_path).read_bytes() == BODY
    assert mirror.requested_ranges == ["bytes=400000-"]


def test_server_without_range_support_starts_over(serve, tmp_path):
    mirror = serve(ranges=False)
    (tmp_path / "file.bin.part").write_bytes(BODY[:400_000])
    assert fetch(download(mirror.url), tmp_path).read_bytes() == BODY
    assert mirror.requested_ranges == ["bytes=400000-"]


def test_complete_part_file_needs_no_request(serve, tmp_path):
    mirror = serve()
    (tmp_path / "file.bin.part").write_bytes(BODY)
    assert fetch(download(mirror.url), tmp_path).read_bytes() == BODY
    assert mirror.requested_ranges == []


def test_part_file_that_is_too_long_is_dropped(serve, tmp_path):
    mirror = serve()
    (tmp_path / "file.bin.part").write_bytes(BODY + b"more")
    assert fetch(download(mirror.url), tmp_path).read_bytes() == BODY
    assert mirror.requested_ranges == [None]


def test_range_that_can_not_be_satisfied_starts_over(serve, tmp_path):
    mirror = serve()
    (tmp_path / "file.bin.part").write_bytes(BODY + b"more")
    assert fetch(download(mirror.url, size=None), tmp_path).read_bytes() == BODY
    assert mirror.requested_ranges == [f"bytes={len(BODY) + 4}-", None]


def test_wrong_part_file_is_fetched_again_from_the_start(serve, tmp_path):
    mirror = serve()
    (tmp_path / "file.bin.part").write_bytes(b"junk")
    assert fetch(download(mirror.url), tmp_path).read_bytes() == BODY
    assert mirror.requested_ranges == ["bytes=4-", None]


@pytest.mark.parametrize("disable", ["0", "1"])
def test_dropped_connections_are_resumed(serve, tmp_path, monkeypatch, disable):
    monkeypatch.setenv("TQDM_DISABLE", disable)
    mirror = serve(drops=[300_000, 200_000])
    assert fetch(download(mirror.url), tmp_path).read_bytes() == BODY
    assert mirror.requested_ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_next_mirror_goes_on_where_the_first_gave_up(serve, tmp_path):
    first, second = serve(drops=[1000] * 4), serve()
    assert fetch(download(first.url, second.url), tmp_path).read_bytes() == BODY
    assert first.requested_ranges == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"]
    assert second.requested_ranges == ["bytes=4000-"]


def test_first_digits_of_a_hash_are_enough(serve, tmp_path):
    wrong, right = serve(bytes(len(BODY))), serve()
    path = fetch(download(wrong.url, right.url, sha256=SHA256[:8].upper()), tmp_path)
    assert path.read_bytes() == BODY


def test_missing_and_wrong_mirrors_are_passed_over(serve, tmp_path):
    missing, wrong, right = serve(status=404), serve(bytes(len(BODY))), serve()
    path = fetch(download(missing.url, wrong.url, right.url), tmp_path)
    assert path.read_bytes() == BODY
    for mirror in (missing, wrong, right):
        assert mirror.requested_ranges == [None]


def test_page_of_another_size_leaves_the_part_file_alone(serve, tmp_path):
    login_page = serve(b"please log in", ranges=False)
    part = tmp_path / "file.bin.part"
    part.write_bytes(BODY[:400_000])
    message = user_error(fetch, download(login_page.url), tmp_path)
    assert "offers 13 bytes, expected 1,000,000" in message
    assert part.read_bytes() == BODY[:400_000]


def test_endless_body_without_a_length_is_cut_off(serve, tmp_path):
    mirror = serve(BODY * 3, length=False)
    message = user_error(fetch, download(mirror.url), tmp_path)
    assert "(expected 1,000,000)" in message
    assert "3,000,000" not in message
    assert not (tmp_path / "file.bin.part").exists()


def test_error_names_every_mirror_and_the_way_out(serve, tmp_path):
    wrong = bytes(len(BODY))
    mirrors = [serve(status=404), serve(wrong), serve(drops=[10] * 4)]
    message = user_error(fetch, download(*[mirror.url for mirror in mirrors]), tmp_path)
    wrong_sha256 = hashlib.sha256(wrong).hexdigest()
    assert f"{mirrors[0].host}: HTTP Error 404" in message
    assert f"{mirrors[1].host}: the file has sha256 {wrong_sha256} (expected {SHA256})" in message
    assert f"{mirrors[2].host}: connection closed after 40 of 1,000,000 bytes" in message
    remedy = message.splitlines()[-1]
    assert f"(1,000,000 bytes, sha256 {SHA256})" in remedy
    assert f"at {tmp_path / 'file.bin'}" in remedy
    assert not (tmp_path / "file.bin").exists()


def test_unreachable_mirror_is_not_tried_twice(serve, tmp_path):
    unreachable = Mirror()
    unreachable.server_close()
    message = user_error(fetch, download(unreachable.url), tmp_path)
    assert f"{unreachable.host}: Connection refused" in message


def test_two_at_once_make_one_download(serve, tmp_path, monkeypatch):
    second_waits = threading.Event()
    monkeypatch.setattr(fetch_module.logging, "warning", lambda *args: second_waits.set())
    mirror = serve(gate=second_waits)
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(fetch(download(mirror.url), tmp_path)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [tmp_path / "file.bin"] * 2
    assert paths[0].read_bytes() == BODY
    assert mirror.requested_ranges == [None]


FETCH = """
import sys
from pathlib import Path
from vtl.data.fetch import Download, fetch
url, sha256, directory = sys.argv[1:]
print(fetch(Download("file.bin", (url,), sha256=sha256), Path(directory)))
"""


@pytest.mark.parametrize("is_killed", [False, True])
def test_one_of_two_processes_fetches_and_the_next_goes_on_if_it_is_killed(
    serve, tmp_path, is_killed
):
    gate = threading.Event()
    mirror = serve(gate=gate)
    command = [sys.executable, "-c", FETCH, mirror.url, SHA256, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(command, **pipes)
    end = time.monotonic() + 60
    while not mirror.requested_ranges:
        assert time.monotonic() < end
        time.sleep(0.01)
    second = subprocess.Popen(command, **pipes)
    assert "is busy with" in second.stderr.readline()
    if is_killed:
        first.kill()
    else:
        gate.set()
    said = [process.communicate(timeout=60)[0] for process in (first, second)]
    path = tmp_path / "file.bin"
    assert said == ["" if is_killed else f"{path}\n", f"{path}\n"]
    assert path.read_bytes() == BODY
    assert mirror.requested_ranges == ([None, None] if is_killed else [None])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        ".file.bin.lock",
        "file.bin",
        "file.bin.verified",
    ]


def test_those_that_wait_do_not_hash_it_again(serve, tmp_path, monkeypatch):
    fetch(download(serve().url), tmp_path)
    monkeypatch.setattr(fetch_module, "file_digest", None)
    monkeypatch.setattr(Path, "is_file", lambda path: path.name != "file.bin" or next(finds))
    finds = iter([False, True, True])  # by the time that it has waited
    assert fetch(download(), tmp_path) == tmp_path / "file.bin"


def test_without_locks_each_has_a_part_file_of_its_own(serve, tmp_path, monkeypatch):
    def has_none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", has_none)
    of_another = tmp_path / "file.bin.part"
    of_another.write_bytes(b"half")
    mirror = serve()
    assert fetch(download(mirror.url), tmp_path).read_bytes() == BODY
    assert of_another.read_bytes() == b"half"
    assert mirror.requested_ranges == [None]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_full_disk_is_one_clear_error(serve, tmp_path):
    mirror = serve()
    (tmp_path / "file.bin.part").symlink_to("/dev/full")
    message = user_error(fetch, download(mirror.url, mirror.url), tmp_path)
    assert "the disk is full" in message
    assert str(tmp_path / "file.bin") in message
    assert mirror.requested_ranges == [None]


def test_directory_that_can_not_be_made_is_a_user_error(tmp_path):
    (tmp_path / "a_file").write_bytes(b"")
    message = user_error(fetch, download(), tmp_path / "a_file" / "directory")
    assert "cannot read or write" in message


def test_file_put_there_by_hand_is_hashed_once(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(BODY)
    hashed = []
    digest = fetch_module.file_digest
    monkeypatch.setattr(
        fetch_module, "file_digest", lambda *args: hashed.append(args) or digest(*args)
    )
    assert fetch(download(), tmp_path) == path
    assert fetch(download(), tmp_path) == path
    assert hashed == [(path, "sha256")]
    # Another expected hash, or a file that was touched, is looked at again.
    fetch(download(md5=MD5), tmp_path)
    assert (path, "md5") in hashed
    path.write_bytes(bytes(len(BODY)))
    os.utime(path, ns=(0, 0))
    assert "sha256" in user_error(fetch, download(md5=MD5), tmp_path)


def test_wrong_file_put_there_by_hand_names_both_hashes(serve, tmp_path):
    mirror = serve()
    path = tmp_path / "file.bin"
    path.write_bytes(b"something else")
    message = user_error(fetch, download(mirror.url), tmp_path)
    assert f"{path} is not the expected file" in message
    assert "14 bytes (expected 1,000,000)" in message
    digest = hashlib.sha256(b"something else").hexdigest()
    assert f"sha256 {digest} (expected {SHA256})" in message
    assert path.read_bytes() == b"something else"
    assert mirror.requested_ranges == []


def test_file_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_cache_dir_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("VTL_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("VTL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "vtl"
    assert list(cache_dir().iterdir()) == []


def test_cache_dir_that_can_not_be_made_is_temporary(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(files.logging, "warning", lambda text, *args: warnings.append(text % args))
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "a_file").write_bytes(b"")
    monkeypatch.setenv("VTL_CACHE", str(tmp_path / "a_file" / "cache"))
    files._temporary_cache_dir.cache_clear()
    path = cache_dir()
    assert path.is_dir()
    assert path.parent == tmp_path
    assert cache_dir() == path
    assert len(warnings) == 1
    assert str(path) in warnings[0]


def write_tar(path, contents=None, members=()):
    """Writes an archive with the files {name: content}, then the members as they are."""
    with tarfile.open(path, "w") as tar:
        for name, content in (contents or {}).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in members:
            tar.addfile(member)
    return path


def special_member(name, kind, linkname=""):
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = linkname
    return member


def test_two_archives_unpack_into_one_tree(tmp_path, capsys):
    trainval = write_tar(tmp_path / "trainval.tar", {"VOC/JPEG/1.jpg": b"one", "VOC/list": b"1"})
    test = write_tar(tmp_path / "test.tar", {"VOC/JPEG/2.jpg": b"two", "VOC/list": b"1 2"})
    target = tmp_path / "data" / "voc"
    unpack_tar(trainval, target)
    assert "trainval.tar" in capsys.readouterr().err
    unpack_tar(test, target)
    paths = [path for path in target.rglob("*") if path.is_file()]
    assert {str(path.relative_to(target)): path.read_bytes() for path in paths} == {
        ".unpacked-trainval.tar": b"",
        ".unpacked-test.tar": b"",
        "VOC/JPEG/1.jpg": b"one",
        "VOC/JPEG/2.jpg": b"two",
        "VOC/list": b"1 2",
    }
    assert sorted(path.name for path in target.parent.iterdir()) == [".voc.lock", "voc"]


def test_unpacked_archive_is_left_alone_and_no_longer_needed(tmp_path):
    archive = write_tar(tmp_path / "a.tar", {"x": b"x"})
    unpack_tar(archive, tmp_path / "target")
    (tmp_path / "target" / "x").write_bytes(b"edited")
    archive.unlink()
    unpack_tar(archive, tmp_path / "target")
    assert (tmp_path / "target" / "x").read_bytes() == b"edited"


def test_interrupted_unpacking_is_done_again(tmp_path):
    archive = write_tar(tmp_path / "a.tar", {"d/x": b"x", "d/y": b"y"})
    target = tmp_path / "target"
    (target / "d").mkdir(parents=True)
    (target / "d" / "x").write_bytes(b"half")
    left_behind = tmp_path / ".target.unpacking"
    left_behind.mkdir()
    (left_behind / "stale").write_bytes(b"stale")
    unpack_tar(archive, target)
    assert (target / "d" / "x").read_bytes() == b"x"
    assert (target / "d" / "y").read_bytes() == b"y"
    assert not (target / "stale").exists()
    assert not left_behind.exists()


HOSTILE = {
    "parent": special_member("../evil", tarfile.REGTYPE),
    "symlink_out": special_member("link", tarfile.SYMTYPE, "../../outside"),
    "symlink_absolute": special_member("link", tarfile.SYMTYPE, "/etc"),
    "hardlink_out": special_member("link", tarfile.LNKTYPE, "../outside"),
    "device": special_member("null", tarfile.CHRTYPE),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_leaves_nothing_behind(tmp_path, name):
    (tmp_path / "outside").write_bytes(b"secret")
    archive = write_tar(tmp_path / "bad.tar", {"good": b"good"}, [HOSTILE[name]])
    message = user_error(unpack_tar, archive, tmp_path / "target")
    assert str(archive) in message
    assert "unsafe" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".target.lock",
        "bad.tar",
        "outside",
    ]


def test_absolute_name_lands_inside_the_target(tmp_path):
    outside = tmp_path / "evil"
    archive = write_tar(tmp_path / "bad.tar", {str(outside): b"evil"})
    unpack_tar(archive, tmp_path / "target")
    assert not outside.exists()
    assert (tmp_path / "target" / str(outside).lstrip("/")).read_bytes() == b"evil"


# Each small file takes a block of 512 bytes for its header and one for its content.
@pytest.mark.parametrize("length", [0, 100, 512, 600, 1024, 1100, 1536, 2048])
def test_truncated_archive_is_refused(tmp_path, length):
    archive = write_tar(tmp_path / "short.tar", {"x": b"x" * 512, "y": b"y" * 512})
    archive.write_bytes(archive.read_bytes()[:length])
    message = user_error(unpack_tar, archive, tmp_path / "target")
    assert "damaged" in message
    assert not (tmp_path / "target").exists()


def test_archive_with_a_broken_header_is_refused(tmp_path):
    archive = write_tar(tmp_path / "broken.tar", {"x": b"x" * 512, "y": b"y" * 512})
    content = bytearray(archive.read_bytes())
    content[1024:1034] = b"0123456789"
    archive.write_bytes(content)
    assert "damaged" in user_error(unpack_tar, archive, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_missing_archive_is_a_user_error(tmp_path):
    message = user_error(unpack_tar, tmp_path / "none.tar", tmp_path / "target")
    assert "No such file" in message


def test_without_a_known_hash_the_first_files_is_pinned(tmp_path):
    """Also where a note of another version says only that the file was looked at."""
    path, unknown = tmp_path / "file.bin", download(sha256=None, size=None)
    path.write_bytes(BODY)
    stat = path.stat()
    note = tmp_path / "file.bin.verified"
    note.write_text(f'{{"size": {stat.st_size}, "mtime_ns": {stat.st_mtime_ns}}}')
    assert fetch(unknown, tmp_path) == path
    assert SHA256 in note.read_text()
    path.write_bytes(BODY[:-1] + b"x")
    message = user_error(fetch, unknown, tmp_path)
    assert f"the first one had {SHA256}" in message
    assert f"delete {note.name} too" in message
    note.unlink()
    assert fetch(unknown, tmp_path) == path


def test_offline_nothing_is_asked_for(serve, tmp_path, monkeypatch):
    mirror = serve()
    monkeypatch.setenv("VTL_OFFLINE", "1")
    assert "VTL_OFFLINE is set" in user_error(fetch, download(mirror.url), tmp_path)
    assert mirror.requested_ranges == []
    monkeypatch.setenv("VTL_OFFLINE", "0")
    assert fetch(download(mirror.url), tmp_path).read_bytes() == BODY


UNCHECKED = {"sha256": None, "size": None}
"""Of a file of which nothing is published."""


def test_an_unchecked_part_goes_on_only_where_the_server_knows_it(serve, tmp_path):
    mirror = serve(headers={"ETag": '"first"'}, drops=[300_000])
    assert fetch(download(mirror.url, **UNCHECKED), tmp_path).read_bytes() == BODY
    assert mirror.requested_ranges == [None, "bytes=300000-"]
    assert mirror.validators == [None, '"first"']
    assert not list(tmp_path.glob("*.part*"))


def test_a_file_that_changed_while_it_came_is_begun_again(serve, tmp_path):
    other = bytes(reversed(BODY))
    mirror = serve(headers={"ETag": '"first"'}, drops=[300_000])
    transfer = fetch_module._transfer

    def change(*args):
        try:
            transfer(*args)
        finally:
            mirror.body, mirror.headers["ETag"] = other, '"second"'

    fetch_module._transfer = change
    try:
        path = fetch(download(mirror.url, **UNCHECKED), tmp_path)
    finally:
        fetch_module._transfer = transfer
    assert path.read_bytes() == other


def test_an_unchecked_part_of_an_unknown_server_is_begun_again(serve, tmp_path):
    mirror = serve()
    (tmp_path / "file.bin.part").write_bytes(b"another file")
    assert fetch(download(mirror.url, **UNCHECKED), tmp_path).read_bytes() == BODY
    assert mirror.requested_ranges == [None]


def test_an_unchecked_file_must_be_what_it_is_to_be(serve, tmp_path):
    page = serve(b"<html>please log in</html>")
    wanted = download(page.url, complaint=lambda path: "it is a web page", **UNCHECKED)
    assert "it is a web page" in user_error(fetch, wanted, tmp_path)
    assert not (tmp_path / "file.bin").exists()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirect_leads_to_the_web_or_nowhere(serve, tmp_path, target):
    mirror = serve(b"", status=302, headers={"Location": target})
    user_error(fetch, download(mirror.url), tmp_path)
    assert not list(tmp_path.glob("file.bin*"))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "file:///etc/passwd: unknown url type: file"),
        ("ftp://127.0.0.1/x", "127.0.0.1: unknown url type: ftp"),
        ("nonsense", "nonsense: unknown url type: 'nonsense'"),
    ],
)
def test_an_address_is_of_the_web(tmp_path, url, reason):
    assert reason in user_error(fetch, download(url, **UNCHECKED), tmp_path)
    assert not (tmp_path / "file.bin").exists()


def test_a_byte_now_and_then_is_given_up(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "WINDOW_S", 0.0)
    monkeypatch.setattr(fetch_module, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(fetch_module, "LEAST_BYTES_PER_S", 1e12)
    mirror = serve()
    assert "bytes came in" in user_error(fetch, download(mirror.url, size=None), tmp_path)
    assert len(mirror.requested_ranges) == fetch_module.ATTEMPTS_PER_MIRROR


def test_more_than_any_file_is_refused(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "MAX_BYTES", 1000)
    mirror = serve()
    assert "more than any" in user_error(fetch, download(mirror.url, **UNCHECKED), tmp_path)


def test_a_chain_of_links_writes_nothing_outside(tmp_path):
    """As in CVE-2025-4517, by which tarfile's `data` filter was led outside."""
    chain = [special_member("a" * 100, tarfile.DIRTYPE)]
    chain += [special_member("link", tarfile.SYMTYPE, "a" * 100 + "/../..")]
    chain += [special_member("link/evil", tarfile.REGTYPE)]
    archive = write_tar(tmp_path / "bad.tar", {}, chain)
    assert "link is neither" in user_error(unpack_tar, archive, tmp_path / "deep" / "target")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.BLKTYPE, tarfile.GNUTYPE_SPARSE])
def test_other_kinds_of_members_are_refused(tmp_path, kind):
    archive = write_tar(tmp_path / "bad.tar", {"good": b"good"}, [special_member("odd", kind)])
    assert "odd is" in user_error(unpack_tar, archive, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_header_of_gigabytes_is_not_read(tmp_path):
    member = special_member("long", tarfile.XHDTYPE)
    member.size = 1 << 33
    archive = tmp_path / "bad.tar"
    archive.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2 * tarfile.BLOCKSIZE))
    assert "8589934592 bytes" in user_error(unpack_tar, archive, tmp_path / "target")


def test_a_file_twice_in_an_archive_is_refused(tmp_path):
    archive = write_tar(tmp_path / "bad.tar", {"x": b"1"}, [special_member("x", tarfile.REGTYPE)])
    assert "cannot unpack" in user_error(unpack_tar, archive, tmp_path / "target")
