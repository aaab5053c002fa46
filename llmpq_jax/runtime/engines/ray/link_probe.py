"""Times the transfer of hidden states between the machines of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from llmpq_jax import __version__
from llmpq_jax.errors import LlmpqError, WorkerFailedError
from llmpq_jax.runtime.engines.ray.cluster_nodes import place_actors
from llmpq_jax.runtime.engines.ray.health import DEFAULT_HEARTBEAT_TIMEOUT_S
from llmpq_jax.runtime.engines.ray.probe_actor import ProbeActor
from llmpq_jax.runtime.engines.transport import TransportConfig, TransportName


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkProbe:
    """A transfer to time: hidden states from one device to another.

    Attributes:
        source: Full name of the sending device.
        target: Full name of the receiving device.
        num_tokens: Number of tokens whose hidden states are sent.
    """

    source: str
    target: str
    num_tokens: int


def time_links(
    probes: Sequence[LinkProbe],
    *,
    hidden_size: int,
    dtype: str,
    pause_s: float,
    address: str = "auto",
    heartbeat_timeout_s: float = DEFAULT_HEARTBEAT_TIMEOUT_S,
    transport: TransportName = "sockets",
    set_up: Callable[[], object] = lambda: None,
) -> Generator[tuple[LinkProbe, list[float]], None, None]:
    """Yields the seconds of several transfers of each probe, as they are taken.

    A process is started for each device, on its machine, and ended after the last
    probe. Probes between the same two devices come together, with `pause_s` before each
    transfer. See `start_ray` for the cluster, its failures and the transport.

    Raises:
        DeviceFailedError: If a machine is not part of the cluster.
        StrategyError: If a machine serves a strategy, or lacks the device.
        WorkerFailedError: If there is no cluster, a process failed, or no reply came.
    """
    devices = tuple(
        dict.fromkeys(
            device for probe in probes for device in (probe.source, probe.target)
        )
    )
    nodes = tuple(device.split("/")[0] for device in devices)
    placed = place_actors(
        nodes, ProbeActor, address=address, required_by="cluster file"
    )
    config = TransportConfig(name=transport, timeout_s=heartbeat_timeout_s)
    actors = dict(zip(devices, placed.actors, strict=True))
    try:
        loading = {
            device: actor.load.remote(
                device, __version__, set_up, config, hidden_size, dtype
            )
            for device, actor in actors.items()
        }
        addresses = {device: _answer(device, call) for device, call in loading.items()}
        connected: set[str] = set()
        epoch = 0
        for probe in probes:
            where = f"from {probe.source} to {probe.target}"
            if connected != {probe.source, probe.target}:
                connected = {probe.source, probe.target}
                epoch += 1
                for here, there in permutations(connected):
                    call = actors[here].start_epoch.remote(epoch, addresses[there])
                    _answer(where, call)
            actor = actors[probe.source]
            call = actor.one_way_seconds.remote(probe.num_tokens, pause_s)
            yield probe, _answer(where, call)
    finally:
        placed.release()


def _answer(where: str, call: Any) -> Any:
    """Waits for an actor's answer; errors name where they happened."""
    try:
        return ray.get(call)
    except RayActorError as reason:
        msg = f"{where}: the process there ended: restart Ray there, then run this command again"
        raise WorkerFailedError(msg) from reason
    except RayTaskError as error:
        if isinstance(error.cause, LlmpqError):
            msg = f"{where}: {error.cause}"
            raise type(error.cause)(msg) from error
        if isinstance(error.cause, ConnectionError):
            msg = f"{where}: {error.cause}: expected the machines to reach each other; see docs/many-machines.md for the ports"
            raise WorkerFailedError(msg) from error
        raise
