"""Decides: from a request to a strategy with its certificate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from llmpq_jax.planner.diagnose.infeasible import explain
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems, uniform_int8_omega
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.result.to_strategy import make_strategy
from llmpq_jax.planner.search.branch_and_bound import search
from llmpq_jax.planner.search.search_result import Progress, SearchResult
from llmpq_jax.schema.strategy import Strategy

# The least Σω becomes a budget, so it is sought more exactly than a latency.
_OMEGA_GAP = 1e-6


def plan(
    request: PlanRequest,
    *,
    time_limit_s: float = 60.0,
    relative_gap: float = 1e-4,
    progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Strategy:
    """Finds the fastest strategy that fits, and proves how good it is.

    Where neither a budget nor θ is asked for, Σω is held at that of a model wholly at 8
    bits; where nothing fits the memory then, at the least that does.

    Args:
        request: The problem.
        time_limit_s: Then the best plan so far is returned, with the gap proven.
        relative_gap: At which a plan counts as the best.
        progress: Called after every step of the search.
        on_note: Hears what is tried where there is no plan.

    Returns:
        A strategy without provenance, which is the caller's to fill.

    Raises:
        InfeasibleError: There is no plan; the message says what is short of what.
        SpecError: The records do not belong together.
    """
    begin = time.monotonic()
    problem = make_problem(request)
    budget, note = request.omega_budget, None
    if budget is None and request.theta == 0:
        budget = uniform_int8_omega(problem)
        note = (
            "no quality was asked for: omega held at that of a model wholly at 8 bits"
        )
    is_default = note is not None
    instances = all_subproblems(problem, omega_budget=budget)
    result = search(
        instances,
        time_limit_s=time_limit_s,
        relative_gap=relative_gap,
        progress=progress,
    )
    if result.found is None and is_default:
        left_s = time_limit_s - (time.monotonic() - begin)
        least = _min_omega(instances, time_limit_s=left_s)
        if least.found is not None:
            budget = max(least.found.value, budget or 0.0)
            note = _relaxed_note(least, uniform=uniform_int8_omega(problem))
            relaxed = [replace(instance, omega_budget=budget) for instance in instances]
            known = replace(least.found.instance, omega_budget=budget)
            result = search(
                relaxed,
                time_limit_s=time_limit_s - (time.monotonic() - begin),
                relative_gap=relative_gap,
                known=[(known, least.found.candidate)],
                progress=progress,
            )
        else:
            result = least
    if result.found is None:
        raise explain(problem, on_note)
    seconds = time.monotonic() - begin
    return make_strategy(
        problem, result, result.found, budget=budget, note=note, seconds=seconds
    )


def _min_omega(instances: tuple[Instance, ...], *, time_limit_s: float) -> SearchResult:
    free = [replace(instance, omega_budget=None) for instance in instances]
    return search(
        free, time_limit_s=time_limit_s, relative_gap=_OMEGA_GAP, goal="omega"
    )


def _relaxed_note(least: SearchResult, *, uniform: float) -> str:
    value = least.found.value if least.found else float("nan")
    proven = "the least that fits" if least.is_complete else "the least found in time"
    return f"nothing fits at the omega of a model wholly at 8 bits, {uniform:.4g}: held at {value:.4g}, {proven}"
