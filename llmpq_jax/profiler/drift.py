"""Notices when a machine becomes slower or faster while it is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from llmpq_jax.profiler.stopwatch import Stopwatch
from llmpq_jax.stage.emulated_devices import JaxDevice

# Small enough to take a moment on a processor, large enough to keep its cores busy.
_WIDTH = 512
_EVERY_S = 5.0


@dataclass(kw_only=True, eq=False)
class DriftMonitor:
    """Times the same product every few seconds.

    Attributes:
        call: Function that returns when the product is computed.
        stopwatch: Timer of the call, whose clock also spaces the checks.
        slowest: Longest time so far, divided by the first.
        fastest: Shortest time so far, divided by the first.
    """

    call: Callable[[], object]
    stopwatch: Stopwatch
    slowest: float = 1.0
    fastest: float = 1.0
    _first_s: float = field(init=False)
    _checked_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._first_s = self.stopwatch.time(self.call).seconds
        self._checked_s = self.stopwatch.clock()

    def check(self) -> None:
        """Times the product again, unless the last time was a moment ago."""
        if self.stopwatch.clock() - self._checked_s < _EVERY_S:
            return
        ratio = self.stopwatch.time(self.call).seconds / self._first_s
        self.slowest = max(self.slowest, ratio)
        self.fastest = min(self.fastest, ratio)
        self._checked_s = self.stopwatch.clock()


def square_product(device: JaxDevice) -> Callable[[], object]:
    """Returns a call that multiplies a matrix by itself on a device."""
    matrix = jax.device_put(jnp.ones((_WIDTH, _WIDTH), jnp.float32), device)
    multiply = jax.jit(lambda matrix: matrix @ matrix)
    return lambda: multiply(matrix).block_until_ready()
