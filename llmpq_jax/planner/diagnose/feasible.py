"""Whether a request has a plan at all, found by a search."""

from __future__ import annotations

from dataclasses import dataclass

from llmpq_jax.errors import SpecError
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import smallest_subproblems
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.search.branch_and_bound import search

# Most searches take milliseconds.
_SEARCH_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """A change after which there is a plan.

    Attributes:
        text: Description of the change.
        request: Changed request, for which a plan was found.
    """

    text: str
    request: PlanRequest


def has_plan(request: PlanRequest) -> bool:
    """Whether some plan fits the memory, keeps the pins and the budget.

    A request for what was not measured has none.
    """
    try:
        problem = make_problem(request)
    except SpecError:
        return False
    subproblems = smallest_subproblems(problem, omega_budget=request.omega_budget)
    result = search(subproblems, time_limit_s=_SEARCH_S, relative_gap=1.0, goal="omega")
    return result.incumbent is not None
