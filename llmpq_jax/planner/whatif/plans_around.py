"""Plans around a plan: what less loss of quality would cost, and what more would bring."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.search.search_result import Incumbent
from llmpq_jax.planner.whatif.from_strategy import incumbent_from_strategy
from llmpq_jax.planner.whatif.pareto import Sweep
from llmpq_jax.planner.whatif.sweep_point import SweepPoint
from llmpq_jax.schema.strategy import Strategy

# A plan that is no faster than this is not worth a row.
_WORTH = 0.01
_NUM_SEARCHES = 3


def plans_around(
    request: PlanRequest, strategy: Strategy, *, time_limit_s: float
) -> tuple[Strategy, ...]:
    """Returns a plan and up to three around it, by their Σω.

    They lose half as much, as much as the fastest plan of all, and the mean of that and
    the plan's own. One that is no faster than a plan of less loss is left out.

    Args:
        request: The problem that was solved.
        strategy: The plan, of that problem.
        time_limit_s: Seconds for all searches together.
    """
    deadline = time.monotonic() + time_limit_s
    sweep = Sweep(
        request=request,
        time_limit_s=time_limit_s / _NUM_SEARCHES,
        relative_gap=_WORTH / 2,
    )
    own = SweepPoint(setting=0.0, strategy=strategy)
    found = [own]
    for budget, known in _budgets(request, own, found):
        if deadline - time.monotonic() <= 0:
            break
        point = sweep.solve(request, budget, known=known)
        if point.strategy is not None:
            found.append(point)
        if point.was_interrupted:
            break
    return tuple(_worth_a_row(found, own))


def _budgets(
    request: PlanRequest, own: SweepPoint, found: list[SweepPoint]
) -> Iterator[tuple[float | None, Incumbent | None]]:
    """Yields budgets of Σω to search plans for, and plans that keep them.

    `found` grows meanwhile: the mean is that of the plan's own loss and the fastest's.
    """
    assert own.strategy is not None
    problem = make_problem(replace(request, omega_budget=None))
    plan = incumbent_from_strategy(problem, own.strategy)
    yield None, plan
    fastest = found[-1]
    if fastest.latency_s < own.latency_s * (1 - _WORTH):
        yield (own.omega + fastest.omega) / 2, plan
    if own.omega > 0:
        yield own.omega / 2, None


def _worth_a_row(found: list[SweepPoint], own: SweepPoint) -> Iterator[Strategy]:
    """Yields the plan, and of the others those that are faster than all of less loss."""
    fastest_s = float("inf")
    for point in sorted(found, key=lambda point: (point.omega, point.latency_s)):
        assert point.strategy is not None
        if point is own or point.latency_s < fastest_s * (1 - _WORTH):
            fastest_s = min(fastest_s, point.latency_s)
            yield point.strategy
