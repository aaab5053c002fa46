"""What a stage costs by itself, on a clock that only calls and pauses move."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.profiler.calls import time_after_pause


class Sleeper:
    """A device that needs so long to wake up after a pause."""

    def __init__(self, work_s, waking_s):
        self.now_s, self.work_s, self.waking_s = 0.0, work_s, waking_s
        self.is_asleep = True

    def call(self):
        self.now_s += self.work_s + (self.waking_s if self.is_asleep else 0.0)
        self.is_asleep = False

    def sleep(self, seconds):
        self.now_s += seconds
        self.is_asleep = True


@given(st.floats(1e-5, 1.0), st.floats(1e-5, 1.0))
def test_a_call_is_what_waking_up_takes(work_s, waking_s):
    device = Sleeper(work_s, waking_s)
    timing = time_after_pause(device.call, lambda: device.now_s, sleep=device.sleep)
    # The clock's own rounding, of a sum of 41 rounds of at most 3 seconds.
    assert timing.seconds == pytest.approx(waking_s, abs=1e-12)
    assert timing.repeats == 41
