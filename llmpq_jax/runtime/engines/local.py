"""The engine that runs all stages in one process, each in a thread of its own."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from llmpq_jax.checkpoint.open_store import open_store
from llmpq_jax.checkpoint.weights_cache import WeightsCache
from llmpq_jax.runtime.claimed_devices import find_devices
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.build import build_worker
from llmpq_jax.stage.emulated_devices import emulate_cpu_devices
from llmpq_jax.stage.loop import Connection, StageLoop
from llmpq_jax.stage.memory_peak import StagePeak
from llmpq_jax.stage.message import Message, StageEvent
from llmpq_jax.stage.worker import StageFacts, StageShapes, StageWorker


def start_local(
    strategy: Strategy,
    *,
    on_layer: Callable[[], None],
    weights_cache: WeightsCache | None = None,
) -> LocalEngine:
    """Loads every stage onto devices of this machine.

    Args:
        strategy: Strategy to run.
        on_layer: Called after each layer is loaded.
        weights_cache: Cache of rounded weights, by default none.

    Raises:
        StrategyError: If the strategy is for another model, or for missing devices.
        CheckpointError: If the weights are missing, damaged, or quantised to other bits
            than the strategy's.
    """
    store = open_store(strategy)
    emulate_cpu_devices([name for stage in strategy.stages for name in stage.devices])
    devices = find_devices(strategy)
    return LocalEngine(
        [
            build_worker(
                store,
                stage,
                strategy.precision,
                number=number,
                devices=devices[number],
                received_bits=strategy.received_bits(number),
                weights_cache=weights_cache,
                on_layer=on_layer,
            )
            for number, stage in enumerate(strategy.stages)
        ]
    )


@dataclass(frozen=True, slots=True)
class _Failure:
    """An exception that a stage's thread raised."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class _Results:
    """Queue of the last stage's results, and of all stages' failures."""

    waiting: queue.SimpleQueue[Message | _Failure]

    def send(self, message: Message) -> None:
        """Queues a result."""
        self.waiting.put(message)

    def fail(self, error: BaseException) -> None:
        """Queues an exception that a stage raised."""
        self.waiting.put(_Failure(error))


class LocalEngine:
    """Sends messages from stage to stage, and queues the last stage's results."""

    def __init__(self, workers: Sequence[StageWorker]) -> None:
        """Starts a thread per stage; `close` ends them."""
        self.workers = tuple(workers)
        self._results = _Results(queue.SimpleQueue())
        downstream: Connection = self._results
        loops: list[StageLoop] = []
        for worker in reversed(self.workers):
            downstream = StageLoop(
                worker, downstream=downstream, on_failure=self._results.fail
            )
            loops.append(downstream)
        self._loops = tuple(reversed(loops))

    @property
    def facts(self) -> tuple[StageFacts, ...]:
        """Properties of each stage, in pipeline order."""
        return tuple(worker.facts for worker in self.workers)

    @property
    def supports_multi_step(self) -> bool:
        """Whether one stage is the whole model, which feeds its tokens back itself."""
        return self.workers[0].program.is_whole_model

    def prepare(
        self, shapes: Sequence[StageShapes], *, on_stage: Callable[[], None]
    ) -> None:
        """Compiles all stages at the same time; see `Engine.prepare`."""

        def prepare_one(worker: StageWorker) -> None:
            for each in shapes:
                worker.prepare(each)
            on_stage()

        with ThreadPoolExecutor() as pool:
            list(pool.map(prepare_one, self.workers))

    def allocate(self, *, num_groups: int, num_rows: int, num_slots: int) -> None:
        """Makes every stage's empty caches; see `Engine.allocate`."""
        for worker in self.workers:
            worker.allocate(
                num_groups=num_groups, num_rows=num_rows, num_slots=num_slots
            )

    def free(self) -> None:
        """Frees the caches."""
        for worker in self.workers:
            worker.free()

    def submit(self, message: Message) -> None:
        """Sends a micro-batch to the first stage, without waiting for it."""
        self._loops[0].send(message)

    def next_result(self) -> Message:
        """Waits for the next result of the last stage.

        Raises:
            BaseException: If a stage raised it.
        """
        result = self._results.waiting.get()
        if isinstance(result, _Failure):
            raise result.error
        return result

    def recover(self) -> None:
        """Does nothing: stages of one process fail together."""

    def take_events(self) -> list[StageEvent]:
        """Returns the stages' events since the last call."""
        return [event for worker in self.workers for event in worker.take_events()]

    def peaks(self) -> dict[int, StagePeak]:
        """Returns each stage's peak memory while its caches are allocated, by stage."""
        return {worker.stage: worker.peak for worker in self.workers}

    def close(self) -> None:
        """Ends the threads once their inboxes are empty."""
        for loop in self._loops:
            loop.close()
