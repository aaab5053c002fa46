"""Seconds of one transfer between two devices."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache

from llmpq_jax.costmodel.monotone_table import MonotoneTable, fit_table
from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.cluster import Cluster, NodeDevice
from llmpq_jax.schema.measurements import LinkTime, Measurements

# Exponents over bytes: bytes over bandwidth, and latency.
LINK_FEATURES = [(1,), (0,)]

_Nodes = tuple[str | None, str | None]


def transfer_s(
    cluster: Cluster,
    measurements: Measurements,
    *,
    source: NodeDevice,
    target: NodeDevice,
    num_bytes: int,
) -> float:
    """Returns the seconds of one transfer.

    A link in the cluster file takes precedence: latency plus bytes over bandwidth.
    Otherwise measured transfers are used: those between the two nodes if there are any,
    else those between the two kinds of device within a node; in either case those in the
    same direction if there are any, else those in the opposite one.

    Raises:
        MeasurementError: If neither file has the pair.
    """
    link = cluster.link_between(source, target)
    if link is not None:
        return link.latency_s + num_bytes / link.bandwidth_bytes_per_s
    kinds = (source.device.kind, target.device.kind)
    nodes = (source.node.name, target.node.name)
    within_node = (None, None)
    # Transfers within a node are recorded without its name.
    candidates = [within_node] if nodes[0] == nodes[1] else [nodes, within_node]
    rows = next(
        filter(None, (_either_way(measurements, kinds, each) for each in candidates)),
        [],
    )
    if not rows:
        msg = (
            f"no link between {source.name} ({kinds[0]}) and {target.name} ({kinds[1]}): "
            f"expected a [[link]] between {nodes[0]!r} and {nodes[1]!r} in the "
            "cluster file, or measured ones; measure with `llmpq-jax profile`"
            f"{'' if nodes[0] == nodes[1] else ' --between-nodes'}"
        )
        raise MeasurementError(msg)
    return float(_fit_link(tuple(rows))(num_bytes))


@lru_cache(maxsize=1024)
def _fit_link(rows: tuple[LinkTime, ...]) -> MonotoneTable:
    sizes = [(row.num_bytes,) for row in rows]
    return fit_table(sizes, [row.seconds for row in rows], LINK_FEATURES)


def _either_way(
    measurements: Measurements, kinds: tuple[str, str], nodes: _Nodes
) -> list[LinkTime]:
    """Returns the transfers in this direction, or else those in the opposite one."""
    found: dict[tuple[str | None, ...], list[LinkTime]] = defaultdict(list)
    for row in measurements.links:
        ends = (row.source_kind, row.target_kind, row.source_node, row.target_node)
        found[ends].append(row)
    return found[*kinds, *nodes] or found[*kinds[::-1], *nodes[::-1]]
