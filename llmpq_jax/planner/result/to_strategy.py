"""Turns the incumbent of a search into a strategy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import version

from llmpq_jax.planner.instance.candidate import CandidateCost, stage_terms
from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.search.search_result import Incumbent, SearchResult
from llmpq_jax.schema.precision import WireBits
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
    incumbent: Incumbent,
    *,
    budget: float | None,
    note: str | None,
    seconds: float,
) -> Strategy:
    """Returns the plan with its predictions, its quality and its certificate."""
    request, instance = problem.request, incumbent.instance
    cost = incumbent.cost
    latency_s = cost.seconds.latency_s
    notes = (note, *_unknown_losses(request, incumbent))
    tokens = request.workload.expected_new_tokens
    return Strategy(
        model=request.model,
        workload=request.workload,
        micro_batch=instance.micro_batch,
        precision=problem.precision(instance.head_bits, instance.kv_bits),
        stages=tuple(_stages(problem, incumbent, cost)),
        quality=Quality(
            omega=cost.omega,
            budget=budget,
            method=request.sensitivity.method,
            note="; ".join(filter(None, notes)) or None,
        ),
        predicted=Prediction(
            prefill_s=cost.seconds.prefill_s,
            decode_s=cost.seconds.decode_s,
            latency_s=latency_s,
            throughput_tokens_per_s=tokens / latency_s,
            source=problem.source,
        ),
        certificate=_certificate(problem, result, cost, seconds=seconds),
    )


def _unknown_losses(request: PlanRequest, incumbent: Incumbent) -> Iterator[str]:
    """Notes choices of the plan that the sensitivities have no loss for."""
    if incumbent.instance.kv_bits == 8 and request.sensitivity.kv_8 <= 0:
        yield "omega counts the cache's 8 bits as 0: the sensitivities have no loss for them"
    if 8 in _wire_bits(incumbent) and request.sensitivity.wire_8 <= 0:
        yield "omega counts hops at 8 bits as 0: the sensitivities have no loss for them"


def _wire_bits(incumbent: Incumbent) -> list[WireBits]:
    """Returns the precision of every hop."""
    wire_bits = incumbent.instance.wire_bits
    return [wire_bits[wire] for wire, _, _ in incumbent.candidate.hops]


def _stages(
    problem: Problem, incumbent: Incumbent, cost: CandidateCost
) -> Iterator[Stage]:
    first = 0
    used: set[str] = set()
    candidate = incumbent.candidate
    # The last stage sends nothing.
    wire_bits: list[WireBits] = [*_wire_bits(incumbent), 16]
    for number, (j, bits_indices) in enumerate(
        zip(candidate.devices, candidate.bits_indices, strict=True)
    ):
        unit = problem.execution_units[j]
        end = first + len(bits_indices)
        free = [node_device.name for node_device in unit.node_devices]
        names = [name for name in free if name not in used][: unit.width]
        used.update(names)
        is_mesh = unit.width > 1
        yield Stage(
            device=None if is_mesh else names[0],
            mesh=Mesh(devices=tuple(names), tensor=unit.width) if is_mesh else None,
            layers=(first, end),
            bits=tuple(problem.bits[b] for b in bits_indices),
            wire_bits=wire_bits[number],
            predicted=StagePrediction(
                prefill_s=cost.stages_s[PREFILL][number],
                decode_s=cost.stages_s[DECODE][number],
                memory_bytes=cost.memory_bytes[number],
                allowed_bytes=unit.node_devices[0].device.usable_bytes,
                memory=stage_terms(incumbent.instance, candidate, number),
            ),
        )
        first = end


def _either(widths: Iterable[int]) -> str:
    return " or ".join(str(bits) for bits in sorted(widths))


def _certificate(
    problem: Problem, result: SearchResult, cost: CandidateCost, *, seconds: float
) -> Certificate:
    heads, caches = problem.request.head_bits, problem.kv_bits
    widths = {unit.width for unit in problem.execution_units}
    tensor = "no tensor parallelism"
    if widths != {1}:
        tensor = f"stages over {_either(widths)} equal devices of a node"
    num_pairs = result.num_subproblems // (len(heads) * len(caches))
    covers = (
        f"all orders and subsets of devices, cuts, and bits from {sorted(problem.bits)}; "
        f"{num_pairs} micro-batch pairs; head at {_either(heads)} bits; "
        f"cache at {_either(caches)} bits; "
        f"each hop at {_either(problem.request.wire_bits)} bits; {tensor}"
        f"{''.join(f'; {pin} pinned' for pin in problem.request.pins)}"
    )
    return Certificate(
        gap=result.gap,
        objective=cost.objective,
        bound=result.bound,
        covers=covers,
        solver=f"HiGHS {version('highspy')}",
        seconds=seconds,
    )
