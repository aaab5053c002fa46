"""Notices actors that end or fall silent, and how far they have loaded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

_PERIOD_S = 0.25


class Watch:
    """Asks every actor for a sign of life, in a thread of its own.

    Ray tells of a process that ends, within about two seconds; of a machine that no
    longer answers only after half a minute, of a process that is stopped never.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        *,
        silence_s: float,
        on_layer: Callable[[], None],
    ) -> None:
        """Starts to watch.

        Args:
            actors: In pipeline order.
            silence_s: An actor that has not answered for so long is lost.
            on_layer: Called as each layer is loaded.
        """
        self._actors = actors
        self._silence_s = silence_s
        self._on_layer = on_layer
        self._lost: dict[int, str] = {}
        self._num_layers = [0] * len(actors)
        self._asked: dict[int, tuple[Any, float]] = {}
        self._telling = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> dict[int, str]:
        """What is known of stages that are lost: number, and in words how."""
        return dict(self._lost)

    def note_layers(self, number: int, num_layers: int) -> None:
        """Tells of the layers of a stage that have not been told of."""
        with self._telling:
            for _ in range(self._num_layers[number], num_layers):
                self._on_layer()
            self._num_layers[number] = max(self._num_layers[number], num_layers)

    def close(self) -> None:
        """Ends watching."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            for number, actor in enumerate(self._actors):
                if number in self._lost:
                    continue
                if number not in self._asked:
                    self._asked[number] = (actor.pulse.remote(), time.perf_counter())
                self._look(number)

    def _look(self, number: int) -> None:
        answer, asked_s = self._asked[number]
        if ray.wait([answer], timeout=0)[0]:
            del self._asked[number]
            try:
                pulse: Any = ray.get(answer)
            except RayError:
                self._lost[number] = "its process ended"
                return
            self.note_layers(number, pulse.num_layers)
        elif time.perf_counter() - asked_s > self._silence_s:
            self._lost[number] = f"it has not answered for {self._silence_s:g} s"
