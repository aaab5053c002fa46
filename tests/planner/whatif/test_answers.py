"""Every answer against the referee's, and scenarios that are skipped gain nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.errors import InfeasibleError
from llmpq_jax.planner import plan
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.pins import BitsPin, LayerPin
from llmpq_jax.planner.whatif import (
    Increments,
    answer_scenarios,
    incumbent_from_strategy,
    list_scenarios,
    request_allowing,
)
from llmpq_jax.schema.workload import Workload
from tests.planner.requests import cluster, measurements, request
from tests.referees import enumeration

GAP = 1e-7
ROUNDING = 1e-9
A_LITTLE = Increments()


@st.composite
def problems(draw):
    """A request of few layers."""
    kinds = draw(st.sampled_from([("slow", "fast"), ("fast",), ("slow", "slow")]))
    asked = request(
        *kinds,
        num_layers=3,
        memory_mib=draw(st.sampled_from([4, 5, 6, 9, 64])),
        workload=Workload(
            batch=2,
            prompt_length=draw(st.sampled_from([16, 200])),
            new_tokens=draw(st.sampled_from([1, 2, 20])),
        ),
        bits=draw(st.sampled_from([(16, 8, 4), (16, 8)])),
        omega_budget=draw(st.sampled_from([None, 0.0, 0.04])),
        pins=draw(
            st.sampled_from(
                [
                    (),
                    (LayerPin(first=1, end=2, device="node0/cpu:0"),),
                    (BitsPin(first=0, end=1, bits=16),),
                ]
            )
        ),
        decode=draw(st.sampled_from([None, 1])),
    )
    if draw(st.booleans()):
        return replace(asked, tensor=(1, 2), measurements=measurements(tensor=(1, 2)))
    return asked


def explained(asked, more=A_LITTLE):
    strategy = plan(asked, relative_gap=GAP)
    asked = request_allowing(asked, strategy)
    problem = make_problem(asked)
    found = incumbent_from_strategy(problem, strategy)
    scenarios = list(list_scenarios(problem, strategy, found, more))
    answers = list(
        answer_scenarios(scenarios, found, time_limit_s=60.0, relative_gap=GAP)
    )
    return scenarios, answers


@given(problems())
def test_each_answer_is_the_referees_and_what_is_skipped_gains_nothing(asked):
    try:
        scenarios, answers = explained(asked)
    except InfeasibleError:
        return
    by_text = {answer.text: answer for answer in answers}
    before = answers[0].objective
    assert before is not None
    assert answers[0].text == "nothing changed"
    for scenario in scenarios:
        best = enumeration.best_by_enumeration(list(scenario.subproblems()))
        answer = by_text.get(scenario.text)
        if answer is None:
            assert best == pytest.approx(before, rel=2 * GAP)
        elif best is None:
            assert answer.objective is None
            assert answer.bound == float("inf")
        else:
            assert answer.gain is not None
            assert answer.objective == pytest.approx(best, rel=2 * GAP)
            assert answer.bound <= best * (1 + ROUNDING)
            assert answer.gain <= answer.max_gain + ROUNDING
            if scenario.kind in {"memory", "speed", "quality"}:
                assert answer.gain >= -ROUNDING
            if scenario.kind == "device":
                assert answer.gain <= 2 * GAP * before


@pytest.mark.parametrize("memory_mib", [5, 64])
def test_an_increment_of_nothing_gains_nothing(memory_mib):
    nothing = Increments(memory=0.0, speed=0.0, loss=0.0)
    asked = request("slow", "fast", num_layers=3, memory_mib=memory_mib)
    _, answers = explained(asked, nothing)
    little = [a for a in answers if not a.is_limit and a.kind in {"memory", "speed"}]
    assert {answer.kind for answer in little} >= {"speed"}
    for answer in little:
        assert answer.gain == pytest.approx(0.0, abs=2 * GAP * answer.before)
        assert not answer.brings


def test_memory_that_binds_gains_and_memory_that_does_not_is_skipped():
    asked = request("slow", "fast", num_layers=3, memory_mib=4)

    def on_fast(asked):
        _, answers = explained(asked)
        return [a for a in answers if (a.kind, *a.devices) == ("memory", "node0/cpu:1")]

    limit, little = on_fast(asked)
    assert limit.is_limit
    assert limit.brings
    assert not little.is_limit
    assert 0 <= (little.gain or 0) <= (limit.gain or 0)
    (limit,) = on_fast(replace(asked, cluster=cluster("slow", "fast", memory_mib=64)))
    assert limit.is_limit
    assert not limit.brings


def test_a_plan_made_worse_is_no_gain_of_a_change():
    """Gains are measured from the best plan, not from the one in the file."""
    asked = request("slow", "fast", num_layers=3)
    strategy = plan(asked, relative_gap=GAP)
    worst = replace(strategy.stages[0], device="node0/cpu:0", layers=(0, 3))
    worse = replace(strategy, stages=(replace(worst, bits=(16,) * 3, mesh=None),))
    problem = make_problem(request_allowing(asked, worse))
    found = incumbent_from_strategy(problem, worse)
    scenarios = list(list_scenarios(problem, worse, found, Increments()))
    first, *others = answer_scenarios(
        scenarios, found, time_limit_s=60.0, relative_gap=GAP
    )
    assert first.objective is not None
    assert first.objective < found.value
    assert all(answer.before == first.objective for answer in others)


def test_an_interrupted_search_is_the_last_one(monkeypatch):
    import importlib

    module = importlib.import_module("llmpq_jax.planner.whatif.answers")
    own = module.search
    monkeypatch.setattr(
        module, "search", lambda *a, **k: replace(own(*a, **k), was_interrupted=True)
    )
    _, answers = explained(request("slow", "fast", num_layers=3))
    assert [answer.is_interrupted for answer in answers] == [True]
