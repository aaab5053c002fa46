"""Speeds of the nodes of a cluster file: a second file next to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from llmpq_jax.errors import ClusterError
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.field_types import Bytes
from llmpq_jax.schema.record import record
from llmpq_jax.schema.record_files import read_cluster
from llmpq_jax.schema.toml import read_record

# Memory of Python, JAX and Ray's processes, besides a node's weights and caches.
_RUNTIME_BYTES = 2 << 30


@record
class NodeSpeed:
    """The limits of one node.

    Attributes:
        name: Name of the node in the cluster file.
        speed: Fraction of one processor's time: 0.25 is a quarter.
        processor: Number of the only processor on which the node's processes run, so
            that each computes in one thread; nodes may share one.
    """

    name: str
    speed: Annotated[float, Field(gt=0, le=1)]
    processor: Annotated[int, Field(ge=0)]


@record
class Speeds:
    """The limits of all nodes of a cluster file.

    Attributes:
        schema: Version of the file format.
        cluster: Path of the cluster file, from this file's folder.
        period_s: Seconds over which a speed is averaged: within it a node may compute
            at full speed until its share is used up.
        runtime_bytes: Bytes added to the memory of a node's devices, for the programs
            themselves. In the file `runtime_memory`.
        nodes: Limits of each node. In the file `[[node]]`.
    """

    schema: Literal[1] = 1
    cluster: str = "cluster.toml"
    period_s: Annotated[float, Field(ge=1e-3, le=1)] = 0.01
    runtime_bytes: Annotated[Bytes, Field(alias="runtime_memory")] = _RUNTIME_BYTES
    nodes: Annotated[tuple[NodeSpeed, ...], Field(alias="node")]

    def __post_init__(self) -> None:
        loads: dict[int, float] = {}
        for node in self.nodes:
            loads[node.processor] = loads.get(node.processor, 0) + node.speed
        for processor, load in loads.items():
            if load > 1 + 1e-9:
                msg = f"the nodes on processor {processor} have {load:g} of its speed together: expected at most 1"
                raise ValueError(msg)


@record
class Emulation:
    """A cluster and the limits that emulate it.

    Attributes:
        cluster: Cluster to emulate.
        cluster_path: Path of the cluster file.
        speeds: Limits of all its nodes.
    """

    cluster: Cluster
    cluster_path: Path
    speeds: Speeds

    def memory_bytes(self, name: str) -> int:
        """Returns the bytes that all processes of a node may hold together."""
        node = next(node for node in self.cluster.nodes if node.name == name)
        devices = sum(device.memory_bytes for device in node.devices)
        return devices + self.speeds.runtime_bytes

    def node(self, name: str) -> NodeSpeed:
        """Returns a node's limits.

        Raises:
            ClusterError: If there is no such node.
        """
        for node in self.speeds.nodes:
            if node.name == name:
                return node
        names = [node.name for node in self.speeds.nodes]
        msg = f"no node {name!r} to emulate: expected one of {names}"
        raise ClusterError(msg)


def read_emulation(path: Path, processors: frozenset[int]) -> Emulation:
    """Reads a file of speeds and the cluster file it names.

    Args:
        path: Path of the file of speeds.
        processors: Numbers of the processors that this process may use.

    Raises:
        ClusterError: If a file is invalid, they name different nodes, or a processor is
            not available.
    """
    speeds = read_record(Speeds, path, what="speeds", error=ClusterError)
    cluster_path = path.parent / speeds.cluster
    cluster = read_cluster(cluster_path)
    found = [node.name for node in speeds.nodes]
    expected = [node.name for node in cluster.nodes]
    if sorted(found) != sorted(expected):
        msg = f"speeds {path}: nodes are {found}: expected those of {cluster_path}, {expected}"
        raise ClusterError(msg)
    for node in speeds.nodes:
        if node.processor not in processors:
            msg = f"speeds {path}: node {node.name!r} is on processor {node.processor}: expected one of {sorted(processors)}, which this process may use"
            raise ClusterError(msg)
    return Emulation(cluster=cluster, cluster_path=cluster_path, speeds=speeds)
