"""Messages straight from one stage's process to another's, over TCP.

Whoever connects and whoever is connected to show each other that they know the run's
key, which comes to both through Ray; what follows is not encrypted.
"""

from __future__ import annotations

import pickle
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Connection,
    answer_challenge,
    deliver_challenge,
)
from typing import Any, Protocol

from llmpq_jax.runtime.engines.transport.config import TransportConfig
from llmpq_jax.stage.message import Message

# To connect and to show the key.
_PATIENCE_S = 10
# Larger buffers are not copied into what is pickled.
_LARGE_BYTES = 1 << 16
_NUM_BUFFERS = struct.Struct("<I")

Address = tuple[str, int]


class Wrapping(Protocol):
    """What messages travel in."""

    def wrap(self, message: Message) -> Any:
        """Returns what is sent of a message."""
        ...

    def unwrap(self, item: Any) -> Message:
        """Returns the message that has come; failing ends its connection."""
        ...

    def forget(self) -> None:
        """Lets go of what was wrapped and is not wanted any more."""
        ...


class SocketEndpoint:
    """Listens for the connections of other stages, and connects to them.

    Attributes:
        address: Host and port where it listens.
    """

    def __init__(
        self,
        host: str,
        carrier: TransportConfig,
        wrapping: Wrapping,
        *,
        take: Callable[[Message], None],
        on_break: Callable[[int, BaseException], None],
    ) -> None:
        """Listens; `close` ends it.

        Args:
            host: Address of this machine as other stages know it.
            carrier: Of the run.
            wrapping: In which messages travel.
            take: Takes what arrives, in a thread of its connection.
            on_break: Hears, with its epoch, of a connection that ended.
        """
        self._carrier = carrier
        self._wrapping = wrapping
        self._take = take
        self._on_break = on_break
        self._server = socket.create_server((host, 0))
        self.address: Address = self._server.getsockname()[:2]
        self._ways: list[SocketConnection] = []
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def toward(self, address: Address, epoch: int) -> SocketConnection:
        """Returns the way to another process."""
        way = SocketConnection(address, self._carrier, epoch, self._wrapping)
        self._ways.append(way)
        return way

    def break_off(self) -> None:
        """Ends what is on its way from here, and all ways that were asked for."""
        for way in self._ways:
            way.close()
        self._ways.clear()
        self._wrapping.forget()

    def close(self) -> None:
        """Ends listening, and all ways from here."""
        self.break_off()
        # Unlike `close` this wakes the thread that waits for somebody to connect.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        epoch = 0
        try:
            with peer, _greeted(peer, self._carrier) as connection:
                epoch = connection.recv()
                while True:
                    self._take(self._wrapping.unwrap(_receive(connection)))
        except AuthenticationError:
            # A stranger; nobody waits for it.
            return
        except Exception as reason:
            # Whatever it is: nobody reads on, and what was sent is lost.
            self._on_break(epoch, reason)


class SocketConnection:
    """A connection to another process, made when the first message is sent.

    One thread sends; another may close.
    """

    def __init__(
        self,
        address: Address,
        carrier: TransportConfig,
        epoch: int,
        wrapping: Wrapping,
    ) -> None:
        """Takes where to connect to, and the rest as its terminal."""
        self._address = address
        self._carrier = carrier
        self._epoch = epoch
        self._wrapping = wrapping
        self._peer: socket.socket | None = None
        self._connection: Connection | None = None

    def send(self, message: Message) -> None:
        """Sends a message.

        Raises:
            ConnectionError: It does not arrive.
        """
        item = self._wrapping.wrap(message)
        try:
            if self._connection is None:
                self._peer = socket.create_connection(self._address, _PATIENCE_S)
                self._connection = _greeted(self._peer, self._carrier, connects=True)
                self._connection.send(self._epoch)
            _send(self._connection, item)
        except (OSError, EOFError, AuthenticationError) as reason:
            host, port = self._address
            msg = f"the connection to {host}:{port} broke ({reason})"
            raise ConnectionError(msg) from reason

    def close(self) -> None:
        """Ends the connection, whatever is being sent."""
        if self._peer is not None:
            with suppress(OSError):
                self._peer.shutdown(socket.SHUT_RDWR)
            self._peer.close()


def _greeted(
    peer: socket.socket, carrier: TransportConfig, *, connects: bool = False
) -> Connection:
    """Returns a connection over which both sides have shown that they know the key.

    It is a duplicate, so that the socket can still be shut down.

    Raises:
        AuthenticationError: The other side does not know it.
    """
    peer.settimeout(None)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A machine that falls silent is noticed whether or not anything is on its way there.
    patience_s = max(3, int(carrier.patience_s))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, patience_s // 3)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, patience_s // 3)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_s * 1000)
    connection = Connection(peer.dup().detach())
    _limit_reading(peer, _PATIENCE_S)
    if connects:
        answer_challenge(connection, carrier.key)
        deliver_challenge(connection, carrier.key)
    else:
        deliver_challenge(connection, carrier.key)
        answer_challenge(connection, carrier.key)
    _limit_reading(peer, 0)
    return connection


def _limit_reading(peer: socket.socket, seconds: int) -> None:
    """Has reading fail after so long; 0 for never.

    `socket.settimeout` would not do: a `Connection` reads without the socket.
    """
    peer.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0)
    )


def _send(connection: Connection, item: Any) -> None:
    large: list[memoryview] = []

    def is_kept(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _LARGE_BYTES:
            return True
        large.append(raw)
        return False

    pickled = pickle.dumps(item, protocol=5, buffer_callback=is_kept)
    connection.send_bytes(_NUM_BUFFERS.pack(len(large)) + pickled)
    for raw in large:
        connection.send_bytes(raw)


def _receive(connection: Connection) -> Any:
    head = memoryview(connection.recv_bytes())
    (num_buffers,) = _NUM_BUFFERS.unpack_from(head)
    buffers = [connection.recv_bytes() for _ in range(num_buffers)]
    return pickle.loads(head[_NUM_BUFFERS.size :], buffers=buffers)
