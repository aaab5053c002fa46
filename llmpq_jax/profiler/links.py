"""Times transfers of hidden states between devices of a node."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import permutations

import jax
import numpy as np

from llmpq_jax.profiler.session import Session
from llmpq_jax.profiler.stopwatch import STAGE_PAUSE_S
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import LinkTime
from llmpq_jax.stage.build import DTYPES
from llmpq_jax.stage.emulated_devices import JaxDevice
from llmpq_jax.stage.sharding import StageSharding
from llmpq_jax.units import MIB

_NUM_SIZES = 4
# Above this size, seconds grow linearly with bytes, as the cost model assumes.
_MAX_BYTES = 64 * MIB


# Kinds of the sending and of the receiving device.
Kinds = tuple[str, str]
Devices = tuple[JaxDevice, JaxDevice]


def measure_links(
    session: Session, cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> None:
    """Times the transfers that are still missing, as the engine makes them."""
    dtype = DTYPES[session.options.activations]
    width = session.architecture.hidden_size
    for kinds, (source, target), tokens in missing_links(session, cluster, devices):
        hidden = StageSharding((source,)).put(np.zeros((tokens, 1, width), dtype))
        timing = session.options.stopwatch.time_after_pauses(
            partial(send, hidden, StageSharding((target,))), STAGE_PAUSE_S
        )
        row = LinkTime(
            source_kind=kinds[0],
            target_kind=kinds[1],
            num_bytes=hidden.nbytes,
            seconds=timing.seconds,
            spread=timing.spread,
        )
        session.journal.add(row)
        session.on_row(f"{' to '.join(kinds)}: {hidden.nbytes} bytes", 1.0)


def missing_links(
    session: Session, cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> list[tuple[Kinds, Devices, int]]:
    """Returns kinds, devices and tokens of the transfers that are still missing.

    Sizes range from one token's hidden state to those of a whole prefill micro-batch.
    This machine alone cannot measure links between nodes; see `tasks.profile_links`.
    """
    itemsize = DTYPES[session.options.activations].itemsize
    token_bytes = session.architecture.hidden_size * itemsize
    return [
        (kinds, pair, tokens)
        for kinds, pair in _linked(cluster, devices).items()
        for tokens in token_counts(session.options.grid.max_tokens, token_bytes)
        if not session.journal.holds(
            session.journal.measurements.links,
            source_kind=kinds[0],
            target_kind=kinds[1],
            source_node=None,
            num_bytes=tokens * token_bytes,
        )
    ]


def token_counts(max_tokens: int, token_bytes: int) -> list[int]:
    """Returns the numbers of tokens whose hidden states are sent, from one up."""
    largest = max(1, min(max_tokens, _MAX_BYTES // token_bytes))
    return sorted({round(count) for count in np.geomspace(1, largest, _NUM_SIZES)})


def _linked(cluster: Cluster, devices: Mapping[str, JaxDevice]) -> dict[Kinds, Devices]:
    """Returns two devices for each ordered pair of kinds that share a node."""
    here = [each for each in cluster.node_devices if each.name in devices]
    pairs: dict[Kinds, Devices] = {}
    for source, target in permutations(here, 2):
        if source.node.name == target.node.name:
            kinds = (source.device.kind, target.device.kind)
            pairs.setdefault(kinds, (devices[source.name], devices[target.name]))
    return pairs


def send(hidden: jax.Array, target: StageSharding) -> None:
    """Moves an array to another device as the engine does, and waits for it."""
    target.put(hidden).block_until_ready()
