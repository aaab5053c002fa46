"""Goes through the cases with one shared incumbent and one combined bound.

Cases are visited in the order of their cheap bounds. One whose bound is no better than
the incumbent, less the gap, is left out with that bound; HiGHS solves the others and
looks only for what is better. The least bound over all cases bounds them all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from llmpq_jax.solver.bounds import omega_bound
from llmpq_jax.solver.instance import Instance
from llmpq_jax.solver.placement import Placement, evaluate, with_least_omega
from llmpq_jax.solver.relaxation import relaxed_bound
from llmpq_jax.solver.start import starting_placements

SearchGoal = Literal["objective", "omega"]

# HiGHS's tolerance is 1e-9 of the largest device; a plan that uses it up is asked for
# again with this much less memory.
_SHAVE = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a search is.

    Attributes:
        num_done: Cases settled.
        num_cases: Of so many.
        best: The incumbent's objective; infinite while there is none.
        bound: Of all cases.
        seconds: Since the search began.
    """

    num_done: int
    num_cases: int
    best: float
    bound: float
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Found:
    """The incumbent.

    Attributes:
        instance: Its case.
        placement: Its plan there.
        value: What was minimised.
    """

    instance: Instance
    placement: Placement
    value: float


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class SearchResult:
    """What a search found and proved.

    Attributes:
        found: The best plan; absent where there is none, or none was found in time.
        bound: No plan of any case is below it; infinite where none exists.
        num_cases: Cases covered.
        num_solved: Those given to HiGHS; bounds settled the others.
        is_complete: Whether neither time nor a person ended the search early.
        seconds: It took.
    """

    found: Found | None
    bound: float
    num_cases: int
    num_solved: int
    is_complete: bool
    seconds: float

    @property
    def gap(self) -> float:
        """(value − bound) / value; infinite while nothing is found."""
        if self.found is None:
            return float("inf")
        if self.found.value <= 0:
            return 0.0
        return max(0.0, (self.found.value - self.bound) / self.found.value)


def search(
    instances: Sequence[Instance],
    *,
    time_limit_s: float,
    relative_gap: float,
    goal: SearchGoal = "objective",
    known: Sequence[tuple[Instance, Placement]] = (),
    progress: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Finds the best plan over all cases, and bounds it.

    Ctrl-C ends the search and keeps the incumbent; with none, it is raised on.

    Args:
        instances: The cases.
        time_limit_s: Then the incumbent is returned, with the gap that is proven.
        relative_gap: Between incumbent and bound at which the search ends.
        goal: What is minimised: latency plus θ·Σω, or Σω alone.
        known: Plans to start from, beside those the search makes itself.
        progress: Called after every case.
    """
    begin = time.monotonic()
    bound_of = relaxed_bound if goal == "objective" else omega_bound
    bounds = np.array([bound_of(instance) for instance in instances])
    found: Found | None = None
    num_solved = num_done = 0
    is_complete = True
    try:
        found = _best_start(instances, goal, known)
        for case in np.argsort(bounds, kind="stable"):
            cutoff = found.value * (1.0 - relative_gap) if found else float("inf")
            left_s = time_limit_s - (time.monotonic() - begin)
            if bounds[case] < cutoff:
                if left_s <= 0:
                    is_complete = False
                    break
                settled = _solve(
                    instances[case],
                    goal,
                    time_limit_s=left_s,
                    relative_gap=relative_gap,
                    cutoff=cutoff,
                )
                num_solved += 1
                bounds[case] = max(bounds[case], settled.bound)
                if settled.found and (not found or settled.found.value < found.value):
                    found = settled.found
                is_complete = is_complete and settled.is_complete
                if settled.is_interrupted:
                    raise KeyboardInterrupt
            num_done += 1
            if progress is not None:
                progress(
                    Progress(
                        num_done=num_done,
                        num_cases=len(instances),
                        best=found.value if found else float("inf"),
                        bound=float(bounds.min()),
                        seconds=time.monotonic() - begin,
                    )
                )
    except KeyboardInterrupt:
        if found is None:
            raise
        is_complete = False
    bound = float(bounds.min())
    return SearchResult(
        found=found,
        bound=min(bound, found.value) if found else bound,
        num_cases=len(instances),
        num_solved=num_solved,
        is_complete=is_complete,
        seconds=time.monotonic() - begin,
    )


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Settled:
    found: Found | None
    bound: float
    is_complete: bool
    is_interrupted: bool = False


def _solve(
    instance: Instance,
    goal: SearchGoal,
    *,
    time_limit_s: float,
    relative_gap: float,
    cutoff: float,
) -> _Settled:
    # Pyomo takes seconds to import, which commands that do not solve should not pay.
    from llmpq_jax.solver.extract import read_placement
    from llmpq_jax.solver.formulation import formulate
    from llmpq_jax.solver.highs import solve

    begin = time.monotonic()
    formulation = formulate(instance, goal=goal)
    outcome = solve(
        formulation.model,
        time_limit_s=time_limit_s - (time.monotonic() - begin),
        relative_gap=relative_gap,
        cutoff=cutoff / formulation.unit if np.isfinite(cutoff) else None,
    )
    found = None
    if outcome.has_solution:
        placement = read_placement(formulation.model, instance)
        found = _found(instance, placement, goal)
        if found is None:
            left_s = time_limit_s - (time.monotonic() - begin)
            shaved = (instance.allowed_bytes * (1.0 - _SHAVE)).astype(np.int64)
            again = _solve(
                replace(instance, allowed_bytes=shaved),
                goal,
                time_limit_s=left_s,
                relative_gap=relative_gap,
                cutoff=cutoff,
            )
            return replace(again, bound=outcome.bound * formulation.unit)
    return _Settled(
        found=found,
        bound=outcome.bound * formulation.unit,
        is_complete=outcome.status in {"optimal", "infeasible"},
        is_interrupted=outcome.status == "interrupted",
    )


def _best_start(
    instances: Sequence[Instance],
    goal: SearchGoal,
    known: Sequence[tuple[Instance, Placement]],
) -> Found | None:
    made = (
        (instance, placement)
        for instance in instances
        for placement in starting_placements(instance)
    )
    starts = [
        _found(instance, placement, goal) for instance, placement in (*known, *made)
    ]
    return min((s for s in starts if s), key=lambda s: s.value, default=None)


def _found(instance: Instance, placement: Placement, goal: SearchGoal) -> Found | None:
    dealt = with_least_omega(instance, placement)
    evaluation = evaluate(instance, dealt)
    if not evaluation.fits:
        return None
    value = evaluation.objective if goal == "objective" else evaluation.omega
    return Found(instance=instance, placement=dealt, value=value)
