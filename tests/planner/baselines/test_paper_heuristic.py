"""The heuristic keeps its rules: only trades, only better ones, and none left."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given

from llmpq_jax.planner.baselines.in_order import adabits
from llmpq_jax.planner.baselines.paper_heuristic import stage_loads_s, trades, transfer
from llmpq_jax.planner.instance.candidate import evaluate, with_min_omega
from tests.planner.random_instances import subproblem_lists


def bits_of(candidate):
    return Counter(b for own in candidate.bits_indices for b in own)


@given(subproblem_lists(max_number=1, max_layers=6))
def test_it_starts_from_adabits_and_ends_where_no_trade_improves(instances):
    instance = replace(instances[0], omega_budget=None)
    start, end = adabits(instance), transfer(instance)
    assert (start is None) == (end is None)
    if start is None or end is None:
        return
    before, after = evaluate(instance, start), evaluate(instance, end)
    assert after.fits
    assert after.objective <= before.objective
    assert bits_of(end) == bits_of(start)
    assert end.devices == start.devices
    straggler = int(np.argmax(stage_loads_s(instance, end)))
    for pioneer in range(len(end.devices)):
        if pioneer != straggler:
            for traded in trades(instance, end, straggler, pioneer):
                found = evaluate(instance, with_min_omega(instance, traded))
                assert not (found.fits and found.objective < after.objective)


@given(subproblem_lists(max_number=1, max_layers=6))
def test_a_trade_keeps_the_number_of_layers_at_each_precision(instances):
    instance = replace(instances[0], omega_budget=None)
    start = adabits(instance)
    if start is None:
        return
    for straggler in range(len(start.devices)):
        for pioneer in range(len(start.devices)):
            if straggler == pioneer:
                continue
            for traded in trades(instance, start, straggler, pioneer):
                assert bits_of(traded) == bits_of(start)
                assert all(traded.bits_indices)
                others = set(range(len(start.devices))) - {straggler, pioneer}
                for other in others:
                    # Which of its layers has which bits is decided afterwards.
                    assert sorted(traded.bits_indices[other]) == sorted(
                        start.bits_indices[other]
                    )
