"""The engine that runs stages on the machines of a Ray cluster, each in its own process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from llmpq_jax.checkpoint.weights_cache import WeightsCache
from llmpq_jax.runtime.engines.engine import OnCompiled, StageFailedError
from llmpq_jax.runtime.engines.ray.actor import StageActor
from llmpq_jax.runtime.engines.ray.cluster_nodes import place_actors
from llmpq_jax.runtime.engines.ray.health import DEFAULT_HEARTBEAT_TIMEOUT_S
from llmpq_jax.runtime.engines.ray.workers import Workers
from llmpq_jax.runtime.engines.transport import TransportConfig, TransportName
from llmpq_jax.runtime.engines.transport.serialized import deserialize, serialize
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.memory_peak import StagePeak
from llmpq_jax.stage.message import Message, StageEvent
from llmpq_jax.stage.worker import StageFacts, StageShapes

# Ray needs five seconds to end a stopped process, or half a minute to notice that a machine
# has failed, and then starts another process.
DEFAULT_RESTART_TIMEOUT_S = 60.0
_NUM_CLOCK_READINGS = 5
_CLOCK_TIMEOUT_S = 5.0


def start_ray(
    strategy: Strategy,
    *,
    on_layer: Callable[[], None],
    address: str = "auto",
    heartbeat_timeout_s: float = DEFAULT_HEARTBEAT_TIMEOUT_S,
    restart_timeout_s: float = DEFAULT_RESTART_TIMEOUT_S,
    restarts: bool = True,
    transport: TransportName = "sockets",
    set_up: Callable[[], WeightsCache | None] = lambda: None,
    log: Callable[[str], None] = lambda _: None,
) -> RayEngine:
    """Starts every stage on its machine, where it loads its layers from the disk.

    Args:
        strategy: Strategy to run; every machine has the model at the same absolute path.
        on_layer: Called after each layer is loaded.
        address: Address of the Ray cluster; see `place_actors`.
        heartbeat_timeout_s: Seconds without an answer after which a worker has failed.
        restart_timeout_s: Seconds after which a failed worker has failed for good, with
            its machine.
        restarts: Whether failed workers are recovered.
        transport: Transport between the stages; see `TransportConfig`.
        set_up: Called in each process before JAX starts; returns the machine's cache of
            rounded weights, if it has one.
        log: Called with a line about each failed worker, and when all have recovered.

    Raises:
        StrategyError: If the strategy is for another model or for missing devices, or a
            machine serves another strategy.
        DeviceFailedError: If a machine is not part of the cluster, or has failed.
        CheckpointError: If the weights are missing or damaged on a machine.
        WorkerFailedError: If there is no cluster, or a worker cannot be recovered.
    """
    strategy = as_workers_see(strategy)
    workers = Workers(
        strategy,
        place_actors(stage_nodes(strategy), StageActor, address=address),
        transport=TransportConfig(name=transport, timeout_s=heartbeat_timeout_s),
        heartbeat_timeout_s=heartbeat_timeout_s,
        restart_timeout_s=restart_timeout_s,
        restarts=restarts,
        on_layer=on_layer,
        set_up=set_up,
        log=log,
    )
    try:
        workers.load()
    except BaseException:
        workers.close()
        raise
    return RayEngine(workers)


def as_workers_see(strategy: Strategy) -> Strategy:
    """Returns a strategy with absolute paths, since workers run in folders of their own."""
    model = strategy.model
    rounded = None if model.rounded is None else str(Path(model.rounded).absolute())
    path = str(Path(model.path).absolute())
    return replace(strategy, model=replace(model, path=path, rounded=rounded))


def stage_nodes(strategy: Strategy) -> tuple[str, ...]:
    """Returns the name of each stage's node in the cluster file."""
    return tuple(stage.devices[0].split("/")[0] for stage in strategy.stages)


