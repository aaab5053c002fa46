"""Devices are of one type exactly where swapping them changes nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_jax.planner.instance.device_numbers import axes_of, take_devices
from llmpq_jax.planner.instance.device_symmetry import device_types, signatures
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems
from llmpq_jax.schema.cluster import Cluster, Device, Link, Node
from tests.planner.random_instances import (
    near_equal_subproblem_lists,
    subproblem_lists,
)
from tests.planner.requests import MIB, cluster, request
from tests.referees import enumeration

# The profile counts; one example takes milliseconds.
NUM_EXAMPLES = 10 * settings.default.max_examples  # pyright: ignore[reportOptionalMemberAccess]


def types_of(asked):
    instance = all_subproblems(make_problem(asked), omega_budget=None)[0]
    return device_types(instance)


INSTANCES = st.one_of(
    subproblem_lists(max_number=1), near_equal_subproblem_lists(max_number=1)
)


@given(INSTANCES)
def test_swapping_devices_of_a_type_changes_no_plan_and_no_cost(instances):
    (instance,) = instances
    types = device_types(instance)
    assert sorted(j for group in types.members for j in group) == list(
        range(instance.num_devices)
    )
    for group in types.members:
        for j in group[1:]:
            swapped = list(range(instance.num_devices))
            swapped[j], swapped[group[0]] = group[0], j
            other = instance.with_devices(swapped)
            for name in axes_of(type(instance.devices)):
                if name != "allowed_bytes":
                    assert np.array_equal(
                        getattr(other.devices, name), getattr(instance.devices, name)
                    )
            assert stages_that_fit(other) == stages_that_fit(instance)
            assert other.hosts == instance.hosts
            is_hop = ~np.eye(instance.num_devices, dtype=bool)
            assert np.array_equal(other.hop_s[..., is_hop], instance.hop_s[..., is_hop])


@settings(max_examples=NUM_EXAMPLES)
@given(INSTANCES, st.data())
def test_what_changes_what_fits_or_costs_changes_the_signature(instances, data):
    """Of any number of any device; and what the same stages fit keeps it."""
    (instance,) = instances
    numbers = axes_of(type(instance.devices))
    name = data.draw(st.sampled_from(sorted(numbers)))
    values = getattr(instance.devices, name).copy()
    entry = tuple(data.draw(st.integers(0, size - 1)) for size in values.shape)
    j = entry[numbers[name].index("J")]
    if values.dtype == bool:
        values[entry] = not values[entry]
    elif values.dtype == np.int64:
        change = data.draw(st.sampled_from([-MIB, -1000, -1, 1, 1000, MIB]))
        values[entry] = max(1, values[entry] + change)
    else:
        factor = data.draw(st.sampled_from([0.5, 1.0, 1 + 1e-9, np.inf]))
        values[entry] = factor if factor == np.inf else factor * values[entry]
    changed = replace(instance, devices=replace(instance.devices, **{name: values}))
    before, after = (of_device(each, j) for each in (instance, changed))
    # The changed device next to itself as it was, which a search would have to tell apart.
    both = next_to(instance, changed, j)
    first, second = signatures(both)
    if before != after:
        assert first != second
    elif name == "allowed_bytes":
        assert first == second


def next_to(instance, changed, j):
    """An instance of one device as it was and as it is."""
    one, other = (
        replace(each, hosts=(), device_groups=()).with_devices([j, j])
        for each in (instance, changed)
    )
    numbers = {
        name: np.concatenate(
            [
                take_devices(getattr(one.devices, name), axes, [0]),
                take_devices(getattr(other.devices, name), axes, [1]),
            ],
            axis=axes.index("J"),
        )
        for name, axes in axes_of(type(one.devices)).items()
    }
    return replace(one, devices=type(one.devices)(**numbers))


def of_device(instance, j):
    """What may be on a device, and what it costs there."""
    d = instance.devices
    costs = {
        name: take_devices(getattr(d, name), axes, [j]).tobytes()
        for name, axes in axes_of(type(d)).items()
        if name.endswith("_s") or name in {"width", "must_use"}
    }
    return costs, stages_that_fit(instance)[j]


def stages_that_fit(instance):
    """For each device, all stages that the referee has fit there."""
    num_layers, num_bits = instance.omega.shape
    return [
        {
            (first, bits)
            for first in range(num_layers)
            for length in range(1, num_layers - first + 1)
            for bits in product(range(num_bits), repeat=length)
            if instance.devices.supported[j, list(bits)].all()
            and (first > 0 or instance.devices.may_be_first[j])
            and (first + length < num_layers or instance.devices.may_be_last[j])
            and enumeration.stage_fits(instance, j, bits, first)
        }
        for j in range(instance.num_devices)
    ]


def test_a_kind_is_a_type_where_links_and_pins_agree():
    types = types_of(request("slow", "fast", "slow"))
    assert types.members == ((0, 2), (1,))
    assert types.group_sizes.tolist() == [2, 1]


def test_a_pin_makes_a_type_of_its_own():
    uses = ("any", "any", "always")
    pinned = cluster("slow", "slow", "slow", uses=uses)
    types = types_of(request("slow", cluster=pinned))
    assert types.members == ((0, 1), (2,))
    assert types.must_use.tolist() == [False, True]


def test_devices_of_a_kind_behind_another_link_are_another_type():
    """Two nodes with two devices each, joined slowly: all swaps change some hop."""
    nodes = tuple(
        Node(
            name=name,
            devices=tuple(
                Device(
                    name=f"cpu:{number}",
                    kind="slow",
                    platform="cpu",
                    memory_bytes=64 * MIB,
                )
                for number in range(2)
            ),
        )
        for name in ("near", "far")
    )
    link = Link(between=("near", "far"), bandwidth_bytes_per_s=1e6)
    room = Cluster(name="room", nodes=nodes, links=(link,))
    types = types_of(request("slow", cluster=room))
    assert types.members == ((0, 1), (2, 3))
    assert (types.hop_s[:, 0, 0, 1] > types.hop_s[:, 0, 0, 0]).all()
