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


def best(cases):
    found = brute_force.best_by_enumeration([case for case in cases if case])
    return float("inf") if found is None else found


def members_of(data, instance):
    j = data.draw(st.integers(0, instance.num_devices - 1))
    return next((p.members for p in instance.pools if j in p.members), (j,))


@given(SMALL, st.data())
def test_some_memory_more_brings_no_more_than_all_and_no_memory_more_nothing(
    cases, data
):
    members = members_of(data, cases[0])
    extra = data.draw(st.integers(0, 4 << 20))
    before = best(cases)
    more = best([with_memory(case, members, extra) for case in cases])
    free = best([without_memory_limit(case, members) for case in cases])
    plenty = best([with_memory(case, members, 1 << 40) for case in cases])
    assert free <= more <= before
    assert free == plenty
    assert best([with_memory(case, members, 0) for case in cases]) == before


@given(SMALL, st.data())
def test_a_limit_that_does_not_bind_is_worth_nothing(cases, data):
    members = members_of(data, cases[0])
    extra = data.draw(st.integers(0, 4 << 20))
    if best([without_memory_limit(case, members) for case in cases]) == best(cases):
        more = [with_memory(case, members, extra) for case in cases]
        assert best(more) == best(cases)


@given(SMALL, st.data(), st.floats(1.0, 3.0))
def test_speed_shortens_what_a_device_computes_and_nothing_else(cases, data, times):
    members = members_of(data, cases[0])
    before = best(cases)
    assert best([with_speed(case, members, 1.0) for case in cases]) == before
    faster = best([with_speed(case, members, times) for case in cases])
    assert faster <= before * (1 + 1e-12)
    # Not even all of the time is the device's.
    theta = cases[0].theta
    if theta == 0 and before < float("inf"):
        assert faster >= before / times * (1 - 1e-12)


@given(SMALL, st.data())
def test_without_a_device_a_plan_is_the_best_of_those_that_leave_it_idle(cases, data):
    j = data.draw(st.integers(0, cases[0].num_devices - 1))
    left = [without_device(case, j) for case in cases]
    first = left[0]
    is_pooled = any(j in pool.members for pool in cases[0].pools)
    if is_pooled:
        widest = max(pool.num_devices for pool in cases[0].pools)
        assert (first is None) == (cases[0].width.min() >= widest)
        if first is None:
            return
        (pooled,), (fewer,) = cases[0].pools, first.pools
        assert fewer.num_devices == pooled.num_devices - 1
        assert all(first.width[list(fewer.members)] <= fewer.num_devices)
        if not cases[0].must_use.any():
            assert best(left) >= best(cases)
        return
    assert (first is None) == (cases[0].num_devices == 1)
    idle = []
    for case in cases:
        must_use, allowed = case.must_use.copy(), case.allowed_bytes.copy()
        must_use[j], allowed[j] = False, -1
        idle.append(replace(case, must_use=must_use, allowed_bytes=allowed))
    assert best(left) == pytest.approx(best(idle), rel=1e-12)
