"""Stages connected as the engine connects them, with outputs fed in again as inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.stage_bench import StageBench
from llmpq_jax.schema.measurements import Phase
from llmpq_jax.stage.loop import StageChain
from llmpq_jax.stage.message import Message


class Ring:
    """Stages of layers, connected in a ring through which micro-batches circulate."""

    def __init__(
        self, benches: Sequence[StageBench], phase: Phase, shape: Shape
    ) -> None:
        """Starts the stages' threads and allocates caches; `close` ends the threads."""
        self._benches = tuple(benches)
        # Each call allocates its stage's cache.
        self._messages, *_ = [bench.messages(phase, shape) for bench in benches]
        self._sent = benches[0].worker.sharding.put(self._messages[0].payload)
        self._chain = StageChain([bench.worker for bench in benches])

    def run_rounds(self, num_micro_batches: int, rounds: int) -> None:
        """Sends micro-batches through all stages, each again as soon as it returns."""
        messages = self._messages * num_micro_batches
        returned = deque[Message](maxlen=len(self._messages))
        for message in messages:
            self._chain.submit(message)
        to_send = len(messages) * (rounds - 1)
        for _ in range(len(messages) * rounds):
            result = self._chain.next_result()
            returned.append(result)
            if to_send:
                self._chain.submit(result)
                to_send -= 1
        # The next inputs are on the last stage's devices, as a token is.
        self._messages = list(returned)
        for bench in self._benches:
            bench.worker.take_events()

    def hop(self) -> None:
        """Transfers what the first stage sends to the second one's devices, and waits."""
        self._benches[1].worker.sharding.put(self._sent).block_until_ready()

    def close(self) -> None:
        """Ends the threads."""
        self._chain.close()
