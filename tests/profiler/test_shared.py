"""How much devices do at once, on a clock that only their work moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.profiler.shared import measured_capacity


class Devices:
    """Stages on a processor that does so many devices' work at once."""

    def __init__(self, num_stages, capacity, work_s, visit_s=0.0):
        self.now_s, self.num_stages, self.work_s = 0.0, num_stages, work_s
        self.capacity, self.visit_s = capacity, visit_s

    def alone(self):
        self.now_s += self.work_s

    def go_round(self, num_micro_batches, rounds):
        visits = num_micro_batches * rounds * self.num_stages
        self.now_s += visits * (self.work_s + self.visit_s) / self.capacity

    def measured(self):
        return measured_capacity(
            self.alone,
            self.go_round,
            num_stages=self.num_stages,
            visit_s=self.visit_s,
            clock=lambda: self.now_s,
        )


@given(
    st.integers(2, 5),
    st.floats(0.0, 1.0),
    st.floats(1e-4, 1.0),
    st.floats(0.0, 1.0),
)
def test_the_capacity_is_found_whatever_stages_do(num_stages, share, work_s, visit_s):
    capacity = 1 + share * (num_stages - 1)
    devices = Devices(num_stages, capacity, work_s, visit_s)
    # The clock's own rounding.
    assert devices.measured() == pytest.approx(capacity, rel=1e-6)


@pytest.mark.parametrize(("does", "held_at"), [(0.5, 1.0), (3.0, 2.0)])
def test_a_capacity_is_one_device_at_least_and_all_of_them_at_most(does, held_at):
    assert Devices(2, does, 1e-3).measured() == held_at
