"""Plans for prompts of many lengths, and for rows that may end early."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.errors import InfeasibleError
from llmpq_jax.planner import plan
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems, uniform_int8_omega
from llmpq_jax.schema.workload import Workload, workload_of_lengths
from tests.planner.requests import request
from tests.referees.enumeration import best_by_enumeration

FIXED = Workload(batch=4, prompt_length=48, new_tokens=16)


def latency_s(strategy):
    assert strategy.predicted is not None
    return strategy.predicted.latency_s


@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 30)), min_size=2, max_size=9),
    st.integers(1, 4),
    st.sampled_from([None, 0.4]),
)
def test_the_plan_is_the_best_of_all_by_enumeration(lengths, batch, fraction):
    workload = workload_of_lengths(
        lengths, batch=batch, output_length_fraction=fraction
    )
    asked = request("fast", "slow", num_layers=3, workload=workload, memory_mib=8)
    problem = make_problem(asked)
    subproblems = all_subproblems(problem, omega_budget=uniform_int8_omega(problem))
    best = best_by_enumeration(subproblems)
    found = plan(asked, relative_gap=1e-6)
    assert found.certificate is not None
    assert found.certificate.objective == pytest.approx(best, rel=2e-6)
    assert found.workload == workload


def test_prompts_of_one_length_are_planned_as_a_fixed_batch():
    equal = workload_of_lengths([(48, 16)] * 4)
    fixed = plan(request("fast", "slow"))
    same = plan(request("fast", "slow", workload=equal))
    assert same.stages == fixed.stages
    assert same.predicted == fixed.predicted


def test_a_share_of_the_output_changes_time_and_no_memory():
    whole = plan(request("fast"))
    part = plan(request("fast", workload=replace(FIXED, output_length_fraction=0.25)))
    shorter = plan(request("fast", workload=replace(FIXED, new_tokens=4)))
    assert latency_s(part) < latency_s(whole)
    assert part.stages[0].predicted is not None
    assert whole.stages[0].predicted is not None
    assert shorter.stages[0].predicted is not None
    assert latency_s(part) == pytest.approx(latency_s(shorter), rel=0.2)
    pair = {"prefill": 1, "decode": 1}
    one, other = (
        plan(request("fast", workload=workload, **pair)).stages[0].predicted
        for workload in (FIXED, replace(FIXED, output_length_fraction=0.25))
    )
    assert one is not None
    assert other is not None
    assert one.memory_bytes == other.memory_bytes
    assert one.decode_s == other.decode_s


def test_memory_holds_the_longest_prompt_and_time_is_for_all():
    """One long prompt among short ones costs its memory, and little of its time."""
    short = workload_of_lengths([(40, 16)] * 16, batch=4)
    mixed = workload_of_lengths([*[(40, 16)] * 15, (900, 4)], batch=4)
    fixed = replace(FIXED, prompt_length=900, new_tokens=16)
    changes = {"prefill": 1, "decode": 4, "memory_mib": 40}
    plans = [
        plan(request("fast", workload=each, **changes))
        for each in (short, mixed, fixed)
    ]
    of_short, of_mixed, of_fixed = (each.stages[0].predicted for each in plans)
    assert of_short is not None
    assert of_mixed is not None
    assert of_fixed is not None
    assert of_short.memory_bytes < of_mixed.memory_bytes <= of_fixed.memory_bytes
    # Four batches like the fixed one would serve as many prompts.
    assert latency_s(plans[0]) < latency_s(plans[1]) < 4 * latency_s(plans[2])


def test_more_prompts_at_a_time_than_fit_are_refused_for_the_longest():
    long = workload_of_lengths([(900, 60)] + [(10, 4)] * 15)
    with pytest.raises(InfeasibleError, match="is short by"):
        plan(request("fast", memory_mib=12, workload=long))
