"""Solves a problem, under a measured limit if there is one, and notes where the plan is from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from llmpq_jax import __version__
from llmpq_jax.planner import PlanRequest, plan
from llmpq_jax.report.console import note_callback, progress_bar, state_callback
from llmpq_jax.schema.solve_request import SearchLimits, SolveRequest
from llmpq_jax.schema.strategy import Provenance, Strategy
from llmpq_jax.tasks.planning_request import measurements_digest


def solve(
    problem: PlanRequest,
    request: SolveRequest,
    *,
    command: str,
    work: Path,
    record: Path | None = None,
) -> Strategy:
    """Returns the best plan, with its request and its provenance.

    The folder `work` is for what a measured limit needs, and the file `record` for
    plans that were evaluated under measured limits, if they are to be kept.

    Raises:
        InfeasibleError: No plan fits the devices, or none keeps the limit.
        TimeLimitError: The time ended before a plan was found or ruled out.
        RequestError: The validation text cannot be used.
    """
    digest = measurements_digest(request.sources)
    if not request.quality.is_measured:
        found = search(problem, request.search)
    else:
        # A limit that is measured needs JAX, which plans without one do without.
        from llmpq_jax.tasks.quality_search import plan_under_limit

        found = plan_under_limit(
            problem,
            request,
            plan=lambda problem: search(problem, request.search),
            work=work,
            record=record,
        )
    return with_origin(
        found,
        request,
        command=command,
        cluster=problem.cluster.name,
        measurements=digest,
    )


def search(problem: PlanRequest, limits: SearchLimits) -> Strategy:
    """Searches for the best plan, with a progress bar on stderr.

    Raises:
        InfeasibleError: No plan fits the devices.
        TimeLimitError: The time ended before a plan was found or ruled out.
    """
    with progress_bar("solving", None, unit="subproblems") as advance:
        return plan(
            problem,
            time_limit_s=limits.time_limit_s,
            relative_gap=limits.gap,
            progress=state_callback(advance),
            on_note=note_callback(advance),
        )


def with_origin(
    strategy: Strategy,
    request: SolveRequest,
    *,
    command: str,
    cluster: str,
    measurements: str,
) -> Strategy:
    """Returns a strategy with its request and its provenance."""
    provenance = Provenance(
        program=f"llmpq-jax {__version__}",
        command=command,
        date=datetime.now(UTC).date().isoformat(),
        cluster=cluster,
        measurements=measurements,
    )
    return replace(strategy, provenance=provenance, request=request)
