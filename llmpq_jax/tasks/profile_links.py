"""Measures what lies between the machines of a cluster, which none can measure alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import permutations
from pathlib import Path

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.measurement_checks import check_measurements
from llmpq_jax.errors import MeasurementError
from llmpq_jax.profiler.grid import Grid
from llmpq_jax.profiler.journal import Journal
from llmpq_jax.profiler.links import token_counts
from llmpq_jax.profiler.stopwatch import STAGE_PAUSE_S
from llmpq_jax.report.console import progress_bar
from llmpq_jax.runtime.engines.ray.link_probe import LinkProbe, time_links
from llmpq_jax.runtime.engines.transport.config import TransportName
from llmpq_jax.schema.cluster import Cluster, NodeDevice
from llmpq_jax.schema.measurements import LinkTime
from llmpq_jax.schema.measurements_file import read_measurements
from llmpq_jax.schema.precision import ACTIVATION_BYTES
from llmpq_jax.tasks.hop_times import link_time


def measure_between_nodes(
    model: Path,
    cluster: Cluster,
    out: Path,
    *,
    grid: Grid,
    address: str,
    transport: TransportName,
    set_up: Callable[[], object],
) -> tuple[LinkTime, ...]:
    """Times hidden states between every two nodes, both ways, as runs under Ray send them.

    Each pair of kinds is timed by the first device of the kind on its node. What the file
    holds already is not measured again.

    Args:
        model: The checkpoint's folder, or that of its config alone.
        cluster: Whose devices; those it never uses are left out.
        out: Measurements of the model on the nodes' devices, appended to row by row.
        grid: Whose largest prefill is the largest size.
        address: Of the Ray cluster; "auto" for the one this machine is part of.
        transport: What brings messages.
        set_up: Called in each process before JAX starts.

    Returns:
        The rows that are new.

    Raises:
        SpecError: A file cannot be read.
        MeasurementError: The measurements are of another model, or the cluster has but
            one node.
        StrategyError: A machine serves something else, or lacks a device.
        WorkerFailedError: There is no Ray cluster, a machine is not in it, or was lost.
    """
    table = read_measurements(out)
    architecture = read_architecture(model)
    check_measurements(table, architecture)
    pairs = _pairs(cluster)
    if not pairs:
        msg = f"cluster {cluster.name!r} has one node with devices to use: expected two or more, with links between them to measure"
        raise MeasurementError(msg)
    journal = Journal(table, out)
    node_devices = {
        node_devices.name: node_devices for pair in pairs for node_devices in pair
    }
    token_bytes = architecture.hidden_size * ACTIVATION_BYTES[table.activations]
    probes = [
        LinkProbe(source=source.name, target=target.name, num_tokens=num_tokens)
        for source, target in pairs
        for num_tokens in token_counts(grid.max_tokens, token_bytes)
        if not journal.holds(
            table.links,
            source_kind=source.device.kind,
            target_kind=target.device.kind,
            source_node=source.node.name,
            target_node=target.node.name,
            num_bytes=num_tokens * token_bytes,
        )
    ]
    if not probes:
        return ()
    timings = time_links(
        probes,
        hidden_size=architecture.hidden_size,
        dtype=table.activations,
        pause_s=STAGE_PAUSE_S,
        address=address,
        transport=transport,
        set_up=set_up,
    )
    rows = []
    with (
        progress_bar("measuring", len(probes), unit="rows") as advance,
        closing(timings) as timed,
    ):
        for probe, samples in timed:
            row = link_time(
                node_devices[probe.source],
                node_devices[probe.target],
                probe.num_tokens * token_bytes,
                samples,
            )
            journal.add(row)
            rows.append(row)
            advance(1, None)
    return tuple(rows)


def _pairs(cluster: Cluster) -> list[tuple[NodeDevice, NodeDevice]]:
    """Returns a device of each kind on a node, with each on another; both ways together."""
    ends: dict[tuple[str, str], NodeDevice] = {}
    for node_devices in cluster.node_devices:
        if node_devices.device.use != "never":
            ends.setdefault(
                (node_devices.node.name, node_devices.device.kind), node_devices
            )
    pairs = [
        (source, target)
        for source, target in permutations(ends.values(), 2)
        if source.node.name != target.node.name
    ]
    return sorted(
        pairs, key=lambda pair: sorted(node_devices.name for node_devices in pair)
    )
