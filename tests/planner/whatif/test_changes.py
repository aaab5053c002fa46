"""Changes against the referee: more of anything is never slower, less never faster."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.whatif.changes import (
    with_memory,
    with_speed,
    without_device,
    without_memory_limit,
)
from tests.planner.random_instances import case_lists, mesh_case_lists
from tests.referees import enumeration as brute_force

SMALL = st.one_of(case_lists(max_layers=3), mesh_case_lists(max_layers=2))


def best(subproblems):
    found = brute_force.best_by_enumeration(
        [subproblem for subproblem in subproblems if subproblem]
    )
    return float("inf") if found is None else found


def members_of(data, instance):
    j = data.draw(st.integers(0, instance.num_devices - 1))
    return next((p.members for p in instance.device_groups if j in p.members), (j,))


@given(SMALL, st.data())
def test_some_memory_more_brings_no_more_than_all_and_no_memory_more_nothing(
    subproblems, data
):
    members = members_of(data, subproblems[0])
    extra = data.draw(st.integers(0, 4 << 20))
    before = best(subproblems)
    more = best([with_memory(subproblem, members, extra) for subproblem in subproblems])
    free = best(
        [without_memory_limit(subproblem, members) for subproblem in subproblems]
    )
    plenty = best(
        [with_memory(subproblem, members, 1 << 40) for subproblem in subproblems]
    )
    assert free <= more <= before
    assert free == plenty
    assert (
        best([with_memory(subproblem, members, 0) for subproblem in subproblems])
        == before
    )


@given(SMALL, st.data())
def test_a_limit_that_does_not_bind_is_worth_nothing(subproblems, data):
    members = members_of(data, subproblems[0])
    extra = data.draw(st.integers(0, 4 << 20))
    if best(
        [without_memory_limit(subproblem, members) for subproblem in subproblems]
    ) == best(subproblems):
        more = [with_memory(subproblem, members, extra) for subproblem in subproblems]
        assert best(more) == best(subproblems)


@given(SMALL, st.data(), st.floats(1.0, 3.0))
def test_speed_shortens_what_a_device_computes_and_nothing_else(
    subproblems, data, times
):
    members = members_of(data, subproblems[0])
    before = best(subproblems)
    assert (
        best([with_speed(subproblem, members, 1.0) for subproblem in subproblems])
        == before
    )
    faster = best(
        [with_speed(subproblem, members, times) for subproblem in subproblems]
    )
    assert faster <= before * (1 + 1e-12)
    # Not even all of the time is the device's.
    theta = subproblems[0].theta
    if theta == 0 and before < float("inf"):
        assert faster >= before / times * (1 - 1e-12)


@given(SMALL, st.data())
def test_without_a_device_a_plan_is_the_best_of_those_that_leave_it_idle(
    subproblems, data
):
    j = data.draw(st.integers(0, subproblems[0].num_devices - 1))
    left = [without_device(subproblem, j) for subproblem in subproblems]
    first = left[0]
    is_pooled = any(
        j in device_group.members for device_group in subproblems[0].device_groups
    )
    if is_pooled:
        widest = max(
            device_group.num_devices for device_group in subproblems[0].device_groups
        )
        assert (first is None) == (subproblems[0].width.min() >= widest)
        if first is None:
            return
        (pooled,), (fewer,) = subproblems[0].device_groups, first.device_groups
        assert fewer.num_devices == pooled.num_devices - 1
        assert all(first.width[list(fewer.members)] <= fewer.num_devices)
        if not subproblems[0].must_use.any():
            assert best(left) >= best(subproblems)
        return
    assert (first is None) == (subproblems[0].num_devices == 1)
    idle = []
    for subproblem in subproblems:
        must_use, allowed = subproblem.must_use.copy(), subproblem.allowed_bytes.copy()
        must_use[j], allowed[j] = False, -1
        idle.append(replace(subproblem, must_use=must_use, allowed_bytes=allowed))
    assert best(left) == pytest.approx(best(idle), rel=1e-12)
