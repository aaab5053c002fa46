"""A tiny model with a plan for two devices, and a way to type commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llmpq_jax.cli import main
from llmpq_jax.kernels import kernel_path
from llmpq_jax.profiler import contention, dispatch_overhead, stopwatch
from llmpq_jax.schema.cluster import Cluster, Device, Node
from llmpq_jax.schema.measurements_file import read_measurements
from llmpq_jax.schema.record_files import write_cluster, write_strategy
from llmpq_jax.schema.toml import to_toml
from tests.cli.every_command import SIZES as SIZES
from tests.cli.every_command import Inputs
from tests.sensitivity.small import write_text_file
from tests.support.tiny_models import make_strategy, write_tiny_model


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands keep what can be made again: not in the folder of who tests."""
    folder = tmp_path / "cache-home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@contextmanager
def few_samples() -> Iterator[None]:
    """Has profiles take few: here it matters which rows they have, not how good."""
    few = {"rounds": 2, "max_s": 0.02, "warm_up_s": 0.0}
    with pytest.MonkeyPatch.context() as patched:
        for name in ("QUICK_STOPWATCH", "FULL_STOPWATCH"):
            patched.setattr(stopwatch, name, replace(getattr(stopwatch, name), **few))
        usual = partial(stopwatch.Stopwatch, **few)
        patched.setattr(stopwatch, "Stopwatch", usual)
        patched.setattr(dispatch_overhead, "MAX_REPEATS", 3)
        patched.setattr(dispatch_overhead, "MIN_REPEATS", 3)
        patched.setattr(contention, "NUM_REPEATS", 2)
        yield


@pytest.fixture(autouse=True)
def hurried() -> Iterator[None]:
    """Has the commands of a test take few samples."""
    with few_samples():
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture(scope="session")
def strategy(model: Path) -> Path:
    path = model.parent / "strategy.toml"
    write_strategy(path, make_strategy(model, [((0,), [16, 8]), ((1,), [4, 8])]))
    return path


@pytest.fixture
def run() -> Callable[..., Result]:
    """Types a command; stdout and stderr come back apart."""

    def type_command(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    return type_command


@pytest.fixture
def fails(run: Callable[..., Result]) -> Callable[..., str]:
    """Types a command that fails; returns its one line, without "error: "."""

    def type_command(*words: object) -> str:
        result = run(*words)
        assert result.exit_code == 1, result.output
        *progress, line = result.stderr.splitlines()
        assert "Traceback" not in result.stderr
        assert not any(line.startswith("error: ") for line in progress)
        assert line.startswith("error: ")
        assert result.stdout == ""
        return line.removeprefix("error: ")

    return type_command


@pytest.fixture(scope="session")
def cluster(model: Path) -> Path:
    """Two equal devices that hold the model with ease."""
    path = model.parent / "cluster.toml"
    devices = tuple(
        Device(name=f"cpu:{number}", kind="cpu", platform="cpu", memory_bytes=64 << 20)
        for number in range(2)
    )
    nodes = (Node(name="node0", devices=devices),)
    write_cluster(path, Cluster(name="pair", nodes=nodes))
    return path


@pytest.fixture(scope="session")
def measurements(model: Path) -> Path:
    """Measurements that `profile` wrote once, as if they were of this machine and today."""
    measured = read_measurements(Path(__file__).parent / "measurements.toml")
    kinds = tuple(
        replace(
            kind,
            date=date.today().isoformat(),
            jax_version=version("jax"),
            kernel_path=kernel_path("cpu"),
        )
        for kind in measured.kinds
    )
    path = model.parent / "committed-measurements.toml"
    path.write_text(to_toml(replace(measured, kinds=kinds)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def inputs(
    model: Path,
    cluster: Path,
    measurements: Path,
    strategy: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Inputs:
    """Files that every command reads, see `every_command`."""
    folder = tmp_path_factory.mktemp("inputs")
    prompts = folder / "prompts.jsonl"
    prompts.write_text('{"prompt": "def f"}\n{"prompt": "class A"}\n' * 2)
    record = folder / "run.jsonl"
    words = ["generate", "--strategy", strategy, "--prompts", prompts]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        result = CliRunner().invoke(main, [*map(str, words), "--record", str(record)])
    assert result.exit_code == 0, result.output
    return Inputs(
        model=model,
        cluster=cluster,
        measurements=measurements,
        strategy=strategy,
        text=write_text_file(folder, seed=0),
        run_record=record,
        prompts=prompts,
    )
