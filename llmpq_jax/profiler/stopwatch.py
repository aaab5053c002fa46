"""How long a call takes, repeated until its median is steady, and whether that drifts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

import jax
import jax.numpy as jnp
import numpy as np

from llmpq_jax.stage.emulated_devices import JaxDevice

# Clocks tick in nanoseconds; nothing takes no time at all.
_MIN_S = 1e-9
_MAX_CALLS = 1000
# About as long as a stage of a pipeline waits while others work.
STAGE_PAUSE_S = 0.002
# After a pause, calls find threads asleep and caches cold for about this long.
WARM_UP_S = 0.005
_DRIFT_CHECKED_EVERY_S = 5.0
# Small enough to take a moment on a processor, large enough to keep its cores busy.
_DRIFT_WIDTH = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds of a repeated call.

    Attributes:
        seconds: Median, but at least half the distance between the quartiles: the
            difference of two calls may be smaller than its own noise.
        spread: Half the distance between the quartiles, divided by `seconds`.
        repeats: Number of samples taken.
    """

    seconds: float
    spread: float
    repeats: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopwatch:
    """Times calls that return when their work is done.

    After warm-up, a call is repeated until its spread is small or until the limit of
    repeats or of time is reached.

    Attributes:
        clock: Seconds from any start.
        sleep: Function that waits for a number of seconds.
        warm_ups: Minimum number of calls before the first sample: they compile, fill the
            processor's caches and wake threads.
        warm_up_s: Minimum seconds of warm-up.
        min_repeats: Minimum number of samples.
        max_repeats: Maximum number of samples.
        max_s: Seconds after which no further sample is taken.
        steady_spread: Spread that is small enough to stop.
        rounds: Number of rounds in which several calls take turns. A machine that is
            slow for some seconds shows no spread within a round.
        min_sample_s: Minimum seconds of a sample, which is the mean of as many calls as
            that takes. Where a processor is shared in time slices, as under the CPU
            quota of a container, most short calls fall between two slices, and their
            median would miss the wait.
    """

    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    warm_ups: int = 2
    warm_up_s: float = WARM_UP_S
    min_repeats: int = 7
    max_repeats: int = 100
    max_s: float = 0.3
    steady_spread: float = 0.05
    rounds: int = 8
    min_sample_s: float = 0.0

    def time_after_pauses(self, call: Callable[[], object], pause_s: float) -> Timing:
        """Times a call that follows a pause, in which threads have gone to sleep."""

        def paused() -> None:
            self.sleep(pause_s)
            call()

        return self.time(paused, baseline=lambda: self.sleep(pause_s))

    def time(
        self,
        call: Callable[[], object],
        *,
        baseline: Callable[[], object] | None = None,
    ) -> Timing:
        """Times a call, less the time of a baseline if there is one.

        Samples of both alternate, so that a machine that is slow for a while slows both.
        """
        return summary(self.samples(call, baseline=baseline))

    def samples(
        self,
        call: Callable[[], object],
        *,
        baseline: Callable[[], object] | None = None,
        num_rounds: int = 1,
    ) -> list[float]:
        """Takes the samples of one of several rounds of a call, as `time` does.

        Repeats and time are divided among the rounds.
        """

        def both() -> None:
            if baseline is not None:
                baseline()
            call()

        at_least = ceil(self.warm_ups / num_rounds)
        self.mean_s(both, for_s=self.warm_up_s, at_least=at_least)
        baseline_calls = self._calls_per_sample(baseline)
        num_calls = self._calls_per_sample(call)
        began_s = self.clock()
        samples: list[float] = []
        while True:
            baseline_s = self.once_s(baseline, baseline_calls) if baseline else 0.0
            samples.append(self.once_s(call, num_calls) - baseline_s)
            if len(samples) * num_rounds < self.min_repeats:
                continue
            if (
                summary(samples).spread <= self.steady_spread
                or len(samples) * num_rounds >= self.max_repeats
                or (self.clock() - began_s) * num_rounds >= self.max_s
            ):
                return samples

    def _calls_per_sample(self, call: Callable[[], object] | None) -> int:
        """Counts calls until a sample's time is full; the number holds for all samples."""
        if call is None or self.min_sample_s == 0:
            return 1
        started_s, count = self.clock(), 0
        while True:
            call()
            count += 1
            passed_s = self.clock() - started_s
            if passed_s >= self.min_sample_s:
                return max(1, ceil(count * self.min_sample_s / passed_s))

    def once_s(self, call: Callable[[], object], count: int = 1) -> float:
        """Returns the mean seconds of a number of calls."""
        started_s = self.clock()
        for _ in range(count):
            call()
        return (self.clock() - started_s) / count

    def mean_s(
        self, call: Callable[[], object], *, for_s: float, at_least: int = 1
    ) -> float:
        """Returns the mean seconds of up to a thousand back-to-back calls; 0 without any.

        They are started within `for_s` seconds, but `at_least` some of them are made.
        """
        number, started_s = 0, self.clock()
        while number < at_least or (
            self.clock() - started_s < for_s and number < _MAX_CALLS
        ):
            call()
            number += 1
        return (self.clock() - started_s) / max(number, 1)


# A minute is enough for a small model; the smallest spread for a large one.
QUICK_STOPWATCH = Stopwatch(min_repeats=5, max_s=0.1, rounds=3)
FULL_STOPWATCH = Stopwatch(min_repeats=15, max_s=1.0, steady_spread=0.02)


def summary_of_rounds(rounds: list[list[float]]) -> Timing:
    """Returns the mean of the rounds' medians.

    A shared machine is slow for some seconds at a time, which is longer than a round, so
    the calls of one round agree. A batch takes longer than such a while, and as long as
    the mean over rounds says; the median over all calls would be that of the more
    frequent state.
    """
    first, third = np.percentile(np.concatenate(rounds), [25, 75]).tolist()
    medians = [summary(samples).seconds for samples in rounds]
    seconds = float(np.mean(medians))
    return Timing(
        seconds=seconds,
        spread=(third - first) / 2 / seconds,
        repeats=sum(map(len, rounds)),
    )


def summary(samples: list[float]) -> Timing:
    """Returns the median and spread of samples, see `Timing`."""
    first, median, third = np.percentile(samples, [25, 50, 75]).tolist()
    half_distance = (third - first) / 2
    seconds = max(median, half_distance, _MIN_S)
    return Timing(seconds=seconds, spread=half_distance / seconds, repeats=len(samples))


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
        if self.stopwatch.clock() - self._checked_s < _DRIFT_CHECKED_EVERY_S:
            return
        ratio = self.stopwatch.time(self.call).seconds / self._first_s
        self.slowest = max(self.slowest, ratio)
        self.fastest = min(self.fastest, ratio)
        self._checked_s = self.stopwatch.clock()


def square_product(device: JaxDevice) -> Callable[[], object]:
    """Returns a call that multiplies a matrix by itself on a device."""
    matrix = jax.device_put(jnp.ones((_DRIFT_WIDTH, _DRIFT_WIDTH), jnp.float32), device)
    multiply = jax.jit(lambda matrix: matrix @ matrix)
    return lambda: multiply(matrix).block_until_ready()
