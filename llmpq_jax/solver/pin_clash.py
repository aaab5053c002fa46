"""Which pins stand in the way of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from llmpq_jax.errors import SpecError
from llmpq_jax.solver.cases import all_cases
from llmpq_jax.solver.pins import with_use
from llmpq_jax.solver.problem import Problem, make_problem
from llmpq_jax.solver.request import PlanRequest
from llmpq_jax.solver.search import search

# For each question; most take milliseconds.
_QUESTION_S = 10.0


def pin_clash(problem: Problem) -> str | None:
    """Names the pins without which there is a plan; None where it is not they."""
    loose = list(loosened(problem.request))
    if not loose:
        return None
    free = problem.request
    for _, change in loose:
        free = change(free)
    if not _is_feasible(free):
        return None
    alone = [what for what, change in loose if _is_feasible(change(problem.request))]
    if alone:
        others = (
            ""
            if len(alone) == 1
            else "; so there is without " + ", or without ".join(alone[1:])
        )
        return f"no plan fits with {alone[0]}, and without it there is one{others}: drop or change that pin, or add memory"
    told = ", ".join(what for what, _ in loose)
    return f"no plan fits with these pins together: {told}; and without all of them there is one: drop or change some of them, or add memory"


def loosened(
    request: PlanRequest,
) -> Iterator[tuple[str, Callable[[PlanRequest], PlanRequest]]]:
    """Yields every pin of layers, bits and devices, and how to do without it."""
    for pin in request.pins:
        yield (
            str(pin),
            lambda r, pin=pin: replace(
                r, pins=tuple(other for other in r.pins if other != pin)
            ),
        )
    for place in request.cluster.placed:
        if place.device.use != "any":
            what = "idle" if place.device.use == "never" else "in use"
            yield (
                f"{place.name} pinned {what}",
                lambda r, name=place.name: replace(
                    r, cluster=with_use(r.cluster, {name: "any"})
                ),
            )


def _is_feasible(request: PlanRequest) -> bool:
    try:
        problem = make_problem(request)
    except SpecError:
        return False
    cases = all_cases(problem, omega_budget=request.omega_budget)
    result = search(cases, time_limit_s=_QUESTION_S, relative_gap=1.0, goal="omega")
    return result.found is not None
