"""Stages joined as the engine joins them, and a driver that sends on what comes out."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.stage_bench import StageBench
from llmpq_jax.schema.measurements import Phase
from llmpq_jax.stage.loop import StageLoop, Transport
from llmpq_jax.stage.message import Message


@dataclass(frozen=True, slots=True)
class _Results:
    """Where what left the last stage waits, or what went wrong."""

    waiting: queue.SimpleQueue[Message | BaseException]

    def send(self, message: Message) -> None:
        self.waiting.put(message)

    def take(self) -> Message:
        result = self.waiting.get()
        if isinstance(result, BaseException):
            raise result
        return result


class Ring:
    """Stages of layers alone, one after the other, at work on what goes round."""

    def __init__(
        self, benches: Sequence[StageBench], phase: Phase, shape: Shape
    ) -> None:
        """Starts the stages' threads; `close` ends them.

        Args:
            benches: The stages; their caches are allocated anew.
            phase: Of the micro-batches that go round.
            shape: Of each.
        """
        self._benches = tuple(benches)
        results = _Results(queue.SimpleQueue())
        self._results = results
        # Each call allocates its stage's cache.
        self._messages, *_ = [bench.messages(phase, shape) for bench in benches]
        self._sent = benches[0].worker.placement.put(self._messages[0].payload)
        onward: Transport = results
        loops: list[StageLoop] = []
        for bench in reversed(benches):
            onward = StageLoop(
                bench.worker, onward=onward, on_failure=results.waiting.put
            )
            loops.append(onward)
        self._loops = tuple(reversed(loops))

    def go_round(self, num_micro_batches: int, rounds: int) -> None:
        """Sends micro-batches through all stages, each again as soon as it is back."""
        first = self._loops[0]
        messages = self._messages * num_micro_batches
        back = deque[Message](maxlen=len(self._messages))
        for message in messages:
            first.send(message)
        to_send = len(messages) * (rounds - 1)
        for _ in range(len(messages) * rounds):
            result = self._results.take()
            back.append(result)
            if to_send:
                first.send(result)
                to_send -= 1
        # Next time what is sent lies on the last stage's devices, as a token does.
        self._messages = list(back)
        for bench in self._benches:
            bench.worker.take_events()

    def hop(self) -> None:
        """Brings what the first stage sends to the second one's devices, and waits."""
        self._benches[1].worker.placement.put(self._sent).block_until_ready()

    def close(self) -> None:
        """Ends the threads."""
        for loop in self._loops:
            loop.close()


@contextmanager
def ring(benches: Sequence[StageBench], phase: Phase, shape: Shape) -> Iterator[Ring]:
    """Joins stages as the engine does; see `Ring`."""
    joined = Ring(benches, phase, shape)
    try:
        yield joined
    finally:
        joined.close()
