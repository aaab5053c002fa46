"""Stages on the machines of a Ray cluster: a process and a JAX runtime for each."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from llmpq_jax import __version__
from llmpq_jax.errors import LlmpqError, WorkerLostError
from llmpq_jax.runtime.engines.ray_cluster import Places, take_places
from llmpq_jax.runtime.engines.ray_parcel import pack, unpack
from llmpq_jax.runtime.engines.ray_watch import Watch
from llmpq_jax.spec.strategy import ModelReference, Strategy
from llmpq_jax.stage.message import Message, StageEvent
from llmpq_jax.stage.worker import BatchNeeds, StageFacts

DEFAULT_SILENCE_S = 30.0
# How often a wait looks whether a worker was lost meanwhile.
_GLANCE_S = 0.25
_NUM_CLOCK_READINGS = 5


def start_ray(
    strategy: Strategy,
    *,
    on_layer: Callable[[], None],
    address: str = "auto",
    silence_s: float = DEFAULT_SILENCE_S,
    set_up: Callable[[], None] = lambda: None,
) -> RayEngine:
    """Places every stage on its machine, where it loads its layers from its own disk.

    Args:
        strategy: Every machine has the model at the same absolute path.
        on_layer: Called as each layer is there.
        address: Of the cluster; see `take_places`.
        silence_s: A worker that has not answered for so long is lost.
        set_up: Called in each process before JAX starts.

    Raises:
        StrategyError: The strategy is for another model, or for machines or devices that
            are not there.
        CheckpointError: The weights are missing or damaged on one of the machines.
        WorkerLostError: There is no cluster, or a worker was lost.
    """
    strategy = replace(strategy, model=_at_absolute_paths(strategy.model))
    engine = RayEngine(
        strategy,
        take_places(strategy, address=address),
        silence_s=silence_s,
        on_layer=on_layer,
        set_up=set_up,
    )
    try:
        engine.load()
    except BaseException:
        engine.close()
        raise
    return engine


class RayEngine:
    """Sends messages to the first stage's actor and collects from the last one's.

    Between stages messages go from actor to actor; see `StageActor`.
    """

    takes_steps = True

    def __init__(
        self,
        strategy: Strategy,
        places: Places,
        *,
        silence_s: float,
        on_layer: Callable[[], None],
        set_up: Callable[[], None],
    ) -> None:
        """Takes actors that have loaded nothing yet."""
        self._facts: dict[int, StageFacts] = {}
        self._strategy = strategy
        self._places = places
        self._actors = places.actors
        self._set_up = set_up
        self._epoch = 0
        self._results: deque[Message] = deque()
        self._collecting: dict[Any, int] = {}
        self._watch = Watch(self._actors, silence_s=silence_s, on_layer=on_layer)

    def load(self) -> None:
        """Has all stages load side by side, and begins the first epoch."""
        calls = {
            actor.load.remote(self._strategy, number, __version__, self._set_up): number
            for number, actor in enumerate(self._actors)
        }
        for number, facts in self._wait_all(calls):
            self._facts[number] = facts
            self._watch.note_layers(number, self._strategy.stages[number].num_layers)
        self._begin()

    @property
    def facts(self) -> tuple[StageFacts, ...]:
        """What is known of each stage, in pipeline order."""
        return tuple(self._facts[number] for number in range(len(self._actors)))

    def prepare(
        self, needs: Sequence[BatchNeeds], *, on_stage: Callable[[], None]
    ) -> None:
        """Compiles all stages side by side for all that is needed."""
        for _ in self._ask_all("prepare", tuple(needs)):
            on_stage()

    def allocate(self, *, num_groups: int, num_rows: int, num_slots: int) -> None:
        """Makes every stage's empty caches for so many groups of rows."""
        deque(self._ask_all("allocate", num_groups, num_rows, num_slots), maxlen=0)

    def free(self) -> None:
        """Gives the caches' memory back, where there is a worker to do so."""
        if not self._watch.lost:
            deque(self._ask_all("free"), maxlen=0)

    def submit(self, message: Message) -> None:
        """Sends a micro-batch into the first stage; returns at once."""
        first, *others = self._actors
        if others:
            steps_left = message.num_steps - 1
            message = replace(message, num_steps=1, steps_left=steps_left)
        first.receive.remote(pack(replace(message, epoch=self._epoch)))

    def next_result(self) -> Message:
        """Waits for the next micro-batch to leave the last stage.

        Raises:
            WorkerLostError: A worker was lost.
            BaseException: What a stage raised, as it was raised there.
        """
        while not self._results:
            for number, actor in enumerate(self._actors):
                if number not in self._collecting.values():
                    self._collecting[actor.collect.remote()] = number
            for call, parcels in self._wait_some(self._collecting):
                del self._collecting[call]
                self._results += [
                    message
                    for message in map(unpack, parcels)
                    if message.epoch == self._epoch
                ]
        return self._results.popleft()

    def take_events(self) -> list[StageEvent]:
        """Returns what stages did since the last call, on this process's clock."""
        taken = dict(self._ask_all("take_events"))
        events = []
        for number, actor in enumerate(self._actors):
            ahead_s = _clock_ahead_s(actor)
            events += [
                replace(
                    event,
                    received_s=event.received_s - ahead_s,
                    started_s=event.started_s - ahead_s,
                    ended_s=event.ended_s - ahead_s,
                )
                for event in taken[number]
            ]
        return events

    def close(self) -> None:
        """Ends the actors, and the connection to Ray if it was made for them."""
        self._watch.close()
        self._places.give_back()

    def _begin(self) -> None:
        """Starts an epoch on all actors."""
        self._epoch += 1
        self._results.clear()
        first = self._actors[0]
        calls = {
            actor.begin.remote(self._epoch, first, after): number
            for number, (actor, after) in enumerate(
                zip(self._actors, (*self._actors[1:], None), strict=True)
            )
        }
        deque(self._wait_all(calls), maxlen=0)

    def _ask_all(self, method: str, *arguments: Any) -> Iterator[tuple[int, Any]]:
        """Calls all actors, and yields each stage's answer as it comes."""
        calls = {
            getattr(actor, method).remote(*arguments): number
            for number, actor in enumerate(self._actors)
        }
        yield from self._wait_all(calls)

    def _wait_all(self, calls: dict[Any, int]) -> Iterator[tuple[int, Any]]:
        left = dict(calls)
        while left:
            for call, answer in self._wait_some(left):
                yield left.pop(call), answer

    def _wait_some(self, calls: dict[Any, int]) -> list[tuple[Any, Any]]:
        """Waits until any of some calls has an answer; returns those that have.

        Raises:
            WorkerLostError: A worker is lost.
            BaseException: What an actor raised.
        """
        while True:
            for number, how in self._watch.lost.items():
                raise self._lost(number, how)
            ready, _ = ray.wait(list(calls), num_returns=1, timeout=_GLANCE_S)
            if ready:
                return [(call, self._answer(call, calls[call])) for call in ready]

    def _answer(self, call: Any, number: int) -> Any:
        try:
            return ray.get(call)
        except RayActorError as reason:
            raise self._lost(number, "its process ended") from reason
        except RayTaskError as error:
            if isinstance(error.cause, LlmpqError):
                where = ", ".join(self._strategy.stages[number].devices)
                msg = f"stage {number} on {where}: {error.cause}"
                raise type(error.cause)(msg) from error
            raise

    def _lost(self, number: int, how: str) -> WorkerLostError:
        where = ", ".join(self._strategy.stages[number].devices)
        msg = f"the worker of stage {number} on {where} is lost: {how}; see Ray's logs on that machine, then run again"
        return WorkerLostError(msg)


def _at_absolute_paths(model: ModelReference) -> ModelReference:
    rounded = None if model.rounded is None else str(Path(model.rounded).absolute())
    return replace(model, path=str(Path(model.path).absolute()), rounded=rounded)


def _clock_ahead_s(actor: Any) -> float:
    """Returns how far an actor's clock is ahead; 0 if it may be the very same."""
    readings = []
    for _ in range(_NUM_CLOCK_READINGS):
        asked_s = time.perf_counter()
        pulse: Any = ray.get(actor.pulse.remote())
        there_s = pulse.clock_s
        answered_s = time.perf_counter()
        readings.append((answered_s - asked_s, there_s - (asked_s + answered_s) / 2))
    round_trip_s, ahead_s = min(readings)
    return ahead_s if abs(ahead_s) > round_trip_s / 2 else 0.0
