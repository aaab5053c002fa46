"""Seconds of micro-batches that come at any time are those of the planner's own instances."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmpq_jax.planner import PlanRequest, plan
from llmpq_jax.planner.instance.candidate import evaluate
from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.online.stage_seconds import online_pipeline
from llmpq_jax.planner.whatif.from_strategy import incumbent_from_strategy
from llmpq_jax.schema.measurements import DispatchTime, MeasuredKind
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.workload import Workload
from tests.planner.requests import cluster, measurements, request


def _request(**changes: Any) -> PlanRequest:
    """Stages of several kinds, with dispatch overhead, hops at 8 bits, and a shared machine."""
    found = measurements(tensor=(1, 2))
    measured = replace(
        found,
        dispatch=tuple(
            DispatchTime(kind=kind, seconds=3e-5, spread=0.01)
            for kind in ("fast", "slow")
        ),
    )
    asked = request(
        *("fast", "slow", "slow"),
        measurements=measured,
        cluster=cluster("fast", "slow", "slow", capacity=2.0, uses=("always",) * 3),
        wire_bits=(8,),
        omega_budget=9.0,
        prefill=1,
        decode=2,
    )
    return replace(asked, **changes)


def _closed(
    asked: PlanRequest, strategy: Strategy, workload: Workload, phase: int
) -> tuple[list[float], list[float]]:
    """Seconds of stages and hops for a batch, as the planner predicts it."""
    problem = make_problem(replace(asked, workload=workload))
    own = incumbent_from_strategy(problem, replace(strategy, workload=workload))
    cost = evaluate(own.instance, own.candidate)
    return list(cost.stages_s[phase]), list(cost.hops_s[phase])


@pytest.mark.parametrize("tensor", [(1,), (2,)])
def test_chunks_and_steps_take_what_the_planner_predicts(
    tensor: tuple[int, ...],
) -> None:
    workload = Workload(batch=4, prompt_length=500, new_tokens=12)
    asked = _request(workload=workload, tensor=tensor)
    if tensor == (2,):
        pair = cluster("slow", "slow", capacity=2.0)
        asked = replace(asked, cluster=pair)
    strategy = plan(asked)
    found = online_pipeline(make_problem(asked), strategy)
    assert (found.num_groups, found.decode_rows, found.num_slots) == (2, 2, 512)
    assert {len(host.members) for host in found.hosts} == {
        sum(len(stage.devices) for stage in strategy.stages)
    }
    for size in (32, 128, 512):
        chunk = Workload(batch=4, prompt_length=size, new_tokens=2)
        stages_s, hops_s = _closed(asked, strategy, chunk, PREFILL)
        assert found.first_chunk_s[size] == pytest.approx(stages_s)
        assert found.chunk_hop_s[size] == pytest.approx(hops_s)
        for first_s, later_s in zip(
            found.first_chunk_s[size], found.later_chunk_s[size], strict=True
        ):
            # The law that was measured: 1e-10 seconds for each pair of query and key.
            assert first_s <= later_s
    # These kinds read the whole cache in each step.
    step = Workload(batch=4, prompt_length=400, new_tokens=112)
    stages_s, hops_s = _closed(asked, strategy, step, DECODE)
    own_s = [
        dispatch_s + step_s
        for dispatch_s, step_s in zip(found.dispatch_s, found.step_s(7.0), strict=True)
    ]
    if len(stages_s) > 1:
        assert own_s == pytest.approx(stages_s)
    else:
        # A batch's stage that is the whole model shares its overhead among steps.
        assert own_s[0] > stages_s[0]
    assert found.step_hop_s == pytest.approx(hops_s)


def test_a_later_chunk_attends_to_the_whole_cache() -> None:
    workload = Workload(batch=4, prompt_length=500, new_tokens=12)
    asked = _request(workload=workload, cluster=cluster("slow"))
    strategy = plan(asked)
    found = online_pipeline(make_problem(asked), strategy)
    (first_s,), (later_s,) = found.first_chunk_s[128], found.later_chunk_s[128]
    # `_layer_s` of the measurements: 3 (slow) x 1e-10 s a pair, in each of four layers.
    assert later_s - first_s == pytest.approx(4 * 3e-10 * 128 * (512 - 128), rel=0.02)


def test_kernels_that_read_their_own_length_take_longer_with_it() -> None:
    kinds = tuple(
        MeasuredKind(
            kind=kind,
            device="a CPU",
            platform="cpu",
            jax_version="0",
            kernel_path="native-avx2",
            date="2026-12-01",
        )
        for kind in ("fast", "slow")
    )
    asked = _request(workload=Workload(batch=4, prompt_length=500, new_tokens=12))
    asked = replace(asked, measurements=replace(asked.measurements, kinds=kinds))
    strategy = plan(asked)
    found = online_pipeline(make_problem(asked), strategy)
    assert sum(found.step_s(400.0)) > sum(found.step_s(40.0))
