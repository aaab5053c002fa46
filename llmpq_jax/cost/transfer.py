"""Seconds of one hop between two devices."""

from __future__ import annotations

from llmpq_jax.cost.tables import fit_table
from llmpq_jax.errors import MeasurementError
from llmpq_jax.spec.cluster import Cluster, Placed
from llmpq_jax.spec.measurements import LinkTime, Measurements

# Bytes over bandwidth, and latency.
LINK_FEATURES = [(1,), (0,)]


def hop_s(
    cluster: Cluster,
    measurements: Measurements,
    *,
    source: Placed,
    target: Placed,
    num_bytes: int,
) -> float:
    """Returns the seconds of one transfer.

    A link in the cluster file comes first: latency plus bytes over bandwidth. Without
    one, the measured transfers between the two kinds of device answer, or, where none
    went that way, those in the other direction.

    Raises:
        MeasurementError: Neither file knows the pair.
    """
    link = cluster.link_between(source, target)
    if link is not None:
        return link.latency_s + num_bytes / link.bandwidth_bytes_per_s
    there, back = source.device.kind, target.device.kind
    rows = _measured(measurements, there, back) or _measured(measurements, back, there)
    if not rows:
        msg = (
            f"no link between {source.name} ({there}) and {target.name} ({back}): expected "
            f"a [[link]] between {source.node.name!r} and {target.node.name!r} in the "
            "cluster file, or measured ones; measure with `llmpq-jax profile`"
        )
        raise MeasurementError(msg)
    sizes = [(row.num_bytes,) for row in rows]
    table = fit_table(sizes, [row.seconds for row in rows], LINK_FEATURES)
    return float(table(num_bytes))


def _measured(measurements: Measurements, source: str, target: str) -> list[LinkTime]:
    return [
        row
        for row in measurements.links
        if (row.source_kind, row.target_kind) == (source, target)
    ]
