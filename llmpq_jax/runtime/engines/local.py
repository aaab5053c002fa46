"""All stages in one process: a thread, an inbox and a mesh for each."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from llmpq_jax.checkpoint.source import open_source
from llmpq_jax.checkpoint.weights_cache import WeightsCache
from llmpq_jax.runtime.claimed_devices import find_devices
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.build import build_worker
from llmpq_jax.stage.emulated_devices import emulate_cpu_devices
from llmpq_jax.stage.loop import StageLoop, Transport
from llmpq_jax.stage.memory_peak import StagePeak
from llmpq_jax.stage.message import Message, StageEvent
from llmpq_jax.stage.worker import BatchNeeds, StageFacts, StageWorker


def start_local(
    strategy: Strategy,
    *,
    on_layer: Callable[[], None],
    weights_cache: WeightsCache | None = None,
) -> LocalEngine:
    """Loads every stage onto devices of this machine.

    Args:
        strategy: To be run.
        on_layer: Called as each layer is there.
        weights_cache: Where what is rounded is kept for the next start, if anywhere.

    Raises:
        StrategyError: The strategy is for another model, or for devices that are not
            here.
        CheckpointError: The weights are missing or damaged, or quantised to other bits
            than the strategy's.
    """
    source = open_source(strategy)
    emulate_cpu_devices([name for stage in strategy.stages for name in stage.devices])
    devices = find_devices(strategy)
    return LocalEngine(
        [
            build_worker(
                source.reader,
                source.architecture,
                stage,
                strategy.precision,
                number=number,
                devices=devices[number],
                received_bits=strategy.received_bits(number),
                rounded=source.rounded,
                weights_cache=weights_cache,
                on_layer=on_layer,
            )
            for number, stage in enumerate(strategy.stages)
        ]
    )


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a stage's thread raised, on its way to the driver."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class _Results:
    """Where the last stage's results wait for the driver."""

    waiting: queue.SimpleQueue[Message | _Failure]

    def send(self, message: Message) -> None:
        """Queues a result."""
        self.waiting.put(message)

    def fail(self, error: BaseException) -> None:
        """Queues what a stage raised."""
        self.waiting.put(_Failure(error))


class LocalEngine:
    """Passes messages from stage to stage and hands results to whoever drives."""

    def __init__(self, workers: Sequence[StageWorker]) -> None:
        """Starts a thread per stage; `close` ends them."""
        self.workers = tuple(workers)
        self._results = _Results(queue.SimpleQueue())
        onward: Transport = self._results
        loops: list[StageLoop] = []
        for worker in reversed(self.workers):
            onward = StageLoop(worker, onward=onward, on_failure=self._results.fail)
            loops.append(onward)
        self._loops = tuple(reversed(loops))

    @property
    def facts(self) -> tuple[StageFacts, ...]:
        """What is known of each stage, in pipeline order."""
        return tuple(worker.facts for worker in self.workers)

    @property
    def takes_steps(self) -> bool:
        """Whether one stage is the whole model, and feeds its tokens back itself."""
        return self.workers[0].program.takes_steps

    def prepare(
        self, needs: Sequence[BatchNeeds], *, on_stage: Callable[[], None]
    ) -> None:
        """Compiles all stages side by side for all that is needed."""

        def prepare_one(worker: StageWorker) -> None:
            for need in needs:
                worker.prepare(need)
            on_stage()

        with ThreadPoolExecutor() as pool:
            list(pool.map(prepare_one, self.workers))

    def allocate(self, *, num_groups: int, num_rows: int, num_slots: int) -> None:
        """Makes every stage's empty caches for so many groups of rows."""
        for worker in self.workers:
            worker.allocate(
                num_groups=num_groups, num_rows=num_rows, num_slots=num_slots
            )

    def free(self) -> None:
        """Gives the caches' memory back."""
        for worker in self.workers:
            worker.free()

    def submit(self, message: Message) -> None:
        """Sends a micro-batch into the first stage; returns at once."""
        self._loops[0].send(message)

    def next_result(self) -> Message:
        """Waits for the next micro-batch to leave the last stage.

        Raises:
            BaseException: What a stage raised, as it was raised there.
        """
        result = self._results.waiting.get()
        if isinstance(result, _Failure):
            raise result.error
        return result

    def recover(self) -> None:
        """Does nothing: stages of one process are lost together."""

    def take_events(self) -> list[StageEvent]:
        """Returns what stages did since the last call."""
        return [event for worker in self.workers for event in worker.take_events()]

    def peaks(self) -> dict[int, StagePeak]:
        """Returns the most that each stage held, while its caches are allocated."""
        return {worker.stage: worker.peak for worker in self.workers}

    def close(self) -> None:
        """Ends the threads once their inboxes are empty."""
        for loop in self._loops:
            loop.close()
