"""Plans: from a request to a strategy with its certificate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from llmpq_jax.errors import TimeLimitError
from llmpq_jax.planner.diagnose.infeasible import explain
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems, uniform_int8_omega
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.result.to_strategy import make_strategy
from llmpq_jax.planner.search.branch_and_bound import min_omega, search
from llmpq_jax.planner.search.search_result import Known, Progress, SearchResult
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import format_loss, format_seconds

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
        TimeLimitError: If the time ended before a plan was found or ruled out.
        SpecError: If the records do not belong together.
    """
    begin = time.monotonic()
    deadline = begin + time_limit_s

    def searched(subproblems: Sequence[Instance], known: Known = ()) -> SearchResult:
        return search(
            subproblems,
            time_limit_s=deadline - time.monotonic(),
            relative_gap=relative_gap,
            known=known,
            progress=progress,
        )

    problem = make_problem(request)
    budget, note = request.omega_budget, None
    if budget is None and request.theta == 0:
        budget, note = uniform_int8_omega(problem), _UNIFORM_NOTE
    instances = all_subproblems(problem, omega_budget=budget)
    result = searched(instances)
    if result.is_infeasible and note is not None and budget is not None:
        result = min_omega(instances, time_limit_s=deadline - time.monotonic())
        if (best := result.incumbent) is not None:
            note = _least_note(budget, result)
            budget = max(best.value, budget)
            result = searched(
                [replace(instance, omega_budget=budget) for instance in instances],
                [(replace(best.instance, omega_budget=budget), best.candidate)],
            )
    if result.is_infeasible:
        raise explain(problem, on_note)
    if result.incumbent is None:
        msg = f"no plan was found in {format_seconds(time_limit_s)}, and it is not proven that there is none: expected more time; raise --time-limit, or let the planner try less with --prefill-micro-batch and --decode-micro-batch"
        raise TimeLimitError(msg)
    return make_strategy(
        problem,
        result,
        result.incumbent,
        budget=budget,
        note=note,
        seconds=time.monotonic() - begin,
    )


def _least_note(budget: float, result: SearchResult) -> str:
    """Notes that the default budget cannot be kept, and what is kept instead."""
    assert result.incumbent is not None
    least = format_loss(result.incumbent.value)
    proven = "that fits" if result.is_complete else "found in time"
    return f"nothing fits at the omega of a model wholly at 8 bits, {format_loss(budget)}: held at {least}, the least {proven}"
