"""Calls to the actors of all stages, which turn failed workers into errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from llmpq_jax.errors import LlmpqError, WorkerFailedError
from llmpq_jax.interrupts import check_interrupt
from llmpq_jax.runtime.engines.engine import FAILURE_ADVICE, StageFailedError
from llmpq_jax.runtime.engines.ray.health import HealthMonitor
from llmpq_jax.schema.strategy import Stage

# How often a waiting call checks whether a worker has failed meanwhile.
POLL_S = 0.25
# Time in which Ray usually reports a process that has ended.
_REPORT_S = 2.0


class StageCalls:
    """Calls to the actors of all stages, which are in pipeline order.

    Attributes:
        actors: Actors of the stages, in pipeline order.
        stages: Stages of the strategy, for messages.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        stages: Sequence[Stage],
        monitor: HealthMonitor,
        *,
        may_recover: Callable[[], bool],
    ) -> None:
        """Takes actors, their monitor, and what says if a connection is recovered."""
        self.actors = actors
        self.stages = stages
        self._monitor = monitor
        self._may_recover = may_recover

    def call_all(self, method: str, *arguments: Any) -> Iterator[tuple[int, Any]]:
        """Calls a method of all actors; yields each stage's answer as it comes."""
        calls = {
            getattr(actor, method).remote(*arguments): number
            for number, actor in enumerate(self.actors)
        }
        yield from self.wait_all(calls)

    def wait_all(self, calls: dict[Any, int]) -> Iterator[tuple[int, Any]]:
        """Yields the stage and the answer of each call as it comes; see `wait_any`."""
        pending = dict(calls)
        while pending:
            for call, answer in self.wait_any(pending):
                yield pending.pop(call), answer

    def wait_any(self, calls: dict[Any, int]) -> list[tuple[Any, Any]]:
        """Waits until one of some calls has an answer; returns the calls that have one.

        Raises:
            StageFailedError: If a worker has failed.
            BaseException: If an actor raised it.
        """
        while True:
            check_interrupt()
            for number, failure in self._monitor.failed.items():
                raise StageFailedError(self.failure_text(number, failure.how))
            ready, _ = ray.wait(list(calls), num_returns=1, timeout=POLL_S)
            if ready:
                return [(call, self._answer(call, calls[call])) for call in ready]

    def failure_text(self, number: int, how: str) -> str:
        """Returns a message that names the worker of a stage, and how it failed."""
        process = self._monitor.process_text(number)
        return f"the worker of {self._stage_text(number)}{process} {how}"

    def _stage_text(self, number: int) -> str:
        return f"stage {number} on {', '.join(self.stages[number].devices)}"

    def _answer(self, call: Any, number: int) -> Any:
        try:
            return ray.get(call)
        except RayActorError as reason:
            failure = self._monitor.mark_ended(number)
            msg = self.failure_text(number, failure.how)
            raise StageFailedError(msg) from reason
        except RayTaskError as error:
            if isinstance(error.cause, LlmpqError):
                msg = f"{self._stage_text(number)}: {error.cause}"
                raise type(error.cause)(msg) from error
            if isinstance(error.cause, ConnectionError):
                raise self._connection_error(number, error.cause) from error
            raise

    def _connection_error(
        self, number: int, reason: ConnectionError
    ) -> WorkerFailedError:
        """Returns the error of a broken connection between two stages.

        Usually one of the two processes has ended; then the error says so.
        """
        deadline_s = time.perf_counter() + _REPORT_S
        while not self._monitor.failed and time.perf_counter() < deadline_s:
            check_interrupt()
            time.sleep(POLL_S)
        for failed, failure in self._monitor.failed.items():
            return StageFailedError(self.failure_text(failed, failure.how))
        what = f"{self._stage_text(number)}: {reason}"
        if not self._may_recover():
            return WorkerFailedError(f"{what}: {FAILURE_ADVICE}")
        return StageFailedError(what)
