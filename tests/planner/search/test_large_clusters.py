"""If only a subset of the devices is searched, plans are plans and bounds are bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.instance.candidate import evaluate
from llmpq_jax.planner.search import large_clusters
from llmpq_jax.planner.search.branch_and_bound import search
from tests.planner.random_instances import mesh_subproblem_lists, subproblem_lists
from tests.referees.enumeration import (
    best_by_enumeration,
    min_omega_by_enumeration,
)


@given(
    st.one_of(subproblem_lists(), mesh_subproblem_lists()), st.sampled_from([2, 4, 6])
)
def test_plans_fit_and_no_plan_is_below_the_bound(instances, max_states):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_clusters, "MAX_STATES", max_states)
        # Tables may grow no further.
        patch.setattr(large_clusters, "_MAX_TABLE_BYTES", 0)
        result = search(instances, time_limit_s=60.0, relative_gap=1e-6)
    best = best_by_enumeration(instances)
    assert best is None or not result.is_infeasible
    if best is not None:
        assert result.bound <= best * (1 + 1e-9)
    if result.incumbent is not None:
        assert best is not None
        assert result.incumbent.value >= best * (1 - 1e-9)
        again = evaluate(result.incumbent.instance, result.incumbent.candidate)
        assert again.fits
        assert again.objective == pytest.approx(result.incumbent.value, rel=1e-12)
        assert any(result.incumbent.instance is instance for instance in instances)


@given(
    st.one_of(subproblem_lists(), mesh_subproblem_lists()),
    st.sampled_from([2, 4, 6]),
    st.sampled_from(["objective", "omega"]),
)
def test_with_time_left_the_subset_grows_to_all_devices(instances, max_states, goal):
    referee = {
        "objective": best_by_enumeration,
        "omega": min_omega_by_enumeration,
    }[goal]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_clusters, "MAX_STATES", max_states)
        patch.setattr(large_clusters, "_GROWTH", 2)
        result = search(instances, time_limit_s=60.0, relative_gap=1e-6, goal=goal)
    best = referee(instances)
    assert result.is_complete
    assert result.is_infeasible == (best is None)
    if best is not None:
        assert result.incumbent is not None
        assert result.incumbent.value == pytest.approx(best, rel=2e-6, abs=1e-9)
        assert result.gap <= 1e-6 * (1 + 1e-6)


@given(subproblem_lists(max_number=1, min_devices=2))
def test_a_plan_that_is_known_is_never_lost(instances):
    known = search(instances, time_limit_s=60.0, relative_gap=1e-6).incumbent
    if known is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_clusters, "MAX_STATES", 2)
        patch.setattr(large_clusters, "_MAX_TABLE_BYTES", 0)
        result = search(
            instances,
            time_limit_s=60.0,
            relative_gap=1e-6,
            known=[(known.instance, known.candidate)],
        )
    assert result.incumbent is not None
    assert result.incumbent.value <= known.value
