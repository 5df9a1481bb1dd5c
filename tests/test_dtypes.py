"""`auto` is bfloat16 where it is the faster one, and what a run was begun with stays."""

import jax
import pytest

from vtl import dtypes


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """Make this machine one whose CPU lists these flags, and is so fast in bfloat16."""

    def pretend(flags, machine="x86_64", speed=2.0):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\n\nprocessor\t: 1\n")
        monkeypatch.setattr(dtypes, "_CPU_INFO", path)
        monkeypatch.setattr(dtypes.platform, "machine", lambda: machine)
        monkeypatch.setattr(dtypes, "speed_of_bfloat16", lambda: speed)

    return pretend


@pytest.mark.parametrize(
    ("flags", "machine", "speed", "chosen"),
    [
        ("avx512_bf16", "x86_64", 1.94, "bfloat16"),
        ("avx512_bf16", "x86_64", 0.57, "float32"),
        ("avx512_bf16", "x86_64", 1.1, "float32"),
        ("amx_bf16 amx_tile", "x86_64", 1.94, "bfloat16"),
        ("avx512f avx512_vnni", "x86_64", 1.94, "float32"),
        ("bf16", "aarch64", 1.94, "float32"),
    ],
)
def test_auto_asks_the_cpu_and_says_so(cpu, capsys, flags, machine, speed, chosen):
    cpu(flags, machine, speed)
    assert dtypes.settled("auto") == chosen
    said = "bfloat16: this CPU multiplies it 1.9 times as fast as float32\n"
    assert capsys.readouterr().out == (said if chosen == "bfloat16" else "")


def test_the_speed_is_the_ratio_of_the_shortest_products(monkeypatch):
    """By a clock: the first call of each compiles, and some have other work beside them."""
    rounds = [(9.0, 8.0), (1.1, 0.5), (1.0, 3.0), (4.0, 0.4), (1.2, 0.6), (1.3, 0.5)]
    now = [0.0]
    for float32, bfloat16 in rounds:
        now += [now[-1], now[-1] + float32]
        now += [now[-1], now[-1] + bfloat16]
    ticks = iter(now[1:])
    monkeypatch.setattr(dtypes.time, "perf_counter", lambda: next(ticks))
    assert dtypes.speed_of_bfloat16.__wrapped__() == pytest.approx(1.0 / 0.4)


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
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        assert dtypes.settled("auto") == "float32"
    monkeypatch.setattr(dtypes, "_CPU_INFO", tmp_path / "nothing")
    assert dtypes.settled("auto") == "float32"
