"""A response of server-sent events that ends with its client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.types import Receive, Scope, Send


class EventStream:
    """An ASGI response whose events are sent as they come.

    It ends early if the client is gone, as one that does not read counts after a while
    (`connections`).
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        on_end: Callable[[], None],
    ) -> None:
        """Takes the events, and what is called at the end, however it comes."""
        self._events = events
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        del scope
        try:
            async with asyncio.TaskGroup() as tasks:
                gone = tasks.create_task(wait_until_gone(receive))
                sending = tasks.create_task(self._send_all(send))
                await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
                sending.cancel()
        finally:
            self._on_end()

    async def _send_all(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            # Reverse proxies would wait for the whole answer.
            (b"x-accel-buffering", b"no"),
        ]
        try:
            await send(
                {"type": "http.response.start", "status": 200, "headers": headers}
            )
            async for part in self._events:
                await self._send_part(send, part, is_last=False)
            await self._send_part(send, b"", is_last=True)
        except OSError:
            # The client is gone.
            return

    async def _send_part(self, send: Send, body: bytes, *, is_last: bool) -> None:
        await send(
            {"type": "http.response.body", "body": body, "more_body": not is_last}
        )


async def wait_until_gone(receive: Receive) -> None:
    """Waits until a client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
