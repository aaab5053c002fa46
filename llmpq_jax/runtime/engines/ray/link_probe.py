"""Times hidden states on their way between the machines of a Ray cluster."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import jax
import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError

from llmpq_jax import __version__
from llmpq_jax.errors import LlmpqError, WorkerFailedError
from llmpq_jax.runtime.claimed_devices import claim_devices
from llmpq_jax.runtime.engines.ray.actor import check_version
from llmpq_jax.runtime.engines.ray.cluster_nodes import reserve_nodes
from llmpq_jax.runtime.engines.ray.ray_engine import DEFAULT_HEARTBEAT_TIMEOUT_S
from llmpq_jax.runtime.engines.transport.config import TransportConfig, TransportName
from llmpq_jax.runtime.engines.transport.endpoint import Endpoint, open_endpoint
from llmpq_jax.runtime.engines.transport.serialized import SerializedMessage, unpack
from llmpq_jax.stage.loop import Transport
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sampling import greedy_rows
from llmpq_jax.stage.sharding import Placement

_WARM_UPS = 2
_MIN_SAMPLES = 3
_MAX_SAMPLES = 40
# No further sample of a size after so many seconds, where there are enough.
_MAX_S = 2.0
# A link that is slower than that is taken for one that is broken.
_MIN_BYTES_PER_S = 1e5
_SMALLEST = 1
_THERE, _BACK = 0, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkProbe:
    """Hidden states from one device to another, at one size.

    Attributes:
        source: Full name of the device that they leave.
        target: Of the one that they reach.
        num_tokens: How many tokens' hidden states.
    """

    source: str
    target: str
    num_tokens: int


class ProbeActor:
    """One device's end of the ways to it and from it, in a process of its own.

    Messages come in, and go, as a stage's do.
    """

    def __init__(self) -> None:
        """Does nothing that may fail: Ray would tell of it less well than of `load`."""
        self._epoch = 0
        self._way: Transport | None = None
        self._back: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def load(
        self,
        device: str,
        version: str,
        set_up: Callable[[], object],
        carrier: TransportConfig,
        hidden_size: int,
        dtype: str,
    ) -> Any:
        """Starts JAX on a device; returns where other processes reach this one.

        Args:
            device: Its full name.
            version: Of the driver's llmpq-jax.
            set_up: Called before JAX starts.
            carrier: What brings messages.
            hidden_size: Of a token's hidden state.
            dtype: Of hidden states.

        Raises:
            StrategyError: The device is not here, or another llmpq-jax is.
        """
        check_version(version)
        set_up()
        self._placement = Placement(claim_devices([device]))
        self._carrier = carrier
        self._hidden_size = hidden_size
        self._dtype = jax.numpy.dtype(dtype)
        self._terminal: Endpoint = open_endpoint(
            carrier,
            self._placement,
            handle=ray.get_runtime_context().current_actor,
            host=ray.util.get_node_ip_address(),
            take=self._take_in,
            on_break=self._break,
        )
        return self._terminal.address

    def begin(self, epoch: int, peer: Any) -> None:
        """Turns to another process.

        Args:
            epoch: What was sent in another one is not taken in.
            peer: Where that process is reached.
        """
        self._epoch = epoch
        self._terminal.break_off()
        self._back = queue.SimpleQueue()
        self._way = self._terminal.toward(peer, epoch)

    def seconds_there(self, num_tokens: int, pause_s: float) -> list[float]:
        """Times hidden states on their way to the peer: samples of one way's seconds.

        A sample is a round there with all of them and back with one token's, less half
        of a round with one token's both ways. So no two machines' clocks are compared.

        Args:
            num_tokens: How many tokens' hidden states.
            pause_s: Before each round, as a stage of a pipeline waits for others.

        Raises:
            ConnectionError: Nothing came back.
        """
        for _ in range(_WARM_UPS):
            self._round_s(_SMALLEST, 0.0)
            self._round_s(num_tokens, 0.0)
        samples: list[float] = []
        began_s = time.perf_counter()
        while len(samples) < _MIN_SAMPLES or (
            len(samples) < _MAX_SAMPLES and time.perf_counter() - began_s < _MAX_S
        ):
            half_s = self._round_s(_SMALLEST, pause_s) / 2
            if num_tokens > _SMALLEST:
                samples.append(self._round_s(num_tokens, pause_s) - half_s)
            else:
                samples.append(half_s)
        return samples

    # As `StageActor.receive`.
    @ray.method(concurrency_group="inbox", num_returns=0, enable_task_events=False)
    def receive(self, parcel: SerializedMessage) -> None:
        """Takes a message of a process that calls."""
        try:
            self._take_in(unpack(parcel))
        except BaseException as error:
            self._back.put(error)

    def _round_s(self, num_tokens: int, pause_s: float) -> float:
        message = self._message(num_tokens, _THERE)
        time.sleep(pause_s)
        patience_s = (
            self._carrier.patience_s + message.payload.nbytes / _MIN_BYTES_PER_S
        )
        started_s = time.perf_counter()
        self._send(message)
        try:
            error = self._back.get(timeout=patience_s)
        except queue.Empty as reason:
            msg = f"nothing came back within {patience_s:.3g} s"
            raise ConnectionError(msg) from reason
        if error is not None:
            raise ConnectionError(str(error)) from error
        return time.perf_counter() - started_s

    def _message(self, num_tokens: int, step: int) -> Message:
        """Makes hidden states anew: what was read from a device once is on the host."""
        hidden = np.zeros((num_tokens, 1, self._hidden_size), self._dtype)
        return Message(
            phase="decode",
            micro_batch=0,
            step=step,
            groups=(0,),
            first_row=0,
            payload=self._placement.put(hidden).block_until_ready(),
            slot_B=np.ones(1, np.int32),
            sampling=greedy_rows(1),
            epoch=self._epoch,
        )

    def _send(self, message: Message) -> None:
        assert self._way is not None, "begin comes first"
        self._way.send(message)

    def _take_in(self, message: Message) -> None:
        if message.epoch != self._epoch:
            return
        self._placement.put(message.payload).block_until_ready()
        if message.step == _THERE:
            self._send(self._message(_SMALLEST, _BACK))
        else:
            self._back.put(None)

    def _break(self, epoch: int, reason: BaseException) -> None:
        if epoch == self._epoch:
            self._back.put(ConnectionError(f"the connection broke ({reason})"))


def time_ways(
    ways: Sequence[LinkProbe],
    *,
    hidden_size: int,
    dtype: str,
    pause_s: float,
    address: str = "auto",
    heartbeat_timeout_s: float = DEFAULT_HEARTBEAT_TIMEOUT_S,
    transport: TransportName = "sockets",
    set_up: Callable[[], object] = lambda: None,
) -> Generator[tuple[LinkProbe, list[float]], None, None]:
    """Yields of each way samples of its seconds, as they are taken.

    A process is started for each device, on its machine, and ended with the last way.

    Args:
        ways: Those between the same two devices stand together.
        hidden_size: Of a token's hidden state.
        dtype: Of hidden states.
        pause_s: Before each sample.
        address: Of the cluster; see `reserve_nodes`.
        heartbeat_timeout_s: What has not come back after so long is lost.
        transport: What brings messages; see `TransportConfig`.
        set_up: Called in each process before JAX starts.

    Raises:
        DeviceFailedError: A machine is not part of the cluster.
        StrategyError: A machine serves a strategy, or lacks the device.
        WorkerFailedError: There is no cluster, a process was lost, or nothing came back.
    """
    devices = tuple(
        dict.fromkeys(end for way in ways for end in (way.source, way.target))
    )
    nodes = tuple(device.split("/")[0] for device in devices)
    places = reserve_nodes(nodes, ProbeActor, address=address, wanted_by="cluster file")
    carrier = TransportConfig(name=transport, patience_s=heartbeat_timeout_s)
    actors = dict(zip(devices, places.actors, strict=True))
    try:
        loading = {
            device: actor.load.remote(
                device, __version__, set_up, carrier, hidden_size, dtype
            )
            for device, actor in actors.items()
        }
        addresses = {device: _answer(device, call) for device, call in loading.items()}
        joined: set[str] = set()
        epoch = 0
        for way in ways:
            where = f"from {way.source} to {way.target}"
            if joined != {way.source, way.target}:
                joined = {way.source, way.target}
                epoch += 1
                for here, there in permutations(joined):
                    call = actors[here].begin.remote(epoch, addresses[there])
                    _answer(where, call)
            call = actors[way.source].seconds_there.remote(way.num_tokens, pause_s)
            yield way, _answer(where, call)
    finally:
        places.give_back()


def _answer(where: str, call: Any) -> Any:
    """Waits for an actor's answer; what goes wrong is told of a place."""
    try:
        return ray.get(call)
    except RayActorError as reason:
        msg = f"{where}: the process there ended: start Ray there again, and this command goes on"
        raise WorkerFailedError(msg) from reason
    except RayTaskError as error:
        if isinstance(error.cause, LlmpqError):
            msg = f"{where}: {error.cause}"
            raise type(error.cause)(msg) from error
        if isinstance(error.cause, ConnectionError):
            msg = f"{where}: {error.cause}: expected the machines to reach each other; see docs/many-machines.md for the ports"
            raise WorkerFailedError(msg) from error
        raise
