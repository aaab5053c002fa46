"""Closed forms, relaxations and Lagrangian values bound what enumeration finds."""

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
    mesh_subproblem_lists,
    pinned_subproblem_lists,
    subproblem_lists,
)
from tests.referees.enumeration import feasible_plans

# Sums of the same numbers in another order.
ROUNDING = 1e-12


def table_of(instance):
    counts = layer_counts(instance.allowed_omega, max_length=max_stage_layers(instance))
    return stage_table(instance, counts)


@given(
    st.one_of(
        subproblem_lists(max_layers=3),
        mesh_subproblem_lists(),
        pinned_subproblem_lists(),
    )
)
def test_no_plan_is_below_the_bounds(instances):
    for instance in instances:
        closed = objective_bound(instance)
        relaxed, _ = relax(table_of(instance))
        assert relaxed >= closed
        min_omega = omega_bound(instance)
        for objective, omega in feasible_plans(instance):
            assert objective >= max(closed, relaxed)
            assert omega >= min_omega


@given(
    subproblem_lists(max_layers=3, max_number=1),
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
    relaxed, _ = relax(table_of(instance))
    for objective, _ in feasible_plans(instance):
        assert objective >= relaxed


@given(
    st.one_of(
        subproblem_lists(max_layers=3, max_number=1),
        mesh_subproblem_lists(max_number=1),
    ),
    st.integers(0, 2**32 - 1),
)
def test_no_plan_is_below_the_lagrangian_bound_of_any_multipliers(instances, seed):
    (instance,) = instances
    rng = np.random.default_rng(seed)
    table = table_of(instance)
    num_groups, num_hosts = table.types.num_groups, len(instance.hosts)
    multipliers = Multipliers(
        slowest=np.stack(
            [rng.normal(1.0, 1.0, num_groups), rng.normal(10.0, 20.0, num_groups)]
        ),
        hosts=rng.normal(0.3, 0.5, (2, num_hosts)),
        empty_round=float(rng.normal(0.5, 0.5)),
        omega=float(rng.normal(1.0, 1.0)),
    )
    path = ShortestPath(table, NodeBounds()).cheapest(
        lagrangian_weights(table, multipliers)
    )
    best = min((objective for objective, _ in feasible_plans(instance)), default=None)
    if best is not None:
        assert path is not None
        assert path.lagrangian_value <= best * (1 + ROUNDING) + ROUNDING
