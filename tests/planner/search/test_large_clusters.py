"""Where only part of the devices is searched, plans are plans and bounds are bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.instance.candidate import evaluate
from llmpq_jax.planner.search import large_clusters as many_devices
from llmpq_jax.planner.search.branch_and_bound import search
from tests.planner.random_instances import case_lists, mesh_case_lists
from tests.referees.enumeration import best_by_enumeration


@given(st.one_of(case_lists(), mesh_case_lists()), st.sampled_from([2, 4, 6]))
def test_plans_fit_and_no_plan_is_below_the_bound(instances, max_states):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(many_devices, "MAX_STATES", max_states)
        result = search(instances, time_limit_s=60.0, relative_gap=1e-6)
    best = best_by_enumeration(instances)
    assert (result.found is None) == (best is None)
    if best is not None:
        assert result.bound <= best * (1 + 1e-9)
    if result.found is not None:
        assert best is not None
        assert result.found.value >= best * (1 - 1e-9)
        again = evaluate(result.found.instance, result.found.candidate)
        assert again.fits
        assert again.objective == pytest.approx(result.found.value, rel=1e-12)
        assert any(result.found.instance is instance for instance in instances)
