"""TCP connections between the processes of stages.

Both ends of a connection prove that they know the run's key, which Ray brings to each
process; messages are not encrypted. `multiprocessing.connection`'s `Listener` and `Client`
would not do: they set no TCP options and no timeout, a silent peer would block `accept`, and
`send` copies large arrays into the pickle.
"""

from __future__ import annotations

import pickle
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import AuthenticationError, connection
from typing import Any

from llmpq_jax.runtime.engines.transport import TransportConfig, cause_text
from llmpq_jax.runtime.engines.transport.serialized import MessageCodec
from llmpq_jax.stage.loop import Send
from llmpq_jax.stage.message import Message

# To connect, and to prove the key.
_CONNECT_TIMEOUT_S = 10
# Connections whose other end has not proved the key yet; there is one for each stage that
# connects, and whoever else reaches the port.
_MAX_STRANGERS = 32
# Before a connection is tried again that could not be accepted, as without a free descriptor.
_ACCEPT_PAUSE_S = 0.1
# Larger buffers are sent after the pickle instead of being copied into it.
_MIN_OUT_OF_BAND_BYTES = 1 << 16
_NUM_BUFFERS = struct.Struct("<I")

Address = tuple[str, int]


class SocketEndpoint:
    """Listens for connections of other processes, and connects to them.

    Attributes:
        address: Host and port that it listens on.
    """

    def __init__(
        self,
        host: str,
        config: TransportConfig,
        codec: MessageCodec,
        *,
        on_message: Callable[[Message], None],
        on_disconnect: Callable[[int, BaseException], None],
    ) -> None:
        """Starts to listen at a host's address; `close` ends it.

        In the threads of incoming connections `on_message` is called with each message,
        and `on_disconnect` with the epoch and the cause when a connection ends.
        """
        self._config = config
        self._codec = codec
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._server = socket.create_server((host, 0))
        self.address: Address = self._server.getsockname()[:2]
        self._connections: list[SocketConnection] = []
        self._strangers = _Strangers()
        self._is_closed = threading.Event()
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def connect(self, address: Address, epoch: int) -> Send:
        """Returns a function that sends an epoch's messages to another process."""
        made = SocketConnection(address, self._config, epoch, self._codec)
        self._connections.append(made)
        return made.send

    def disconnect(self) -> int:
        """Ends all outgoing connections; returns how many there were."""
        num_connections = len(self._connections)
        for each in self._connections:
            each.close()
        self._connections.clear()
        self._codec.release()
        return num_connections

    def close(self) -> None:
        """Ends listening, and all outgoing connections."""
        self.disconnect()
        self._is_closed.set()
        # Unlike `close`, this wakes the thread in `accept`.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while not self._is_closed.is_set():
            try:
                peer, _ = self._server.accept()
            except OSError:
                # The end of a stranger's connection frees what was missing.
                self._is_closed.wait(_ACCEPT_PAUSE_S)
                continue
            try:
                self._strangers.add(peer)
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()
            except RuntimeError:
                # There is no room for another thread.
                self._strangers.remove(peer)
                peer.close()

    def _serve(self, peer: socket.socket) -> None:
        try:
            greeted = _authenticated(peer, self._config)
        except Exception:
            # The peer is no stage of this run; a stage would notice the end itself.
            peer.close()
            return
        finally:
            self._strangers.remove(peer)
        epoch = 0
        try:
            with peer, greeted as incoming:
                epoch = incoming.recv()
                while True:
                    self._on_message(self._codec.decode(_receive(incoming)))
        except Exception as reason:
            # Whatever it is, nothing more is read, and messages may be lost.
            self._on_disconnect(epoch, reason)


