"""What a stage costs by itself, on a clock that only calls and pauses move."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.profiler.calls import time_visit


class Machine:
    """Two devices that need so long for each of these, and a driver for the way back."""

    def __init__(self, call_s, layer_s, waking_s, sending_s, back_s):
        self.now_s, self.call_s, self.layer_s = 0.0, call_s, layer_s
        self.waking_s, self.sending_s, self.back_s = waking_s, sending_s, back_s
        self.is_asleep = False

    def run(self, num_layers):
        self.now_s += self.call_s + num_layers * self.layer_s

    def turn(self):
        for _ in range(2):
            self.now_s += self.waking_s if self.is_asleep else 0.0
            self.run(1)
        self.now_s += self.sending_s + self.back_s
        self.is_asleep = False

    def sends(self):
        self.now_s += self.sending_s

    def sleep(self, seconds):
        self.now_s += seconds
        self.is_asleep = True


SECONDS = st.floats(1e-5, 1.0)


@given(st.integers(2, 4), SECONDS, SECONDS, SECONDS, SECONDS, SECONDS)
def test_a_visit_is_what_is_left_without_layers(
    num_stacked, call_s, layer_s, waking_s, sending_s, back_s
):
    machine = Machine(call_s, layer_s, waking_s, sending_s, back_s)
    at_once, visit = time_visit(
        lambda: machine.run(1),
        lambda: machine.run(num_stacked),
        num_stacked,
        machine.turn,
        machine.sends,
        lambda: machine.now_s,
        sleep=machine.sleep,
    )
    # The clock's own rounding, of a sum of 41 rounds of at most 30 seconds.
    assert at_once.seconds == pytest.approx(call_s, abs=1e-11)
    expected_s = call_s + waking_s + back_s / 2
    assert visit.seconds == pytest.approx(expected_s, abs=1e-11)
    assert visit.repeats == 41
