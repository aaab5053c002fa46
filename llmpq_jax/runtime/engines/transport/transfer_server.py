"""Hidden states from device to device by JAX's transfer server, which is experimental.

A message goes over a connection without them, and says where they wait; whoever receives
it pulls them. A pull from a process that has ended may wait for ever and heeds no time
limit of its own, so one is kept here.
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

from llmpq_jax.runtime.engines.transport.config import TransportConfig
from llmpq_jax.runtime.engines.transport.serialized import (
    SerializedMessage,
    pack,
    unpack,
)
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sharding import Placement

_GLANCE_S = 0.0001


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A message on its way, and where its payload waits.

    Attributes:
        parcel: The message; without its payload, if that waits.
        server: Where the payload waits.
        number: Of the payload there; drawn, so that nobody else can name it.
        shape: Of the payload; absent where none waits.
    """

    parcel: SerializedMessage
    server: str
    number: int = 0
    shape: tuple[int, ...] | None = None


class TransferServer:
    """Holds hidden states until they are pulled, and pulls those of others."""

    def __init__(
        self, host: str, carrier: TransportConfig, placement: Placement
    ) -> None:
        """Starts to serve, until the process ends.

        Args:
            host: Address of this machine as other stages know it.
            carrier: Of the run.
            placement: Of the stage; its first device pulls.
        """
        (self._device, *_) = placement.devices
        self._patience_s = carrier.patience_s
        # Without an address for the transfers themselves the process would end as soon
        # as one that it is connected with does.
        self._server = transfer.start_transfer_server(
            self._device.client, f"{host}:0", [f"{host}:0"]
        )
        self._peers: dict[tuple[str, int], Any] = {}

    def wrap(self, message: Message) -> Offer:
        """Returns what is sent of a message; tokens travel in it."""
        server = self._server.address()
        hidden = message.payload
        if not isinstance(hidden, jax.Array) or hidden.ndim < 3:
            return Offer(parcel=pack(message), server=server)
        number = secrets.randbits(62)
        # All devices of a stage hold the same.
        self._server.await_pull(number, [hidden.addressable_data(0)])
        nothing = np.empty(0, hidden.dtype)
        parcel = pack(replace(message, payload=nothing))
        return Offer(parcel=parcel, server=server, number=number, shape=hidden.shape)

    def unwrap(self, item: Offer) -> Message:
        """Returns the message, its payload pulled.

        Raises:
            ConnectionError: The payload does not come.
        """
        message = unpack(item.parcel)
        if item.shape is None:
            return message
        # An epoch has connections of its own: one that is given up brings nothing more.
        key = (item.server, message.epoch)
        if key not in self._peers:
            self._peers[key] = self._server.connect(item.server)
        described = jax.ShapeDtypeStruct(
            item.shape,
            jnp.dtype(item.parcel.dtype),
            sharding=SingleDeviceSharding(self._device),
        )
        (hidden,) = self._peers[key].pull(item.number, [described])
        self._await(hidden, self._peers[key])
        return replace(message, payload=hidden)

    def forget(self) -> None:
        """Lets go of what nobody pulls any more."""
        self._peers.clear()
        self._server._reset_rendevous_table()

    # JAX's types do not know `is_ready`.
    def _await(self, hidden: Any, peer: Any) -> None:
        deadline_s = time.perf_counter() + self._patience_s
        while not hidden.is_ready():
            if time.perf_counter() > deadline_s:
                peer._poison_connection()
                msg = f"what was to be pulled did not come in {self._patience_s:g} s"
                raise ConnectionError(msg)
            time.sleep(_GLANCE_S)
        try:
            hidden.block_until_ready()
        except jax.errors.JaxRuntimeError as reason:
            msg = f"what was to be pulled did not come ({reason})"
            raise ConnectionError(msg) from reason
