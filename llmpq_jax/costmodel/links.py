"""Seconds of one hop between two devices."""

from __future__ import annotations

from llmpq_jax.costmodel.monotone_table import fit_table
from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.cluster import Cluster, NodeDevice
from llmpq_jax.schema.measurements import LinkTime, Measurements

# Bytes over bandwidth, and latency.
LINK_FEATURES = [(1,), (0,)]


def transfer_s(
    cluster: Cluster,
    measurements: Measurements,
    *,
    source: NodeDevice,
    target: NodeDevice,
    num_bytes: int,
) -> float:
    """Returns the seconds of one transfer.

    A link in the cluster file comes first: latency plus bytes over bandwidth. Without
    one, measured transfers answer: between these two nodes, or, where none was, between
    the two kinds of device within a node; and of either, where none went that way, those
    in the other direction.

    Raises:
        MeasurementError: Neither file knows the pair.
    """
    link = cluster.link_between(source, target)
    if link is not None:
        return link.latency_s + num_bytes / link.bandwidth_bytes_per_s
    there, back = source.device.kind, target.device.kind
    ends = (source.node.name, target.node.name)
    # Within a node no names are written.
    pairs = [(None, None)] if ends[0] == ends[1] else [ends, (None, None)]
    rows = next(
        filter(None, (_either_way(measurements, there, back, *n) for n in pairs)), []
    )
    if not rows:
        msg = (
            f"no link between {source.name} ({there}) and {target.name} ({back}): expected "
            f"a [[link]] between {source.node.name!r} and {target.node.name!r} in the "
            "cluster file, or measured ones; measure with `llmpq-jax profile`"
            f"{'' if ends[0] == ends[1] else ' --between-nodes'}"
        )
        raise MeasurementError(msg)
    sizes = [(row.num_bytes,) for row in rows]
    table = fit_table(sizes, [row.seconds for row in rows], LINK_FEATURES)
    return float(table(num_bytes))


def _either_way(
    measurements: Measurements,
    source_kind: str,
    target_kind: str,
    source_node: str | None,
    target_node: str | None,
) -> list[LinkTime]:
    """Returns the transfers one way, or where there are none the other way."""
    one = (source_kind, target_kind, source_node, target_node)
    other = (target_kind, source_kind, target_node, source_node)
    by_way = {
        way: [row for row in measurements.links if _way(row) == way]
        for way in (one, other)
    }
    return by_way[one] or by_way[other]


def _way(row: LinkTime) -> tuple[str, str, str | None, str | None]:
    return row.source_kind, row.target_kind, row.source_node, row.target_node
