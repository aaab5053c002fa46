"""The health of actors: which have failed, and how far they have loaded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from llmpq_jax import __version__
from llmpq_jax.errors import StrategyError

DEFAULT_HEARTBEAT_TIMEOUT_S = 30.0
_PERIOD_S = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """An actor's answer to a health check.

    Attributes:
        process: Unique name of the actor's process.
        pid: Process id on its machine.
        clock_s: Current `time.perf_counter` of the process.
        num_layers: Number of layers loaded so far.
    """

    process: str
    pid: int
    clock_s: float
    num_layers: int


def check_version(version: str) -> None:
    """Refuses to work for an engine of another version of llmpq-jax.

    Raises:
        StrategyError: If this machine has another version.
    """
    if version != __version__:
        msg = f"llmpq-jax is {__version__} here and {version} where the run was started: expected the same version; install it here"
        raise StrategyError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerFailure:
    """How a worker failed.

    Attributes:
        how: Text that follows the worker's name in a message.
        is_unresponsive: Whether its process may still run.
    """

    how: str
    is_unresponsive: bool = False


_ENDED = WorkerFailure(how="has ended")


class HealthMonitor:
    """Asks every actor for heartbeats, in a thread of its own.

    Ray itself reports a process that has ended within a second, a machine that does not
    answer after half a minute, and a process that is stopped never.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        *,
        heartbeat_timeout_s: float,
        on_layer: Callable[[], None],
    ) -> None:
        """Starts the thread, which also calls `on_layer`; `close` ends it."""
        self._actors = actors
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._on_layer = on_layer
        self._lock = threading.Lock()
        self._failed: dict[int, WorkerFailure] = {}
        self._heartbeats: dict[int, Heartbeat] = {}
        self._num_layers = [0] * len(actors)
        # Unanswered calls by stage, each with the time when it was made.
        self._pending: dict[int, tuple[Any, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> dict[int, WorkerFailure]:
        """Failed stages, with their failures."""
        with self._lock:
            return dict(self._failed)

    def mark_ended(self, number: int) -> WorkerFailure:
        """Marks a stage as failed, after a call found that its process has ended."""
        with self._lock:
            return self._failed.setdefault(number, _ENDED)

    def is_same_process(self, number: int, heartbeat: Heartbeat) -> bool:
        """Whether a heartbeat is from the process that was monitored before."""
        with self._lock:
            last = self._heartbeats.get(number)
        return last is not None and last.process == heartbeat.process

    def mark_recovered(self, number: int, heartbeat: Heartbeat) -> None:
        """Monitors a failed stage again, in the process that sent a heartbeat."""
        with self._lock:
            self._heartbeats[number] = heartbeat
            self._pending.pop(number, None)
            self._failed.pop(number, None)

    def report_layers(self, number: int, num_layers: int) -> None:
        """Calls `on_layer` for each layer of a stage that it was not called for yet."""
        with self._lock:
            num_reported = self._num_layers[number]
            self._num_layers[number] = max(num_reported, num_layers)
        for _ in range(num_reported, num_layers):
            self._on_layer()

    def process_text(self, number: int) -> str:
        """Returns a stage's process for messages, an empty text if it is not known."""
        with self._lock:
            heartbeat = self._heartbeats.get(number)
        return "" if heartbeat is None else f" (process {heartbeat.pid})"

    def close(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            calls = self._call_all()
            if calls:
                # Answers take milliseconds, failing calls a little more; this returns as
                # soon as all are there.
                ray.wait(calls, num_returns=len(calls), timeout=_PERIOD_S)
            for number in range(len(self._actors)):
                self._check(number)

    def _call_all(self) -> list[Any]:
        """Calls each actor without a pending call; returns the pending calls."""
        with self._lock:
            for number, actor in enumerate(self._actors):
                if number not in self._failed and number not in self._pending:
                    call = actor.heartbeat.remote()
                    self._pending[number] = (call, time.perf_counter())
            return [
                call
                for number, (call, _) in self._pending.items()
                if number not in self._failed
            ]

    def _check(self, number: int) -> None:
        """Handles the answer of a stage, or the lack of one."""
        with self._lock:
            if number in self._failed or number not in self._pending:
                return
            call, called_s = self._pending[number]
        if not ray.wait([call], timeout=0)[0]:
            if time.perf_counter() - called_s > self._heartbeat_timeout_s:
                how = f"has not answered for {self._heartbeat_timeout_s:g} s"
                failure = WorkerFailure(how=how, is_unresponsive=True)
                self._mark_failed(number, call, failure)
            return
        try:
            heartbeat: Any = ray.get(call)
        except RayError:
            self._mark_failed(number, call, _ENDED)
            return
        with self._lock:
            if self._pending.get(number, (None,))[0] is not call:
                return
            del self._pending[number]
            last = self._heartbeats.setdefault(number, heartbeat)
        if last.process != heartbeat.process:
            # The process ended and Ray restarted it between two heartbeats.
            self.mark_ended(number)
        else:
            self.report_layers(number, heartbeat.num_layers)

    def _mark_failed(self, number: int, call: Any, failure: WorkerFailure) -> None:
        """Marks a stage as failed, unless it recovered while its call was checked."""
        with self._lock:
            if self._pending.get(number, (None,))[0] is call:
                self._failed.setdefault(number, failure)
