"""The engine that runs all stages in one process, each in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from llmpq_jax.checkpoint.open_store import open_store, read_model
from llmpq_jax.checkpoint.weights_cache import WeightsCache
from llmpq_jax.runtime.claimed_devices import find_devices
from llmpq_jax.runtime.engines.engine import OnCompiled, StageFailedError
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.abstract import ProgramMemory, stage_memories
from llmpq_jax.stage.build import build_worker
from llmpq_jax.stage.emulated_devices import JaxDevice, emulate_cpu_devices
from llmpq_jax.stage.loop import StageChain
from llmpq_jax.stage.memory_peak import StagePeak
from llmpq_jax.stage.message import StageEvent
from llmpq_jax.stage.worker import StageFacts, StageShapes, StageWorker


def start_local(
    strategy: Strategy,
    *,
    on_layer: Callable[[], None],
    weights_cache: WeightsCache | None = None,
) -> LocalEngine:
    """Loads every stage onto this machine's devices; calls `on_layer` after each layer.

    Raises:
        StrategyError: If the strategy is for another model, or for missing devices.
        CheckpointError: If the weights are missing, damaged, or quantised to other bits
            than the strategy's.
    """
    store = open_store(strategy)
    devices = _devices_here(strategy)
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


def compile_local(
    strategy: Strategy, *, on_stage: Callable[[], None]
) -> list[tuple[ProgramMemory, ...]]:
    """Compiles every stage for this machine's devices, stages in parallel.

    The model's config.json is enough. Returns the memory of each stage's programs, and
    calls `on_stage` after each stage.

    Raises:
        StrategyError: If the strategy is for another model, or for missing devices.
    """
    architecture = read_model(strategy)
    devices = _devices_here(strategy)

    def compile_one(number: int) -> tuple[ProgramMemory, ...]:
        memories = stage_memories(
            strategy, architecture, number=number, devices=devices[number]
        )
        on_stage()
        return memories

    with ThreadPoolExecutor() as pool:
        return list(pool.map(compile_one, range(len(strategy.stages))))


def _devices_here(strategy: Strategy) -> list[tuple[JaxDevice, ...]]:
    emulate_cpu_devices([name for stage in strategy.stages for name in stage.devices])
    return find_devices(strategy)


class LocalEngine(StageChain):
    """Runs the stages of one process."""

    @property
    def facts(self) -> tuple[StageFacts, ...]:
        """Properties of each stage, in pipeline order."""
        return tuple(worker.facts for worker in self.workers)

    @property
    def supports_multi_step(self) -> bool:
        """Whether one stage is the whole model, which feeds its tokens back itself."""
        return self.workers[0].program.is_whole_model

    def prepare(
        self, shapes: Sequence[StageShapes], *, on_compiled: OnCompiled
    ) -> None:
        """Compiles all stages at the same time; see `Engine.prepare`."""
        total = len(self.workers) * len(shapes)

        def prepare_one(worker: StageWorker) -> None:
            for each in shapes:
                worker.prepare(each)
                on_compiled(1, total)

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

    def recover(self, failure: StageFailedError) -> None:
        """Raises the failure: stages of one process fail together."""
        raise failure

    def take_events(self) -> list[StageEvent]:
        """Returns the stages' events since the last call."""
        return [event for worker in self.workers for event in worker.take_events()]

    def peaks(self) -> dict[int, StagePeak]:
        """Returns each stage's peak memory while its caches are allocated, by stage."""
        return {worker.stage: worker.peak for worker in self.workers}
