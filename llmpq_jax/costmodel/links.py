"""Seconds of one transfer between two devices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import combinations

from llmpq_jax.costmodel.monotone_table import MonotoneTable, fit_table
from llmpq_jax.errors import MeasurementError
from llmpq_jax.files import json_text
from llmpq_jax.schema.cluster import Cluster, Link, NodeDevice
from llmpq_jax.schema.measurements import LinkTime, Measurements

# Exponents over bytes: bytes over bandwidth, and latency.
LINK_FEATURES = [(1,), (0,)]

# Bytes per second and latency that a message proposes: 10 Gbit/s, and a PCIe 3 slot.
_BETWEEN_NODES = (1.25e9, 1e-4)
_WITHIN_NODE = (12e9, 3e-5)

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
    rows = _measured(measurements, source, target)
    if not rows:
        raise MeasurementError(_no_link(cluster, measurements, source, target))
    return float(_fit_link(tuple(rows))(num_bytes))


@lru_cache(maxsize=1024)
def _fit_link(rows: tuple[LinkTime, ...]) -> MonotoneTable:
    sizes = [(row.num_bytes,) for row in rows]
    return fit_table(sizes, [row.seconds for row in rows], LINK_FEATURES)


def _measured(
    measurements: Measurements, source: NodeDevice, target: NodeDevice
) -> list[LinkTime]:
    """Returns the transfers that those of two devices are predicted from."""
    kinds = (source.device.kind, target.device.kind)
    nodes = (source.node.name, target.node.name)
    within_node = (None, None)
    # Transfers within a node are recorded without its name.
    candidates = [within_node] if nodes[0] == nodes[1] else [nodes, within_node]
    found = (_either_way(measurements, kinds, each) for each in candidates)
    return next(filter(None, found), [])


def _no_link(
    cluster: Cluster, measurements: Measurements, source: NodeDevice, target: NodeDevice
) -> str:
    """Returns the message for a missing link, with a line for the cluster file."""
    ends = " and ".join(
        f"{each.name} ({each.device.kind})" for each in (source, target)
    )
    measure = "llmpq-jax profile"
    if source.node.name != target.node.name:
        measure += " --between-nodes"
    place = "at the top of the cluster file"
    if cluster.links:
        place += ", in place of its links"
    line = _toml_line((*cluster.links, *_missing_links(cluster, measurements)))
    return (
        f"no link between {ends}: expected it in the cluster file or in the "
        f"measurements; measure it with `{measure}`, or write this line {place}, with "
        f"your own numbers: {line}"
    )


def _missing_links(cluster: Cluster, measurements: Measurements) -> Iterator[Link]:
    """Yields a link with assumed numbers for each two nodes that lack theirs."""
    usable = [each for each in cluster.node_devices if each.device.use != "never"]
    pairs = {
        (one.node.name, other.node.name): None
        for one, other in combinations(usable, 2)
        if cluster.link_between(one, other) is None
        and not _measured(measurements, one, other)
    }
    for one, other in pairs:
        bandwidth, latency_s = _WITHIN_NODE if one == other else _BETWEEN_NODES
        yield Link(
            between=(one, other), bandwidth_bytes_per_s=bandwidth, latency_s=latency_s
        )


def _toml_line(links: Iterable[Link]) -> str:
    # As an array, since [[link]] needs lines of its own and a message has one.
    texts = (
        f"{{between = {json_text(link.between, ensure_ascii=False)}, "
        f"bandwidth_bytes_per_s = {link.bandwidth_bytes_per_s!r}, "
        f"latency_s = {link.latency_s!r}}}"
        for link in links
    )
    return f"link = [{', '.join(texts)}]"


def _either_way(
    measurements: Measurements, kinds: tuple[str, str], nodes: _Nodes
) -> list[LinkTime]:
    """Returns the transfers in this direction, or else those in the opposite one."""
    found: dict[tuple[str | None, ...], list[LinkTime]] = defaultdict(list)
    for row in measurements.links:
        ends = (row.source_kind, row.target_kind, row.source_node, row.target_node)
        found[ends].append(row)
    return found[*kinds, *nodes] or found[*kinds[::-1], *nodes[::-1]]
