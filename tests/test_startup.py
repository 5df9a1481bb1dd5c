"""What people wait for imports nothing that it has no use for; each in a process of its own."""

import json
import subprocess
import sys

from configs import finetune
from tests.report import synthetic

LATE = (
    *("jax", "flax", "optax", "orbax.checkpoint", "sklearn", "matplotlib", "PIL", "numpy"),
    *("scipy.ndimage", "scipy.optimize", "scipy.sparse", "scipy.special", "scipy.stats"),
)
"""What takes a tenth of a second or more to import, and what shows how much is imported."""

PROGRAM = f"""
import atexit, sys
atexit.register(lambda: print("imported", *(name for name in {LATE} if name in sys.modules)))
from vtl.cli import main
main()
"""


def imported_by(*arguments: str) -> set[str]:
    """Which of `LATE` the command imports; it must succeed."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    word, *names = process.stdout.splitlines()[-1].split()
    assert word == "imported"
    return set(names)


def test_help_imports_none_of_it():
    assert imported_by("--help") == set()
    assert imported_by("help", "finetune") == set()


def test_a_finished_run_is_shown_without_what_trained_it(tmp_path):
    config = json.loads(finetune.get_config("demo").to_json())
    config["data"]["decode"] = "exact"  # as runs record it
    run = synthetic.write_run(tmp_path / "run", "full", config=config)
    names = imported_by("finetune:demo", f"--workdir={run}")
    assert names == {"jax", "flax", "optax", "PIL", "numpy"}


def test_a_report_takes_matplotlib_but_no_jax_and_no_scikit_learn(tmp_path):
    run = synthetic.write_run(tmp_path / "run", "full")
    names = imported_by("report", str(run), "-o", str(tmp_path / "page.html"))
    assert names == {"matplotlib", "PIL", "numpy"}
