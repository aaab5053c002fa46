"""The cheapest pipeline under weights is the cheapest of all that can be listed."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise, permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.instance.stage_bytes import ROLES
from llmpq_jax.planner.search.lagrangian import LagrangianWeights
from llmpq_jax.planner.search.layer_counts import layer_counts
from llmpq_jax.planner.search.shortest_path import NodeBounds, ShortestPath
from llmpq_jax.planner.search.stage_table import max_stage_layers, stage_table
from tests.planner.random_instances import subproblem_lists

CLOSE = 1e-9


def with_a_twin(instance):
    """The same numbers, but the first two devices are interchangeable."""
    order = [1, 1, *range(2, instance.num_devices)]
    devices = instance.devices.take(order)
    hop_s = np.full_like(instance.hop_s, 0.3)
    return replace(instance, devices=devices, hop_s=hop_s, hosts=())


def valued_plans(instance, table, weights, node_bounds):
    """Every pipeline within memory and bounds, with its Lagrangian value."""
    type_of = {j: t for t, group in enumerate(table.types.members) for j in group}
    num_layers = instance.num_layers
    pinned = set(np.flatnonzero(instance.devices.must_use))
    for num_used in range(1, min(instance.num_devices, num_layers) + 1):
        for devices in permutations(range(instance.num_devices), num_used):
            for inner in combinations(range(1, num_layers), num_used - 1):
                cuts = list(pairwise((0, *inner, num_layers)))
                for bits in product(range(len(instance.bits)), repeat=num_layers):
                    value = weights.constant + sum(
                        min(
                            float(weights.hop @ instance.hop_s[:, o, j, k])
                            + weights.omega * instance.wire_omega[o]
                            for o in range(len(instance.wire_bits))
                        )
                        for j, k in pairwise(devices)
                    )
                    fits = pinned <= set(devices)
                    for j, (first, end) in zip(devices, cuts, strict=True):
                        ends = (first == 0, end == num_layers)
                        seconds, size = stage(instance, j, list(bits[first:end]), ends)
                        fits &= np.isfinite(seconds).all()
                        fits &= (seconds <= node_bounds.max_s).all()
                        fits &= size <= instance.devices.allowed_bytes[j]
                        value += weights.stage[:, type_of[j]] @ seconds
                    if fits:
                        omega = instance.omega[range(num_layers), bits].sum()
                        yield value + weights.omega * omega


def stage(instance, j, bits, ends):
    """Seconds of both phases, and bytes."""
    d = instance.devices
    seconds = (d.whole_dispatch_s if all(ends) else d.dispatch_s)[:, j]
    seconds = seconds + d.layer_s[:, j, bits].sum(axis=1)
    size = sum(d.layer_bytes[j, b] + d.kv_bytes[j] for b in bits)
    size += instance.buffer_bytes + (0 if ends[0] else instance.received_bytes)
    workspace = max(d.workspace_bytes[j, b] for b in bits)
    for is_there, part in zip(ends, ("embedding", "head"), strict=True):
        if is_there:
            seconds = seconds + getattr(d, f"{part}_s")[:, j]
            size += getattr(d, f"{part}_bytes")[j]
            workspace = max(workspace, getattr(d, f"{part}_workspace_bytes")[j])
    return seconds, size + workspace


@st.composite
def weighted(draw):
    (instance,) = draw(subproblem_lists(max_number=1))
    if instance.num_devices > 1 and draw(st.booleans()):
        instance = with_a_twin(instance)
    counts = layer_counts(instance.allowed_omega, max_length=max_stage_layers(instance))
    table = stage_table(instance, counts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_types = table.types.num_types
    weights = LagrangianWeights(
        stage=rng.random((2, num_types)) * [[1.0], [10.0]],
        hop=rng.random(2),
        omega=float(draw(st.sampled_from([0.0, 1.0]))),
        min_slowest=np.zeros(2),
        constant=float(rng.random()),
    )
    node_bounds = NodeBounds()
    if draw(st.booleans()):
        node_bounds = NodeBounds(max_s=(8.0 * rng.random(), rng.random()))
        # Hops beyond the bounds are left out of the listing by having none.
        instance = replace(instance, hop_s=0 * instance.hop_s)
        table = stage_table(instance, counts)
        weights = replace(weights, stage=rng.random((2, table.types.num_types)))
    return instance, table, weights, node_bounds


@given(weighted())
def test_the_cheapest_pipeline_is_the_cheapest_of_all(drawn):
    instance, table, weights, node_bounds = drawn
    path = ShortestPath(table, node_bounds).cheapest(weights)
    best = min(valued_plans(instance, table, weights, node_bounds), default=None)
    assert (path is None) == (best is None)
    if path is not None:
        assert path.lagrangian_value == pytest.approx(best, rel=CLOSE, abs=CLOSE)
        lengths = [table.counts.lengths[s.index] for s in path.stages]
        assert [s.first for s in path.stages] == [0, *np.cumsum(lengths)[:-1]]


@given(weighted())
def test_the_value_through_a_stage_is_no_less_and_reached_on_the_cheapest(drawn):
    _, table, weights, node_bounds = drawn
    finder = ShortestPath(table, node_bounds)
    path = finder.cheapest(weights)
    found = finder.columns_below(weights, np.inf)
    through = {
        (role, t, int(first), int(index)): value
        for role in ROLES
        for t, columns in enumerate(found[role])
        for first, index, value in columns
    }
    if path is None:
        assert not through
        return
    assert min(through.values()) == pytest.approx(
        path.lagrangian_value, rel=CLOSE, abs=CLOSE
    )
    for s in path.stages:
        value = through[s.role, s.type, s.first, s.index]
        assert value == pytest.approx(path.lagrangian_value, rel=CLOSE, abs=CLOSE)
