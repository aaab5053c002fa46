"""Baselines compared with the joint plan, each at its own quality or better."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llmpq_jax.planner.baselines.in_order import (
    adabits,
    memory_proportional,
    pipeedge,
    uniform,
)
from llmpq_jax.planner.baselines.paper_heuristic import transfer
from llmpq_jax.planner.instance.build import make_instance
from llmpq_jax.planner.instance.candidate import Candidate, evaluate
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.problem import Problem, make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.search.branch_and_bound import search
from llmpq_jax.planner.search.search_result import Incumbent, SearchResult
from llmpq_jax.schema.workload import MicroBatch

Method = Literal[
    "uniform",
    "memory-proportional",
    "PipeEdge",
    "PipeEdge, micro-batches searched",
    "adabits",
    "transfer",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One baseline, and the fastest joint plan found whose Σω is no larger.

    All but the method is None if the baseline finds no plan. The gap is the one proven of
    the joint plan, whose search took `seconds`.
    """

    method: Method
    latency_s: float | None = None
    omega: float | None = None
    micro_batch: MicroBatch | None = None
    joint_latency_s: float | None = None
    joint_omega: float | None = None
    gap: float | None = None
    seconds: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times faster the joint plan is."""
        if self.latency_s is None or self.joint_latency_s is None:
            return None
        return self.latency_s / self.joint_latency_s


def compare(
    request: PlanRequest,
    *,
    time_limit_s: float,
    relative_gap: float,
    progress: Callable[[str], None] | None = None,
) -> tuple[Comparison, ...]:
    """Plans with every baseline, and jointly with each one's Σω as the budget.

    The request's own budget, θ and tensor widths do not count: the baselines do not know
    them. Limits are those of each joint plan; `progress` receives the name of the next
    method.
    """
    problem = make_problem(replace(request, omega_budget=None, theta=0.0, tensor=(1,)))
    rows = []
    for method, plan in baselines(problem):
        if progress is not None:
            progress(method)
        if plan is None:
            rows.append(Comparison(method=method))
            continue
        begin = time.monotonic()
        joint = joint_plan(
            problem, plan, time_limit_s=time_limit_s, relative_gap=relative_gap
        )
        assert joint.incumbent is not None, "the baseline's own plan is known"
        cost, best = plan.cost, joint.incumbent.cost
        rows.append(
            Comparison(
                method=method,
                latency_s=cost.seconds.latency_s,
                omega=cost.omega,
                micro_batch=plan.instance.micro_batch,
                joint_latency_s=best.seconds.latency_s,
                joint_omega=best.omega,
                gap=joint.gap,
                seconds=time.monotonic() - begin,
            )
        )
    return tuple(rows)


def joint_plan(
    problem: Problem, plan: Incumbent, *, time_limit_s: float, relative_gap: float
) -> SearchResult:
    """Searches the fastest plan whose Σω is no larger than that of a given plan."""
    omega = plan.cost.omega
    own = replace(plan.instance, omega_budget=omega)
    return search(
        all_subproblems(problem, omega_budget=omega),
        time_limit_s=time_limit_s,
        relative_gap=relative_gap,
        known=[(own, plan.candidate)],
    )


def baselines(problem: Problem) -> Iterator[tuple[Method, Incumbent | None]]:
    """Yields each baseline's plan, or None if it finds none."""
    searched = all_subproblems(problem, omega_budget=None)
    precision = problem.precision(max(problem.request.head_bits), max(problem.kv_bits))
    whole = [
        i
        for i in searched
        if (i.head_bits, i.kv_bits) == (precision.head_bits, precision.kv_bits)
    ]
    # As the paper's code divides the batch in both phases, and searches prefill alone.
    rows = -(-problem.request.workload.batch // len(problem.node_devices))
    pairs = [
        MicroBatch(prefill=prefill, decode=rows)
        for prefill in range(1, rows + 1)
        if rows % prefill == 0
    ]
    smaller = [make_instance(problem, p, precision, omega_budget=None) for p in pairs]
    own = smaller[-1:]
    yield "uniform", _highest_precision(whole, uniform)
    yield "memory-proportional", _highest_precision(whole, memory_proportional)
    yield "PipeEdge", _highest_precision(own, pipeedge)
    yield "PipeEdge, micro-batches searched", _highest_precision(whole, pipeedge)
    yield "adabits", _fastest((i, adabits(i)) for i in own)
    yield "transfer", _fastest((i, transfer(i)) for i in smaller)


def _highest_precision(
    instances: Sequence[Instance],
    method: Callable[[Instance, int], Candidate | None],
) -> Incumbent | None:
    """Returns the fastest plan at the highest precision that fits in any subproblem."""
    by_bits = (
        _fastest((instance, method(instance, b)) for instance in instances)
        for b in range(len(instances[0].bits))
    )
    return next(filter(None, by_bits), None)


def _fastest(plans: Iterator[tuple[Instance, Candidate | None]]) -> Incumbent | None:
    found = [
        Incumbent(
            instance=instance,
            candidate=candidate,
            value=evaluate(instance, candidate).seconds.latency_s,
        )
        for instance, candidate in plans
        if candidate is not None
    ]
    return min(found, key=lambda plan: plan.value, default=None)
