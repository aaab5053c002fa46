"""How much work the devices of a node do at once, by its own line or as measured."""

from __future__ import annotations

from llmpq_jax.spec.cluster import Node
from llmpq_jax.spec.measurements import Measurements, Phase


def shared_capacity(
    node: Node, measurements: Measurements, phase: Phase
) -> float | None:
    """Returns devices' worth of work done at once; nothing where they share nothing.

    A node's own line comes before what was measured of it, and of that the last row.
    """
    if node.shared_capacity is not None:
        return node.shared_capacity
    measured = [
        row.capacity
        for row in measurements.shared
        if row.node == node.name and row.phase in (phase, None)
    ]
    return measured[-1] if measured else None