class RayEngine:
    """Sends messages to the first stage's actor, and collects the last one's results.

    Between stages messages go from actor to actor; see `StageActor`.
    """

    supports_multi_step = True

    def __init__(self, workers: Workers) -> None:
        """Takes workers that are loaded."""
        self.workers = workers
        self._epoch = workers.epoch
        self._results: deque[Message] = deque()
        # Results are collected from every actor, because any may raise an exception.
        self._collecting: dict[Any, int] = {}

    @property
    def facts(self) -> tuple[StageFacts, ...]:
        """Properties of each stage, in pipeline order."""
        return self.workers.facts

    def prepare(
        self, shapes: Sequence[StageShapes], *, on_compiled: OnCompiled
    ) -> None:
        """Compiles all stages at the same time; see `Engine.prepare`."""
        prepared: set[int] = set()

        def on_answer(number: int) -> None:
            if number not in prepared:
                prepared.add(number)
                on_compiled(len(shapes), len(self.facts) * len(shapes))

        self.workers.call_all_recovering("prepare", tuple(shapes), on_answer=on_answer)

    def allocate(self, *, num_groups: int, num_rows: int, num_slots: int) -> None:
        """Makes every stage's empty caches; see `Engine.allocate`."""
        self.workers.call_all_recovering("allocate", num_groups, num_rows, num_slots)

    def free(self) -> None:
        """Frees the caches; a failed worker has none."""
        with suppress(StageFailedError):
            deque(self.workers.calls.call_all("free"), maxlen=0)

    def submit(self, message: Message) -> None:
        """Sends a micro-batch to the first stage, without waiting for it."""
        first, *others = self.workers.actors
        if others:
            steps_left = message.num_steps - 1
            message = replace(message, num_steps=1, steps_left=steps_left)
        first.receive.remote(serialize(replace(message, epoch=self.workers.epoch)))

    def next_result(self) -> Message:
        """Waits for the next result of the last stage; see `Engine.next_result`."""
        if self._epoch != self.workers.epoch:
            # Calls of an older epoch have no results, or are never answered.
            self._epoch = self.workers.epoch
            self._results.clear()
            self._collecting.clear()
        while not self._results:
            for number, actor in enumerate(self.workers.actors):
                if number not in self._collecting.values():
                    self._collecting[actor.collect.remote()] = number
            for call, collected in self.workers.calls.wait_any(self._collecting):
                del self._collecting[call]
                self._results += [
                    message
                    for message in map(deserialize, collected)
                    if message.epoch == self._epoch
                ]
        self.workers.reset_failures()
        return self._results.popleft()

    def recover(self, failure: StageFailedError) -> None:
        """Waits until Ray has restarted failed workers, and loads them."""
        self.workers.recover(failure)

    def take_events(self) -> list[StageEvent]:
        """Returns events on this process's clock, without those of failed workers."""
        events: list[StageEvent] = []
        with suppress(StageFailedError):
            for number, taken in self.workers.calls.call_all("take_events"):
                ahead_s = _clock_ahead_s(self.workers.actors[number])
                events += [event.shifted(-ahead_s) for event in taken]
        return events

    def peaks(self) -> dict[int, StagePeak]:
        """Returns each stage's peak memory, by stage, without failed workers."""
        found: dict[int, StagePeak] = {}
        with suppress(StageFailedError):
            found.update(self.workers.calls.call_all("peak"))
        return found

    def close(self) -> None:
        """Ends the workers."""
        self.workers.close()


def _clock_ahead_s(actor: Any) -> float:
    """Returns the seconds by which an actor's clock is ahead; 0 if it may be the same."""
    readings = []
    for _ in range(_NUM_CLOCK_READINGS):
        sent_s = time.perf_counter()
        try:
            call = actor.heartbeat.remote()
            heartbeat: Any = ray.get(call, timeout=_CLOCK_TIMEOUT_S)
        except (RayActorError, GetTimeoutError):
            break
        received_s = time.perf_counter()
        middle_s = (sent_s + received_s) / 2
        readings.append((received_s - sent_s, heartbeat.clock_s - middle_s))
    round_trip_s, ahead_s = min(readings, default=(0.0, 0.0))
    return ahead_s if abs(ahead_s) > round_trip_s / 2 else 0.0
