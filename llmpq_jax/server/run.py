"""Runs the HTTP server in the main thread until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import uvicorn

from llmpq_jax.interrupts import (
    TerminatedError,
    check_interrupt,
    interrupt_handled,
)
from llmpq_jax.runtime.engines.engine import DeviceFailedError
from llmpq_jax.runtime.serving_loop import ServingLoop
from llmpq_jax.server.app import make_app
from llmpq_jax.server.batches.service import BatchService
from llmpq_jax.server.connections import MAX_REQUESTS, BoundedProtocol
from llmpq_jax.server.state import ServerState

_POLL_S = 0.1
_KEEP_ALIVE_S = 15
# Time in which clients must have read their last bytes.
_FLUSH_S = 3


class Load(Protocol):
    """Loads a model for the server."""

    def __call__(self, *, is_stopped: Callable[[], bool]) -> ServingLoop:
        """Returns the loop that serves requests, which has started.

        It raises an `InterruptedError` soon after it is stopped.
        """
        ...


class _Server(uvicorn.Server):
    """A uvicorn server that leaves the process's signals alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles no signal: `interrupts` does."""
        yield


# Returns what loads the model again, by another plan, after a device failed for good.
Replan = Callable[[DeviceFailedError], Load]


def run_server(
    state: ServerState,
    load: Load,
    listening: socket.socket,
    *,
    replan: Replan | None = None,
    batches: BatchService | None = None,
    drain_timeout_s: float,
    on_note: Callable[[str], None],
) -> None:
    """Serves until a signal comes; then finishes what has begun, within a time limit.

    The model is loaded while the server listens already, and says so.

    Args:
        state: What the routes share.
        load: Loads the model, in a thread.
        listening: Socket that listens at the server's address.
        replan: Makes another plan after a device failed for good, in a thread; None to
            end the server then.
        batches: Files and batches of clients; None to keep none.
        drain_timeout_s: Time for requests to finish after the first signal; a second one
            cancels them at once.
        on_note: Called with a line on each step of the server's life.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it.
        TerminatedError: Another signal did.
        LlmpqError: The model could not be loaded.
    """
    server = make_server(state, batches)
    life = _Life(state, load, replan, server, batches, drain_timeout_s, on_note)
    asyncio.run(life.run(listening))


def make_server(
    state: ServerState, batches: BatchService | None = None
) -> uvicorn.Server:
    """Returns the server of an application, which ends when its `should_exit` is set."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return _Server(
        uvicorn.Config(
            make_app(state, batches),
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_REQUESTS,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_FLUSH_S,
        )
    )


class _Life:
    """The course of a server: it loads, serves, perhaps by other plans, drains, and ends."""

    def __init__(
        self,
        state: ServerState,
        load: Load,
        replan: Replan | None,
        server: uvicorn.Server,
        batches: BatchService | None,
        drain_timeout_s: float,
        on_note: Callable[[str], None],
    ) -> None:
        self._state = state
        self._load = load
        self._replan = replan
        self._server = server
        self._batches = batches
        self._drain_timeout_s = drain_timeout_s
        self._on_note = on_note
        self._serving: ServingLoop | None = None
        self._answering: asyncio.Task[None] | None = None
        self._is_ending = False

    async def run(self, listening: socket.socket) -> None:
        listener = asyncio.create_task(self._server.serve(sockets=[listening]))
        self._loading = asyncio.create_task(self._serve_when_loaded(self._load))
        if self._batches is not None:
            self._answering = asyncio.create_task(self._batches.run())
        ended: BaseException | None = None
        try:
            while ended is None and not listener.done():
                await asyncio.sleep(_POLL_S)
                ended = self._signal() or self._failure()
            if ended is not None:
                await self._drain()
        finally:
            await self._close()
            self._server.should_exit = True
            await listener
        if ended is not None:
            raise ended

    async def _serve_when_loaded(self, load: Load) -> None:
        self._serving = await asyncio.to_thread(
            load, is_stopped=lambda: self._is_ending
        )
        self._state.serve(self._serving)

    async def _serve_by_another_plan(
        self, failed: ServingLoop, reason: DeviceFailedError, replan: Replan
    ) -> None:
        """Loads the model by another plan, by which unfinished requests go on."""
        self._state.stop("a device has failed, and another plan is being made")
        try:
            load = await asyncio.to_thread(replan, reason)
            await asyncio.to_thread(failed.pipeline.close)
            serving = await asyncio.to_thread(load, is_stopped=lambda: self._is_ending)
        except BaseException:
            failed.fail_unfinished()
            raise
        serving.adopt(failed.unfinished)
        self._serving = serving
        self._state.serve(serving)

    def _signal(self) -> BaseException | None:
        """Returns the signal that came, if one did."""
        try:
            check_interrupt()
        except (KeyboardInterrupt, TerminatedError) as reason:
            if self._serving is not None:
                # The process goes on for a while, and others may come meanwhile.
                interrupt_handled()
            return reason
        return None

    def _failure(self) -> BaseException | None:
        """Returns why the model is not served, if it is not and will not be."""
        if not self._loading.done():
            return None
        serving = self._serving
        if serving is None or self._loading.exception() is not None:
            return self._loading.exception()
        reason = serving.error
        if not isinstance(reason, DeviceFailedError):
            return reason
        if self._replan is None:
            serving.fail_unfinished()
            return reason
        self._serving = None
        self._loading = asyncio.create_task(
            self._serve_by_another_plan(serving, reason, self._replan)
        )
        return None

    async def _drain(self) -> None:
        """Takes no more requests, and waits for those that are there."""
        self._state.stop("the server is ending")
        await self._stop_batches()
        serving = self._serving
        if serving is None or serving.error is not None or not serving.num_unfinished:
            return
        self._on_note(
            f"ending: {serving.num_unfinished} requests have "
            f"{self._drain_timeout_s:g} s to finish; a second signal cancels them"
        )
        deadline_s = asyncio.get_running_loop().time() + self._drain_timeout_s
        while serving.num_unfinished:
            await asyncio.sleep(_POLL_S)
            is_late = asyncio.get_running_loop().time() > deadline_s
            if is_late or self._signal() is not None:
                break

    async def _stop_batches(self) -> None:
        """Leaves what batches have not answered to the next start."""
        if self._answering is not None:
            self._answering.cancel()
            await asyncio.gather(self._answering, return_exceptions=True)

    async def _close(self) -> None:
        self._is_ending = True
        await self._stop_batches()
        self._state.stop("the server is ending")
        await asyncio.gather(self._loading, return_exceptions=True)
        if self._serving is not None:
            await asyncio.to_thread(self._serving.close, timeout_s=0.0)
            await asyncio.to_thread(self._serving.pipeline.close)
