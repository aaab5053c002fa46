"""Lesser planners: each gives up one of the decisions that are made together."""

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
# Longer than any plan takes, and near enough to seconds for HiGHS.
_FORBIDDEN_S = 1e4


def lesser_plan(
    ablation: Ablation,
    cases: Sequence[Instance],
    *,
    time_limit_s: float,
    relative_gap: float,
) -> Incumbent | None:
    """Returns the best plan without one decision, as its own cases see it; or nothing."""

    def best(cases: Sequence[Instance]) -> Incumbent | None:
        return best_plan(cases, time_limit_s=time_limit_s, relative_gap=relative_gap)

    if ablation == "phase-blind cut":
        # Plans with prefill as fast on every device as its decode says, then sees it.
        blind = [_phase_blind(case) for case in cases]
        found = best(blind)
        if found is None:
            return None
        number = next(n for n, case in enumerate(blind) if case is found.instance)
        return replace(found, instance=cases[number])
    if ablation == "one bit width":
        return _fastest(best(some) for some in _one_width(cases))
    if ablation == "m_p = m_d":
        return best([c for c in cases if c.micro_batch.prefill == c.micro_batch.decode])
    if ablation == "all devices":
        return best([replace(c, must_use=np.ones_like(c.must_use)) for c in cases])
    return _fastest(best(blocks) for blocks in _blocks(cases))


def best_plan(
    cases: Sequence[Instance], *, time_limit_s: float, relative_gap: float
) -> Incumbent | None:
    """Returns the best plan of all cases, if there is any."""
    found = search(cases, time_limit_s=time_limit_s, relative_gap=relative_gap).found
    return found if found and latency_s(found) < _FORBIDDEN_S else None


def latency_s(found: Incumbent) -> float:
    """Returns the predicted seconds of a whole batch."""
    return evaluate(found.instance, found.candidate).seconds.latency_s


def _fastest(plans: Iterator[Incumbent | None]) -> Incumbent | None:
    return min((p for p in plans if p), key=latency_s, default=None)


def _phase_blind(case: Instance) -> Instance:
    is_there = case.supported
    factor = (
        case.layer_prefill_s[is_there].mean() / case.layer_decode_s[is_there].mean()
    )
    return replace(case, layer_prefill_s=case.layer_decode_s * factor)


def _one_width(cases: Sequence[Instance]) -> Iterator[list[Instance]]:
    for b in range(len(cases[0].bits)):
        others = [column for column in range(len(cases[0].bits)) if column != b]
        yield [_without(case, others) for case in cases]


def _without(case: Instance, columns: list[int]) -> Instance:
    prefill_s, decode_s = case.layer_prefill_s.copy(), case.layer_decode_s.copy()
    prefill_s[:, columns] = decode_s[:, columns] = np.inf
    return replace(case, layer_prefill_s=prefill_s, layer_decode_s=decode_s)


def _blocks(cases: Sequence[Instance]) -> Iterator[list[Instance]]:
    types = device_types(cases[0])
    type_of = {j: t for t, group in enumerate(types.members) for j in group}
    devices = range(cases[0].num_devices)
    for order in permutations(range(types.num_types)):
        node_device = [order.index(type_of[j]) for j in devices]
        is_back = np.array(
            [[node_device[j] > node_device[k] for k in devices] for j in devices]
        )
        yield [
            replace(
                case, hop_prefill_s=np.where(is_back, _FORBIDDEN_S, case.hop_prefill_s)
            )
            for case in cases
        ]
