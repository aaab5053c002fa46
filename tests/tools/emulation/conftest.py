"""An emulation of two nodes on one processor."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llmpq_jax.schema.cluster import Cluster, Device, Node
from llmpq_jax.schema.record_files import write_cluster
from tools.emulation.speeds import Emulation, read_emulation

HERE = min(os.sched_getaffinity(0))
MIB = 1 << 20


@pytest.fixture
def speeds(tmp_path: Path) -> Path:
    """Writes the files of a node of three quarters and one of a quarter."""
    nodes = tuple(
        Node(
            name=name,
            devices=(
                Device(
                    name="cpu:0",
                    kind=f"cpu-{name}",
                    platform="cpu",
                    memory_bytes=64 * MIB,
                ),
            ),
        )
        for name in ("fast", "slow")
    )
    write_cluster(tmp_path / "cluster.toml", Cluster(name="two", nodes=nodes))
    path = tmp_path / "speeds.toml"
    path.write_text(
        'runtime_memory = "256 MiB"\n'
        f'[[node]]\nname = "fast"\nspeed = 0.75\nprocessor = {HERE}\n'
        f'[[node]]\nname = "slow"\nspeed = 0.25\nprocessor = {HERE}\n'
    )
    return path


@pytest.fixture
def read() -> Callable[[Path], Emulation]:
    """Reads an emulation for this machine."""

    def read_it(path: Path) -> Emulation:
        return read_emulation(path, frozenset(os.sched_getaffinity(0)))

    return read_it
