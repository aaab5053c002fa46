"""Measures the links between a cluster's machines, which none can measure alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from llmpq_jax.runtime.engines.transport import TransportName
from llmpq_jax.schema.cluster import Cluster, NodeDevice
from llmpq_jax.schema.measurements import LinkTime, Measurements
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
    """Times hidden states between every two nodes in both directions, as under Ray.

    Each pair of kinds is timed on the first device of the kind on its node, up to the
    grid's largest prefill. What the file has already is not measured again, and devices
    that are never used are left out. Returns the new rows.

    Raises:
        MeasurementError: The measurements are of another model, or the cluster has only
            one node.
        StrategyError: A machine serves something else, or lacks a device.
        WorkerFailedError: There is no Ray cluster, or a machine is not in it or failed.
    """
    table = read_measurements(out)
    architecture = read_architecture(model)
    check_measurements(table, architecture)
    pairs = _pairs(cluster)
    if not pairs:
        msg = f"cluster {cluster.name!r} has one node with devices to use: expected two or more, with links between them to measure"
        raise MeasurementError(msg)
    journal = Journal(table, out)
    token_bytes = architecture.hidden_size * ACTIVATION_BYTES[table.activations]
    sizes = token_counts(grid.max_tokens, token_bytes)
    probes = _missing_probes(pairs, sizes, token_bytes, table, journal)
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
            source, target = cluster.find(probe.source), cluster.find(probe.target)
            num_bytes = probe.num_tokens * token_bytes
            row = link_time(source, target, num_bytes, samples)
            journal.add(row)
            rows.append(row)
            advance(1, None)
    return tuple(rows)


def _missing_probes(
    pairs: list[tuple[NodeDevice, NodeDevice]],
    sizes: Sequence[int],
    token_bytes: int,
    table: Measurements,
    journal: Journal,
) -> list[LinkProbe]:
    """Returns the transfers of these numbers of tokens that the file does not have."""
    return [
        LinkProbe(source=source.name, target=target.name, num_tokens=num_tokens)
        for source, target in pairs
        for num_tokens in sizes
        if not journal.holds(
            table.links,
            source_kind=source.device.kind,
            target_kind=target.device.kind,
            source_node=source.node.name,
            target_node=target.node.name,
            num_bytes=num_tokens * token_bytes,
        )
    ]


def _pairs(cluster: Cluster) -> list[tuple[NodeDevice, NodeDevice]]:
    """Pairs one device per node and kind with those of other nodes, both directions."""
    first: dict[tuple[str, str], NodeDevice] = {}
    for node_device in cluster.node_devices:
        if node_device.device.use != "never":
            key = node_device.node.name, node_device.device.kind
            first.setdefault(key, node_device)
    pairs = [
        (source, target)
        for source, target in permutations(first.values(), 2)
        if source.node.name != target.node.name
    ]
    return sorted(pairs, key=lambda pair: sorted(device.name for device in pair))
