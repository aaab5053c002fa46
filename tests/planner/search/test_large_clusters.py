"""If only a subset of the devices is searched, plans are plans and bounds are bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.instance.candidate import evaluate
from llmpq_jax.planner.search import large_clusters
from llmpq_jax.planner.search.branch_and_bound import search
from tests.planner.random_instances import mesh_subproblem_lists, subproblem_lists
from tests.referees.enumeration import best_by_enumeration


@given(
    st.one_of(subproblem_lists(), mesh_subproblem_lists()), st.sampled_from([2, 4, 6])
)
def test_plans_fit_and_no_plan_is_below_the_bound(instances, max_states):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_clusters, "MAX_STATES", max_states)
        result = search(instances, time_limit_s=60.0, relative_gap=1e-6)
    best = best_by_enumeration(instances)
    assert (result.incumbent is None) == (best is None)
    if best is not None:
        assert result.bound <= best * (1 + 1e-9)
    if result.incumbent is not None:
        assert best is not None
        assert result.incumbent.value >= best * (1 - 1e-9)
        again = evaluate(result.incumbent.instance, result.incumbent.candidate)
        assert again.fits
        assert again.objective == pytest.approx(result.incumbent.value, rel=1e-12)
        assert any(result.incumbent.instance is instance for instance in instances)
