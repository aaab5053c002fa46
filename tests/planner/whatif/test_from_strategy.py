"""A strategy is read as the plan that it was written from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmpq_jax.errors import StrategyError
from llmpq_jax.planner import plan
from llmpq_jax.planner.instance.candidate import evaluate
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.whatif import incumbent_from_strategy, request_allowing
from llmpq_jax.schema.workload import Workload
from tests.planner.requests import cluster, measurements, request

ASKED = {
    "two devices": request("slow", "fast", memory_mib=6),
    "choices": request(
        *("slow", "fast"),
        memory_mib=5,
        measurements=measurements(caches=(16, 8)),
        omega_budget=9.0,
        head_bits=(16, 8),
        kv_bits=(16, 8),
        wire_bits=(16, 8),
    ),
    "meshes": request(
        *("fast",) * 5,
        measurements=measurements(tensor=(1, 2)),
        tensor=(1, 2),
        memory_mib=4,
        prefill=4,
    ),
    "theta": request("fast", "slow", theta=0.01),
    "lengths": request(
        *("fast", "slow"), workload=Workload(batch=2, prompt_length=9, new_tokens=1)
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_plan_is_found_again_with_its_numbers(name):
    asked = ASKED[name]
    strategy = plan(asked)
    found = incumbent_from_strategy(
        make_problem(request_allowing(asked, strategy)), strategy
    )
    evaluation = evaluate(found.instance, found.candidate)
    assert evaluation.fits
    predicted = strategy.predicted
    assert predicted is not None
    assert evaluation.seconds.latency_s == pytest.approx(predicted.latency_s)
    for stage, memory in zip(strategy.stages, evaluation.memory_bytes, strict=True):
        assert stage.predicted is not None
        assert stage.predicted.memory_bytes == memory


def test_choices_that_only_the_strategy_makes_are_allowed():
    asked = ASKED["choices"]
    strategy = plan(asked)
    narrow = replace(asked, head_bits=(16,), kv_bits=(16,), wire_bits=(16,), bits=(16,))
    problem = make_problem(request_allowing(narrow, strategy))
    found = incumbent_from_strategy(problem, strategy)
    assert evaluate(found.instance, found.candidate).fits
    assert set(problem.bits) == {16, *strategy.bits}


def test_the_budget_of_a_file_is_rounded_and_still_kept():
    asked = request("fast", num_layers=3)
    strategy = plan(asked)
    assert strategy.quality is not None
    omega = strategy.quality.omega
    rounded = replace(strategy.quality, budget=omega * (1 - 3e-6))
    allowing = request_allowing(asked, replace(strategy, quality=rounded))
    assert allowing.omega_budget == pytest.approx(omega, rel=1e-12)
    broken = replace(strategy.quality, budget=omega / 2)
    allowing = request_allowing(asked, replace(strategy, quality=broken))
    assert allowing.omega_budget == omega / 2


def refused(strategy, asked):
    with pytest.raises(StrategyError) as caught:
        incumbent_from_strategy(
            make_problem(request_allowing(asked, strategy)), strategy
        )
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    return message


def test_what_is_not_the_strategys_own_is_named():
    asked = request("fast", "slow")
    strategy = plan(asked)
    one = replace(asked, cluster=cluster("slow"))
    elsewhere = replace(strategy.stages[0], device="node7/cpu:0")
    moved = replace(strategy, stages=(elsewhere, *strategy.stages[1:]))
    assert "a stage on node7/cpu:0" in refused(moved, one)
    other = replace(strategy.model, fingerprint="another")
    assert "is for another" in refused(replace(strategy, model=other), asked)
    kept = replace(strategy.precision, activations="bfloat16")
    assert "hidden states in bfloat16" in refused(
        replace(strategy, precision=kept), asked
    )
    cache = replace(strategy.precision, kv_bits=8)
    assert "a cache of 8 bits" in refused(replace(strategy, precision=cache), asked)
    low = replace(strategy.stages[0], bits=(4,) * strategy.stages[0].num_layers)
    lowered = replace(strategy, stages=(low, *strategy.stages[1:]))
    few = replace(asked, measurements=measurements(bits=(16, 8)))
    assert "a layer at 4 bits" in refused(lowered, few)
    ends = tuple(r for r in asked.measurements.vocabulary_layers if r.kind == "slow")
    half = replace(
        asked, measurements=replace(asked.measurements, vocabulary_layers=ends)
    )
    assert "embeds on node0/cpu:0" in refused(strategy, half)
