"""The plan of a strategy, in terms of a problem's devices and precisions."""

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


def request_allowing(request: PlanRequest, strategy: Strategy) -> PlanRequest:
    """Returns a request whose plans include a strategy, under the strategy's budget.

    Precisions and widths of the strategy are added to those allowed. If neither the
    request nor the strategy has a budget, it is that of a model wholly at 8 bits, or the
    strategy's Σω.

    Raises:
        StrategyError: If the strategy is of another model, or of other activations.
        SpecError: If the request's records do not belong together.
    """
    if strategy.model.fingerprint != request.model.fingerprint:
        msg = f"the strategy is for {strategy.model.fingerprint}, the model in {request.model.path} is {request.model.fingerprint}: expected the same; name the strategy's own with --model"
        raise StrategyError(msg)
    if strategy.precision.activations != request.activations:
        msg = f"the strategy keeps hidden states in {strategy.precision.activations}, the measurements are of {request.activations}: expected the same; give the measurements that it was made with"
        raise StrategyError(msg)
    widths = {len(stage.devices) for stage in strategy.stages}
    wire_bits = [stage.wire_bits for stage in strategy.stages[:-1]]
    allowing = replace(
        request,
        workload=strategy.workload,
        bits=tuple(b for b in ALL_BITS if b in request.bits or b in strategy.bits),
        layer_bits=tuple(
            _with(own, [used])
            for own, used in zip(request.layer_bits, strategy.bits, strict=False)
        ),
        head_bits=_with(request.head_bits, [strategy.precision.head_bits]),
        kv_bits=_with(request.kv_bits, [strategy.precision.kv_bits]),
        wire_bits=_with(request.wire_bits, wire_bits),
        tensor=_with(request.tensor, sorted(widths)),
    )
    return replace(allowing, omega_budget=_budget(allowing, strategy))


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
    num_hops_8 = sum(stage.wire_bits == 8 for stage in strategy.stages)
    omega = num_hops_8 * request.sensitivity.wire_8 + total_omega(
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
    """Finds a strategy's devices and precisions among a problem's.

    Raises:
        StrategyError: If one of them is not there, or was not measured.
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
                or not instance.devices.supported[j, problem.bits.index(bits)]
            ):
                msg = f"the strategy has a layer at {bits} bits on {', '.join(stage.devices)}: expected measurements of it on {problem.execution_units[j].kind!r}; give those that it was made with"
                raise StrategyError(msg)
    candidate = Candidate(
        devices=tuple(devices),
        bits_indices=tuple(
            tuple(problem.bits.index(bits) for bits in stage.bits)
            for stage in strategy.stages
        ),
        wire_indices=tuple(
            request.wire_bits.index(stage.wire_bits) for stage in strategy.stages[:-1]
        ),
    )
    value = evaluate(instance, candidate).objective
    if value == float("inf"):
        first, last = strategy.stages[0].devices[0], strategy.stages[-1].devices[0]
        msg = f"the strategy embeds on {first} and has its head on {last}: expected [[vocabulary_layer]] rows of both there; give the measurements that it was made with"
        raise StrategyError(msg)
    return Incumbent(instance=instance, candidate=candidate, value=value)


def _unit(problem: Problem, stage: Stage, *, taken: list[int]) -> int:
    """Returns the execution unit of a stage, as an index of axis J."""
    wanted = set(stage.devices)
    for j, unit in enumerate(problem.execution_units):
        if j in taken or unit.width != len(wanted):
            continue
        node_devices = unit.node_devices[:1] if unit.width == 1 else unit.node_devices
        if wanted <= {node_device.name for node_device in node_devices}:
            return j
    names = ", ".join(node_device.name for node_device in problem.node_devices)
    msg = f"the strategy has a stage on {' + '.join(stage.devices)}: expected devices that the cluster has and may use ({names}), those of a mesh equal, on one node and measured at its width; give the cluster it was made for"
    raise StrategyError(msg)
