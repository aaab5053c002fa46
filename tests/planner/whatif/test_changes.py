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
from tests.planner.random_instances import mesh_subproblem_lists, subproblem_lists
from tests.referees import enumeration

SMALL = st.one_of(subproblem_lists(max_layers=3), mesh_subproblem_lists(max_layers=2))


def best(subproblems):
    found = enumeration.best_by_enumeration(
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
    more = best([with_memory(each, members, extra) for each in subproblems])
    free = best([without_memory_limit(each, members) for each in subproblems])
    plenty = best([with_memory(each, members, 1 << 40) for each in subproblems])
    assert free <= more <= before
    assert free == plenty
    assert best([with_memory(each, members, 0) for each in subproblems]) == before


@given(SMALL, st.data())
def test_a_limit_that_does_not_bind_is_worth_nothing(subproblems, data):
    members = members_of(data, subproblems[0])
    extra = data.draw(st.integers(0, 4 << 20))
    free = [without_memory_limit(each, members) for each in subproblems]
    if best(free) == best(subproblems):
        more = [with_memory(each, members, extra) for each in subproblems]
        assert best(more) == best(subproblems)


@given(SMALL, st.data(), st.floats(1.0, 3.0))
def test_speed_shortens_what_a_device_computes_and_nothing_else(
    subproblems, data, factor
):
    members = members_of(data, subproblems[0])
    before = best(subproblems)
    assert best([with_speed(each, members, 1.0) for each in subproblems]) == before
    faster = best([with_speed(each, members, factor) for each in subproblems])
    assert faster <= before * (1 + 1e-12)
    # At most all of the time is the device's.
    theta = subproblems[0].theta
    if theta == 0 and before < float("inf"):
        assert faster >= before / factor * (1 - 1e-12)


@given(SMALL, st.data())
def test_without_a_device_a_plan_is_the_best_of_those_that_leave_it_idle(
    subproblems, data
):
    whole = subproblems[0]
    j = data.draw(st.integers(0, whole.num_devices - 1))
    left = [without_device(each, j) for each in subproblems]
    first = left[0]
    if any(j in group.members for group in whole.device_groups):
        (group,) = whole.device_groups
        assert (first is None) == (whole.devices.width.min() >= group.num_devices)
        if first is None:
            return
        (fewer,) = first.device_groups
        assert fewer.num_devices == group.num_devices - 1
        assert all(first.devices.width[list(fewer.members)] <= fewer.num_devices)
        if not whole.devices.must_use.any():
            assert best(left) >= best(subproblems)
        return
    assert (first is None) == (whole.num_devices == 1)
    idle = []
    for each in subproblems:
        must_use = each.devices.must_use.copy()
        allowed = each.devices.allowed_bytes.copy()
        must_use[j], allowed[j] = False, -1
        devices = replace(each.devices, must_use=must_use, allowed_bytes=allowed)
        idle.append(replace(each, devices=devices))
    assert best(left) == pytest.approx(best(idle), rel=1e-12)
