"""Transfers hidden states from device to device by JAX's experimental transfer server.

A message is sent over a connection without its payload, with a descriptor that says where
the payload waits; the receiver pulls it. A pull from a process that has ended may never
return, and JAX has no timeout for it, so one is kept here.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import transfer
from jax.sharding import SingleDeviceSharding

from llmpq_jax.runtime.engines.transport import TransportConfig
from llmpq_jax.runtime.engines.transport.serialized import (
    MessageCodec,
    SerializedMessage,
    deserialize,
    serialize,
)
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sharding import StageSharding

_POLL_S = 0.0001


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferDescriptor:
    """A sent message, and where its payload can be pulled from.

    Attributes:
        serialized: Message, without its payload if that is to be pulled.
        server: Address of the sender's transfer server.
        uuid: Number of the payload on that server, random so that it cannot be guessed.
        shape: Shape of the payload to pull; None if the message has it.
    """

    serialized: SerializedMessage
    server: str
    uuid: int = 0
    shape: tuple[int, ...] | None = None


class TransferServer(MessageCodec):
    """A codec that offers hidden states for pulling, and pulls those of others."""

    def __init__(
        self, host: str, config: TransportConfig, sharding: StageSharding
    ) -> None:
        """Starts the server, which runs until the process ends.

        The first of the stage's devices pulls.
        """
        (self._device, *_) = sharding.devices
        self._timeout_s = config.timeout_s
        # Without an address for the transfers the process would end as soon as a process
        # ends that it is connected to.
        self._server = transfer.start_transfer_server(
            self._device.client, f"{host}:0", [f"{host}:0"]
        )
        self._peers: dict[tuple[str, int], Any] = {}

    def encode(self, message: Message) -> TransferDescriptor:
        """Offers hidden states for pulling; tokens are sent in the message."""
        server = self._server.address()
        hidden = message.payload
        if not isinstance(hidden, jax.Array) or hidden.ndim < 3:
            return TransferDescriptor(serialized=serialize(message), server=server)
        uuid = secrets.randbits(62)
        # All devices of a stage hold the same hidden states.
        self._server.await_pull(uuid, [hidden.addressable_data(0)])
        empty = np.empty(0, hidden.dtype)
        serialized = serialize(replace(message, payload=empty))
        return TransferDescriptor(
            serialized=serialized, server=server, uuid=uuid, shape=hidden.shape
        )

    def decode(self, received: TransferDescriptor) -> Message:
        """Returns the message, its payload pulled, or raises ConnectionError."""
        message = deserialize(received.serialized)
        if received.shape is None:
            return message
        # Each epoch has its own connections, because one that timed out is unusable.
        key = (received.server, message.epoch)
        if key not in self._peers:
            self._peers[key] = self._server.connect(received.server)
        described = jax.ShapeDtypeStruct(
            received.shape,
            jnp.dtype(received.serialized.dtype),
            sharding=SingleDeviceSharding(self._device),
        )
        (hidden,) = self._peers[key].pull(received.uuid, [described])
        self._await(hidden, self._peers[key])
        return replace(message, payload=hidden)

    def release(self) -> None:
        """Frees hidden states that will not be pulled."""
        self._peers.clear()
        self._server._reset_rendevous_table()

    # JAX's types do not know `is_ready`.
    def _await(self, hidden: Any, peer: Any) -> None:
        deadline_s = time.perf_counter() + self._timeout_s
        while not hidden.is_ready():
            if time.perf_counter() > deadline_s:
                peer._poison_connection()
                msg = f"a pull of hidden states timed out after {self._timeout_s:g} s"
                raise ConnectionError(msg)
            time.sleep(_POLL_S)
        try:
            hidden.block_until_ready()
        except jax.errors.JaxRuntimeError as reason:
            msg = f"a pull of hidden states failed ({reason})"
            raise ConnectionError(msg) from reason
