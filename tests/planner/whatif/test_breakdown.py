"""A breakdown adds up to what the plan is predicted to take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmpq_jax.planner import plan
from llmpq_jax.planner.instance.candidate import stage_terms
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.whatif import (
    break_down,
    incumbent_from_strategy,
    request_allowing,
)
from llmpq_jax.schema.strategy import Stage
from llmpq_jax.schema.workload import Workload
from tests.planner.requests import cluster, request
from tests.planner.whatif.test_from_strategy import ASKED


def broken_down(asked, strategy=None):
    strategy = strategy or plan(asked)
    problem = make_problem(request_allowing(asked, strategy))
    found = incumbent_from_strategy(problem, strategy)
    return strategy, found, break_down(problem, found, strategy)


@pytest.mark.parametrize("name", ASKED)
def test_parts_add_up_to_the_prediction(name):
    strategy, _, breakdown = broken_down(ASKED[name])
    assert strategy.predicted is not None
    total = sum(phase.terms.total_s for phase in breakdown.phases)
    assert total == pytest.approx(strategy.predicted.latency_s)
    assert breakdown.fits
    for stage, planned in zip(breakdown.stages, strategy.stages, strict=True):
        assert planned.predicted is not None
        assert stage.memory.total == planned.predicted.memory_bytes
        assert max(stage.workspace.values()) == stage.memory.workspace
        assert 0 <= stage.scales < stage.memory.weights
        assert (stage.scales > 0) == any(bits < 16 for bits in stage.bits)
        assert stage.spare_bytes == stage.allowed_bytes - stage.memory.total >= 0


@pytest.mark.parametrize("name", ASKED)
def test_the_slowest_has_no_slack_and_the_others_have_what_is_missing(name):
    _, _, breakdown = broken_down(ASKED[name])
    for phase in breakdown.phases:
        assert len(phase.resources) == 2 * len(breakdown.stages) - 1
        slowest = max(resource.seconds for resource in phase.resources)
        assert phase.slowest.seconds == slowest
        for number, resource in enumerate(phase.resources):
            assert resource.is_link == bool(number % 2)
            assert resource.seconds + resource.slack_s == pytest.approx(slowest)


def test_what_the_next_layer_or_its_bits_need_is_what_a_longer_plan_has():
    asked = request("fast", num_layers=4, workload=ASKED["lengths"].workload)
    base = plan(asked)

    def held(layers, bits):
        stages = (
            Stage(device="node0/cpu:0", layers=(0, layers), bits=bits),
            Stage(device="node0/cpu:1", layers=(layers, 4), bits=(16,) * (4 - layers)),
        )
        room = replace(asked, cluster=cluster("fast", "fast"))
        _, found, breakdown = broken_down(room, replace(base, stages=stages))
        return stage_terms(found.instance, found.candidate, 0).total, breakdown.stages[
            0
        ]

    before, stage = held(2, (8, 4))
    higher, _ = held(2, (8, 8))
    to_16, _ = held(2, (16, 4))
    longer, _ = held(3, (8, 4, 4))
    assert stage.next_bits_bytes == min(higher, to_16) - before
    assert stage.next_layer_bytes == longer - before
    _, whole = held(2, (16, 16))
    assert whole.next_bits_bytes is None


def test_a_stage_is_full_where_neither_fits():
    _, _, breakdown = broken_down(request("fast", num_layers=4, memory_mib=64))
    (stage,) = breakdown.stages
    assert not stage.is_full
    assert stage.next_bits_bytes is not None
    tight = stage.memory.total + min(stage.next_layer_bytes, stage.next_bits_bytes) - 1
    assert replace(stage, allowed_bytes=tight).is_full
    assert not replace(stage, allowed_bytes=tight + 1).is_full


def test_the_dominant_term_of_a_phase_is_named():
    work = Workload(batch=16, prompt_length=64, new_tokens=200)
    one = {"workload": work, "num_layers": 4}
    _, _, breakdown = broken_down(request("fast", **one, prefill=1, decode=1))
    assert [phase.dominant for phase in breakdown.phases] == [
        "following",
        "busy rounds",
    ]
    stages = (
        Stage(device="node0/cpu:0", layers=(0, 2), bits=(16, 16)),
        Stage(device="node0/cpu:1", layers=(2, 4), bits=(16, 16)),
    )
    asked = request("fast", "fast", **one, prefill=16, decode=16)
    strategy = replace(plan(asked), stages=stages)
    _, _, breakdown = broken_down(asked, strategy)
    assert [phase.dominant for phase in breakdown.phases] == ["once", "empty rounds"]
    asked = request("fast", "fast", **one, prefill=8, decode=8)
    strategy = replace(plan(asked), stages=stages)
    shared = replace(asked, cluster=cluster("fast", "fast", capacity=1.0))
    _, _, breakdown = broken_down(shared, strategy)
    assert {phase.dominant for phase in breakdown.phases} == {"shared machine"}


def test_with_one_new_token_there_is_no_decode():
    _, _, breakdown = broken_down(ASKED["lengths"])
    assert [phase.phase for phase in breakdown.phases] == ["prefill"]
