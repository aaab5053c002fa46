"""The plan of a strategy, as the search knows plans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from llmpq_jax.costmodel.quality import total_omega
from llmpq_jax.errors import StrategyError
from llmpq_jax.planner.instance.build import make_instance
from llmpq_jax.planner.instance.candidate import Candidate, evaluate
from llmpq_jax.planner.instance.problem import Problem, make_problem
from llmpq_jax.planner.instance.subproblems import uniform_int8_omega
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.search.search_result import Incumbent
from llmpq_jax.schema.precision import ALL_BITS
from llmpq_jax.schema.strategy import Stage, Strategy

T = TypeVar("T", bound=int)

# Files hold six significant digits.
_SIX_DIGITS = 1e-5


def free_to_choose(request: PlanRequest, strategy: Strategy) -> PlanRequest:
    """Returns a request whose plans include a strategy, under the strategy's budget.

    Precisions and widths that the strategy has are added to those allowed. Where neither
    the request nor the strategy says a budget, it is that of a model wholly at 8 bits, or
    what the strategy loses.

    Raises:
        StrategyError: The strategy is of another model, or of other activations.
        SpecError: The request's records do not belong together.
    """
    if strategy.model.fingerprint != request.model.fingerprint:
        msg = f"the strategy is for {strategy.model.fingerprint}, the model in {request.model.path} is {request.model.fingerprint}: expected the same; name the strategy's own with --model"
        raise StrategyError(msg)
    if strategy.precision.activations != request.activations:
        msg = f"the strategy keeps hidden states in {strategy.precision.activations}, the measurements are of {request.activations}: expected the same; give the measurements that it was made with"
        raise StrategyError(msg)
    widths = {len(stage.devices) for stage in strategy.stages}
    wires = [stage.wire_bits for stage in strategy.stages[:-1]]
    freed = replace(
        request,
        workload=strategy.workload,
        bits=tuple(b for b in ALL_BITS if b in request.bits or b in strategy.bits),
        head_bits=_with(request.head_bits, [strategy.precision.head_bits]),
        kv_bits=_with(request.kv_bits, [strategy.precision.kv_bits]),
        wire_bits=_with(request.wire_bits, wires),
        tensor=_with(request.tensor, sorted(widths)),
    )
    return replace(freed, omega_budget=_budget(freed, strategy))


def _with(allowed: tuple[T, ...], used: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys((*allowed, *used)))


def _budget(request: PlanRequest, strategy: Strategy) -> float | None:
    budget = request.omega_budget
    if budget is not None:
        return budget
    if strategy.quality is not None and strategy.quality.budget is not None:
        budget = strategy.quality.budget
    elif request.theta > 0:
        return None
    wires = sum(stage.wire_bits == 8 for stage in strategy.stages)
    omega = wires * request.sensitivity.wire_8 + total_omega(
        request.sensitivity,
        strategy.bits,
        head_bits=strategy.precision.head_bits,
        kv_bits=strategy.precision.kv_bits,
    )
    if budget is None:
        return max(omega, uniform_int8_omega(make_problem(request)))
    # The file's budget is rounded, and the plan may use all of it.
    return omega if budget < omega <= budget * (1 + _SIX_DIGITS) else budget


def incumbent_from_strategy(problem: Problem, strategy: Strategy) -> Incumbent:
    """Finds a strategy's devices, precisions and wires among a problem's.

    Raises:
        StrategyError: One of them is not there, or was not measured.
    """
    request, precision = problem.request, strategy.precision
    if precision.kv_bits not in problem.kv_bits:
        msg = f"the strategy has a cache of {precision.kv_bits} bits, measured were {' and '.join(map(str, problem.kv_bits))}: expected it among them; give the measurements that it was made with"
        raise StrategyError(msg)
    instance = make_instance(
        problem,
        strategy.micro_batch,
        problem.precision(precision.head_bits, precision.kv_bits),
        omega_budget=request.omega_budget,
    )
    devices: list[int] = []
    for stage in strategy.stages:
        devices.append(_unit(problem, stage, taken=devices))
    for j, stage in zip(devices, strategy.stages, strict=True):
        for bits in stage.bits:
            if (
                bits not in problem.bits
                or not (instance.supported[j, problem.bits.index(bits)])
            ):
                msg = f"the strategy has a layer at {bits} bits on {', '.join(stage.devices)}: expected measurements of it on {problem.execution_units[j].kind!r}; give those that it was made with"
                raise StrategyError(msg)
    wires = tuple(
        request.wire_bits.index(stage.wire_bits) for stage in strategy.stages[:-1]
    )
    candidate = Candidate(
        devices=tuple(devices),
        columns=tuple(
            tuple(problem.bits.index(bits) for bits in stage.bits)
            for stage in strategy.stages
        ),
        wires=wires,
    )
    value = evaluate(instance, candidate).objective
    if value == float("inf"):
        first, last = strategy.stages[0].devices[0], strategy.stages[-1].devices[0]
        msg = f"the strategy embeds on {first} and has its head on {last}: expected [[vocabulary_layer]] rows of both there; give the measurements that it was made with"
        raise StrategyError(msg)
    return Incumbent(instance=instance, candidate=candidate, value=value)


def _unit(problem: Problem, stage: Stage, *, taken: list[int]) -> int:
    """The index on axis J of what holds a stage."""
    wanted = set(stage.devices)
    for j, execution_unit in enumerate(problem.execution_units):
        if j in taken or execution_unit.width != len(wanted):
            continue
        node_devices = (
            execution_unit.node_devices[:1]
            if execution_unit.width == 1
            else execution_unit.node_devices
        )
        if wanted <= {node_device.name for node_device in node_devices}:
            return j
    names = ", ".join(node_device.name for node_device in problem.node_devices)
    msg = f"the strategy has a stage on {' + '.join(stage.devices)}: expected devices that the cluster has and may use ({names}), a mesh's on one node, alike and measured so; give the cluster it was made for"
    raise StrategyError(msg)
