"""Turns what a search found into a strategy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import version

from llmpq_jax.planner.instance.candidate import CandidateCost, evaluate, stage_terms
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.search.search_result import Incumbent, SearchResult
from llmpq_jax.schema.precision import KvBits, WireBits
from llmpq_jax.schema.strategy import (
    Certificate,
    Mesh,
    Prediction,
    Quality,
    Stage,
    StagePrediction,
    Strategy,
)


def make_strategy(
    problem: Problem,
    result: SearchResult,
    found: Incumbent,
    *,
    budget: float | None,
    note: str | None,
    seconds: float,
) -> Strategy:
    """Writes the plan with its predictions, its quality and its certificate."""
    request = problem.request
    evaluation = evaluate(found.instance, found.candidate)
    latency_s = evaluation.seconds.latency_s
    tokens = request.workload.expected_new_tokens
    return Strategy(
        model=request.model,
        workload=request.workload,
        micro_batch=found.instance.micro_batch,
        precision=problem.precision(found.instance.head_bits, found.instance.kv_bits),
        stages=tuple(_stages(problem, found, evaluation)),
        quality=Quality(
            omega=evaluation.omega,
            budget=budget,
            method=request.sensitivity.method,
            note="; ".join(
                filter(
                    None,
                    (
                        note,
                        _kv_note(request, found.instance.kv_bits),
                        _wire_note(request, found),
                    ),
                )
            )
            or None,
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


def _kv_note(request: PlanRequest, kv_bits: KvBits) -> str | None:
    if kv_bits == 16 or request.sensitivity.kv_8 > 0:
        return None
    return "omega counts the cache's 8 bits as 0: the sensitivities do not judge them"


def _wire_note(request: PlanRequest, found: Incumbent) -> str | None:
    if 8 not in _wires(found) or request.sensitivity.wire_8 > 0:
        return None
    return "omega counts hops at 8 bits as 0: the sensitivities do not judge them"


def _wires(found: Incumbent) -> list[WireBits]:
    """Bits of every hop."""
    return [found.instance.wire_bits[wire] for wire, _, _ in found.candidate.hops]


def _stages(
    problem: Problem, found: Incumbent, evaluation: CandidateCost
) -> Iterator[Stage]:
    first = 0
    used: set[str] = set()
    # The last one hands on nothing.
    wires: list[WireBits] = [*_wires(found), 16]
    for number, (j, columns) in enumerate(
        zip(found.candidate.devices, found.candidate.columns, strict=True)
    ):
        execution_unit = problem.execution_units[j]
        end = first + len(columns)
        names = [
            node_device.name
            for node_device in execution_unit.node_devices
            if node_device.name not in used
        ]
        names = names[: execution_unit.width]
        used.update(names)
        yield Stage(
            device=names[0] if execution_unit.width == 1 else None,
            mesh=None
            if execution_unit.width == 1
            else Mesh(devices=tuple(names), tensor=execution_unit.width),
            layers=(first, end),
            bits=tuple(problem.bits[b] for b in columns),
            wire_bits=wires[number],
            predicted=StagePrediction(
                prefill_s=evaluation.prefill_s[number],
                decode_s=evaluation.decode_s[number],
                memory_bytes=evaluation.memory_bytes[number],
                allowed_bytes=execution_unit.node_devices[0].device.usable_bytes,
                memory=stage_terms(found.instance, found.candidate, number),
            ),
        )
        first = end


def _either(widths: Iterable[int]) -> str:
    return " or ".join(str(bits) for bits in sorted(widths))


def _tensor(problem: Problem) -> str:
    widths = {execution_unit.width for execution_unit in problem.execution_units}
    if widths == {1}:
        return "no tensor parallelism"
    return f"stages over {_either(widths)} equal devices of a node"


def _certificate(
    problem: Problem, result: SearchResult, evaluation: CandidateCost, *, seconds: float
) -> Certificate:
    heads, caches = problem.request.head_bits, problem.kv_bits
    num_pairs = result.num_subproblems // (len(heads) * len(caches))
    covers = (
        f"all orders and subsets of devices, cuts, and bits from {sorted(problem.bits)}; "
        f"{num_pairs} micro-batch pairs; head at {_either(heads)} bits; "
        f"cache at {_either(caches)} bits; "
        f"each hop at {_either(problem.request.wire_bits)} bits; {_tensor(problem)}"
        f"{''.join(f'; {pin} pinned' for pin in problem.request.pins)}"
    )
    return Certificate(
        gap=result.gap,
        objective=evaluation.objective,
        bound=result.bound,
        covers=covers,
        solver=f"HiGHS {version('highspy')}",
        seconds=seconds,
    )
