"""The plan for requests that arrive at random is the best of those that keep the limits."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import pytest

from llmpq_jax.errors import InfeasibleError, TimeLimitError
from llmpq_jax.planner import PlanRequest, plan
from llmpq_jax.planner.online import SimulatedPlan, plan_online
from llmpq_jax.schema.online_load import OnlineLoad
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.workload import Workload
from tests.planner.requests import request

_RANDOM = Random(0)
PAIRS = [(_RANDOM.randint(1, 90), _RANDOM.randint(1, 24)) for _ in range(60)]
WORKLOAD = Workload(batch=8, prompt_length=48, new_tokens=16)
LOAD = OnlineLoad(arrivals_per_s=60.0, lengths="pairs.json", batch=4)


def _solve(asked: PlanRequest, time_limit_s: float) -> Strategy:
    return plan(asked, time_limit_s=time_limit_s)


def _search(
    load: OnlineLoad, asked: PlanRequest | None = None, *, time_limit_s: float = 60.0
) -> tuple[Strategy, list[SimulatedPlan]]:
    found: list[SimulatedPlan] = []
    strategy = plan_online(
        asked or request("slow", "fast"),
        load,
        PAIRS,
        plan=_solve,
        time_limit_s=time_limit_s,
        on_plan=found.append,
    )
    return strategy, found


def test_the_plan_with_the_least_time_of_a_request_is_taken() -> None:
    strategy, found = _search(LOAD)
    assert [each.strategy.micro_batch.decode for each in found] == [1, 2, 4]
    best = min(found, key=lambda each: each.figures.request_s)
    assert strategy.stages == best.strategy.stages
    assert strategy.online is not None
    assert replace(strategy.online, max_arrivals_per_s=60.0) == best.figures
    assert strategy.micro_batch.prefill == 1
    certificate = strategy.certificate
    assert certificate is not None
    assert certificate.covers.endswith(
        "for 4 slots that are refilled without pause (of 3 such plans, that with the "
        "least simulated time of a request was taken, which is not proven)"
    )


def test_a_limit_excludes_plans_and_is_kept_up_to_the_rate_that_is_said() -> None:
    _, found = _search(LOAD)
    by_token = sorted(found, key=lambda each: each.figures.tpot_s)
    limit = (by_token[0].figures.tpot_s + by_token[1].figures.tpot_s) / 2
    load = replace(LOAD, max_tpot_s=limit, max_ttft_s=10.0)
    strategy, _ = _search(load)
    assert strategy.micro_batch == by_token[0].strategy.micro_batch
    online = strategy.online
    assert online is not None
    assert online.tpot_s <= limit
    largest = online.max_arrivals_per_s
    assert largest >= load.arrivals_per_s
    again, _ = _search(replace(load, arrivals_per_s=largest))
    assert again.online is not None
    assert again.online.tpot_s <= limit
    assert again.online.ttft_s <= 10.0


def test_without_a_number_of_slots_they_grow_until_nobody_waits() -> None:
    strategy, found = _search(replace(LOAD, batch=None))
    batches = [each.strategy.workload.batch for each in found]
    assert batches == sorted(batches)
    largest = max(batches)
    assert any(
        not each.is_full for each in found if each.strategy.workload.batch == largest
    )
    assert all(each.is_full for each in found if each.strategy.workload.batch < largest)
    assert strategy.workload.batch in batches


def test_what_cannot_be_kept_says_what_can() -> None:
    with pytest.raises(InfeasibleError) as caught:
        _search(replace(LOAD, max_ttft_s=0.005, max_tpot_s=5.0))
    message = str(caught.value)
    assert message.startswith(
        "no plan keeps --max-ttft 0.005 and --max-tpot 5 for 95 % of the requests at 60 "
        "requests/s: of 3 plans that were simulated the nearest, with 4 slots, has a time "
        "to first token of "
    )
    rate = float(re.findall(r"up to ([\d.]+) requests/s", message)[0])
    strategy, _ = _search(
        replace(LOAD, max_ttft_s=0.005, max_tpot_s=5.0, arrivals_per_s=0.99 * rate)
    )
    assert strategy.online is not None


def test_what_is_not_kept_by_one_request_alone_says_so() -> None:
    with pytest.raises(InfeasibleError, match="not kept by a request that is alone"):
        _search(replace(LOAD, max_ttft_s=1e-5))


def test_more_arrivals_than_any_plan_serves_are_refused() -> None:
    with pytest.raises(InfeasibleError) as caught:
        _search(replace(LOAD, arrivals_per_s=10_000.0))
    message = str(caught.value)
    assert message.startswith("requests arrive faster than they are served: of 3 plans")
    rate = float(re.findall(r"serves ([\d.]+) requests/s", message)[0])
    strategy, _ = _search(replace(LOAD, arrivals_per_s=rate))
    assert strategy.online is not None


def test_what_does_not_fit_is_said_as_ever() -> None:
    with pytest.raises(InfeasibleError, match="no plan fits"):
        _search(LOAD, request("slow", memory_mib=1))


def test_where_no_problem_is_solved_in_time_that_is_said() -> None:
    def never(_asked: PlanRequest, _time_limit_s: float) -> Strategy:
        msg = "too little time"
        raise TimeLimitError(msg)

    with pytest.raises(TimeLimitError, match="too little time"):
        plan_online(request("slow"), LOAD, PAIRS, plan=never, time_limit_s=60.0)


@pytest.mark.parametrize(("decode", "batch"), [(2, 4), (3, None), (3, 4)])
def test_a_pinned_size_of_decode_groups_is_the_only_one_that_is_tried(
    decode: int, batch: int | None
) -> None:
    asked = request("slow", "fast", workload=WORKLOAD, decode=decode)
    strategy, found = _search(replace(LOAD, batch=batch), asked)
    assert {each.strategy.micro_batch.decode for each in found} == {decode}
    assert strategy.micro_batch.decode == decode
    assert all(each.strategy.workload.batch == batch for each in found) or not batch


def test_memory_limits_the_number_of_slots_and_is_asked_once() -> None:
    asked = request("slow", "fast", memory_mib=6)
    tried: list[tuple[int, int]] = []

    def count(problem: PlanRequest, time_limit_s: float) -> Strategy:
        assert problem.decode is not None
        tried.append((problem.workload.batch, problem.decode))
        return _solve(problem, time_limit_s)

    load = replace(LOAD, batch=None, arrivals_per_s=30.0)
    strategy = plan_online(asked, load, PAIRS, plan=count, time_limit_s=60.0)
    largest = max(batch for batch, _ in tried)
    assert strategy.workload.batch < largest < 256
    assert len(tried) == len(set(tried))
