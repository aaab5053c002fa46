"""Times transfers of hidden states between devices of a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """One transfer to time.

    Attributes:
        source_kind: Kind of the device it leaves.
        target_kind: Kind of the device it reaches.
        source: The device it leaves.
        target: The device it reaches.
        shape: Shape of the hidden states sent.
        num_bytes: Bytes of the hidden states sent.
    """

    source_kind: str
    target_kind: str
    source: JaxDevice
    target: JaxDevice
    shape: tuple[int, int, int]
    num_bytes: int


def measure_links(
    session: Session, cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> None:
    """Times the transfers that are still missing, as the engine makes them."""
    dtype = DTYPES[session.options.activations]
    for transfer in missing_links(session, cluster, devices):
        hidden = StageSharding((transfer.source,)).put(np.zeros(transfer.shape, dtype))
        target = StageSharding((transfer.target,))
        timing = session.options.stopwatch.time_after_pauses(
            partial(send, hidden, target), STAGE_PAUSE_S
        )
        session.journal.add(
            LinkTime(
                source_kind=transfer.source_kind,
                target_kind=transfer.target_kind,
                num_bytes=transfer.num_bytes,
                seconds=timing.seconds,
                spread=timing.spread,
            )
        )
        pair = f"{transfer.source_kind} to {transfer.target_kind}"
        session.on_row(f"{pair}: {transfer.num_bytes} bytes")


def missing_links(
    session: Session, cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> list[Transfer]:
    """Returns the transfers that are still missing.

    Sizes range from one token's hidden state to those of a whole prefill micro-batch.
    This machine alone cannot measure links between nodes; see `tasks.profile_links`.
    """
    dtype = DTYPES[session.options.activations]
    width = session.architecture.hidden_size
    token_bytes = width * dtype.itemsize
    counts = token_counts(session.options.grid.max_tokens, token_bytes)
    missing = []
    for (source_kind, target_kind), pair in _linked(cluster, devices).items():
        for tokens in counts:
            num_bytes = tokens * token_bytes
            if not session.journal.holds(
                session.journal.measurements.links,
                source_kind=source_kind,
                target_kind=target_kind,
                source_node=None,
                num_bytes=num_bytes,
            ):
                transfer = Transfer(
                    source_kind=source_kind,
                    target_kind=target_kind,
                    source=pair[0],
                    target=pair[1],
                    shape=(tokens, 1, width),
                    num_bytes=num_bytes,
                )
                missing.append(transfer)
    return missing


def token_counts(max_tokens: int, token_bytes: int) -> list[int]:
    """Returns the numbers of tokens whose hidden states are sent, from one up.

    Args:
        max_tokens: Tokens of the largest prefill.
        token_bytes: Bytes of a token's hidden state.
    """
    largest = max(1, min(max_tokens, _MAX_BYTES // token_bytes))
    return sorted({round(count) for count in np.geomspace(1, largest, _NUM_SIZES)})


def _linked(
    cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> dict[tuple[str, str], tuple[JaxDevice, JaxDevice]]:
    """Returns two devices for each ordered pair of kinds that share a node."""
    here = [each for each in cluster.node_devices if each.name in devices]
    pairs: dict[tuple[str, str], tuple[JaxDevice, JaxDevice]] = {}
    for source, target in permutations(here, 2):
        if source.node.name == target.node.name:
            kinds = (source.device.kind, target.device.kind)
            pairs.setdefault(kinds, (devices[source.name], devices[target.name]))
    return pairs


def send(hidden: jax.Array, target: StageSharding) -> None:
    """Moves an array to another device as the engine does, and waits for it."""
    target.put(hidden).block_until_ready()
