"""Plans around a plan keep their budgets, and each is worth its loss."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner import plan
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems
from llmpq_jax.planner.whatif import plans_around
from tests.planner.requests import request
from tests.referees.enumeration import best_by_enumeration


@given(st.sampled_from([None, 0.0, 0.02, 0.4]), st.integers(5, 12))
def test_more_loss_is_faster_up_to_the_fastest_of_all(budget, memory_mib):
    asked = request(
        "slow",
        "fast",
        num_layers=3,
        memory_mib=memory_mib,
        prefill=2,
        omega_budget=budget,
    )
    chosen = plan(asked, relative_gap=1e-6)
    found = plans_around(asked, chosen, time_limit_s=60.0)
    assert chosen in found
    assert len(found) <= 4
    for less, more in pairwise(found):
        assert more is chosen or less is chosen or losses(less) < losses(more)
        assert more is chosen or seconds(more) < seconds(less)
    fastest = best_by_enumeration(
        all_subproblems(make_problem(asked), omega_budget=None)
    )
    assert fastest is not None
    # Within the gap of its search, and what is not worth a row.
    assert min(map(seconds, found)) <= fastest * 1.02


def losses(strategy):
    return strategy.quality.omega


def seconds(strategy):
    return strategy.predicted.latency_s


def test_without_time_there_is_the_plan_alone():
    asked = request("slow", "fast", num_layers=3, prefill=2)
    chosen = plan(asked)
    assert plans_around(asked, chosen, time_limit_s=0.0) == (chosen,)
