"""`auto` is bfloat16 where it is the faster one, and what a run was begun with stays."""

import jax
import pytest

from vtl import dtypes


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """Make this machine one whose CPU lists these flags."""

    def pretend(flags, machine="x86_64"):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\n\nprocessor\t: 1\n")
        monkeypatch.setattr(dtypes, "_CPU_INFO", path)
        monkeypatch.setattr(dtypes.platform, "machine", lambda: machine)
        dtypes.cpu_multiplies_bfloat16.cache_clear()

    yield pretend
    dtypes.cpu_multiplies_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("flags", "machine", "chosen"),
    [
        ("avx512_bf16", "x86_64", "bfloat16"),
        ("amx_bf16 amx_tile", "x86_64", "bfloat16"),
        ("avx512f avx512_vnni", "x86_64", "float32"),
        ("bf16", "aarch64", "float32"),
    ],
)
def test_auto_asks_the_cpu_and_says_so(cpu, capsys, flags, machine, chosen):
    cpu(flags, machine)
    assert dtypes.settled("auto") == chosen
    said = "bfloat16: this CPU multiplies it faster than float32\n"
    assert capsys.readouterr().out == (said if chosen == "bfloat16" else "")


def test_what_a_run_was_begun_with_and_what_is_asked_for_stay(cpu, capsys):
    cpu("avx512_bf16")
    assert dtypes.settled("auto", "float32") == "float32"
    assert dtypes.settled("float32", "bfloat16") == "float32"
    assert dtypes.settled("float16") == "float16"  # which is refused where dtypes are checked
    cpu("sse2")
    assert dtypes.settled("auto", "bfloat16") == "bfloat16"
    assert capsys.readouterr().out == ""


def test_a_gpu_keeps_float32_and_so_does_a_cpu_that_lists_nothing(cpu, tmp_path, monkeypatch):
    cpu("avx512_bf16")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert dtypes.settled("auto") == "float32"
    monkeypatch.undo()
    monkeypatch.setattr(dtypes, "_CPU_INFO", tmp_path / "nothing")
    dtypes.cpu_multiplies_bfloat16.cache_clear()
    assert dtypes.settled("auto") == "float32"
