"""The workers of all stages under Ray: loads them, and recovers those that fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from llmpq_jax import __version__
from llmpq_jax.checkpoint.weights_cache import WeightsCache
from llmpq_jax.errors import CheckpointError, StrategyError, WorkerFailedError
from llmpq_jax.interrupts import check_interrupt
from llmpq_jax.runtime.engines.engine import (
    FAILURE_ADVICE,
    DeviceFailedError,
    StageFailedError,
)
from llmpq_jax.runtime.engines.ray.cluster_nodes import PlacedActors
from llmpq_jax.runtime.engines.ray.health import HealthMonitor, WorkerFailure
from llmpq_jax.runtime.engines.ray.stage_calls import POLL_S, StageCalls
from llmpq_jax.runtime.engines.transport import TransportConfig
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.worker import StageFacts
from llmpq_jax.units import format_seconds

# More failures than these in a row, without a token in between, are no accident.
_MAX_FAILURES = 3


class Workers:
    """One actor for each stage.

    Attributes:
        strategy: Strategy of the stages.
        transport: Transport between the stages.
        monitor: Monitor of the actors' health.
        calls: Calls to all actors.
        epoch: Number of the current epoch, from 1; each recovery starts another.
    """

    def __init__(
        self,
        strategy: Strategy,
        placed: PlacedActors,
        *,
        transport: TransportConfig,
        heartbeat_timeout_s: float,
        restart_timeout_s: float,
        restarts: bool,
        on_layer: Callable[[], None],
        set_up: Callable[[], WeightsCache | None],
        log: Callable[[str], None],
    ) -> None:
        """Takes actors that have loaded nothing yet; `close` ends them.

        See `start_ray` for times and functions. The strategy's paths are absolute, and
        the same on all machines.
        """
        self.strategy = strategy
        self.transport = transport
        self.epoch = 0
        self._placed = placed
        self._set_up = set_up
        self._log = log
        self._restart_timeout_s = restart_timeout_s
        self._restarts = restarts
        self._facts: dict[int, StageFacts] = {}
        self._unloaded = set(range(len(placed.actors)))
        # Unanswered calls: a stage goes on loading while another one is recovered.
        self._loading: dict[Any, int] = {}
        self._num_failures = 0
        # Time of the first failure that no epoch has followed yet.
        self._failed_s: float | None = None
        self.monitor = HealthMonitor(
            placed.actors, heartbeat_timeout_s=heartbeat_timeout_s, on_layer=on_layer
        )
        self.calls = StageCalls(
            placed.actors,
            strategy.stages,
            self.monitor,
            may_recover=lambda: restarts and self._num_failures < _MAX_FAILURES,
        )

    @property
    def actors(self) -> tuple[Any, ...]:
        """Actors of the stages, in pipeline order."""
        return self._placed.actors

    @property
    def nodes(self) -> tuple[str, ...]:
        """Name of each stage's node in the cluster file, in pipeline order."""
        return self._placed.nodes

    @property
    def facts(self) -> tuple[StageFacts, ...]:
        """Properties of each stage, in pipeline order."""
        return tuple(self._facts[number] for number in range(len(self.actors)))

    def load(self) -> None:
        """Loads all stages that are not loaded, in parallel, and starts an epoch."""
        while True:
            try:
                self._load_rest()
                self._start_epoch()
            except StageFailedError as failure:
                self._await_restart(failure)
            else:
                self._log_recovery()
                return

    def recover(self, failure: StageFailedError) -> None:
        """Waits until Ray has restarted failed workers, and loads them."""
        self._await_restart(failure)
        try:
            self.load()
        except (StrategyError, CheckpointError) as reason:
            # It was loaded before, so a device or a disk is missing now.
            devices = [
                device
                for number in self._unloaded
                for device in self.strategy.stages[number].devices
            ]
            raise self._device_error(str(reason), devices=devices) from reason

    def reset_failures(self) -> None:
        """Counts failures from 0 again, because work was done."""
        self._num_failures = 0

    def call_all_recovering(
        self,
        method: str,
        *arguments: Any,
        on_answer: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Calls a method of all actors; repeats it after recovery if a worker fails.

        `on_answer` is called with the number of each stage that answers.
        """
        while True:
            try:
                for number, _ in self.calls.call_all(method, *arguments):
                    on_answer(number)
            except StageFailedError as failure:
                self.recover(failure)
            else:
                return

    def close(self) -> None:
        """Ends the actors, and the connection to Ray if this run made it."""
        self.monitor.close()
        self._placed.release()

    def _load_rest(self) -> None:
        for number in self._unloaded - set(self._loading.values()):
            call = self.actors[number].load.remote(
                self.strategy, number, __version__, self._set_up, self.transport
            )
            self._loading[call] = number
        while self._loading:
            for call, facts in self.calls.wait_any(self._loading):
                number = self._loading.pop(call)
                self._facts[number] = facts
                self._unloaded.discard(number)
                num_layers = self.strategy.stages[number].num_layers
                self.monitor.report_layers(number, num_layers)

    def _start_epoch(self) -> None:
        self.epoch += 1
        found = dict(self.calls.call_all("address"))
        addresses = [found[number] for number in range(len(self.actors))]
        calls = {
            actor.start_epoch.remote(self.epoch, addresses[0], next_address): number
            for number, (actor, next_address) in enumerate(
                zip(self.actors, (*addresses[1:], None), strict=True)
            )
        }
        for _ in self.calls.wait_all(calls):
            pass

    def _await_restart(self, reason: StageFailedError) -> None:
        """Waits until Ray has restarted all failed workers."""
        self._num_failures += 1
        failed = self.monitor.failed
        for number, failure in failed.items():
            if not self._restarts:
                what = self.calls.failure_text(number, failure.how)
                msg = f"{what}: {FAILURE_ADVICE}"
                raise WorkerFailedError(msg)
            if self._num_failures > _MAX_FAILURES:
                how = f"{failure.how}, after {_MAX_FAILURES} failures without a token in between"
                raise self._device_error(
                    self.calls.failure_text(number, how),
                    devices=self.strategy.stages[number].devices,
                )
            if failure.is_unresponsive:
                ray.kill(self.actors[number], no_restart=False)
        self._log_failures(failed, reason)
        deadline_s = time.perf_counter() + self._restart_timeout_s
        for number, failure in failed.items():
            while not self._has_recovered(number, failure):
                if time.perf_counter() > deadline_s:
                    raise self._node_error(number, failure)
                check_interrupt()
                time.sleep(POLL_S)

    def _log_failures(
        self, failed: dict[int, WorkerFailure], reason: StageFailedError
    ) -> None:
        if self._failed_s is None:
            self._failed_s = time.perf_counter()
        for number, failure in failed.items():
            what = self.calls.failure_text(number, failure.how)
            self._log(
                f"{what}: Ray starts another one, which loads the stage again; then the run continues"
            )
        if not failed:
            what = " ".join(str(reason).split())
            self._log(f"{what}: the stages connect again; then the run continues")

    def _log_recovery(self) -> None:
        if self._failed_s is not None:
            seconds = time.perf_counter() - self._failed_s
            self._failed_s = None
            self._log(f"all stages run again after {format_seconds(seconds)}")

    def _has_recovered(self, number: int, failure: WorkerFailure) -> bool:
        """Whether a failed stage answers; from then on it is monitored again.

        If only its connection broke, the same process answers, and is still loaded.
        """
        call = self.actors[number].heartbeat.remote()
        try:
            heartbeat: Any = ray.get(call, timeout=1)
        except (RayActorError, GetTimeoutError):
            return False
        if not self.monitor.is_same_process(number, heartbeat):
            self._unloaded.add(number)
        elif failure.is_unresponsive:
            # The process answers again, but Ray is about to end it.
            return False
        self._loading = {
            call: other for call, other in self._loading.items() if other != number
        }
        self.monitor.mark_recovered(number, heartbeat)
        return True

    def _node_error(self, number: int, failure: WorkerFailure) -> DeviceFailedError:
        """Returns the error of a worker that is not restarted, so that its node is lost."""
        node = self.nodes[number]
        how = f"{failure.how}, and Ray did not restart it within {self._restart_timeout_s:g} s"
        if node not in self._placed.present_nodes():
            how = f"{failure.how}, and its node {node} has left the cluster"
        return self._device_error(self.calls.failure_text(number, how), without=node)

    def _device_error(
        self, what: str, *, devices: Sequence[str] = (), without: str | None = None
    ) -> DeviceFailedError:
        nodes = [node for node in self._placed.present_nodes() if node != without]
        return DeviceFailedError(what, devices=devices, nodes=nodes)
