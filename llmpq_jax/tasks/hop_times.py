"""What a run says of the links between nodes, which no profile of one machine measures."""

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
    least: int,
) -> list[LinkTime]:
    """Returns the median seconds of hidden states from one node to another, by size.

    From when a stage has made them until they lie on the next one's device. Hops within a
    node are left out, and hops to a mesh, which are several transfers.

    Args:
        run: As recorded.
        node_devices: The first device of each stage.
        hidden_size: Of the model.
        least: Sizes that were sent less often are left out.
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
        if len(seconds) < least:
            continue
        source, target = node_devices[number - 1], node_devices[number]
        rows.append(link_time(source, target, num_bytes, seconds))
    return rows


def link_time(
    source: NodeDevice, target: NodeDevice, num_bytes: int, seconds: list[float]
) -> LinkTime:
    """Returns the row of a transfer between devices of two nodes.

    Args:
        source: That it left.
        target: That it reached.
        num_bytes: Sent.
        seconds: Samples.
    """
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
    """Says which of the links measured the cluster file speaks of itself.

    Args:
        cluster: Whose file says them.
        links: As measured between nodes.
    """
    said = {frozenset(link.between) for link in cluster.links}
    pairs = dict.fromkeys((row.source_node, row.target_node) for row in links)
    return [
        f"from {source} to {target}: the cluster file says a [[link]] itself, which "
        "plans believe; remove it there to plan with what was measured"
        for source, target in pairs
        if {source, target} in said
    ]


def _key(event: StageEvent, stage: int) -> tuple[int, str, int, int]:
    return stage, event.phase, event.micro_batch, event.step
