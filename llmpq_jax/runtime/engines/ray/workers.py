"""The actors of a strategy: loaded, asked all at once, and had back when one is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from llmpq_jax import __version__
from llmpq_jax.checkpoint.weights_cache import WeightsCache
from llmpq_jax.errors import (
    CheckpointError,
    LlmpqError,
    StrategyError,
    WorkerFailedError,
)
from llmpq_jax.runtime.engines.engine import (
    AFTER_A_FAILURE,
    DeviceFailedError,
    StageFailedError,
)
from llmpq_jax.runtime.engines.ray.cluster_nodes import ReservedNodes
from llmpq_jax.runtime.engines.ray.health import HealthMonitor, Loss
from llmpq_jax.runtime.engines.transport.config import TransportConfig
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.worker import StageFacts

# How often a wait looks whether a worker was lost meanwhile.
_GLANCE_S = 0.25
# In which Ray tells of a process that has ended, as a rule.
_NOTICE_S = 2.0
# In a row: then it is no accident.
_MAX_LOSSES = 3


class Workers:
    """One actor for each stage.

    Attributes:
        actors: In pipeline order.
        epoch: Counts from 1; each loss begins another one.
    """

    def __init__(
        self,
        strategy: Strategy,
        places: ReservedNodes,
        *,
        carrier: TransportConfig,
        heartbeat_timeout_s: float,
        restart_timeout_s: float,
        restarts: bool,
        on_layer: Callable[[], None],
        set_up: Callable[[], WeightsCache | None],
    ) -> None:
        """Takes actors that have loaded nothing yet; `close` ends them.

        Args:
            strategy: Every machine has the model at the same absolute path.
            places: Of the strategy.
            carrier: What brings messages from stage to stage.
            heartbeat_timeout_s: A worker that has not answered for so long is lost.
            restart_timeout_s: One that is lost and not back after so long is gone.
            restarts: Whether one that is lost is to be had back.
            on_layer: Called as each layer is there for the first time.
            set_up: As in `start_ray`.
        """
        self.actors = places.actors
        self.epoch = 0
        self._strategy = strategy
        self._places = places
        self._carrier = carrier
        self._set_up = set_up
        self._restart_timeout_s = restart_timeout_s
        self._restarts = restarts
        self._facts: dict[int, StageFacts] = {}
        self._unloaded = set(range(len(self.actors)))
        # Calls that are not answered: what loads while another stage is lost loads on.
        self._loading: dict[Any, int] = {}
        self._num_losses = 0
        self._watch = HealthMonitor(
            self.actors, heartbeat_timeout_s=heartbeat_timeout_s, on_layer=on_layer
        )

    @property
    def facts(self) -> tuple[StageFacts, ...]:
        """What is known of each stage, in pipeline order."""
        return tuple(self._facts[number] for number in range(len(self.actors)))

    def load(self) -> None:
        """Has stages load that have not, side by side, and begins an epoch.

        Raises:
            DeviceFailedError: A machine is gone, or a worker is lost again and again.
            WorkerFailedError: A worker is lost, and not to be had back.
        """
        while True:
            try:
                self._load_rest()
                self._begin()
            except StageFailedError:
                self._await_restart()
            else:
                return

    def recover(self) -> None:
        """Has Ray start lost workers anew, and loads them.

        Raises:
            DeviceFailedError: A machine or a device is gone, or a worker is lost again and
                again.
            WorkerFailedError: A worker is lost, and not to be had back.
        """
        self._await_restart()
        try:
            self.load()
        except (StrategyError, CheckpointError) as reason:
            # It loaded before: a device has left its machine, or a disk has.
            lacking = [
                device
                for number in self._unloaded
                for device in self._strategy.stages[number].devices
            ]
            raise self._gone(str(reason), devices=lacking) from reason

    def note_progress(self) -> None:
        """Tells that work was done: what is lost from here on is another accident."""
        self._num_losses = 0

    def ask_surely(
        self,
        method: str,
        *arguments: Any,
        on_answer: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Calls all actors, over again where one is lost meanwhile."""
        while True:
            try:
                for number, _ in self.ask_all(method, *arguments):
                    on_answer(number)
            except StageFailedError:
                self.recover()
            else:
                return

    def ask_all(self, method: str, *arguments: Any) -> Iterator[tuple[int, Any]]:
        """Calls all actors, and yields each stage's answer as it comes.

        Raises:
            StageFailedError: A worker is lost.
        """
        calls = {
            getattr(actor, method).remote(*arguments): number
            for number, actor in enumerate(self.actors)
        }
        yield from self._wait_all(calls)

    def wait_some(self, calls: dict[Any, int]) -> list[tuple[Any, Any]]:
        """Waits until any of some calls has an answer; returns those that have.

        Args:
            calls: Each with the number of its stage.

        Raises:
            StageFailedError: A worker is lost.
            BaseException: What an actor raised.
        """
        while True:
            for number, loss in self._watch.lost.items():
                raise StageFailedError(self._tell_lost(number, loss.how))
            ready, _ = ray.wait(list(calls), num_returns=1, timeout=_GLANCE_S)
            if ready:
                return [(call, self._answer(call, calls[call])) for call in ready]

    def close(self) -> None:
        """Ends the actors, and the connection to Ray if it was made for them."""
        self._watch.close()
        self._places.give_back()

    def _load_rest(self) -> None:
        for number in self._unloaded - set(self._loading.values()):
            call = self.actors[number].load.remote(
                self._strategy, number, __version__, self._set_up, self._carrier
            )
            self._loading[call] = number
        while self._loading:
            for call, facts in self.wait_some(self._loading):
                number = self._loading.pop(call)
                self._facts[number] = facts
                self._unloaded.discard(number)
                num_layers = self._strategy.stages[number].num_layers
                self._watch.note_layers(number, num_layers)

    def _begin(self) -> None:
        """Starts an epoch on all actors."""
        self.epoch += 1
        found = dict(self.ask_all("address"))
        addresses = [found[number] for number in range(len(self.actors))]
        calls = {
            actor.begin.remote(self.epoch, addresses[0], after): number
            for number, (actor, after) in enumerate(
                zip(self.actors, (*addresses[1:], None), strict=True)
            )
        }
        for _ in self._wait_all(calls):
            pass

    def _await_restart(self) -> None:
        """Waits until Ray has started all lost workers anew."""
        self._num_losses += 1
        lost = self._watch.lost
        for number, loss in lost.items():
            if not self._restarts:
                msg = f"{self._tell_lost(number, loss.how)}: {AFTER_A_FAILURE}"
                raise WorkerFailedError(msg)
            if self._num_losses > _MAX_LOSSES:
                again = (
                    f"{loss.how}, after {_MAX_LOSSES} losses without a token between"
                )
                raise self._gone(
                    self._tell_lost(number, again),
                    devices=self._strategy.stages[number].devices,
                )
            if loss.is_silent:
                ray.kill(self.actors[number], no_restart=False)
        deadline_s = time.perf_counter() + self._restart_timeout_s
        for number, loss in lost.items():
            while not self._is_back(number, loss):
                if time.perf_counter() > deadline_s:
                    raise self._gone_with_node(number, loss)
                time.sleep(_GLANCE_S)

    def _gone_with_node(self, number: int, loss: Loss) -> DeviceFailedError:
        """Tells that a stage is not had back, and so nothing on its machine."""
        node = self._places.nodes[number]
        how = f"{loss.how}, and Ray did not start it again in {self._restart_timeout_s:g} s"
        if node not in self._places.present_nodes():
            how = f"{loss.how}, and its node {node} has left the cluster"
        return self._gone(self._tell_lost(number, how), without=node)

    def _gone(
        self, what: str, *, devices: Sequence[str] = (), without: str | None = None
    ) -> DeviceFailedError:
        nodes = [node for node in self._places.present_nodes() if node != without]
        return DeviceFailedError(what, devices=devices, nodes=nodes)

    def _is_back(self, number: int, loss: Loss) -> bool:
        """Whether a lost stage answers; it is watched again from then on.

        Where only the connection was lost, it is the very process that was loaded.
        """
        call = self.actors[number].pulse.remote()
        try:
            pulse: Any = ray.get(call, timeout=1)
        except (RayActorError, GetTimeoutError):
            return False
        if not self._watch.is_known(number, pulse):
            self._unloaded.add(number)
        elif loss.is_silent:
            # It woke up, and will be ended nevertheless.
            return False
        self._loading = {
            call: other for call, other in self._loading.items() if other != number
        }
        self._watch.note_back(number, pulse)
        return True

    def _wait_all(self, calls: dict[Any, int]) -> Iterator[tuple[int, Any]]:
        left = dict(calls)
        while left:
            for call, answer in self.wait_some(left):
                yield left.pop(call), answer

    def _answer(self, call: Any, number: int) -> Any:
        try:
            return ray.get(call)
        except RayActorError as reason:
            loss = self._watch.note_ended(number)
            raise StageFailedError(self._tell_lost(number, loss.how)) from reason
        except RayTaskError as error:
            if isinstance(error.cause, LlmpqError):
                where = ", ".join(self._strategy.stages[number].devices)
                msg = f"stage {number} on {where}: {error.cause}"
                raise type(error.cause)(msg) from error
            if isinstance(error.cause, ConnectionError):
                raise self._broken(number, error.cause) from error
            raise

    def _broken(self, number: int, reason: ConnectionError) -> WorkerFailedError:
        """Tells of a connection between two stages that broke.

        One of them has ended, as a rule: then that is what is told.
        """
        deadline_s = time.perf_counter() + _NOTICE_S
        while not self._watch.lost and time.perf_counter() < deadline_s:
            time.sleep(_GLANCE_S)
        for lost, loss in self._watch.lost.items():
            return StageFailedError(self._tell_lost(lost, loss.how))
        where = ", ".join(self._strategy.stages[number].devices)
        what = f"stage {number} on {where}: {reason}"
        if not self._restarts or self._num_losses >= _MAX_LOSSES:
            return WorkerFailedError(f"{what}: {AFTER_A_FAILURE}")
        return StageFailedError(what)

    def _tell_lost(self, number: int, how: str) -> str:
        where = ", ".join(self._strategy.stages[number].devices)
        process = self._watch.process(number)
        return f"the worker of stage {number} on {where}{process} {how}"
