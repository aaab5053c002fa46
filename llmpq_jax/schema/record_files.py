"""Reads and writes the files of clusters, sensitivities and strategies."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.errors import ClusterError, StrategyError
from llmpq_jax.files import is_stream, write_text
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.toml import read_record, to_toml

_CLUSTER = """\
Devices of llmpq-jax, in the order in which a pipeline may use them. Edit freely.
memory and reserve are bytes, or texts such as "24 GiB"; use is "any", "always" or "never"."""
_SENSITIVITY = """\
Quality that each layer loses at each precision, in the unit below; 16 bits lose nothing.
Written by `llmpq-jax indicate`."""
_STRATEGY = """\
A plan of llmpq-jax. Edit it freely: it is checked when it is read.
layers = [first, end], end exclusive; bits has one entry per layer.
docs/strategy-format.md explains every field."""


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
    return to_toml(cluster, comment=_CLUSTER)


def read_sensitivity(path: Path) -> Sensitivity:
    """Reads a sensitivity file, with its paths as paths from the working directory.

    Raises:
        SpecError: If the file is missing or does not hold sensitivities.
    """
    return read_record(Sensitivity, path, what="sensitivity")


def write_sensitivity(path: Path, sensitivity: Sensitivity) -> None:
    """Writes a sensitivity file, with relative paths relative to its folder."""
    write_text(path, to_toml(sensitivity, comment=_SENSITIVITY, path=_base(path)))


def read_strategy(path: Path) -> Strategy:
    """Reads a strategy file, with its paths as paths from the working directory.

    Raises:
        StrategyError: If the file is missing or does not hold a strategy.
    """
    return read_record(Strategy, path, what="strategy", error=StrategyError)


def write_strategy(path: Path, strategy: Strategy) -> None:
    """Writes a strategy file, with relative paths relative to its folder."""
    write_text(path, to_toml(strategy, comment=_STRATEGY, path=_base(path)))


def _base(path: Path) -> Path:
    """Returns the file that paths in it are relative to: a stream's is in the working folder.

    The stream's own folder, such as /dev, has nothing to do with what comes out of it.
    """
    return Path(path.name) if is_stream(path) else path
