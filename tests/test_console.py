import io
import re
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from vtl import console

ROOT = Path(__file__).parents[1]


def test_printing_goes_on_without_its_reader():
    code = (
        "import sys; from vtl import console; console.outlive_readers()\n"
        "for i in range(100_000): console.say(f'line {i}')\n"
        "print('whole', file=sys.stderr)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "line 0\n"
        process.stdout.close()
        assert process.stderr.read() == "whole\n"
    assert process.returncode == 0


def test_a_bar_has_its_line_to_itself(monkeypatch):
    buffer = io.StringIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, buffer)
    console.outlive_readers()
    with tqdm(total=2) as bar:
        bar.update(1)
        console.end_lines()
        console.say("stopped")
        assert re.search(r"0/2 .*\nstopped\n$", buffer.getvalue())
        console.end_lines()
    assert "stopped\n\n" not in buffer.getvalue()


def test_an_odd_character_is_printed_as_its_code(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, "ascii"))
    monkeypatch.setattr(sys, "stderr", None)
    console.outlive_readers()
    console.outlive_readers()
    console.say("Süßes Kätzchen")
    assert buffer.getvalue() == b"S\\xfc\\xdfes K\\xe4tzchen\n"
    sys.stdout.close()
    console.say("into nothing")
