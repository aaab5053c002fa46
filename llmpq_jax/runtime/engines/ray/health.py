"""Notices actors that end or fall silent, and how far they have loaded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from llmpq_jax.runtime.engines.ray.actor import Heartbeat

_PERIOD_S = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """How an actor was lost.

    Attributes:
        how: In words that follow its name.
        is_silent: Whether its process may still be there.
    """

    how: str
    is_silent: bool = False


_ENDED = Loss(how="has ended")


class HealthMonitor:
    """Asks every actor for a sign of life, in a thread of its own.

    Ray tells of a process that ends, within a second; of a machine that no longer
    answers only after half a minute, of a process that is stopped never.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        *,
        heartbeat_timeout_s: float,
        on_layer: Callable[[], None],
    ) -> None:
        """Starts to watch.

        Args:
            actors: In pipeline order.
            heartbeat_timeout_s: An actor that has not answered for so long is lost.
            on_layer: Called as each layer is loaded for the first time.
        """
        self._actors = actors
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._on_layer = on_layer
        self._lock = threading.Lock()
        self._lost: dict[int, Loss] = {}
        self._pulses: dict[int, Heartbeat] = {}
        self._num_layers = [0] * len(actors)
        self._asked: dict[int, tuple[Any, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> dict[int, Loss]:
        """Stages that are lost, and how."""
        with self._lock:
            return dict(self._lost)

    def note_ended(self, number: int) -> Loss:
        """Takes it from whoever met an actor that has ended."""
        with self._lock:
            return self._lost.setdefault(number, _ENDED)

    def is_known(self, number: int, pulse: Heartbeat) -> bool:
        """Whether an answer is from the process that was watched before."""
        with self._lock:
            last = self._pulses.get(number)
        return last is not None and last.process == pulse.process

    def note_back(self, number: int, pulse: Heartbeat) -> None:
        """Watches a lost stage again, in the process that answered."""
        with self._lock:
            self._pulses[number] = pulse
            self._asked.pop(number, None)
            self._lost.pop(number, None)

    def note_layers(self, number: int, num_layers: int) -> None:
        """Tells of the layers of a stage that have not been told of."""
        with self._lock:
            told = self._num_layers[number]
            self._num_layers[number] = max(told, num_layers)
        for _ in range(told, num_layers):
            self._on_layer()

    def process(self, number: int) -> str:
        """Names a stage's process as far as it is known."""
        with self._lock:
            pulse = self._pulses.get(number)
        return "" if pulse is None else f" (process {pulse.pid})"

    def close(self) -> None:
        """Ends watching."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            calls = self._ask()
            if calls:
                # An answer takes milliseconds, a call that fails some more: both are
                # heard of when they come.
                ray.wait(calls, num_returns=len(calls), timeout=_PERIOD_S)
            for number in range(len(self._actors)):
                self._look(number)

    def _ask(self) -> list[Any]:
        """Asks whoever owes no answer; returns the calls that have none yet."""
        with self._lock:
            for number, actor in enumerate(self._actors):
                if number not in self._lost and number not in self._asked:
                    call = actor.pulse.remote()
                    self._asked[number] = (call, time.perf_counter())
            return [
                call
                for number, (call, _) in self._asked.items()
                if number not in self._lost
            ]

    def _look(self, number: int) -> None:
        with self._lock:
            if number in self._lost or number not in self._asked:
                return
            call, asked_s = self._asked[number]
        if not ray.wait([call], timeout=0)[0]:
            if time.perf_counter() - asked_s > self._heartbeat_timeout_s:
                how = f"has not answered for {self._heartbeat_timeout_s:g} s"
                self._lose(number, call, Loss(how=how, is_silent=True))
            return
        try:
            pulse: Any = ray.get(call)
        except RayError:
            self._lose(number, call, _ENDED)
            return
        with self._lock:
            if self._asked.get(number, (None,))[0] is not call:
                return
            del self._asked[number]
            known = self._pulses.setdefault(number, pulse)
        if known.process != pulse.process:
            # It ended, and Ray had started it anew before it was missed.
            self.note_ended(number)
        else:
            self.note_layers(number, pulse.num_layers)

    def _lose(self, number: int, call: Any, loss: Loss) -> None:
        """Takes a stage for lost, unless it came back while its call was looked at."""
        with self._lock:
            if self._asked.get(number, (None,))[0] is call:
                self._lost.setdefault(number, loss)
