"""Takes a plan apart: each stage's bytes by part, each phase's seconds by part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmpq_jax.costmodel.memory import layer_scale_bytes, logit_share_bytes
from llmpq_jax.costmodel.pipeline_schedule import Host, phase_terms
from llmpq_jax.planner.instance.candidate import (
    Candidate,
    CandidateCost,
    evaluate,
    stage_hosts,
    stage_terms,
)
from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.planner.instance.stage_bytes import stage_bytes
from llmpq_jax.planner.search.search_result import Incumbent
from llmpq_jax.planner.whatif.breakdown import (
    PhaseBreakdown,
    PlanBreakdown,
    Resource,
    StageBreakdown,
)
from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.measurements import Phase
from llmpq_jax.schema.strategy import Stage, Strategy


def break_down(problem: Problem, plan: Incumbent, strategy: Strategy) -> PlanBreakdown:
    """Takes a plan apart.

    Args:
        problem: It is of.
        plan: As the search knows it.
        strategy: As its file says it.
    """
    instance, candidate = plan.instance, plan.candidate
    evaluation = evaluate(instance, candidate)
    names = [" + ".join(stage.devices) for stage in strategy.stages]
    phases = [
        _phase(
            "prefill",
            names,
            evaluation.prefill_s,
            [float(instance.hop_prefill_s[hop]) for hop in candidate.hops],
            num=instance.num_prefill,
            later_rounds=0,
            hosts=stage_hosts(instance, candidate.devices),
        )
    ]
    if instance.new_tokens > 1:
        phases.append(
            _phase(
                "decode",
                names,
                evaluation.decode_s,
                [float(instance.hop_decode_s[hop]) for hop in candidate.hops],
                num=instance.num_decode,
                later_rounds=instance.new_tokens - 2,
                hosts=stage_hosts(instance, candidate.devices),
            )
        )
    return PlanBreakdown(
        stages=tuple(
            _stage(problem, plan, evaluation, number, stage)
            for number, stage in enumerate(strategy.stages)
        ),
        phases=tuple(phases),
        latency_s=evaluation.seconds.latency_s,
        omega=evaluation.omega,
        omega_budget=instance.omega_budget,
        fits=evaluation.fits,
    )


def _phase(
    phase: Phase,
    names: Sequence[str],
    stages_s: Sequence[float],
    hops_s: Sequence[float],
    *,
    num: float,
    later_rounds: int,
    hosts: Sequence[Host],
) -> PhaseBreakdown:
    slowest = max((*stages_s, *hops_s))
    resources = []
    for number, (name, seconds) in enumerate(zip(names, stages_s, strict=True)):
        resources.append((name, False, seconds))
        if number < len(hops_s):
            link = f"{name} → {names[number + 1]}"
            resources.append((link, True, hops_s[number]))
    return PhaseBreakdown(
        phase=phase,
        num_micro_batches=num,
        terms=phase_terms(
            phase,
            stages_s=stages_s,
            hops_s=hops_s,
            num=num,
            later_rounds=later_rounds,
            hosts=hosts,
        ),
        resources=tuple(
            Resource(
                name=name, is_link=is_link, seconds=seconds, slack_s=slowest - seconds
            )
            for name, is_link, seconds in resources
        ),
    )


def _stage(
    problem: Problem,
    plan: Incumbent,
    evaluation: CandidateCost,
    number: int,
    stage: Stage,
) -> StageBreakdown:
    instance, candidate = plan.instance, plan.candidate
    j = candidate.devices[number]
    device = problem.execution_units[j].node_devices[0].device
    request = problem.request
    next_bits, next_layer = _next_bytes(instance, candidate, number)
    return StageBreakdown(
        devices=stage.devices,
        layers=stage.layers,
        bits=stage.bits,
        memory=stage_terms(instance, candidate, number),
        scales=sum(
            layer_scale_bytes(
                request.architecture,
                bits=bits,
                group_size=request.group_size,
                tensor=problem.execution_units[j].width,
            )
            for bits in stage.bits
        ),
        workspace={
            "prefill": _workspace(problem, plan, number, stage, "prefill"),
            "decode": _workspace(problem, plan, number, stage, "decode"),
        },
        reserve_bytes=device.reserve_bytes,
        allowed_bytes=int(instance.allowed_bytes[j]),
        next_bits_bytes=next_bits,
        next_layer_bytes=next_layer,
        prefill_s=evaluation.prefill_s[number],
        decode_s=evaluation.decode_s[number],
    )


def _next_bytes(
    instance: Instance, candidate: Candidate, number: int
) -> tuple[int | None, int]:
    """What the cheapest layer at its next higher precision needs, and one more layer."""
    j = candidate.devices[number]
    columns = np.array(candidate.columns[number], dtype=np.int64)
    counts = np.bincount(columns, minlength=len(instance.bits))
    served = np.flatnonzero(instance.supported[j]).tolist()
    one = np.eye(len(instance.bits), dtype=np.int64)
    higher = [
        counts - one[b] + one[max(above)]
        for b in set(candidate.columns[number])
        if (above := [up for up in served if up < b])
    ]
    longer = [counts + one[b] for b in served]

    def least(stages: list[Integers]) -> int:
        need = stage_bytes(
            instance,
            [j],
            np.array([counts, *stages]),
            is_first=number == 0,
            is_last=number == len(candidate.devices) - 1,
        ).total[0]
        return int((need[1:] - need[0]).min())

    return least(higher) if higher else None, least(longer)


def _workspace(
    problem: Problem, plan: Incumbent, number: int, stage: Stage, phase: Phase
) -> int:
    """What the programs of one phase need, as `costmodel.memory.stage_memory` counts them."""
    instance, request = plan.instance, problem.request
    execution_unit = problem.execution_units[plan.candidate.devices[number]]
    workspace = problem.fitted[instance.kv_bits].workspace
    workload, micro_batch = request.workload, instance.micro_batch
    needs = [0]
    if phase == "prefill" or workload.new_tokens > 1:
        needs += [
            workspace.layer_phase_bytes(
                execution_unit.kind,
                bits,
                phase,
                workload=workload,
                micro_batch=micro_batch,
                tensor=execution_unit.width,
            )
            for bits in set(stage.bits)
        ]
    rows = micro_batch.prefill if phase == "prefill" else micro_batch.decode
    if number == 0:
        tokens = bucket_length(workload.prompt_length) if phase == "prefill" else 1
        needs.append(
            workspace.vocabulary_layer_bytes(
                execution_unit.kind, "embedding", 16, rows=rows * tokens
            )
        )
    if number == len(plan.candidate.devices) - 1:
        needs.append(
            workspace.vocabulary_layer_bytes(
                execution_unit.kind, "head", instance.head_bits, rows=rows
            )
            + logit_share_bytes(
                request.architecture, rows=rows, tensor=execution_unit.width
            )
        )
    return max(needs)
