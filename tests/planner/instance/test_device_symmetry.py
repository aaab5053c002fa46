"""Devices are of one type exactly where swapping them changes nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given

from llmpq_jax.planner.instance.device_numbers import axes_of
from llmpq_jax.planner.instance.device_symmetry import device_types
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems
from llmpq_jax.schema.cluster import Cluster, Device, Link, Node
from tests.planner.random_instances import subproblem_lists
from tests.planner.requests import MIB, cluster, request


def types_of(asked):
    instance = all_subproblems(make_problem(asked), omega_budget=None)[0]
    return device_types(instance)


@given(subproblem_lists(max_number=1))
def test_devices_that_differ_in_a_number_are_types_of_their_own(instances):
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
                assert np.array_equal(
                    getattr(other.devices, name), getattr(instance.devices, name)
                )
            assert other.hosts == instance.hosts
            is_hop = ~np.eye(instance.num_devices, dtype=bool)
            assert np.array_equal(other.hop_s[..., is_hop], instance.hop_s[..., is_hop])


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
