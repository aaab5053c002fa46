"""Solves a problem, under a measured limit if there is one, and notes where the plan is from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from llmpq_jax import __version__
from llmpq_jax.planner import PlanRequest
from llmpq_jax.schema.solve_request import SolveRequest
from llmpq_jax.schema.strategy import Provenance, Strategy
from llmpq_jax.tasks.online_search import searcher
from llmpq_jax.tasks.planning_request import measurements_digest

# Seconds for plans around the one that was asked for, if it took less itself.
_MIN_AROUND_S = 2.0


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
    digest = measurements_digest(request.sources, problem.cluster)
    search = searcher(request)
    if not request.quality.is_measured:
        found = search(problem)
    else:
        # A limit that is measured needs JAX, which plans without one do without.
        from llmpq_jax.tasks.quality_search import plan_under_limit

        found = plan_under_limit(
            problem,
            request,
            plan=search,
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


def neighbours(
    problem: PlanRequest, strategy: Strategy, request: SolveRequest
) -> tuple[Strategy, ...]:
    """Returns a plan among those of less and of more loss, by their loss.

    They are searched in the time that the limit has left, and no longer than the plan
    itself took. Nothing is returned if no time is left, if the limit was measured, if a
    price of the loss was given, or if the plan is for requests that arrive at random.
    """
    from llmpq_jax.planner.whatif import plans_around

    quality, certificate = request.quality, strategy.certificate
    if quality.is_measured or quality.theta > 0 or certificate is None:
        return ()
    if request.online is not None:
        return ()
    left_s = request.search.time_limit_s - certificate.seconds
    time_limit_s = min(left_s, max(_MIN_AROUND_S, certificate.seconds))
    if time_limit_s <= 0:
        return ()
    return plans_around(problem, strategy, time_limit_s=time_limit_s)


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
