"""Plans: from a request to a strategy with its certificate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from llmpq_jax.planner.diagnose.infeasible import explain
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems, uniform_int8_omega
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.result.to_strategy import make_strategy
from llmpq_jax.planner.search.branch_and_bound import min_omega, search
from llmpq_jax.planner.search.search_result import Progress
from llmpq_jax.schema.strategy import Strategy

_UNIFORM_NOTE = (
    "no quality was asked for: omega held at that of a model wholly at 8 bits"
)


def plan(
    request: PlanRequest,
    *,
    time_limit_s: float = 60.0,
    relative_gap: float = 1e-4,
    progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Strategy:
    """Finds the fastest strategy that fits, and proves how good it is.

    If the request has neither a budget nor θ, Σω is held at that of a model wholly at 8
    bits; if nothing fits the memory then, at the least that does.

    Args:
        request: The planning problem.
        time_limit_s: Seconds after which the best plan so far is returned, with the gap
            that is proven.
        relative_gap: Gap between plan and bound at which the search ends.
        progress: Function that is called after every step of the search.
        on_note: Function that receives what is tried if there is no plan.

    Returns:
        A strategy without provenance, which the caller adds.

    Raises:
        InfeasibleError: If there is no plan; the message says which device is short of
            what.
        SpecError: If the records do not belong together.
    """
    begin = time.monotonic()
    problem = make_problem(request)
    budget, note = request.omega_budget, None
    if budget is None and request.theta == 0:
        budget, note = uniform_int8_omega(problem), _UNIFORM_NOTE
    instances = all_subproblems(problem, omega_budget=budget)
    result = search(
        instances,
        time_limit_s=time_limit_s,
        relative_gap=relative_gap,
        progress=progress,
    )
    if result.incumbent is None and note is not None and budget is not None:
        smallest = min_omega(
            instances, time_limit_s=begin + time_limit_s - time.monotonic()
        )
        best = smallest.incumbent
        if best is not None:
            proven = "that fits" if smallest.is_complete else "found in time"
            note = f"nothing fits at the omega of a model wholly at 8 bits, {budget:.4g}: held at {best.value:.4g}, the least {proven}"
            budget = max(best.value, budget)
            result = search(
                [replace(instance, omega_budget=budget) for instance in instances],
                time_limit_s=begin + time_limit_s - time.monotonic(),
                relative_gap=relative_gap,
                known=[(replace(best.instance, omega_budget=budget), best.candidate)],
                progress=progress,
            )
    if result.incumbent is None:
        raise explain(problem, on_note)
    return make_strategy(
        problem,
        result,
        result.incumbent,
        budget=budget,
        note=note,
        seconds=time.monotonic() - begin,
    )
