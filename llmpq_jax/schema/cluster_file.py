"""Reads and writes cluster files."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.errors import ClusterError
from llmpq_jax.files import write_text
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.toml import read_record, to_toml

_COMMENT = """\
Devices of llmpq-jax, in the order in which a pipeline may use them. Edit freely.
memory and reserve are bytes, or texts such as "24 GiB"; use is "any", "always" or "never"."""


def read_cluster(path: Path) -> Cluster:
    """Reads a cluster file.

    Raises:
        ClusterError: If the file is missing or does not hold a cluster.
    """
    return read_record(Cluster, path, what="cluster", error=ClusterError)


def write_cluster(path: Path, cluster: Cluster) -> None:
    """Writes a cluster file."""
    write_text(path, cluster_text(cluster))


def cluster_text(cluster: Cluster) -> str:
    """Returns the content of a cluster file."""
    return to_toml(cluster, comment=_COMMENT)
