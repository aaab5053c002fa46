"""The subproblems of a problem, and the default budget that holds in each."""

from __future__ import annotations

from collections.abc import Sequence

from llmpq_jax.costmodel.quality import omega_table
from llmpq_jax.planner.constraints import BitsPin
from llmpq_jax.planner.instance.build import make_instance
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.micro_batches import micro_batches
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.schema.workload import MicroBatch


def all_subproblems(
    problem: Problem, *, omega_budget: float | None
) -> tuple[Instance, ...]:
    """Makes an instance of every micro-batch pair and precision of head and cache."""
    return _instances(problem, _pairs(problem), omega_budget)


def smallest_subproblem(problem: Problem, *, omega_budget: float | None) -> Instance:
    """Makes the instance that needs the least memory, by rows, head and cache."""
    return min(
        smallest_subproblems(problem, omega_budget=omega_budget),
        key=lambda subproblem: (subproblem.head_bits, subproblem.kv_bits),
    )


def smallest_subproblems(
    problem: Problem, *, omega_budget: float | None
) -> tuple[Instance, ...]:
    """Makes the instances that need the least memory, of each head and cache.

    Fewer bits need less memory and lose more, fewer rows only need less: if none of these
    subproblems has a plan, none at all has one.
    """
    smallest = min(_pairs(problem), key=lambda pair: (pair.prefill, pair.decode))
    return _instances(problem, [smallest], omega_budget)


def _pairs(problem: Problem) -> tuple[MicroBatch, ...]:
    request = problem.request
    return micro_batches(
        request.workload.batch, prefill=request.prefill, decode=request.decode
    )


def _instances(
    problem: Problem, pairs: Sequence[MicroBatch], omega_budget: float | None
) -> tuple[Instance, ...]:
    return tuple(
        make_instance(
            problem,
            pair,
            problem.precision(head_bits, kv_bits),
            omega_budget=omega_budget,
        )
        for pair in pairs
        for head_bits in problem.request.head_bits
        for kv_bits in problem.kv_bits
    )


def uniform_int8_omega(problem: Problem) -> float:
    """Returns Σω of all layers at 8 bits, the budget if the user gives none.

    If head or cache are pinned to 8 bits, their ω is added; of layers that are pinned to
    fewer bits, their own counts; if hops are pinned to 8 bits, that of as many hops as
    there can be.
    """
    request = problem.request
    num_layers = request.architecture.num_layers
    table = omega_table(request.sensitivity, num_layers=num_layers, bits=(8,))
    layers = table[:, 0]
    for pin in request.pins:
        if isinstance(pin, BitsPin):
            for layer in range(pin.first, pin.end):
                own = request.sensitivity.omega(layer, pin.bits)
                layers[layer] = max(layers[layer], own)
    wires = 0.0
    if min(request.wire_bits) == max(request.wire_bits) == 8:
        wires = max_wire_omega(problem)
    return (
        float(layers.sum())
        + wires
        + problem.fixed_omega(max(request.head_bits), max(problem.kv_bits))
    )


def max_wire_omega(problem: Problem) -> float:
    """Returns the ω of as many hops at 8 bits as there can be."""
    num_layers = problem.request.architecture.num_layers
    max_hops = min(num_layers, len(problem.node_devices)) - 1
    return max_hops * problem.request.sensitivity.wire_8
