"""A machine's devices and links as a table."""

from __future__ import annotations

from rich.table import Table

from llmpq_jax.report.table_style import add_columns, new_table
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.units import format_bytes, format_seconds


def machine_table(cluster: Cluster) -> Table:
    """Shows the memory of each device, and below it cores and links."""
    table = new_table("Devices of this machine: one row per device")
    add_columns(table, "device", "kind")
    add_columns(table, "memory", "reserved", justify="right")
    for node_devices in cluster.node_devices:
        device = node_devices.device
        table.add_row(
            *(node_devices.name, device.kind, format_bytes(device.memory_bytes)),
            format_bytes(device.reserve_bytes),
        )
    lines = [f"{node.name}: {node.cores} cores" for node in cluster.nodes if node.cores]
    lines += [
        f"{' – '.join(dict.fromkeys(link.between))}: "
        f"{format_bytes(link.bandwidth_bytes_per_s)}/s after "
        f"{format_seconds(link.latency_s)}, the slowest link between two devices"
        for link in cluster.links
    ]
    table.caption = "\n".join(lines)
    return table
