"""The least shortage against HiGHS, which is asked in every order of the devices."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given

from llmpq_jax.solver.formulation import formulate
from llmpq_jax.solver.highs import solve
from llmpq_jax.solver.placement import Placement, evaluate
from llmpq_jax.solver.shortage import least_shortage
from tests.solver.random_instances import case_lists

# Of the objective's unit, the largest device: what HiGHS may leave of a constraint.
HIGHS_TOLERANCE = 1e-6


def least_by_highs(instance):
    """The least total over all orders, in bytes."""
    found = []
    for order in permutations(range(instance.num_devices)):
        formulation = formulate(instance.in_order(order), goal="shortage")
        outcome = solve(formulation.model, time_limit_s=60.0, relative_gap=0.0)
        if outcome.has_solution:
            model = formulation.model
            lack = sum(model.shortage[j].value for j in model.J)
            found.append((lack * formulation.unit, formulation.unit))
    return min(found, default=(None, 1.0))


@given(case_lists())
def test_no_order_lacks_less(cases):
    instance = replace(cases[0], omega_budget=None)
    expected, unit = least_by_highs(instance)
    stages = least_shortage(instance)
    if expected is None:
        assert stages is None
        return
    assert stages is not None
    found = sum(stage.lack_bytes for stage in stages)
    tolerance = HIGHS_TOLERANCE * unit * instance.num_devices
    assert found == pytest.approx(expected, abs=max(tolerance, 1.0), rel=1e-6)


@given(case_lists())
def test_the_stages_are_a_plan_and_need_what_they_say(cases):
    instance = cases[0]
    stages = least_shortage(instance)
    if stages is None:
        return
    placement = Placement(
        devices=tuple(stage.device for stage in stages),
        columns=tuple(
            (instance.bits.index(stage.bits),) * stage.num_layers for stage in stages
        ),
    )
    assert sum(stage.num_layers for stage in stages) == instance.num_layers
    assert len(set(placement.devices)) == len(stages)
    assert instance.has_devices_for(placement.devices)
    assert instance.may_be_first[placement.devices[0]]
    assert instance.may_be_last[placement.devices[-1]]
    memory = evaluate(instance, placement).memory_bytes
    assert memory == tuple(stage.terms.total for stage in stages)
    for stage, need in zip(stages, memory, strict=True):
        allowed = int(instance.allowed_bytes[stage.device])
        assert stage.lack_bytes == max(0, need - allowed)
