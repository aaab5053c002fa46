"""What share of their work a node's devices do one after the other.

Of k devices that are all at work on one processor, which together do c devices' work, it is

    s = (k / c − 1) / (k − 1)

by a line of the node, or as measured: then the mean over the numbers of devices that were
at work. `schedule` says what follows from it.
"""

from __future__ import annotations

from statistics import fmean

from llmpq_jax.schema.cluster import Node
from llmpq_jax.schema.measurements import Measurements, Phase


def node_serial_fraction(
    node: Node, measurements: Measurements, phase: Phase
) -> float | None:
    """Returns s, see the module; nothing where devices share nothing.

    A node's own line comes before what was measured of it, and of that the last row of
    each number of devices.
    """
    everyone = len(node.devices)
    if node.shared_capacity is not None:
        return _fraction(everyone, node.shared_capacity)
    measured = {
        row.num_devices or everyone: row.capacity
        for row in measurements.shared
        if row.node == node.name and row.phase in (phase, None)
    }
    fractions = [_fraction(k, capacity) for k, capacity in measured.items()]
    return fmean(fractions) if fractions else None


def _fraction(num_devices: int, capacity: float) -> float:
    if num_devices == 1:
        return 0.0
    fraction = (num_devices / capacity - 1) / (num_devices - 1)
    return min(1.0, max(0.0, fraction))
