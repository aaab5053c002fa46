"""All stages in one process: a thread, an inbox and a mesh for each."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from llmpq_jax.stage.message import Message
from llmpq_jax.stage.worker import StageWorker


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a stage's thread raised, on its way to the driver."""

    error: BaseException


class LocalEngine:
    """Passes messages from stage to stage and hands results to whoever drives.

    Hidden states go from mesh to mesh by `jax.device_put`, started by the stage that
    made them, so that they travel while both stages work on other micro-batches.
    """

    def __init__(self, workers: Sequence[StageWorker]) -> None:
        """Starts a thread per stage; `close` ends them."""
        self._workers = tuple(workers)
        self._inboxes: list[queue.SimpleQueue[tuple[Message, float] | None]] = [
            queue.SimpleQueue() for _ in self._workers
        ]
        self._results: queue.SimpleQueue[Message | _Failure] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(
                target=self._serve, args=(index,), name=f"stage-{index}", daemon=True
            )
            for index in range(len(self._workers))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def workers(self) -> tuple[StageWorker, ...]:
        """The stages, in pipeline order."""
        return self._workers

    def submit(self, message: Message) -> None:
        """Sends a micro-batch into the first stage; returns at once."""
        self._send(0, message)

    def next_result(self) -> Message:
        """Waits for the next micro-batch to leave the last stage.

        Raises:
            BaseException: What a stage raised, as it was raised there.
        """
        result = self._results.get()
        if isinstance(result, _Failure):
            raise result.error
        return result

    def close(self) -> None:
        """Ends the threads once their inboxes are empty."""
        for inbox in self._inboxes:
            inbox.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, index: int, message: Message) -> None:
        payload = self._workers[index].placement.put(message.payload)
        message = replace(message, payload=payload)
        self._inboxes[index].put((message, time.perf_counter()))

    def _serve(self, index: int) -> None:
        while (item := self._inboxes[index].get()) is not None:
            try:
                done = self._workers[index].process(*item)
                if index + 1 < len(self._workers):
                    self._send(index + 1, done)
                else:
                    self._results.put(done)
            except BaseException as error:
                self._results.put(_Failure(error))
