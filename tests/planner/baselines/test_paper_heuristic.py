"""The heuristic keeps its rules: only trades, only better ones, and none left."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given

from llmpq_jax.planner.baselines.adabits import adabits
from llmpq_jax.planner.baselines.paper_heuristic import stage_loads_s, trades, transfer
from llmpq_jax.planner.instance.candidate import evaluate, with_min_omega
from tests.planner.random_instances import case_lists


def bits_of(candidate):
    return Counter(b for columns in candidate.columns for b in columns)


@given(case_lists(max_cases=1, max_layers=6))
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


@given(case_lists(max_cases=1, max_layers=6))
def test_a_trade_loses_no_layer_and_makes_none(instances):
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
                assert all(traded.columns)
                others = set(range(len(start.devices))) - {straggler, pioneer}
                for other in others:
                    # Which of its layers has which bits is settled afterwards.
                    assert sorted(traded.columns[other]) == sorted(start.columns[other])
