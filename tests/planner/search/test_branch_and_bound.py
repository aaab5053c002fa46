"""Enumeration referees the search over all orders, and so does HiGHS in a fixed order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_jax.planner.instance.candidate import evaluate, with_min_omega
from llmpq_jax.planner.search.branch_and_bound import search
from llmpq_jax.planner.search.node_mip.highs import solve
from llmpq_jax.planner.search.search_result import IncumbentStore, SearchSettings
from tests.planner.random_instances import (
    mesh_subproblem_lists,
    near_equal_subproblem_lists,
    pinned_subproblem_lists,
    subproblem_lists,
)
from tests.referees.enumeration import (
    best_by_enumeration,
    min_omega_by_enumeration,
)
from tests.referees.fixed_order import formulate
from tests.referees.fixed_order.extract import read_candidate

LONG_S = 60.0
EXACT = 1e-8

# The profile counts; the full one has to see at least 300 instances.
NUM_EXAMPLES = max(20, 3 * settings.default.max_examples // 2)  # pyright: ignore[reportOptionalMemberAccess]


def best(instances, **options):
    result = search(instances, time_limit_s=LONG_S, relative_gap=EXACT, **options)
    if result.incumbent is not None:
        assert result.is_complete
        # The cutoff is EXACT below the best plan, to the rounding of one product.
        assert result.gap <= EXACT * (1 + 1e-6)
    return result.incumbent.value if result.incumbent else None


def same(found, expected):
    return (found is None) == (expected is None) and (
        found is None or found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    )


@settings(max_examples=NUM_EXAMPLES)
@given(subproblem_lists())
def test_the_search_finds_what_enumeration_finds(instances):
    assert same(best(instances), best_by_enumeration(instances))


@settings(max_examples=NUM_EXAMPLES)
@given(near_equal_subproblem_lists(), st.sampled_from(["objective", "omega"]))
def test_with_nearly_equal_devices_it_finds_what_enumeration_finds(instances, goal):
    referee = {
        "objective": best_by_enumeration,
        "omega": min_omega_by_enumeration,
    }[goal]
    assert same(best(instances, goal=goal), referee(instances))


@given(subproblem_lists(), st.sampled_from([1, 3, 30]))
def test_branching_finds_what_enumeration_finds(instances, max_columns):
    settings = SearchSettings(max_columns=max_columns, rounds=2)
    assert same(best(instances, settings=settings), best_by_enumeration(instances))


@given(subproblem_lists(max_number=1, max_devices=4), st.data())
def test_between_one_micro_batch_and_a_full_pipeline_it_is_exact(instances, data):
    """1 < m_d < 2N − 1: the slowest stage decides some rounds, the passage others."""
    (drawn,) = instances
    if drawn.num_devices == 1:
        return
    num_decode = data.draw(st.integers(2, 2 * drawn.num_devices - 2))
    instance = in_rounds(drawn, num_decode)
    assert same(best([instance]), best_by_enumeration([instance]))


def in_rounds(instance, num_decode):
    """The same instance with 19 rounds of decode and seconds as the only objective."""
    num_micro_batches = (instance.num_micro_batches[0], num_decode)
    return replace(
        instance, num_micro_batches=num_micro_batches, new_tokens=20, theta=0.0
    )


@given(subproblem_lists())
def test_the_least_omega_is_enumerations(instances):
    assert same(best(instances, goal="omega"), min_omega_by_enumeration(instances))


@settings(max_examples=NUM_EXAMPLES)
@given(mesh_subproblem_lists())
def test_with_meshes_the_search_finds_what_enumeration_finds(instances):
    assert same(best(instances), best_by_enumeration(instances))


@given(mesh_subproblem_lists(max_number=1), st.data())
def test_meshes_in_rounds_that_neither_end_decides(instances, data):
    (drawn,) = instances
    instance = in_rounds(drawn, data.draw(st.integers(2, 4)))
    settings = SearchSettings(rounds=2)
    assert same(best([instance], settings=settings), best_by_enumeration([instance]))


@given(mesh_subproblem_lists())
def test_with_meshes_the_least_omega_is_enumerations(instances):
    assert same(best(instances, goal="omega"), min_omega_by_enumeration(instances))


@settings(max_examples=NUM_EXAMPLES)
@given(pinned_subproblem_lists())
def test_around_pins_the_search_finds_what_enumeration_finds(instances):
    assert same(best(instances), best_by_enumeration(instances))


@given(pinned_subproblem_lists())
def test_around_pins_the_least_omega_is_enumerations(instances):
    assert same(best(instances, goal="omega"), min_omega_by_enumeration(instances))


@given(subproblem_lists(max_number=1), st.randoms(use_true_random=False))
def test_the_order_of_the_devices_changes_no_objective(instances, random):
    (instance,) = instances
    order = list(range(instance.num_devices))
    random.shuffle(order)
    assert same(best([instance.with_devices(order)]), best([instance]))


@given(
    st.one_of(
        subproblem_lists(max_number=1),
        mesh_subproblem_lists(max_number=1),
        pinned_subproblem_lists(),
    )
)
def test_the_formulation_in_the_best_order_finds_no_better_plan(instances):
    """The fixed-order model has no multipliers, paths or columns."""
    instance = instances[0]
    result = search([instance], time_limit_s=LONG_S, relative_gap=EXACT)
    if result.incumbent is None:
        return
    used = list(result.incumbent.candidate.devices)
    idle = [j for j in range(instance.num_devices) if j not in used]
    ordered = instance.with_devices([*used, *idle])
    formulation = formulate(ordered)
    outcome = solve(formulation.model, time_limit_s=LONG_S, relative_gap=EXACT)
    assert outcome.status == "optimal"
    candidate = with_min_omega(ordered, read_candidate(formulation.model, ordered))
    found = evaluate(ordered, candidate).objective
    assert found == pytest.approx(result.incumbent.value, rel=1e-6, abs=1e-9)
    # Its own sum of seconds, which no evaluation has corrected.
    own = outcome.bound * formulation.unit
    assert own == pytest.approx(found, rel=1e-5, abs=1e-7)


@settings(max_examples=NUM_EXAMPLES)
@given(
    st.one_of(subproblem_lists(), near_equal_subproblem_lists()),
    st.integers(0, 300),
    st.sampled_from(["objective", "omega"]),
)
def test_wherever_the_time_ends_the_bound_holds(instances, num_checks, goal):
    referee = {
        "objective": best_by_enumeration,
        "omega": min_omega_by_enumeration,
    }[goal]
    left = iter(num_checks * [1.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IncumbentStore, "left_s", property(lambda _: next(left, -1.0)))
        result = search(instances, time_limit_s=60.0, relative_gap=EXACT, goal=goal)
    expected = referee(instances)
    assert expected is None or not result.is_infeasible
    if expected is not None:
        assert result.bound <= expected * (1 + 1e-9)
    if result.incumbent is not None:
        assert expected is not None
        assert result.incumbent.value >= expected * (1 - 1e-9)


@given(subproblem_lists(), st.sampled_from(["objective", "omega"]))
def test_without_time_nothing_is_claimed_that_is_not_proven(instances, goal):
    result = search(instances, time_limit_s=0.0, relative_gap=EXACT, goal=goal)
    expected = {
        "objective": best_by_enumeration,
        "omega": min_omega_by_enumeration,
    }[goal](instances)
    assert not result.was_interrupted
    assert expected is None or not result.is_infeasible
    if len(instances) == 1 and expected is not None and goal == "omega":
        assert result.incumbent is not None
    if result.incumbent is not None:
        assert expected is not None
        assert result.bound <= expected * (1 + 1e-9)
        assert result.incumbent.value >= expected * (1 - 1e-9)
