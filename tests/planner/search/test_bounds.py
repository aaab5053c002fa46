"""Closed forms, relaxations and prices bound what enumeration finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.costmodel.pipeline_schedule import Host
from llmpq_jax.planner.search.bounds import objective_bound, omega_bound
from llmpq_jax.planner.search.lagrangian import Multipliers, lagrangian_weights
from llmpq_jax.planner.search.layer_counts import layer_counts
from llmpq_jax.planner.search.relaxation import relax
from llmpq_jax.planner.search.shortest_path import NodeBounds, ShortestPath
from llmpq_jax.planner.search.stage_table import max_stage_layers, stage_table
from tests.planner.random_instances import (
    case_lists,
    mesh_case_lists,
    pinned_case_lists,
)
from tests.referees.enumeration import feasible_plans

# Sums of the same numbers in another order.
ROUNDING = 1e-12


def tables_of(instance):
    counts = layer_counts(instance.allowed_omega, max_length=max_stage_layers(instance))
    return stage_table(instance, counts)


@given(st.one_of(case_lists(max_layers=3), mesh_case_lists(), pinned_case_lists()))
def test_no_plan_is_below_the_bounds(instances):
    for instance in instances:
        least = objective_bound(instance)
        relaxed, _ = relax(tables_of(instance))
        assert relaxed >= least
        min_omega = omega_bound(instance)
        for objective, omega in feasible_plans(instance):
            assert objective >= max(least, relaxed)
            assert omega >= min_omega


@given(
    case_lists(max_layers=3, max_cases=1),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.data(),
)
def test_nor_where_some_or_all_devices_share_a_machine(
    instances, prefill, decode, data
):
    (drawn,) = instances
    sharing = data.draw(st.sets(st.integers(0, drawn.num_devices - 1), min_size=1))
    host = Host(
        members=tuple(sorted(sharing)), prefill_serial=prefill, decode_serial=decode
    )
    instance = replace(drawn, hosts=(host,))
    relaxed, _ = relax(tables_of(instance))
    for objective, _ in feasible_plans(instance):
        assert objective >= relaxed


@given(
    st.one_of(case_lists(max_layers=3, max_cases=1), mesh_case_lists(max_cases=1)),
    st.integers(0, 2**32 - 1),
)
def test_no_plan_is_below_its_price_whatever_the_multipliers(instances, seed):
    (instance,) = instances
    rng = np.random.default_rng(seed)
    tables = tables_of(instance)
    num_groups, num_hosts = tables.types.num_groups, len(instance.hosts)
    multipliers = Multipliers(
        slowest_prefill=rng.normal(1.0, 1.0, num_groups),
        slowest_decode=rng.normal(10.0, 20.0, num_groups),
        prefill_hosts=rng.normal(0.3, 0.5, num_hosts),
        decode_hosts=rng.normal(0.3, 0.5, num_hosts),
        empty_round=float(rng.normal(0.5, 0.5)),
        omega=float(rng.normal(1.0, 1.0)),
    )
    path = ShortestPath(tables, NodeBounds()).cheapest(
        lagrangian_weights(tables, multipliers)
    )
    least = min((objective for objective, _ in feasible_plans(instance)), default=None)
    if least is not None:
        assert path is not None
        assert path.lagrangian_value <= least * (1 + ROUNDING) + ROUNDING