class _Strangers:
    """Connections whose other end has not proved to know the key.

    Each has some seconds for it in all, and if there are too many, the oldest is ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timers: dict[socket.socket, threading.Timer] = {}

    def add(self, peer: socket.socket) -> None:
        timer = threading.Timer(_CONNECT_TIMEOUT_S, _end, args=(peer,))
        timer.daemon = True
        with self._lock:
            if len(self._timers) >= _MAX_STRANGERS:
                oldest = next(iter(self._timers))
                self._timers.pop(oldest).cancel()
                _end(oldest)
            self._timers[peer] = timer
        timer.start()

    def remove(self, peer: socket.socket) -> None:
        with self._lock:
            timer = self._timers.pop(peer, None)
        if timer is not None:
            timer.cancel()


class SocketConnection:
    """An outgoing connection to another process, made when the first message is sent.

    One thread sends; another may close.
    """

    def __init__(
        self, address: Address, config: TransportConfig, epoch: int, codec: MessageCodec
    ) -> None:
        """Takes the other process's address and epoch, and the endpoint's settings."""
        self._address = address
        self._config = config
        self._epoch = epoch
        self._codec = codec
        self._peer: socket.socket | None = None
        self._outgoing: connection.Connection | None = None

    def send(self, message: Message) -> None:
        """Sends a message; raises ConnectionError if it cannot be sent."""
        encoded = self._codec.encode(message)
        try:
            if self._outgoing is None:
                self._peer = socket.create_connection(self._address, _CONNECT_TIMEOUT_S)
                self._outgoing = _authenticated(self._peer, self._config, connects=True)
                self._outgoing.send(self._epoch)
            _send(self._outgoing, encoded)
        except (OSError, EOFError, AuthenticationError) as reason:
            host, port = self._address
            msg = f"the connection to {host}:{port} broke ({cause_text(reason)})"
            raise ConnectionError(msg) from reason

    def close(self) -> None:
        """Ends the connection, even while a message is being sent."""
        if self._peer is not None:
            _end(self._peer)
            self._peer.close()


def _end(peer: socket.socket) -> None:
    """Ends a connection, also for a thread that reads from it."""
    with suppress(OSError):
        peer.shutdown(socket.SHUT_RDWR)


def _authenticated(
    peer: socket.socket, config: TransportConfig, *, connects: bool = False
) -> connection.Connection:
    """Returns a connection over which both ends have proved that they know the key.

    It is a duplicate of the socket, which can still be shut down. AuthenticationError
    is raised if the other end does not know the key.
    """
    peer.settimeout(None)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Keepalive notices a silent machine between messages, the user timeout during one.
    timeout_s = max(3, int(config.timeout_s))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, timeout_s // 3)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, timeout_s // 3)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_s * 1000)
    made = connection.Connection(peer.dup().detach())
    _set_read_timeout(peer, _CONNECT_TIMEOUT_S)
    try:
        if connects:
            connection.answer_challenge(made, config.key)
            connection.deliver_challenge(made, config.key)
        else:
            connection.deliver_challenge(made, config.key)
            connection.answer_challenge(made, config.key)
    except BaseException:
        made.close()
        raise
    _set_read_timeout(peer, 0)
    return made


def _set_read_timeout(peer: socket.socket, seconds: int) -> None:
    """Sets a timeout of reads, 0 for none.

    `socket.settimeout` has no effect here, because a `Connection` reads from the file
    descriptor itself.
    """
    peer.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0)
    )


def _send(outgoing: connection.Connection, encoded: Any) -> None:
    large: list[memoryview] = []

    def is_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _MIN_OUT_OF_BAND_BYTES:
            return True
        large.append(raw)
        return False

    pickled = pickle.dumps(encoded, protocol=5, buffer_callback=is_in_band)
    outgoing.send_bytes(_NUM_BUFFERS.pack(len(large)) + pickled)
    for raw in large:
        outgoing.send_bytes(raw)


def _receive(incoming: connection.Connection) -> Any:
    head = memoryview(incoming.recv_bytes())
    (num_buffers,) = _NUM_BUFFERS.unpack_from(head)
    buffers = [incoming.recv_bytes() for _ in range(num_buffers)]
    return pickle.loads(head[_NUM_BUFFERS.size :], buffers=buffers)
