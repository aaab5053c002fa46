"""Ablations of the planner: each omits one of the decisions that are made together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Literal

import numpy as np

from llmpq_jax.planner.instance.candidate import evaluate
from llmpq_jax.planner.instance.device_symmetry import device_types
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.branch_and_bound import search
from llmpq_jax.planner.search.search_result import Incumbent

Ablation = Literal[
    "phase-blind cut", "one bit width", "m_p = m_d", "all devices", "blocks of types"
]
# Longer than any plan takes, and small enough for HiGHS's tolerances.
_FORBIDDEN_S = 1e4


def ablated_plan(
    ablation: Ablation,
    subproblems: Sequence[Instance],
    *,
    time_limit_s: float,
    relative_gap: float,
) -> Incumbent | None:
    """Returns the best plan without one decision; None if there is no plan."""

    def best(subproblems: Sequence[Instance]) -> Incumbent | None:
        return best_plan(
            subproblems, time_limit_s=time_limit_s, relative_gap=relative_gap
        )

    if ablation == "phase-blind cut":
        # Plans with prefill proportional to decode, and then takes the true prefill.
        blind = [_phase_blind(instance) for instance in subproblems]
        found = best(blind)
        if found is None:
            return None
        number = next(
            n for n, instance in enumerate(blind) if instance is found.instance
        )
        return replace(found, instance=subproblems[number])
    if ablation == "one bit width":
        return _fastest(best(some) for some in _one_width(subproblems))
    if ablation == "m_p = m_d":
        return best(
            [c for c in subproblems if c.micro_batch.prefill == c.micro_batch.decode]
        )
    if ablation == "all devices":
        return best([_all_used(instance) for instance in subproblems])
    return _fastest(best(blocks) for blocks in _blocks(subproblems))


def best_plan(
    subproblems: Sequence[Instance], *, time_limit_s: float, relative_gap: float
) -> Incumbent | None:
    """Returns the best plan of all subproblems; None if there is none."""
    found = search(
        subproblems, time_limit_s=time_limit_s, relative_gap=relative_gap
    ).incumbent
    return found if found and latency_s(found) < _FORBIDDEN_S else None


def latency_s(found: Incumbent) -> float:
    """Returns the predicted seconds of a whole batch."""
    return evaluate(found.instance, found.candidate).seconds.latency_s


def _fastest(plans: Iterator[Incumbent | None]) -> Incumbent | None:
    return min((p for p in plans if p), key=latency_s, default=None)


def _all_used(instance: Instance) -> Instance:
    must_use = np.ones_like(instance.devices.must_use)
    return replace(instance, devices=replace(instance.devices, must_use=must_use))


def _phase_blind(instance: Instance) -> Instance:
    prefill_s, decode_s = instance.devices.layer_s
    is_supported = instance.devices.supported
    factor = prefill_s[is_supported].mean() / decode_s[is_supported].mean()
    return _with_layer_s(instance, np.stack([decode_s * factor, decode_s]))


def _with_layer_s(instance: Instance, layer_s: np.ndarray) -> Instance:
    return replace(instance, devices=replace(instance.devices, layer_s=layer_s))


def _one_width(subproblems: Sequence[Instance]) -> Iterator[list[Instance]]:
    for b in range(len(subproblems[0].bits)):
        others = [other for other in range(len(subproblems[0].bits)) if other != b]
        yield [_without(instance, others) for instance in subproblems]


def _without(instance: Instance, bits_indices: list[int]) -> Instance:
    layer_s = instance.devices.layer_s.copy()
    layer_s[..., bits_indices] = np.inf
    return _with_layer_s(instance, layer_s)


def _blocks(subproblems: Sequence[Instance]) -> Iterator[list[Instance]]:
    types = device_types(subproblems[0])
    type_of = {j: t for t, group in enumerate(types.members) for j in group}
    devices = range(subproblems[0].num_devices)
    for order in permutations(range(types.num_types)):
        node_device = [order.index(type_of[j]) for j in devices]
        is_back = np.array(
            [[node_device[j] > node_device[k] for k in devices] for j in devices]
        )
        yield [_without_hops(instance, is_back) for instance in subproblems]


def _without_hops(instance: Instance, is_forbidden: np.ndarray) -> Instance:
    prefill_s, decode_s = instance.hop_s
    prefill_s = np.where(is_forbidden, _FORBIDDEN_S, prefill_s)
    return replace(instance, hop_s=np.stack([prefill_s, decode_s]))
