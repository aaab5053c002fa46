"""Transfer times between nodes, from a recorded run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from llmpq_jax.profiler.stopwatch import summary
from llmpq_jax.runtime.analysis.run_file import RecordedRun
from llmpq_jax.schema.cluster import Cluster, NodeDevice
from llmpq_jax.schema.measurements import LinkTime
from llmpq_jax.schema.precision import ACTIVATION_BYTES, wire_token_bytes
from llmpq_jax.stage.message import StageEvent


def hop_times(
    run: RecordedRun,
    node_devices: Sequence[NodeDevice],
    hidden_size: int,
    *,
    min_samples: int,
) -> list[LinkTime]:
    """Returns the median seconds of sending hidden states between nodes, by size.

    A hop lasts from when a stage has computed them until they are on the next stage's
    device. Hops within a node are left out, hops to a mesh, which are several
    transfers, and sizes with fewer than `min_samples`. `node_devices` has the first of
    each stage.
    """
    stages, precision = run.strategy.stages, run.strategy.precision
    apart = {
        number
        for number, (before, here) in enumerate(pairwise(node_devices), start=1)
        if before.node.name != here.node.name and len(stages[number].devices) == 1
    }
    samples: dict[tuple[int, int], list[float]] = defaultdict(list)
    for batch in run.batches:
        ended_s = {_key(event, event.stage): event.ended_s for event in batch.events}
        for event in batch.events:
            made_s = ended_s.get(_key(event, event.stage - 1))
            if event.stage not in apart or made_s is None or event.received_s <= made_s:
                continue
            tokens = int(event.tokens) if event.phase == "prefill" else 1
            token_bytes = wire_token_bytes(
                hidden_size,
                ACTIVATION_BYTES[precision.activations],
                wire_bits=stages[event.stage - 1].wire_bits,
            )
            size = event.stage, event.rows * tokens * token_bytes
            samples[size].append(event.received_s - made_s)
    rows = []
    for (number, num_bytes), seconds in sorted(samples.items()):
        if len(seconds) < min_samples:
            continue
        source, target = node_devices[number - 1], node_devices[number]
        rows.append(link_time(source, target, num_bytes, seconds))
    return rows


def link_time(
    source: NodeDevice, target: NodeDevice, num_bytes: int, seconds: list[float]
) -> LinkTime:
    """Returns the measurements row of transfers between devices of two nodes."""
    timing = summary(seconds)
    return LinkTime(
        source_kind=source.device.kind,
        target_kind=target.device.kind,
        source_node=source.node.name,
        target_node=target.node.name,
        num_bytes=num_bytes,
        seconds=timing.seconds,
        spread=timing.spread,
    )


def notes_on_links(cluster: Cluster, links: Iterable[LinkTime]) -> list[str]:
    """Returns a note on each measured link that the cluster file sets as well."""
    in_file = {frozenset(link.between) for link in cluster.links}
    pairs = dict.fromkeys((row.source_node, row.target_node) for row in links)
    return [
        f"from {source} to {target}: the cluster file has a [[link]] itself, which "
        "plans use; remove it there to plan with what was measured"
        for source, target in pairs
        if {source, target} in in_file
    ]


def _key(event: StageEvent, stage: int) -> tuple[int, str, int, int]:
    return stage, event.phase, event.micro_batch, event.step
