"""The paper's bit-width transfer: from adabits, layers leave the straggler by trades.

A trade takes k layers at q bits from the straggler, the stage with the most work, and
gives it one layer at p bits of another stage, the pioneer, where k·q = p, so that the
bytes of weights on both stay what they are; or it simply moves one layer. Corrected
against the paper's code: precisions are traded as a multiset, so that no layer is lost or
made; the number of layers that change sides is k − 1 in a trade and 1 in a move; and moves
of 16-bit layers are among them. Of all trades with the least loaded pioneer that improves
the objective, the best is taken, until none improves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from llmpq_jax.planner.baselines.adabits import adabits
from llmpq_jax.planner.instance.candidate import Candidate, evaluate, with_min_omega
from llmpq_jax.planner.instance.instance import Instance

# Bits given by the pioneer, bits taken from the straggler, and how many of those.
TRADES = ((16, 8, 2), (16, 4, 4), (8, 4, 2))


def transfer(instance: Instance) -> Candidate | None:
    """Improves the quality-only plan by trades; nothing where there is none."""
    start = adabits(instance)
    if start is None or not np.isfinite(evaluate(instance, start).objective):
        return None
    candidate, value = start, evaluate(instance, start).objective
    while True:
        better = _best_trade(instance, candidate, value)
        if better is None:
            return candidate
        candidate, value = better


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
            dealt = with_min_omega(instance, traded)
            evaluation = evaluate(instance, dealt)
            least = value if best is None else best[1]
            if evaluation.fits and evaluation.objective < least:
                best = dealt, evaluation.objective
        if best is not None:
            return best
    return None


def stage_loads_s(instance: Instance, candidate: Candidate) -> list[float]:
    """Returns the work of each stage over the whole batch."""
    evaluation = evaluate(instance, candidate)
    steps = (instance.new_tokens - 1) * instance.num_decode
    return [
        instance.num_prefill * prefill + steps * decode
        for prefill, decode in zip(
            evaluation.prefill_s, evaluation.decode_s, strict=True
        )
    ]


def trades(
    instance: Instance, candidate: Candidate, straggler: int, pioneer: int
) -> Iterator[Candidate]:
    """Yields every trade between two stages."""
    held = [Counter(columns) for columns in candidate.columns]
    column_of = {bits: b for b, bits in enumerate(instance.bits)}
    for b in column_of.values():
        if held[straggler][b] and len(candidate.columns[straggler]) > 1:
            yield _traded(candidate, straggler, pioneer, taken=(b, 1), given=None)
    for p, q, num in TRADES:
        if p not in column_of or q not in column_of:
            continue
        given, taken = column_of[p], column_of[q]
        if held[pioneer][given] and held[straggler][taken] >= num:
            yield _traded(
                candidate, straggler, pioneer, taken=(taken, num), given=given
            )


def _traded(
    candidate: Candidate,
    straggler: int,
    pioneer: int,
    *,
    taken: tuple[int, int],
    given: int | None,
) -> Candidate:
    columns = [Counter(stage) for stage in candidate.columns]
    column, num = taken
    columns[straggler][column] -= num
    columns[pioneer][column] += num
    if given is not None:
        columns[pioneer][given] -= 1
        columns[straggler][given] += 1
    return Candidate(
        devices=candidate.devices,
        columns=tuple(tuple(sorted(stage.elements())) for stage in columns),
    )
