"""Whether a request has a plan at all, found by a search, and up to which number."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from llmpq_jax.errors import SpecError
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.search.branch_and_bound import search

# Most searches take milliseconds.
_SEARCH_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """A change after which there is a plan, and the changed request."""

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
    subproblems = all_subproblems(
        problem, omega_budget=request.omega_budget, only_smallest=True
    )
    result = search(subproblems, time_limit_s=_SEARCH_S, relative_gap=1.0, goal="omega")
    return result.incumbent is not None


def largest(lower: int, upper: int, fits: Callable[[int], bool]) -> int | None:
    """Returns the largest number that fits; smaller ones fit where a larger one does."""
    if upper < lower or not fits(lower):
        return None
    numbers = range(lower + 1, upper + 1)
    return lower + bisect_left(numbers, True, key=lambda number: not fits(number))


def smallest(upper: int, fits: Callable[[int], bool]) -> int | None:
    """Returns the smallest number from 1 that fits, found by doubling, then bisection."""
    enough = 1
    while not fits(enough):
        if enough >= upper:
            return None
        enough = min(2 * enough, upper)
    numbers = range(enough // 2 + 1, enough)
    return numbers.start + bisect_left(numbers, True, key=fits)
