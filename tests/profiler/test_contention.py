"""How much devices do at once, on a clock that only their work moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.costmodel.pipeline_schedule import Host, pipeline_s
from llmpq_jax.profiler.contention import measure_capacity
from llmpq_jax.profiler.stopwatch import Stopwatch


class Devices:
    """Stages of which a share of the work is serial."""

    def __init__(self, num_stages, serial, work_s, hop_s=0.0):
        self.now_s, self.num_stages, self.work_s = 0.0, num_stages, work_s
        self.serial, self.hop_s = serial, hop_s

    def hop(self):
        self.now_s += self.hop_s

    def run_rounds(self, num_micro_batches, rounds):
        if num_micro_batches == 1:
            self.now_s += rounds * (self.num_stages - 1) * self.hop_s
        self.now_s += pipeline_s(
            stages_s=([0.0] * self.num_stages, [self.work_s] * self.num_stages),
            hops_s=([], []),
            num_micro_batches=(1, num_micro_batches),
            new_tokens=rounds + 1,
            hosts=[
                Host(
                    members=tuple(range(self.num_stages)),
                    prefill_serial=0.0,
                    decode_serial=self.serial,
                )
            ],
        ).decode_s

    def measured(self):
        stopwatch = Stopwatch(clock=lambda: self.now_s)
        return measure_capacity(self.run_rounds, self.hop, self.num_stages, stopwatch)


@given(
    st.integers(2, 5),
    st.floats(0.0, 1.0),
    st.floats(1e-4, 1.0),
    st.floats(0.0, 0.9),
)
def test_the_capacity_is_recovered_from_the_stages_seconds(
    num_stages, serial, work_s, hop
):
    capacity = num_stages / (1 + serial * (num_stages - 1))
    devices = Devices(num_stages, serial, work_s, hop * work_s)
    # The clock's own rounding.
    assert devices.measured() == pytest.approx(capacity, rel=1e-6)


@pytest.mark.parametrize(("factor", "clipped"), [(3.0, 1.0), (0.3, 2.0)])
def test_a_capacity_is_clipped_between_one_device_and_all_of_them(factor, clipped):
    devices = Devices(2, 0.5, 1e-3)

    def run_rounds(num_micro_batches, rounds):
        started_s = devices.now_s
        devices.run_rounds(num_micro_batches, rounds)
        if num_micro_batches > 1:
            devices.now_s = started_s + factor * (devices.now_s - started_s)

    stopwatch = Stopwatch(clock=lambda: devices.now_s)
    assert measure_capacity(run_rounds, devices.hop, 2, stopwatch) == clipped
