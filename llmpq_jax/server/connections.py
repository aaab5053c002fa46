"""Connections of clients, bounded in number and in the time until they say something."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from llmpq_jax.errors import RequestError

# Connections above this number are closed at once; requests on the last of the others are
# refused with status 503.
MAX_CONNECTIONS = 768
MAX_REQUESTS = 512
_BACKLOG = 512
# Time in which a client must have sent the head of its next request.
_HEAD_TIMEOUT_S = 20.0
# Time in which a client must have read what waits for it. A connection that is only closed
# would stay open until then.
_READ_TIMEOUT_S = 60.0


class BoundedProtocol(H11Protocol):
    """HTTP as uvicorn speaks it, for clients that may send nothing, slowly, or too often."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Closes the connection at once if there are too many."""
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Stops the clock while a request is being answered."""
        super().data_received(data)
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering:
            self._stop_waiting()
        elif self._head_timer is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clocks."""
        self._stop_waiting()
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Starts the clock of a client that does not read what it is sent."""
        super().pause_writing()
        transport = self.transport
        self._unread_timer = self.loop.call_later(_READ_TIMEOUT_S, transport.abort)

    def resume_writing(self) -> None:
        """Stops that clock."""
        self._stop_waiting_for_reader()
        super().resume_writing()

    def _stop_waiting_for_reader(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_TIMEOUT_S, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens at an address.

    Raises:
        RequestError: There is no such address, or it is in use.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as reason:
        msg = f"address {host}:{port}: cannot be listened on ({reason.strerror or reason}): expected a free one of this machine; choose another --port"
        raise RequestError(msg) from reason
    return listening


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        found: list[Any] = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(each[4][0]).is_loopback for each in found)
