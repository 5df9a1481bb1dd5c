"""The command `vtl` on a slow disk or a slow network.

python -m tests.faults.slowly ARGUMENTS

Each fsync takes $VTL_TEST_FSYNC_S longer. The weights at $VTL_TEST_URL have the name `tiny`.
"""

import dataclasses
import os
import time

from vtl import cli, stops


def main() -> None:
    """Run the console script."""
    stops.exit_at_once()
    if seconds := os.environ.get("VTL_TEST_FSYNC_S"):
        _slow_down_disks(float(seconds))
    if url := os.environ.get("VTL_TEST_URL"):
        _add_source(url, os.environ["VTL_TEST_SHA256"])
    cli.start()


def _slow_down_disks(seconds: float) -> None:
    fsync = os.fsync

    def slow_fsync(file: int) -> None:
        time.sleep(seconds)
        fsync(file)

    os.fsync = slow_fsync


def _add_source(url: str, sha256: str) -> None:
    from vtl.data.fetch import Download
    from vtl.weights import sources

    download = Download("tiny.safetensors", (url,), sha256=sha256)
    sources.SOURCES["tiny"] = dataclasses.replace(sources.SOURCES["demo"], download=download)


if __name__ == "__main__":
    main()
