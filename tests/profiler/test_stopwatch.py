from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.profiler.stopwatch import Stopwatch


class Clock:
    def __init__(self):
        self.now_s = 0.0
        self.calls = 0

    def __call__(self):
        return self.now_s

    def call(self, durations):
        durations = iter(durations)

        def work():
            self.calls += 1
            self.now_s += next(durations)

        return work


@pytest.fixture
def clock():
    return Clock()


def test_a_steady_call_is_timed_no_more_often_than_it_must(clock):
    watch = Stopwatch(clock=clock, warm_ups=2, warm_up_s=0, min_repeats=5)
    timing = watch.time(clock.call(cycle([0.25])))
    assert (timing.seconds, timing.spread, timing.repeats) == (0.25, 0.0, 5)
    assert clock.calls == 7


def test_warm_ups_do_not_count(clock):
    watch = Stopwatch(clock=clock, warm_ups=2, warm_up_s=0, min_repeats=3)
    timing = watch.time(clock.call([100.0, 50.0, 1.0, 1.0, 1.0]))
    assert timing.seconds == 1.0


def test_warm_ups_take_a_minimum_time(clock):
    watch = Stopwatch(clock=clock, warm_ups=1, warm_up_s=0.005, min_repeats=3)
    # Five cold calls of a millisecond and a bit end the while.
    timing = watch.time(clock.call([0.00125] * 4 + [0.0005] * 3))
    assert timing.seconds == pytest.approx(0.0005)


def test_an_unsteady_call_is_repeated_until_its_quartiles_meet(clock):
    watch = Stopwatch(clock=clock, warm_ups=0, warm_up_s=0, min_repeats=4, max_s=1e9)
    timing = watch.time(clock.call([1.0, 2.0, 1.0, 2.0, *[1.5] * 100]))
    assert timing.repeats == 9
    assert timing.seconds == 1.5
    assert timing.spread <= watch.steady_spread


def test_median_and_spread_are_those_of_the_samples(clock):
    watch = Stopwatch(
        clock=clock, warm_ups=0, warm_up_s=0, min_repeats=5, max_repeats=5
    )
    timing = watch.time(clock.call([5.0, 1.0, 4.0, 2.0, 3.0]))
    assert timing.seconds == 3.0
    assert timing.spread == pytest.approx((4 - 2) / 2 / 3)


def test_a_call_that_never_settles_ends_with_its_repeats(clock):
    watch = Stopwatch(clock=clock, warm_ups=0, warm_up_s=0, max_repeats=20, max_s=1e9)
    assert watch.time(clock.call(cycle([1.0, 3.0]))).repeats == 20


def test_a_call_that_never_settles_ends_with_its_time(clock):
    watch = Stopwatch(clock=clock, warm_ups=0, warm_up_s=0, min_repeats=3, max_s=10.0)
    assert watch.time(clock.call(cycle([1.0, 3.0]))).repeats == 6


def test_a_baseline_is_subtracted_sample_by_sample(clock):
    watch = Stopwatch(clock=clock, warm_ups=1, warm_up_s=0, min_repeats=4)
    # Both slow down together; the difference does not.
    baseline = clock.call([0.5, 1.0, 2.0, 3.0, 4.0])
    timing = watch.time(clock.call([0.75, 1.25, 2.25, 3.25, 4.25]), baseline=baseline)
    assert timing.seconds == 0.25
    assert timing.spread == 0.0


def test_a_difference_is_no_smaller_than_its_noise(clock):
    watch = Stopwatch(
        clock=clock, warm_ups=0, warm_up_s=0, min_repeats=5, max_repeats=5
    )
    baseline = clock.call(cycle([10.0]))
    timing = watch.time(clock.call([8.0, 9.0, 10.0, 11.0, 12.0]), baseline=baseline)
    assert timing.seconds == 1.0
    assert timing.spread == 1.0


def test_nothing_takes_no_time_at_all(clock):
    watch = Stopwatch(clock=clock, warm_ups=0, warm_up_s=0, min_repeats=3)
    assert watch.time(clock.call(cycle([0.0]))).seconds > 0


@given(
    call_s=st.floats(1e-4, 0.05),
    share=st.floats(0.1, 1.0),
    period_s=st.sampled_from([0.005, 0.01, 0.1]),
)
def test_under_time_slices_the_mean_of_long_samples_includes_the_wait(
    call_s, share, period_s
):
    clock = Clock()
    worked_s = 0.0

    def work():
        # Time passes as for a process that works in the first part of each period.
        nonlocal worked_s
        worked_s += call_s
        slices, rest_s = divmod(worked_s, share * period_s)
        clock.now_s = slices * period_s + rest_s

    watch = Stopwatch(clock=clock, min_sample_s=20 * period_s)
    expected_s = call_s / share
    # A sample may hold one slice's wait more or less than its part of 20 or more.
    assert watch.time(work).seconds == pytest.approx(expected_s, rel=1 / 19)


def test_without_a_sample_time_each_call_is_a_sample(clock):
    watch = Stopwatch(clock=clock, warm_ups=0, warm_up_s=0, min_repeats=3)
    assert watch.time(clock.call(cycle([0.001]))).repeats == clock.calls == 3


def test_a_pause_is_not_counted_but_the_slowness_after_it_is():
    now_s, is_asleep = 0.0, False

    def call():
        nonlocal now_s, is_asleep
        now_s += 0.5 + 0.25 * is_asleep
        is_asleep = False

    def sleep(seconds):
        nonlocal now_s, is_asleep
        now_s += seconds
        is_asleep = True

    watch = Stopwatch(clock=lambda: now_s, sleep=sleep)
    assert watch.time_after_pauses(call, 2.0).seconds == 0.75
