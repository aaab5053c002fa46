"""Two stages joined as the engine joins them, and a driver that sends on what comes out."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llmpq_jax.profiler.bench import StageBench
from llmpq_jax.profiler.grid import Shape
from llmpq_jax.stage.loop import StageLoop
from llmpq_jax.stage.message import Message


@dataclass(frozen=True, slots=True)
class _Results:
    """Where what left the second stage waits, or what went wrong."""

    waiting: queue.SimpleQueue[Message | BaseException]

    def send(self, message: Message) -> None:
        self.waiting.put(message)

    def take(self) -> Message:
        result = self.waiting.get()
        if isinstance(result, BaseException):
            raise result
        return result


@contextmanager
def ring(
    first: StageBench, last: StageBench, shape: Shape
) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Joins two stages of layers alone; yields a turn, and what it sends.

    Args:
        first: Of the stages; its cache is allocated here.
        last: Of the stages; its cache is allocated already.
        shape: Of the micro-batch whose decode steps go round.

    A turn is a step through both stages, from the driver and back to it. What it sends is
    brought from one stage's devices to the other's, and back, and waited for.
    """
    results = _Results(queue.SimpleQueue())
    second = StageLoop(last.worker, onward=results, on_failure=results.waiting.put)
    (message,) = first.messages("decode", shape)
    loop = StageLoop(first.worker, onward=second, on_failure=results.waiting.put)
    ends = (last.worker.placement, first.worker.placement)

    def turn() -> None:
        nonlocal message
        loop.send(message)
        message = results.take()
        for bench in (first, last):
            bench.worker.take_events()

    def sends() -> None:
        here = message.payload
        for end in ends:
            here = end.put(here)
            here.block_until_ready()

    try:
        yield turn, sends
    finally:
        loop.close()
        second.close()
