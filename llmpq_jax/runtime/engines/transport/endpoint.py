"""Endpoints: how a stage's process receives messages, and connects to other processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from llmpq_jax.runtime.engines.transport import TransportConfig
from llmpq_jax.runtime.engines.transport.serialized import MessageCodec, serialize
from llmpq_jax.runtime.engines.transport.sockets import SocketEndpoint
from llmpq_jax.stage.loop import Send
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sharding import StageSharding


class Endpoint(Protocol):
    """One process's endpoint: its incoming and outgoing connections."""

    @property
    def address(self) -> Any:
        """Address that `connect` of another process takes to reach this one."""
        ...

    def connect(self, address: Any, epoch: int) -> Send:
        """Returns a function that sends an epoch's messages to another process."""
        ...

    def disconnect(self) -> int:
        """Ends all outgoing connections, and sends in progress; returns how many."""
        ...


def open_endpoint(
    config: TransportConfig,
    sharding: StageSharding,
    *,
    actor: Any,
    host: str,
    on_message: Callable[[Message], None],
    on_disconnect: Callable[[int, BaseException], None],
) -> Endpoint:
    """Opens the endpoint of an actor's process on a host of the cluster.

    `on_message` is called with each message that does not come by a call of the actor,
    and `on_disconnect` with the epoch and the cause when an incoming connection ends,
    so that messages may be lost.
    """
    if config.name == "calls":
        return ActorEndpoint(actor)
    codec = MessageCodec()
    if config.name == "transfer":
        # Imported only here, because it is experimental and may be missing.
        from llmpq_jax.runtime.engines.transport.transfer_server import TransferServer

        codec = TransferServer(host, config, sharding)
    return SocketEndpoint(
        host, config, codec, on_message=on_message, on_disconnect=on_disconnect
    )


class ActorEndpoint:
    """Sends each message by a call of Ray; the called actor receives it."""

    def __init__(self, address: Any) -> None:
        """Takes the handle of this process's actor."""
        self.address = address

    def connect(self, address: Any, epoch: int) -> Send:
        """Returns a function that sends messages to another actor."""
        del epoch  # each message has its own
        return lambda message: address.receive.remote(serialize(message))

    def disconnect(self) -> int:
        """Does nothing, because there are only calls, which Ray ends; returns 0."""
        return 0
