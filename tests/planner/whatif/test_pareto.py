"""Each point of a sweep against a plan of its own, and subsets against all of them."""

from __future__ import annotations

import importlib
from dataclasses import replace
from itertools import combinations, pairwise

import pytest

from llmpq_jax.planner import plan
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import uniform_int8_omega
from llmpq_jax.planner.pins import LayerPin
from llmpq_jax.planner.search.search_result import SearchResult
from llmpq_jax.planner.whatif.pareto import Sweep
from llmpq_jax.planner.whatif.sweep_point import SweepPoint, front
from llmpq_jax.schema.workload import Workload
from tests.planner.requests import cluster, measurements, request

GAP = 1e-6
WORKLOAD = Workload(batch=6, prompt_length=48, new_tokens=16)


def sweep(*kinds, **changes):
    asked = replace(request(*kinds, **changes), workload=WORKLOAD)
    return Sweep(request=asked, time_limit_s=60.0, relative_gap=GAP)


def latency_s(asked):
    predicted = plan(asked, relative_gap=GAP).predicted
    assert predicted is not None
    return predicted.latency_s


def test_each_budget_has_the_plan_that_solve_finds():
    swept = sweep("fast", "slow", memory_mib=5)
    points = list(swept.points("quality", max_points=7))
    assert len(points) >= 4
    for point in points:
        asked = replace(swept.request, omega_budget=point.setting)
        assert point.latency_s == pytest.approx(latency_s(asked), rel=2 * GAP)
        assert point.omega <= point.setting * (1 + 1e-9)


def test_a_looser_budget_is_never_slower_and_the_ends_are_the_extremes():
    points = list(sweep("fast", "slow", memory_mib=5).points("quality", max_points=7))
    by_budget = sorted(points, key=lambda point: point.setting)
    found = [point.latency_s for point in by_budget]
    assert all(b <= a * (1 + 2 * GAP) for a, b in pairwise(found))
    assert points[0].latency_s == min(found)
    assert points[1].omega == min(point.omega for point in points)


def test_batches_are_powers_of_two_and_the_whole_one():
    swept = sweep("fast", "slow")
    points = list(swept.points("batch", max_points=20))
    assert sorted(point.setting for point in points) == [1, 2, 4, 6]
    assert {points[0].setting, points[1].setting} == {1, 6}
    budget = uniform_int8_omega(make_problem(swept.request))
    for point in points:
        workload = replace(WORKLOAD, batch=int(point.setting))
        asked = replace(swept.request, workload=workload, omega_budget=budget)
        assert point.latency_s == pytest.approx(latency_s(asked), rel=2 * GAP)
        assert point.throughput == pytest.approx(
            point.setting * WORKLOAD.new_tokens / point.latency_s
        )


@pytest.mark.parametrize("memory_mib", [3, 6])
def test_a_number_of_devices_has_the_best_subset_of_that_size(memory_mib):
    kinds = ("fast", "slow", "fast", "slow")
    swept = sweep(*kinds, memory_mib=memory_mib, num_layers=5)
    points = {p.setting: p for p in swept.points("devices", max_points=20)}
    budget = uniform_int8_omega(make_problem(swept.request))
    for number in range(1, len(kinds) + 1):
        found = []
        for chosen in combinations(range(len(kinds)), number):
            uses = tuple("any" if j in chosen else "never" for j in range(len(kinds)))
            room = cluster(*kinds, memory_mib=memory_mib, uses=uses)
            asked = replace(swept.request, cluster=room)
            one = Sweep(request=asked, time_limit_s=60.0, relative_gap=GAP)
            found.append(one.solve(asked, budget).latency_s)
        assert points[number].latency_s == pytest.approx(min(found), rel=2 * GAP)


def test_points_without_a_plan_have_no_strategy():
    points = list(sweep("fast", "slow", memory_mib=2).points("devices", max_points=9))
    assert [point.strategy for point in points] == [None, None]
    assert not any(point.ran_out_of_time for point in points)


def test_a_point_without_a_plan_in_time_is_not_one_without_a_plan():
    """Nor is a subset of its devices left out for that."""
    swept = sweep("fast", "slow", memory_mib=5, omega_budget=0.45)
    whole = [point.strategy for point in swept.points("devices", max_points=9)]
    hurried = replace(swept, time_limit_s=0.0)
    for point, found in zip(
        hurried.points("devices", max_points=9), whole, strict=True
    ):
        assert found is None or point.strategy or point.ran_out_of_time


def test_an_interrupted_point_is_the_last_one(monkeypatch):
    """The search keeps its plan; the sweep does not go on to the next budget."""
    module = importlib.import_module("llmpq_jax.planner.whatif.pareto")
    own_search, calls = module.search, []

    def interrupted(*args, **options) -> SearchResult:
        calls.append(options)
        result = own_search(*args, **options)
        return replace(result, was_interrupted=len(calls) == 3)

    monkeypatch.setattr(module, "search", interrupted)
    points = list(sweep("fast", "slow").points("batch", max_points=20))
    assert [point.was_interrupted for point in points] == [False, False, True]
    assert all(point.strategy is not None for point in points)


def test_the_front_leaves_out_what_another_one_beats():
    points = list(sweep("fast", "slow", memory_mib=64).points("devices", max_points=9))
    kept = front("devices", [*points, SweepPoint(setting=9, strategy=None)])
    assert kept
    for point in points:
        is_beaten = any(
            other.num_devices <= point.num_devices
            and other.latency_s <= point.latency_s
            for other in kept
        )
        assert is_beaten or point in kept


def test_pins_hold_at_every_point_and_leave_others_out():
    pin = LayerPin(first=1, end=3, device="node0/cpu:1")
    swept = sweep("fast", "fast", "slow", pins=(pin,), prefill=4)
    points = list(swept.points("batch", max_points=9))
    assert sorted(point.setting for point in points) == [4, 6]
    for point in [*points, *swept.points("devices", max_points=9)]:
        assert point.strategy is not None
        assert point.strategy.micro_batch.prefill == 4
        stage = next(s for s in point.strategy.stages if s.layers[1] > 1)
        assert stage.device == pin.device


def test_choices_of_the_whole_model_and_of_hops_are_made_at_each_point():
    free = {"head_bits": (16, 8), "kv_bits": (16, 8), "wire_bits": (16, 8)}
    measured = measurements(caches=(16, 8), tensor=(1, 2))
    swept = sweep("fast", "fast", measurements=measured, tensor=(1, 2), **free)
    fastest, least, *_ = swept.points("quality", max_points=3)
    assert least.strategy is not None
    assert least.omega == 0
    assert least.strategy.precision.head_bits == 16
    assert fastest.strategy is not None
    assert fastest.strategy.precision.head_bits == 8
    assert fastest.strategy.precision.kv_bits == 8
    assert fastest.latency_s == pytest.approx(
        latency_s(replace(swept.request, omega_budget=1e6)), rel=2 * GAP
    )
