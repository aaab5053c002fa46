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
        return best(
            [replace(c, must_use=np.ones_like(c.must_use)) for c in subproblems]
        )
    return _fastest(best(blocks) for blocks in _blocks(subproblems))


def best_plan(
    subproblems: Sequence[Instance], *, time_limit_s: float, relative_gap: float
) -> Incumbent | None:
    """Returns the best plan of all subproblems; None if there is none."""
    found = search(
        subproblems, time_limit_s=time_limit_s, relative_gap=relative_gap
    ).found
    return found if found and latency_s(found) < _FORBIDDEN_S else None


def latency_s(found: Incumbent) -> float:
    """Returns the predicted seconds of a whole batch."""
    return evaluate(found.instance, found.candidate).seconds.latency_s


def _fastest(plans: Iterator[Incumbent | None]) -> Incumbent | None:
    return min((p for p in plans if p), key=latency_s, default=None)


def _phase_blind(instance: Instance) -> Instance:
    is_supported = instance.supported
    factor = (
        instance.layer_prefill_s[is_supported].mean()
        / instance.layer_decode_s[is_supported].mean()
    )
    return replace(instance, layer_prefill_s=instance.layer_decode_s * factor)


def _one_width(subproblems: Sequence[Instance]) -> Iterator[list[Instance]]:
    for b in range(len(subproblems[0].bits)):
        others = [column for column in range(len(subproblems[0].bits)) if column != b]
        yield [_without(instance, others) for instance in subproblems]


def _without(instance: Instance, columns: list[int]) -> Instance:
    prefill_s, decode_s = (
        instance.layer_prefill_s.copy(),
        instance.layer_decode_s.copy(),
    )
    prefill_s[:, columns] = decode_s[:, columns] = np.inf
    return replace(instance, layer_prefill_s=prefill_s, layer_decode_s=decode_s)


def _blocks(subproblems: Sequence[Instance]) -> Iterator[list[Instance]]:
    types = device_types(subproblems[0])
    type_of = {j: t for t, group in enumerate(types.members) for j in group}
    devices = range(subproblems[0].num_devices)
    for order in permutations(range(types.num_types)):
        node_device = [order.index(type_of[j]) for j in devices]
        is_back = np.array(
            [[node_device[j] > node_device[k] for k in devices] for j in devices]
        )
        yield [
            replace(
                instance,
                hop_prefill_s=np.where(is_back, _FORBIDDEN_S, instance.hop_prefill_s),
            )
            for instance in subproblems
        ]
