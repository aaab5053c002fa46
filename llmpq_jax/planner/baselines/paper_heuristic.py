"""The paper's bit-width transfer: from adabits, layers leave the straggler by trades.

A trade takes k layers at q bits from the straggler, the stage with the most work, and
gives it one layer at p bits of another stage, the pioneer, where k·q = p, so that the
bytes of weights on both stay the same; or it simply moves one layer. Corrected against the
paper's code: precisions are traded as a multiset, so that the number of layers stays the
same; the number of layers that change sides is k − 1 in a trade and 1 in a move; and moves
of 16-bit layers are among them. Of all trades with the least loaded pioneer that improves
the objective, the best is taken, until none improves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from llmpq_jax.planner.baselines.in_order import adabits
from llmpq_jax.planner.instance.candidate import Candidate, evaluate, with_min_omega
from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.instance import Instance

# Bits given by the pioneer, bits taken from the straggler, and how many of those.
TRADES = ((16, 8, 2), (16, 4, 4), (8, 4, 2))


def transfer(instance: Instance) -> Candidate | None:
    """Improves the quality-only plan by trades; None if there is no such plan."""
    candidate = adabits(instance)
    if candidate is None:
        return None
    value = evaluate(instance, candidate).objective
    if not np.isfinite(value):
        return None
    while (better := _best_trade(instance, candidate, value)) is not None:
        candidate, value = better
    return candidate


def _best_trade(
    instance: Instance, candidate: Candidate, value: float
) -> tuple[Candidate, float] | None:
    loads = stage_loads_s(instance, candidate)
    straggler = int(np.argmax(loads))
    for pioneer in np.argsort(loads, kind="stable").tolist():
        if pioneer == straggler:
            continue
        best = None
        for traded in trades(instance, candidate, straggler, pioneer):
            assigned = with_min_omega(instance, traded)
            cost = evaluate(instance, assigned)
            limit = value if best is None else best[1]
            if cost.fits and cost.objective < limit:
                best = assigned, cost.objective
        if best is not None:
            return best
    return None


def stage_loads_s(instance: Instance, candidate: Candidate) -> list[float]:
    """Returns the work of each stage over the whole batch, in seconds."""
    m, rounds = instance.num_micro_batches, instance.num_rounds
    stages_s = evaluate(instance, candidate).stages_s
    return [
        m[PREFILL] * prefill_s + rounds[DECODE] * m[DECODE] * decode_s
        for prefill_s, decode_s in zip(*stages_s, strict=True)
    ]


def trades(
    instance: Instance, candidate: Candidate, straggler: int, pioneer: int
) -> Iterator[Candidate]:
    """Yields every trade between two stages."""
    held = [Counter(bits_indices) for bits_indices in candidate.bits_indices]
    index_of = {bits: b for b, bits in enumerate(instance.bits)}
    # Index and number of what is taken from the straggler, and index of what it is given.
    found: list[tuple[int, int, int | None]] = []
    if held[straggler].total() > 1:
        found += [(b, 1, None) for b in index_of.values() if held[straggler][b]]
    for p, q, num in TRADES:
        given, taken = index_of.get(p), index_of.get(q)
        if given is not None and taken is not None and held[pioneer][given]:
            found += [(taken, num, given)] if held[straggler][taken] >= num else []
    for taken, num, given in found:
        traded = [stage.copy() for stage in held]
        traded[straggler][taken] -= num
        traded[pioneer][taken] += num
        if given is not None:
            traded[pioneer][given] -= 1
            traded[straggler][given] += 1
        yield Candidate(
            devices=candidate.devices,
            bits_indices=tuple(tuple(sorted(stage.elements())) for stage in traded),
        )
