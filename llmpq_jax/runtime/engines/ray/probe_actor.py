"""The actor of one device that is timed in transfers of hidden states."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import ray

from llmpq_jax.runtime.claimed_devices import claim_devices
from llmpq_jax.runtime.engines.ray.health import check_version
from llmpq_jax.runtime.engines.transport import TransportConfig, cause_text
from llmpq_jax.runtime.engines.transport.endpoint import Endpoint, open_endpoint
from llmpq_jax.runtime.engines.transport.serialized import (
    SerializedMessage,
    deserialize,
)
from llmpq_jax.stage.loop import Send
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sampling import greedy_rows
from llmpq_jax.stage.sharding import StageSharding

_WARM_UPS = 2
_MIN_SAMPLES = 3
_MAX_SAMPLES = 40
# Seconds after which no more samples of a size are taken, if there are enough.
_MAX_S = 2.0
# A slower link counts as broken.
_MIN_BYTES_PER_S = 1e5
_SMALLEST = 1
# Steps of the two messages of a round trip.
REQUEST, REPLY = 0, 1


class ProbeActor:
    """Sends and receives the hidden states of one device, in a process of its own.

    Messages are sent and received as those of a stage.
    """

    def __init__(self) -> None:
        """Does nothing that may fail, because Ray reports failures of `load` better."""
        self._epoch = 0
        self._peer: Send | None = None
        self._replies: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def load(
        self,
        device: str,
        version: str,
        set_up: Callable[[], object],
        transport: TransportConfig,
        hidden_size: int,
        dtype: str,
    ) -> Any:
        """Starts JAX on a device; returns the address of this process for others.

        `set_up` is called before JAX starts; see `time_links` for the rest.

        Raises:
            StrategyError: If the device is missing, or llmpq-jax has another version
                here.
        """
        check_version(version)
        set_up()
        sharding = StageSharding(claim_devices([device]))
        endpoint = open_endpoint(
            transport,
            sharding,
            actor=ray.get_runtime_context().current_actor,
            host=ray.util.get_node_ip_address(),
            on_message=self.on_message,
            on_disconnect=self.on_disconnect,
        )
        self.attach(
            endpoint,
            sharding,
            timeout_s=transport.timeout_s,
            hidden_size=hidden_size,
            dtype=jax.numpy.dtype(dtype),
        )
        return endpoint.address

    def attach(
        self,
        endpoint: Endpoint,
        sharding: StageSharding,
        *,
        timeout_s: float,
        hidden_size: int,
        dtype: np.dtype,
    ) -> None:
        """Takes the endpoint and the device of this process.

        A reply may take `timeout_s` besides the seconds of a slow transfer.
        """
        self._endpoint = endpoint
        self._sharding = sharding
        self._timeout_s = timeout_s
        self._hidden_size = hidden_size
        self._dtype = dtype

    def start_epoch(self, epoch: int, peer: Any) -> None:
        """Connects to another process; messages of other epochs are dropped."""
        self._epoch = epoch
        self._endpoint.disconnect()
        self._replies = queue.SimpleQueue()
        self._peer = self._endpoint.connect(peer, epoch)

    def one_way_seconds(self, num_tokens: int, pause_s: float) -> list[float]:
        """Times transfers of hidden states to the peer; returns the seconds of each.

        A sample is a round trip with all hidden states there and one token's back,
        minus half of a round trip with one token's both ways. So clocks of different
        machines are not compared. A pause comes before each round trip, because a stage
        in a pipeline also waits between messages.

        Raises:
            ConnectionError: If there is no reply.
        """
        for _ in range(_WARM_UPS):
            self._round_trip_s(_SMALLEST, 0.0)
            self._round_trip_s(num_tokens, 0.0)
        samples: list[float] = []
        started_s = time.perf_counter()
        while len(samples) < _MIN_SAMPLES or (
            len(samples) < _MAX_SAMPLES and time.perf_counter() - started_s < _MAX_S
        ):
            half_s = self._round_trip_s(_SMALLEST, pause_s) / 2
            if num_tokens > _SMALLEST:
                samples.append(self._round_trip_s(num_tokens, pause_s) - half_s)
            else:
                samples.append(half_s)
        return samples

    # See `StageActor.receive`.
    @ray.method(concurrency_group="inbox", num_returns=0, enable_task_events=False)
    def receive(self, serialized: SerializedMessage) -> None:
        """Receives a message by a call of another process."""
        try:
            self.on_message(deserialize(serialized))
        except BaseException as error:
            self._replies.put(error)

    def on_message(self, message: Message) -> None:
        """Moves received hidden states to the device; replies, or ends a round trip."""
        if message.epoch != self._epoch:
            return
        self._sharding.put(message.payload).block_until_ready()
        if message.step == REQUEST:
            self._send(self._message(_SMALLEST, REPLY))
        else:
            self._replies.put(None)

    def on_disconnect(self, epoch: int, reason: BaseException) -> None:
        """Ends a round trip whose connection broke."""
        if epoch == self._epoch:
            msg = f"the connection broke ({cause_text(reason)})"
            self._replies.put(ConnectionError(msg))

    def _round_trip_s(self, num_tokens: int, pause_s: float) -> float:
        message = self._message(num_tokens, REQUEST)
        time.sleep(pause_s)
        timeout_s = self._timeout_s + message.payload.nbytes / _MIN_BYTES_PER_S
        started_s = time.perf_counter()
        self._send(message)
        try:
            error = self._replies.get(timeout=timeout_s)
        except queue.Empty as reason:
            msg = f"no reply came within {timeout_s:.3g} s"
            raise ConnectionError(msg) from reason
        if error is not None:
            raise ConnectionError(str(error)) from error
        return time.perf_counter() - started_s

    def _message(self, num_tokens: int, step: int) -> Message:
        """Makes new hidden states, because JAX keeps a copy on the host of those once read."""
        hidden = np.zeros((num_tokens, 1, self._hidden_size), self._dtype)
        return Message(
            phase="decode",
            micro_batch=0,
            step=step,
            groups=(0,),
            payload=self._sharding.put(hidden).block_until_ready(),
            slot_B=np.ones(1, np.int32),
            sampling=greedy_rows(1),
            epoch=self._epoch,
        )

    def _send(self, message: Message) -> None:
        assert self._peer is not None, "start_epoch comes first"
        self._peer(message)
