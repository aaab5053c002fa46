"""How a stage's process takes messages of other stages, and sends its own to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from llmpq_jax.runtime.engines.transport.config import TransportConfig
from llmpq_jax.runtime.engines.transport.serialized import MessageSerializer, pack
from llmpq_jax.runtime.engines.transport.sockets import SocketEndpoint
from llmpq_jax.stage.loop import Transport
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sharding import Placement


class Endpoint(Protocol):
    """A process's end of the ways to it and from it."""

    @property
    def address(self) -> Any:
        """What `toward` of another process takes to reach this one."""
        ...

    def toward(self, address: Any, epoch: int) -> Transport:
        """Returns the way to another process, for the messages of an epoch."""
        ...

    def break_off(self) -> None:
        """Ends what is on its way from here, and all ways that were asked for."""
        ...


def open_endpoint(
    carrier: TransportConfig,
    placement: Placement,
    *,
    handle: Any,
    host: str,
    take: Callable[[Message], None],
    on_break: Callable[[int, BaseException], None],
) -> Endpoint:
    """Opens this process's end; called in an actor.

    Args:
        carrier: Of the run.
        placement: Of the stage.
        handle: Of the actor.
        host: Address of this machine in the cluster.
        take: Takes what arrives otherwise than by a call of the actor.
        on_break: Hears, with the epoch, that messages on their way here may be lost.
    """
    if carrier.name == "calls":
        return ActorCalls(handle)
    wrapping = MessageSerializer()
    if carrier.name == "transfer":
        # Imported where it is wanted: it is experimental, and may go.
        from llmpq_jax.runtime.engines.transport.transfer_server import TransferServer

        wrapping = TransferServer(host, carrier, placement)
    return SocketEndpoint(host, carrier, wrapping, take=take, on_break=on_break)


class ActorCalls:
    """Ray's own calls: each message is one, and whoever is called takes it."""

    def __init__(self, address: Any) -> None:
        """Takes the handle of this process's actor."""
        self.address = address

    def toward(self, address: Any, epoch: int) -> Transport:
        """Returns the way to another process."""
        del epoch  # each message has it
        return _Call(address)

    def break_off(self) -> None:
        """Does nothing: Ray ends calls whose process has ended."""


@dataclass(frozen=True, slots=True)
class _Call:
    actor: Any

    def send(self, message: Message) -> None:
        """Sends a message."""
        self.actor.receive.remote(pack(message))
