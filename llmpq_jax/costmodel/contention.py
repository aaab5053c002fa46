"""Serial fraction of a node whose devices share one processor.

If k devices that work at the same time together do the work of c devices, their serial
fraction (Amdahl, 1967) is

    s = (k / c − 1) / (k − 1)

It comes from the node's entry in the cluster file, or else from measurements: then it is
the mean over the measured numbers of devices. `pipeline_schedule` says how it enters the
seconds of a phase.
"""

from __future__ import annotations

from statistics import fmean

from llmpq_jax.schema.cluster import Node
from llmpq_jax.schema.measurements import Measurements, Phase


def node_serial_fraction(
    node: Node, measurements: Measurements, phase: Phase
) -> float | None:
    """Returns s of a node in a phase, from 0 to 1; None if its devices share nothing.

    The cluster file takes precedence over measurements. Among measurements of the same
    number of devices the last one counts.
    """
    all_devices = len(node.devices)
    if node.shared_capacity is not None:
        return _serial_fraction(all_devices, node.shared_capacity)
    measured = {
        row.num_devices or all_devices: row.capacity
        for row in measurements.shared
        if row.node == node.name and row.phase in (phase, None)
    }
    fractions = [_serial_fraction(k, capacity) for k, capacity in measured.items()]
    return fmean(fractions) if fractions else None


def _serial_fraction(num_devices: int, capacity: float) -> float:
    if num_devices == 1:
        return 0.0
    fraction = (num_devices / capacity - 1) / (num_devices - 1)
    return min(1.0, max(0.0, fraction))
