"""The dispatch overhead of a stage, on a clock that only calls and pauses advance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.profiler.dispatch_overhead import time_dispatch
from llmpq_jax.profiler.stopwatch import Stopwatch


class Machine:
    """Two devices with fixed seconds for each term, and the return to the first one."""

    def __init__(self, call_s, layer_s, waking_s, sending_s, return_s):
        self.now_s, self.call_s, self.layer_s = 0.0, call_s, layer_s
        self.waking_s, self.sending_s, self.return_s = waking_s, sending_s, return_s
        self.is_asleep, self.woke_s = False, 0.0

    def run(self, num_layers):
        self.now_s += self.call_s + num_layers * self.layer_s

    def call(self, num_layers):
        """For 4 ms after a pause calls find threads asleep and caches cold."""
        if self.now_s - self.woke_s < 0.004:
            self.now_s += self.waking_s
        self.run(num_layers)

    def run_rounds(self, rounds, num_layers):
        """Each stage has waited for the other; the first round after a pause is slower."""
        if self.is_asleep:
            self.now_s += 10 * self.waking_s
        for _ in range(2 * rounds):
            self.now_s += self.waking_s
            self.run(num_layers)
        self.now_s += rounds * (self.sending_s + self.return_s)
        self.is_asleep = False

    def hop(self):
        self.now_s += self.sending_s

    def sleep(self, seconds):
        self.now_s += seconds
        self.is_asleep, self.woke_s = True, self.now_s


SECONDS = st.floats(1e-5, 1.0)


@given(st.integers(2, 4), SECONDS, SECONDS, SECONDS, SECONDS, SECONDS)
def test_the_overhead_is_what_a_call_takes_without_its_layers(
    num_stacked, call_s, layer_s, waking_s, sending_s, return_s
):
    machine = Machine(call_s, layer_s, waking_s, sending_s, return_s)
    back_to_back, in_pipeline = time_dispatch(
        lambda: machine.call(1),
        lambda: machine.call(num_stacked),
        num_stacked,
        lambda rounds: machine.run_rounds(rounds, num_stacked),
        machine.hop,
        Stopwatch(clock=lambda: machine.now_s, sleep=machine.sleep),
    )
    # The clock's own rounding, of a sum of 41 repeats of at most two minutes.
    assert back_to_back.seconds == pytest.approx(call_s, abs=1e-10)
    expected_s = call_s + waking_s + return_s / 2
    assert in_pipeline.seconds == pytest.approx(expected_s, abs=1e-10)
    assert 7 <= in_pipeline.repeats <= 41
