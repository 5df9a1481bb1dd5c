"""Damaged files for every reader: the outcome is right, or one message, within limits.

    VTL_FAULTS=10000 pytest -m full -n 0 -s tests/faults/test_hostile_files.py

gives so many in all and prints the counts by outcome, as docs/reliability.md has them.
"""

import contextlib
import multiprocessing
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import NUM_FAULTS, worker
from tests.faults.readers import READERS

HANG_S = 30
START_S = 300
"""What importing may take on a busy machine."""


def outcomes(name: str, count: int, directory: Path) -> list[dict]:
    """The outcome of each case; a case that hangs or ends its worker is one too."""
    found: list[dict] = []
    while len(found) < count:
        first = len(found)
        found += _run_worker(name, first, count - first, directory)
        assert len(found) > first, f"{name}: the sound files could not be read"
    return found


def _run_worker(name: str, first: int, count: int, directory: Path) -> list[dict]:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.faults.worker"])  # what all import is imported once
    ours, theirs = server.Pipe(duplex=False)
    process = server.Process(target=worker.main, args=(name, first, count, directory, theirs))
    process.start()
    theirs.close()
    found: list[dict] = []
    begun = None
    # It ends as its pipe does, at the latest with the process.
    with contextlib.suppress(EOFError):
        while ours.poll(START_S if begun is None else HANG_S):
            said = ours.recv()
            if "begins" in said:
                begun = said["begins"]
            else:
                found.append(said)
    process.kill()
    process.join()
    if begun is not None and len(found) <= begun - first:
        found.append({"case": begun, "outcome": "hang or death", "text": "", "seconds": HANG_S})
    return found


@pytest.mark.full
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_right_or_one_message(name, tmp_path):
    if name.startswith("torch"):
        pytest.importorskip("torch")
    found = outcomes(name, max(1, NUM_FAULTS // len(READERS)), tmp_path)
    counts = Counter(case["outcome"] for case in found)
    print(f"\n{name}: {dict(counts)}, slowest {max(case['seconds'] for case in found):.1f} s")
    wrong = [case for case in found if case["outcome"] not in ("read", "refused")]
    assert not wrong, f"{len(wrong)} of {len(found)}, the first: {wrong[:5]}"
