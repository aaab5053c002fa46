"""Sets the stage for all tests: strict JAX, eight CPU devices, hypothesis's profiles."""

from __future__ import annotations

import importlib.util
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, settings

from tests.support.compile_cache import BUILD, drop_oldest, exchange, kept_folder
from tests.support.durations import group_of, group_seconds, record_durations
from tests.support.ray_machines import ON_LOOPBACK, Machines

HAS_GPU = (
    importlib.util.find_spec("jax_cuda12_plugin") is not None
    and Path("/dev/nvidiactl").exists()
)

# Linux allows a process 65,530 mappings, and a module's executables hold thousands.
_MAX_MAPPINGS = 30_000

PROFILE = os.environ.get("LLMPQ_TEST_PROFILE", "quick")

# At reduced counts most of a test's time was XLA's optimisation of programs that run for
# a millisecond. With these flags XLA compiles them in a fifth of the time; at full counts,
# and where references are compared (`make test`), programs are compiled as users' are.
_QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)
IS_OPTIMIZED = PROFILE == "full" or "LLMPQ_TEST_OPTIMIZED" in os.environ

settings.register_profile(
    "quick",
    max_examples=6,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "full",
    max_examples=200,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def pytest_configure(config: pytest.Config) -> None:
    """Sets what must stand before JAX's backend starts and before tests are read."""
    # Whoever runs the tests may ignore some, as nohup and shells in the background do, and
    # processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(ON_LOOPBACK)
    if not IS_OPTIMIZED:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} {_QUICK_TO_COMPILE}".strip()
    settings.load_profile(PROFILE)
    # The CPU comes first, so that laws mean the same on every machine; a test marked
    # `gpu` asks for its device by name.
    jax.config.update("jax_platforms", "cpu,cuda" if HAS_GPU else "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    BUILD.mkdir(exist_ok=True)
    compiled = tempfile.TemporaryDirectory(
        prefix="compiled-by-a-test-process-", dir=BUILD, ignore_cleanup_errors=True
    )
    config.add_cleanup(compiled.cleanup)
    config.add_cleanup(lambda: drop_oldest(kept_folder()))
    exchange(Path(compiled.name), kept_folder())
    jax.config.update("jax_compilation_cache_dir", compiled.name)
    # Otherwise the folder's name is part of each program's key.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True, scope="module")
def free_executables() -> Iterator[None]:
    """Gives executables back before a process has as many mappings as Linux allows.

    What was compiled is exchanged with the other processes first.
    """
    yield
    exchange(Path(jax.config.values["jax_compilation_cache_dir"]), kept_folder())
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > _MAX_MAPPINGS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def machines() -> Iterator[Machines]:
    """A Ray cluster of two machines, all on this one."""
    cluster = Machines("node0", "node1")
    yield cluster
    cluster.close()


# Before pytest-xdist asks which tests belong together.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Keeps a module's tests in one process; leaves out what is not for here and now."""
    for item in items:
        # What a module's tests share is made once, unless they name another group.
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))
    items.sort(key=lambda item: -group_seconds().get(group_of(item), 0.0))
    is_here = {"gpu": HAS_GPU, "full": PROFILE == "full"}
    absent = {name for name, here in is_here.items() if not here}
    left_out = [item for item in items if _is_marked(item, absent)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not _is_marked(item, absent)]


def _is_marked(item: pytest.Item, names: set[str]) -> bool:
    return any(mark.name in names for mark in item.iter_markers())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Adds a test's seconds to its group's, where they are to be written."""
    record_durations(report)
