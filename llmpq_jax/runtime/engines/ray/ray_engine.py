"""Stages on the machines of a Ray cluster: a process and a JAX runtime for each."""

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
from llmpq_jax.runtime.engines.engine import StageFailedError
from llmpq_jax.runtime.engines.ray.actor import StageActor
from llmpq_jax.runtime.engines.ray.cluster_nodes import reserve_nodes
from llmpq_jax.runtime.engines.ray.workers import Workers
from llmpq_jax.runtime.engines.transport.config import TransportConfig, TransportName
from llmpq_jax.runtime.engines.transport.serialized import pack, unpack
from llmpq_jax.schema.strategy import ModelReference, Strategy
from llmpq_jax.stage.memory_peak import StagePeak
from llmpq_jax.stage.message import Message, StageEvent
from llmpq_jax.stage.worker import BatchNeeds, StageFacts

DEFAULT_HEARTBEAT_TIMEOUT_S = 30.0
# For Ray to end a process that is stopped (five seconds), or to find a machine gone (half
# a minute), and to start another process.
DEFAULT_RESTART_TIMEOUT_S = 60.0
_NUM_CLOCK_READINGS = 5
_PATIENCE_S = 5.0


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
) -> RayEngine:
    """Places every stage on its machine, where it loads its layers from its own disk.

    Args:
        strategy: Every machine has the model at the same absolute path.
        on_layer: Called as each layer is there.
        address: Of the cluster; see `reserve_nodes`.
        heartbeat_timeout_s: A worker that has not answered for so long is lost.
        restart_timeout_s: One that is lost and not back after so long is gone with its machine.
        restarts: Whether one that is lost is to be had back.
        transport: What brings messages from stage to stage; see `TransportConfig`.
        set_up: Called in each process before JAX starts; says where that machine keeps
            rounded weights, if anywhere.

    Raises:
        StrategyError: The strategy is for another model, or for devices that are not
            there; or a machine serves another one.
        DeviceFailedError: A machine is not part of the cluster, or was lost.
        CheckpointError: The weights are missing or damaged on one of the machines.
        WorkerFailedError: There is no cluster, or a worker was lost for good.
    """
    strategy = replace(strategy, model=_at_absolute_paths(strategy.model))
    nodes = tuple(stage.devices[0].split("/")[0] for stage in strategy.stages)
    workers = Workers(
        strategy,
        reserve_nodes(nodes, StageActor, address=address),
        carrier=TransportConfig(name=transport, patience_s=heartbeat_timeout_s),
        heartbeat_timeout_s=heartbeat_timeout_s,
        restart_timeout_s=restart_timeout_s,
        restarts=restarts,
        on_layer=on_layer,
        set_up=set_up,
    )
    try:
        workers.load()
    except BaseException:
        workers.close()
        raise
    return RayEngine(workers)


class RayEngine:
    """Sends messages to the first stage's actor and collects from the last one's.

    Between stages messages go from actor to actor; see `StageActor`.
    """

    takes_steps = True

    def __init__(self, workers: Workers) -> None:
        """Takes workers that are loaded."""
        self._workers = workers
        self._epoch = workers.epoch
        self._results: deque[Message] = deque()
        # Every actor is asked for results: one that is not the last tells of failures.
        self._collecting: dict[Any, int] = {}

    @property
    def facts(self) -> tuple[StageFacts, ...]:
        """What is known of each stage, in pipeline order."""
        return self._workers.facts

    def prepare(
        self, needs: Sequence[BatchNeeds], *, on_stage: Callable[[], None]
    ) -> None:
        """Compiles all stages side by side for all that is needed."""
        told: set[int] = set()

        def tell(number: int) -> None:
            if number not in told:
                told.add(number)
                on_stage()

        self._workers.ask_surely("prepare", tuple(needs), on_answer=tell)

    def allocate(self, *, num_groups: int, num_rows: int, num_slots: int) -> None:
        """Makes every stage's empty caches for so many groups of rows."""
        self._workers.ask_surely("allocate", num_groups, num_rows, num_slots)

    def free(self) -> None:
        """Gives the caches' memory back; a worker that is lost has done so."""
        with suppress(StageFailedError):
            deque(self._workers.ask_all("free"), maxlen=0)

    def submit(self, message: Message) -> None:
        """Sends a micro-batch into the first stage; returns at once."""
        first, *others = self._workers.actors
        if others:
            steps_left = message.num_steps - 1
            message = replace(message, num_steps=1, steps_left=steps_left)
        first.receive.remote(pack(replace(message, epoch=self._workers.epoch)))

    def next_result(self) -> Message:
        """Waits for the next micro-batch to leave the last stage.

        Raises:
            StageFailedError: A worker is lost; nothing that was submitted comes any more.
            BaseException: What a stage raised, as it was raised there.
        """
        if self._epoch != self._workers.epoch:
            # Calls of an older epoch are answered with nothing, or never.
            self._epoch = self._workers.epoch
            self._results.clear()
            self._collecting.clear()
        while not self._results:
            for number, actor in enumerate(self._workers.actors):
                if number not in self._collecting.values():
                    self._collecting[actor.collect.remote()] = number
            for call, parcels in self._workers.wait_some(self._collecting):
                del self._collecting[call]
                self._results += [
                    message
                    for message in map(unpack, parcels)
                    if message.epoch == self._epoch
                ]
        self._workers.note_progress()
        return self._results.popleft()

    def recover(self) -> None:
        """Has lost workers started and loaded anew.

        Raises:
            DeviceFailedError: A machine is gone, or a worker is lost again and again.
            WorkerFailedError: A worker is lost, and not to be had back.
        """
        self._workers.recover()

    def take_events(self) -> list[StageEvent]:
        """Returns what stages did since the last call, on this process's clock.

        What a lost worker did is lost with it.
        """
        events: list[StageEvent] = []
        with suppress(StageFailedError):
            for number, taken in self._workers.ask_all("take_events"):
                ahead_s = _clock_ahead_s(self._workers.actors[number])
                events += [
                    replace(
                        event,
                        received_s=event.received_s - ahead_s,
                        started_s=event.started_s - ahead_s,
                        ended_s=event.ended_s - ahead_s,
                    )
                    for event in taken
                ]
        return events

    def peaks(self) -> dict[int, StagePeak]:
        """Returns the most that each stage held, without those that are lost."""
        found: dict[int, StagePeak] = {}
        with suppress(StageFailedError):
            found.update(self._workers.ask_all("peak"))
        return found

    def close(self) -> None:
        """Ends the workers."""
        self._workers.close()


def _at_absolute_paths(model: ModelReference) -> ModelReference:
    rounded = None if model.rounded is None else str(Path(model.rounded).absolute())
    return replace(model, path=str(Path(model.path).absolute()), rounded=rounded)


def _clock_ahead_s(actor: Any) -> float:
    """Returns how far an actor's clock is ahead; 0 if it may be the very same."""
    readings = []
    for _ in range(_NUM_CLOCK_READINGS):
        asked_s = time.perf_counter()
        try:
            pulse: Any = ray.get(actor.pulse.remote(), timeout=_PATIENCE_S)
        except (RayActorError, GetTimeoutError):
            break
        answered_s = time.perf_counter()
        middle_s = (asked_s + answered_s) / 2
        readings.append((answered_s - asked_s, pulse.clock_s - middle_s))
    round_trip_s, ahead_s = min(readings, default=(0.0, 0.0))
    return ahead_s if abs(ahead_s) > round_trip_s / 2 else 0.0
