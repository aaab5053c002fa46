"""How long a call takes: repeated until its median is steady."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

# Clocks tick in nanoseconds; nothing takes no time at all.
_MIN_S = 1e-9
_MAX_CALLS = 1000
# About as long as a stage of a pipeline waits while others work.
STAGE_PAUSE_S = 0.002
# After a pause calls find threads asleep and caches cold for about as long.
WARM_UP_S = 0.005


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What repeated calls took.

    Attributes:
        seconds: Median, but no less than half the distance between the quartiles: a
            difference of two calls may be smaller than it can be told.
        spread: Half the distance between the quartiles, over `seconds`.
        repeats: Samples that were taken.
    """

    seconds: float
    spread: float
    repeats: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopwatch:
    """Times calls that return when their work is done.

    After warm-up a call is repeated until its spread is small, or until it has had its
    share of repeats or of time.

    Attributes:
        clock: Seconds from any start.
        sleep: Passes so many seconds.
        warm_ups: Calls before the first that counts, at least: they compile, fill caches
            of the processor and wake threads.
        warm_up_s: They go on until so many seconds have passed.
        min_repeats: Calls that count, at least.
        max_repeats: Calls that count, at most.
        max_s: No further call after so many seconds.
        steady_spread: A spread that is small enough.
        visits: Where several calls are to be timed, how often they take turns. A machine
            that is slow for some seconds shows no spread meanwhile.
        min_sample_s: A sample is the mean of as many calls as take this long. Where
            a processor is shared out in turns, as quotas of containers do, most short
            calls fall between two turns and their median knows nothing of the wait.
    """

    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    warm_ups: int = 2
    warm_up_s: float = WARM_UP_S
    min_repeats: int = 7
    max_repeats: int = 100
    max_s: float = 0.3
    steady_spread: float = 0.05
    visits: int = 8
    min_sample_s: float = 0.0

    def time_after_pauses(self, call: Callable[[], object], pause_s: float) -> Timing:
        """Times a call that follows a pause, in which threads have gone to sleep."""

        def paused() -> None:
            self.sleep(pause_s)
            call()

        return self.time(paused, less=lambda: self.sleep(pause_s))

    def time(
        self, call: Callable[[], object], *, less: Callable[[], object] | None = None
    ) -> Timing:
        """Times a call.

        Args:
            call: Returns when its work is done.
            less: A call whose time is taken off, sample by sample in turns, so that
                what slows the machine down for a while slows both down.
        """
        return summary(self.samples(call, less=less))

    def samples(
        self,
        call: Callable[[], object],
        *,
        less: Callable[[], object] | None = None,
        share: int = 1,
    ) -> list[float]:
        """Takes the samples of one visit to a call, as `time` does.

        Args:
            call: Returns when its work is done.
            less: See `time`.
            share: Visits that share repeats and time.
        """

        def both() -> None:
            if less is not None:
                less()
            call()

        at_least = ceil(self.warm_ups / share)
        mean_seconds(both, self.clock, at_least=at_least, for_s=self.warm_up_s)
        num_less, num_calls = self._calls_a_sample(less), self._calls_a_sample(call)
        began_s = self.clock()
        samples: list[float] = []
        while True:
            less_s = self._seconds(less, num_less)
            samples.append(self._seconds(call, num_calls) - less_s)
            if len(samples) * share < self.min_repeats:
                continue
            if (
                summary(samples).spread <= self.steady_spread
                or len(samples) * share >= self.max_repeats
                or (self.clock() - began_s) * share >= self.max_s
            ):
                return samples

    def _calls_a_sample(self, call: Callable[[], object] | None) -> int:
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

    def _seconds(self, call: Callable[[], object] | None, count: int) -> float:
        if call is None:
            return 0.0
        started_s = self.clock()
        for _ in range(count):
            call()
        return (self.clock() - started_s) / count


# A minute is enough for a small model; the smallest spread for a large one.
QUICK_STOPWATCH = Stopwatch(min_repeats=5, max_s=0.1, visits=3)
FULL_STOPWATCH = Stopwatch(min_repeats=15, max_s=1.0, steady_spread=0.02)


def mean_seconds(
    call: Callable[[], object],
    clock: Callable[[], float],
    *,
    for_s: float,
    at_least: int = 1,
) -> float:
    """Returns the mean of calls that follow one another at once; 0 of none.

    Args:
        call: Returns when its work is done.
        clock: Seconds from any start.
        for_s: As many as begin within so many seconds, up to a thousand.
        at_least: However long they take.
    """
    number, started_s = 0, clock()
    while number < at_least or (clock() - started_s < for_s and number < _MAX_CALLS):
        call()
        number += 1
    return (clock() - started_s) / max(number, 1)


def summary_of_rounds(visits: list[list[float]]) -> Timing:
    """Returns the mean of what visits at several times say, each by its median.

    A machine that is shared is slow for some seconds at a time. Calls of one visit, which
    lie within such a while, agree; a batch lasts longer and takes as long as the mean of
    them says, where the median of all would be that of the more frequent state.
    """
    first, third = np.percentile(np.concatenate(visits), [25, 75]).tolist()
    medians = [summary(samples).seconds for samples in visits]
    seconds = float(np.mean(medians))
    return Timing(
        seconds=seconds,
        spread=(third - first) / 2 / seconds,
        repeats=sum(map(len, visits)),
    )


def summary(samples: list[float]) -> Timing:
    """Returns the median, or what the quartiles leave in doubt where that is more."""
    first, median, third = np.percentile(samples, [25, 50, 75]).tolist()
    half_distance = (third - first) / 2
    seconds = max(median, half_distance, _MIN_S)
    return Timing(seconds=seconds, spread=half_distance / seconds, repeats=len(samples))
