"""Turns what a search found into a strategy."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from llmpq_jax.solver.placement import Evaluation, evaluate
from llmpq_jax.solver.problem import Problem
from llmpq_jax.solver.request import PlanRequest
from llmpq_jax.solver.search_result import Found, SearchResult
from llmpq_jax.spec.strategy import (
    Certificate,
    Prediction,
    Quality,
    Stage,
    StagePrediction,
    Strategy,
)


def make_strategy(
    problem: Problem,
    result: SearchResult,
    found: Found,
    *,
    budget: float | None,
    note: str | None,
    seconds: float,
) -> Strategy:
    """Writes the plan with its predictions, its quality and its certificate."""
    request = problem.request
    evaluation = evaluate(found.instance, found.placement)
    latency_s = evaluation.seconds.latency_s
    tokens = request.workload.expected_new_tokens
    return Strategy(
        model=request.model,
        workload=request.workload,
        micro_batch=found.instance.micro_batch,
        precision=problem.precision(found.instance.head_bits),
        stages=tuple(_stages(problem, found, evaluation)),
        quality=Quality(
            omega=evaluation.omega,
            budget=budget,
            method=request.sensitivity.method,
            note="; ".join(filter(None, (note, _kv_note(request)))) or None,
        ),
        predicted=Prediction(
            prefill_s=evaluation.seconds.prefill_s,
            decode_s=evaluation.seconds.decode_s,
            latency_s=latency_s,
            throughput_tokens_per_s=tokens / latency_s,
            source=problem.source,
        ),
        certificate=_certificate(problem, result, evaluation, seconds=seconds),
    )


def _kv_note(request: PlanRequest) -> str | None:
    if request.kv_bits == 16:
        return None
    return f"omega counts weights alone, not the cache's {request.kv_bits} bits"


def _stages(problem: Problem, found: Found, evaluation: Evaluation) -> Iterator[Stage]:
    first = 0
    for number, (j, columns) in enumerate(
        zip(found.placement.devices, found.placement.columns, strict=True)
    ):
        place = problem.placed[j]
        end = first + len(columns)
        yield Stage(
            device=place.name,
            layers=(first, end),
            bits=tuple(problem.bits[b] for b in columns),
            predicted=StagePrediction(
                prefill_s=evaluation.prefill_s[number],
                decode_s=evaluation.decode_s[number],
                memory_bytes=evaluation.memory_bytes[number],
                allowed_bytes=place.device.usable_bytes,
            ),
        )
        first = end


def _certificate(
    problem: Problem, result: SearchResult, evaluation: Evaluation, *, seconds: float
) -> Certificate:
    heads = problem.request.head_bits
    num_pairs = result.num_cases // len(heads)
    head = " or ".join(str(bits) for bits in sorted(heads))
    covers = (
        f"all orders and subsets of devices, cuts, and bits from {sorted(problem.bits)}; "
        f"{num_pairs} micro-batch pairs; head at {head} bits; no tensor parallelism"
    )
    return Certificate(
        gap=result.gap,
        objective=evaluation.objective,
        bound=result.bound,
        covers=covers,
        solver=f"HiGHS {version('highspy')}",
        seconds=seconds,
    )
