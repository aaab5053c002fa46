"""How much devices do at once, on a clock that only their work moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.costmodel.pipeline_schedule import Host, pipeline_s
from llmpq_jax.profiler.contention import measured_capacity


class Devices:
    """Stages of which a share of the work goes one after the other."""

    def __init__(self, num_stages, serial, work_s, hop_s=0.0):
        self.now_s, self.num_stages, self.work_s = 0.0, num_stages, work_s
        self.serial, self.hop_s = serial, hop_s

    def hop(self):
        self.now_s += self.hop_s

    def go_round(self, num_micro_batches, rounds):
        if num_micro_batches == 1:
            self.now_s += rounds * (self.num_stages - 1) * self.hop_s
        self.now_s += pipeline_s(
            stages_prefill_s=[0.0] * self.num_stages,
            stages_decode_s=[self.work_s] * self.num_stages,
            hops_prefill_s=[],
            hops_decode_s=[],
            num_prefill=1,
            num_decode=num_micro_batches,
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
        return measured_capacity(
            self.go_round,
            self.hop,
            num_stages=self.num_stages,
            clock=lambda: self.now_s,
        )


@given(
    st.integers(2, 5),
    st.floats(0.0, 1.0),
    st.floats(1e-4, 1.0),
    st.floats(0.0, 0.9),
)
def test_the_capacity_is_found_whatever_stages_do(num_stages, serial, work_s, hop):
    capacity = num_stages / (1 + serial * (num_stages - 1))
    devices = Devices(num_stages, serial, work_s, hop * work_s)
    # The clock's own rounding.
    assert devices.measured() == pytest.approx(capacity, rel=1e-6)


@pytest.mark.parametrize(("factor", "held_at"), [(3.0, 1.0), (0.3, 2.0)])
def test_a_capacity_is_one_device_at_least_and_all_of_them_at_most(factor, held_at):
    devices = Devices(2, 0.5, 1e-3)

    def go_round(num_micro_batches, rounds):
        started_s = devices.now_s
        devices.go_round(num_micro_batches, rounds)
        if num_micro_batches > 1:
            devices.now_s = started_s + factor * (devices.now_s - started_s)

    found = measured_capacity(
        go_round,
        devices.hop,
        num_stages=2,
        clock=lambda: devices.now_s,
    )
    assert found == held_at
