"""Whether there is a plan, against every plan of every subproblem; bisection, against counting."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.diagnose.feasible import has_plan, largest, smallest
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems
from llmpq_jax.planner.pins import BitsPin
from llmpq_jax.schema.workload import Workload
from tests.planner.requests import measurements, request
from tests.referees import enumeration

MEASURED = measurements(caches=(16, 8))


@given(
    st.sampled_from([3, 4, 5, 6]),
    st.sampled_from([None, 0.0, 0.004, 0.006, 0.05]),
    st.sampled_from([(16,), (8,), (16, 8)]),
    st.sampled_from([(16,), (8,), (16, 8)]),
    st.sampled_from([(), (BitsPin(first=0, end=2, bits=16),)]),
    st.sampled_from([None, 2]),
)
def test_the_smallest_subproblems_decide(
    memory_mib, budget, heads, caches, pins, prefill
):
    asked = request(
        *("fast", "slow"),
        num_layers=2,
        memory_mib=memory_mib,
        workload=Workload(batch=2, prompt_length=200, new_tokens=50),
        measurements=MEASURED,
        omega_budget=budget,
        head_bits=heads,
        kv_bits=caches,
        pins=pins,
        prefill=prefill,
    )
    subproblems = all_subproblems(make_problem(asked), omega_budget=budget)
    expected = enumeration.min_omega_by_enumeration(subproblems) is not None
    assert has_plan(asked) == expected


def test_what_was_not_measured_has_no_plan():
    asked = request("fast", measurements=measurements(kinds=("slow",)))
    assert not has_plan(asked)
    assert has_plan(replace(asked, measurements=measurements()))


NUMBERS = st.integers(0, 300)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_the_largest_that_fits_is_the_last_when_counting(lower, upper, limit):
    expected = max((n for n in range(lower, upper + 1) if n <= limit), default=None)
    assert largest(lower, upper, lambda n: n <= limit) == expected


@given(st.integers(1, 300), NUMBERS)
def test_the_smallest_that_fits_is_the_first_when_counting(upper, limit):
    expected = min((n for n in range(1, upper + 1) if n >= limit), default=None)
    assert smallest(upper, lambda n: n >= limit) == expected
