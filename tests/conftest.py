"""How all tests run: what XLA spends on compiling, where programs and photos are kept.

All of it is in the environment, so that the processes that tests start get the same.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

# Tests run each program a few times, so that compiling takes longer than running. The last pass of
# .ci/run sets VTL_TEST_OPTIMISED=1 and compiles as users do.
FAST_COMPILATION = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)

LONGEST = (
    *("faults/test_stops_everywhere.py", "processes/test_ends.py", "processes/test_equality.py"),
    *("test_readme.py", "test_end_to_end.py"),
    *("weights/test_parity.py", "weights/verify/test_verify.py"),
)
"""The files of tests that begin first, so that no process has one of them left at the end."""


def pytest_configure(config: pytest.Config) -> None:
    """Before any test imports jax, which reads these variables once."""
    # OpenVINO would tell its maker of being imported, from a process that it forks.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    flags = os.environ.get("XLA_FLAGS", "").split()
    if os.environ.get("VTL_TEST_OPTIMISED") != "1":
        flags += [flag for flag in FAST_COMPILATION if flag not in flags]
    os.environ["XLA_FLAGS"] = " ".join(flags)
    # Each pytest process has a core: more threads of NumPy, scikit-learn or torch would wait.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Compiled programs stay from one pytest to the next. JAX's key for them has XLA's flags in it.
    cache = getattr(config, "cache", None)  # None with `-p no:cacheprovider`
    directory = cache.mkdir("xla") if cache else tempfile.mkdtemp(prefix="vtl-tests-xla-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
    # JAX would leave out what compiles in less than a second, which is nearly everything here.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # Else the keys have the directory's path in them, which is another for each test's VTL_CACHE.
    os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Otherwise in the order of their names."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def vtl_cache(tmp_path_factory) -> Path:
    """An empty cache of photos and downloads for all tests, never the user's own."""
    directory = tmp_path_factory.mktemp("vtl_cache")
    # `vtl.main` keeps compiled programs in there, tests outside.
    (directory / "xla").symlink_to(os.environ["JAX_COMPILATION_CACHE_DIR"])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("VTL_CACHE", str(directory))
        yield directory


@pytest.fixture(scope="session", autouse=True)
def stops_reach_children() -> None:
    """Under nohup or in the background too, where children would ignore what pytest does."""
    for name in {"SIGINT", "SIGHUP"} & {number.name for number in signal.Signals}:
        if signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
            signal.signal(getattr(signal, name), lambda *_: None)
