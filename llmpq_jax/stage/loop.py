"""One stage at work on what is sent to it: an inbox, and a thread that empties it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

from llmpq_jax.stage.message import Message
from llmpq_jax.stage.worker import StageWorker


@runtime_checkable
class Transport(Protocol):
    """The way from one stage to whoever takes what it made."""

    def send(self, message: Message) -> None:
        """Sends a message; returns without waiting for what becomes of it."""
        ...


class StageLoop:
    """Runs a worker in a thread of its own.

    It is itself the transport between two stages of one process: what is sent to it goes
    from mesh to mesh by `jax.device_put`, started by the stage that made it, so that it
    travels while both stages work on other micro-batches.
    """

    def __init__(
        self,
        worker: StageWorker,
        *,
        onward: Transport,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """Starts the thread; `close` ends it.

        Args:
            worker: Of the stage.
            onward: Where what it made goes.
            on_failure: Hears what the stage raised; called in its thread.
        """
        self.worker = worker
        self._onward = onward
        self._on_failure = on_failure
        self._inbox: queue.SimpleQueue[tuple[Message, float] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(
            target=self._serve, name=f"stage-{worker.stage}", daemon=True
        )
        self._thread.start()

    def send(self, message: Message) -> None:
        """Brings a message to the stage's devices, and queues it."""
        payload = self.worker.placement.put(message.payload)
        here = replace(message, payload=payload)
        self.worker.note_arrival(here)
        self._inbox.put((here, time.perf_counter()))

    def close(self) -> None:
        """Ends the thread once the inbox is empty."""
        self._inbox.put(None)
        self._thread.join()

    def abandon(self) -> None:
        """Forgets what waits in the inbox, and ends once what is at work is done."""
        while not self._inbox.empty():
            self._inbox.get()
        self.close()

    def _serve(self) -> None:
        while (item := self._inbox.get()) is not None:
            try:
                self._onward.send(self.worker.process(*item))
            except BaseException as error:
                self._on_failure(error)
