"""The subproblems of a problem: which micro-batches are tried, and the default budget."""

from __future__ import annotations

from llmpq_jax.costmodel.quality import omega_table
from llmpq_jax.planner.instance.build import make_instance
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.planner.pins import BitsPin
from llmpq_jax.schema.workload import MicroBatch


def micro_batches(
    batch: int, *, prefill: int | None = None, decode: int | None = None
) -> tuple[MicroBatch, ...]:
    """Lists the pairs of micro-batch sizes worth trying, smallest first; None is not pinned.

    Sizes are the batch's divisors, which leave no row idle, and the powers of two below
    it, for which kernels are fast. Of a pair, one divides the other, as caches demand.

    Raises:
        ValueError: If both are pinned and neither divides the other.
    """
    if prefill is not None and decode is not None:
        return (MicroBatch(prefill=prefill, decode=decode),)
    sizes = [
        rows
        for rows in range(1, batch + 1)
        if batch % rows == 0 or rows & (rows - 1) == 0
    ]
    return tuple(
        MicroBatch(prefill=p, decode=d)
        for p in ([prefill] if prefill else sizes)
        for d in ([decode] if decode else sizes)
        if p % d == 0 or d % p == 0
    )


def all_subproblems(
    problem: Problem, *, omega_budget: float | None, only_smallest: bool = False
) -> tuple[Instance, ...]:
    """Makes an instance of every micro-batch pair and precision of head and cache.

    Or only of the smallest pair: fewer rows only need less memory, so if none of its
    subproblems has a plan, none at all has one.
    """
    request = problem.request
    pairs = micro_batches(
        request.workload.batch, prefill=request.prefill, decode=request.decode
    )
    if only_smallest:
        pairs = [min(pairs, key=lambda pair: (pair.prefill, pair.decode))]
    return tuple(
        make_instance(
            problem,
            pair,
            problem.precision(head_bits, kv_bits),
            omega_budget=omega_budget,
        )
        for pair in pairs
        for head_bits in request.head_bits
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
