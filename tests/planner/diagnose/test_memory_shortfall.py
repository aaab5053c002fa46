"""The least shortfall against every order, every cut and all bits."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations, product

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.diagnose.memory_shortfall import min_shortfall
from llmpq_jax.planner.instance.candidate import Candidate, evaluate
from tests.planner.random_instances import mesh_subproblem_lists, subproblem_lists


def min_by_enumeration(instance):
    """The least total over all orders, cuts and bits, in bytes."""
    num_layers = instance.num_layers
    found = [
        sum(
            _lack(instance, j, end - first, first == 0, end == num_layers)
            for j, first, end in stages
        )
        for num in range(1, min(instance.num_devices, num_layers) + 1)
        for devices in permutations(range(instance.num_devices), num)
        if instance.has_devices_for(devices)
        for inner in combinations(range(1, num_layers), num - 1)
        for stages in [
            [
                (j, first, end)
                for j, (first, end) in zip(
                    devices, pairwise((0, *inner, num_layers)), strict=True
                )
            ]
        ]
    ]
    return min(found, default=float("inf"))


def _lack(instance, j, num_layers, is_first, is_last):
    d = instance.devices
    if (is_first and not d.may_be_first[j]) or (is_last and not d.may_be_last[j]):
        return float("inf")
    served = [b for b in range(len(instance.bits)) if d.supported[j, b]]
    lacks = [float("inf")]
    for bits in product(served, repeat=num_layers):
        size = instance.buffer_bytes + num_layers * int(d.kv_bytes[j])
        size += sum(int(d.layer_bytes[j, b]) for b in bits)
        needs = [int(d.workspace_bytes[j, b]) for b in bits]
        if is_first:
            size += int(d.embedding_bytes[j])
            needs.append(int(d.embedding_workspace_bytes[j]))
        else:
            size += instance.received_bytes
        if is_last:
            size += int(d.head_bytes[j])
            needs.append(int(d.head_workspace_bytes[j]))
        lacks.append(max(0, size + max(needs) - int(d.allowed_bytes[j])))
    return min(lacks)


@given(st.one_of(subproblem_lists(), mesh_subproblem_lists()))
def test_no_order_lacks_less(subproblems):
    expected = min_by_enumeration(subproblems[0])
    stages = min_shortfall(subproblems[0])
    found = sum(s.lack_bytes for s in stages) if stages else float("inf")
    assert found == expected


@given(subproblem_lists())
def test_the_stages_are_a_plan_and_need_what_they_say(subproblems):
    instance = subproblems[0]
    stages = min_shortfall(instance)
    if stages is None:
        return
    candidate = Candidate(
        devices=tuple(stage.device for stage in stages),
        bits_indices=tuple(
            (instance.bits.index(stage.bits),) * stage.num_layers for stage in stages
        ),
    )
    assert sum(stage.num_layers for stage in stages) == instance.num_layers
    assert len(set(candidate.devices)) == len(stages)
    assert instance.has_devices_for(candidate.devices)
    assert instance.devices.may_be_first[candidate.devices[0]]
    assert instance.devices.may_be_last[candidate.devices[-1]]
    memory = evaluate(instance, candidate).memory_bytes
    assert memory == tuple(stage.terms.total for stage in stages)
    for stage, need in zip(stages, memory, strict=True):
        allowed = int(instance.devices.allowed_bytes[stage.device])
        assert stage.lack_bytes == max(0, need - allowed)
