"""Runs one stage in a thread of its own, which empties an inbox of messages."""

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
class Connection(Protocol):
    """A one-way connection from a stage to the receiver of its results."""

    def send(self, message: Message) -> None:
        """Sends a message; returns without waiting until it is processed."""
        ...


class StageLoop:
    """Runs a worker in a thread of its own.

    It is itself the connection between two stages of one process: a message moves from
    mesh to mesh by `jax.device_put`, which the sending stage starts, so that the transfer
    overlaps with both stages' work on other micro-batches.
    """

    def __init__(
        self,
        worker: StageWorker,
        *,
        downstream: Connection,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """Starts the thread; `close` ends it.

        Args:
            worker: Worker of the stage.
            downstream: Connection that the stage's results are sent to.
            on_failure: Called in the stage's thread with an exception that it raised.
        """
        self.worker = worker
        self._onward = downstream
        self._on_failure = on_failure
        self._inbox: queue.SimpleQueue[tuple[Message, float] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(
            target=self._serve, name=f"stage-{worker.stage}", daemon=True
        )
        self._thread.start()

    def send(self, message: Message) -> None:
        """Moves a message to the stage's devices, and queues it."""
        payload = self.worker.sharding.put(message.payload)
        received = replace(message, payload=payload)
        self.worker.count_received(received)
        self._inbox.put((received, time.perf_counter()))

    def close(self) -> None:
        """Ends the thread once the inbox is empty."""
        self._inbox.put(None)
        self._thread.join()

    def abandon(self) -> None:
        """Drops the messages in the inbox, and ends after the one in progress."""
        while not self._inbox.empty():
            self._inbox.get()
        self.close()

    def _serve(self) -> None:
        while (item := self._inbox.get()) is not None:
            try:
                self._onward.send(self.worker.process(*item))
            except BaseException as error:
                self._on_failure(error)
