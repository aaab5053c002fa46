"""The cheapest pipeline under prices is the cheapest of all that can be listed."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import combinations, pairwise, permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.search.lagrangian import LagrangianWeights
from llmpq_jax.planner.search.layer_counts import layer_counts
from llmpq_jax.planner.search.shortest_path import NodeBounds, ShortestPath
from llmpq_jax.planner.search.stage_table import ROLES, max_stage_layers, stage_table
from tests.planner.random_instances import case_lists

CLOSE = 1e-9


def with_a_twin(instance):
    """The same numbers, but the first two devices are interchangeable."""
    changes = {}
    for field in fields(instance):
        value = getattr(instance, field.name)
        if isinstance(value, np.ndarray) and len(value) == instance.num_devices:
            changes[field.name] = value.copy()
            changes[field.name][0] = value[1]
    for name in ("hop_prefill_s", "hop_decode_s"):
        changes[name] = np.full_like(getattr(instance, name), 0.3)
    for name in ("omega", "may_hold", "may_have"):
        changes.pop(name, None)
    return replace(instance, hosts=(), **changes)


def priced_plans(instance, tables, weights, node_bounds):
    """Every pipeline within memory and box, with its price."""
    type_of = {j: t for t, group in enumerate(tables.types.members) for j in group}
    num_layers = instance.num_layers
    pinned = set(np.flatnonzero(instance.must_use))
    for num_used in range(1, min(instance.num_devices, num_layers) + 1):
        for devices in permutations(range(instance.num_devices), num_used):
            for inner in combinations(range(1, num_layers), num_used - 1):
                cuts = list(pairwise((0, *inner, num_layers)))
                for bits in product(range(len(instance.bits)), repeat=num_layers):
                    lagrangian_value = weights.constant + sum(
                        min(
                            weights.hop_prefill * instance.hop_prefill_s[o, j, k]
                            + weights.hop_decode * instance.hop_decode_s[o, j, k]
                            + weights.omega * instance.wire_omega[o]
                            for o in range(len(instance.wire_bits))
                        )
                        for j, k in pairwise(devices)
                    )
                    fits = pinned <= set(devices)
                    for j, (first, end) in zip(devices, cuts, strict=True):
                        ends = (first == 0, end == num_layers)
                        prefill, decode, size = stage(
                            instance, j, list(bits[first:end]), ends
                        )
                        fits &= np.isfinite(prefill + decode)
                        fits &= prefill <= node_bounds.max_prefill_s
                        fits &= decode <= node_bounds.max_decode_s
                        fits &= size <= instance.allowed_bytes[j]
                        t = type_of[j]
                        lagrangian_value += (
                            weights.prefill[t] * prefill + weights.decode[t] * decode
                        )
                    if fits:
                        omega = instance.omega[range(num_layers), bits].sum()
                        yield lagrangian_value + weights.omega * omega


def stage(instance, j, bits, ends):
    prefill = instance.dispatch_prefill_s[j]
    prefill += sum(instance.layer_prefill_s[j, b] for b in bits)
    decode = instance.dispatch_decode_s[j]
    if all(ends):
        decode = instance.whole_dispatch_decode_s[j]
    decode += sum(instance.layer_decode_s[j, b] for b in bits)
    size = sum(instance.layer_bytes[j, b] + instance.kv_bytes[j] for b in bits)
    size += instance.buffer_bytes + (0 if ends[0] else instance.received_bytes)
    workspace = max(instance.workspace_bytes[j, b] for b in bits)
    for is_there, part in zip(ends, ("embedding", "head"), strict=True):
        if is_there:
            prefill += getattr(instance, f"{part}_prefill_s")[j]
            decode += getattr(instance, f"{part}_decode_s")[j]
            size += getattr(instance, f"{part}_bytes")[j]
            need = getattr(instance, f"{part}_workspace_bytes")[j]
            workspace = max(workspace, need)
    return prefill, decode, size + workspace


@st.composite
def priced(draw):
    (instance,) = draw(case_lists(max_cases=1))
    if instance.num_devices > 1 and draw(st.booleans()):
        instance = with_a_twin(instance)
    counts = layer_counts(instance.allowed_omega, max_length=max_stage_layers(instance))
    tables = stage_table(instance, counts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_types = tables.types.num_types
    weights = LagrangianWeights(
        prefill=rng.random(num_types),
        decode=10 * rng.random(num_types),
        hop_prefill=float(rng.random()),
        hop_decode=float(rng.random()),
        omega=float(draw(st.sampled_from([0.0, 1.0]))),
        min_prefill_s=0.0,
        min_decode_s=0.0,
        constant=float(rng.random()),
    )
    node_bounds = NodeBounds()
    if draw(st.booleans()):
        node_bounds = NodeBounds(
            max_prefill_s=8.0 * rng.random(), max_decode_s=rng.random()
        )
        # Hops beyond the box are left out of the listing by having none.
        instance = replace(
            instance,
            hop_prefill_s=0 * instance.hop_prefill_s,
            hop_decode_s=0 * instance.hop_decode_s,
        )
        tables = stage_table(instance, counts)
        weights = replace(
            weights,
            prefill=rng.random(tables.types.num_types),
            decode=rng.random(tables.types.num_types),
        )
    return instance, tables, weights, node_bounds


@given(priced())
def test_the_cheapest_pipeline_is_the_cheapest_of_all(drawn):
    instance, tables, weights, node_bounds = drawn
    path = ShortestPath(tables, node_bounds).cheapest(weights)
    least = min(priced_plans(instance, tables, weights, node_bounds), default=None)
    assert (path is None) == (least is None)
    if path is not None:
        assert path.lagrangian_value == pytest.approx(least, rel=CLOSE, abs=CLOSE)
        lengths = [tables.counts.lengths[s.index] for s in path.stages]
        assert [s.first for s in path.stages] == [0, *np.cumsum(lengths)[:-1]]


@given(priced())
def test_the_price_through_a_stage_is_no_less_and_reached_on_the_cheapest(drawn):
    _, tables, weights, node_bounds = drawn
    finder = ShortestPath(tables, node_bounds)
    path = finder.cheapest(weights)
    found = finder.columns_below(weights, np.inf)
    through = {
        (role, t, int(first), int(index)): lagrangian_value
        for role in ROLES
        for t, rows in enumerate(found[role])
        for first, index, lagrangian_value in rows
    }
    if path is None:
        assert not through
        return
    assert min(through.values()) == pytest.approx(
        path.lagrangian_value, rel=CLOSE, abs=CLOSE
    )
    for s in path.stages:
        at = through[s.role, s.type, s.first, s.index]
        assert at == pytest.approx(path.lagrangian_value, rel=CLOSE, abs=CLOSE)
