"""Runs stages in threads of their own, each of which empties an inbox of messages."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from llmpq_jax.stage.message import Message
from llmpq_jax.stage.worker import StageWorker

# Sends a message to the receiver of a stage's results, without waiting for its work.
Send = Callable[[Message], None]


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
        downstream: Send,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """Starts the thread, in which the functions are called; `close` ends it."""
        self.worker = worker
        self._downstream = downstream
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
                self._downstream(self.worker.process(*item))
            except BaseException as error:
                self._on_failure(error)


class StageChain:
    """Stages of one process in pipeline order, each of which sends to the next."""

    def __init__(self, workers: Sequence[StageWorker]) -> None:
        """Starts a thread per stage; `close` ends them."""
        self.workers = tuple(workers)
        self._results: queue.SimpleQueue[Message | BaseException] = queue.SimpleQueue()
        self._loops: list[StageLoop] = []
        downstream: Send = self._results.put
        for worker in reversed(self.workers):
            loop = StageLoop(
                worker, downstream=downstream, on_failure=self._results.put
            )
            self._loops.insert(0, loop)
            downstream = loop.send

    def submit(self, message: Message) -> None:
        """Sends a micro-batch to the first stage, without waiting for it."""
        self._loops[0].send(message)

    def next_result(self) -> Message:
        """Waits for the next result of the last stage; raises what a stage raised."""
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        """Ends the threads once their inboxes are empty."""
        for loop in self._loops:
            loop.close()
