"""Searches for the plan of a request: of a batch, or of requests that arrive at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from llmpq_jax.planner import PlanRequest, plan
from llmpq_jax.planner.online import SimulatedPlan, online_workload, plan_online
from llmpq_jax.report.console import note_callback, progress_bar, state_callback
from llmpq_jax.schema.online_load import OnlineLoad
from llmpq_jax.schema.solve_request import SearchLimits, SolveRequest
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.workload import Workload
from llmpq_jax.tasks.online_lengths import read_lengths
from llmpq_jax.units import counted, format_seconds

# Of the problem as it is read, before the number of slots is chosen: data-sheet figures are
# tabulated up to it, and follow their law beyond.
_USUAL_SLOTS = 32


def load_workload(load: OnlineLoad) -> Workload:
    """Returns the workload of a load, before the planner chooses the number of slots.

    Raises:
        RequestError: The file of lengths cannot be used.
    """
    pairs = read_lengths(Path(load.lengths))
    return online_workload(pairs, batch=load.batch or _USUAL_SLOTS)


def searcher(request: SolveRequest) -> Callable[[PlanRequest], Strategy]:
    """Returns the search that a request asks for; the files that it needs are read now.

    Raises:
        RequestError: The file of lengths cannot be used.
    """
    load, limits = request.online, request.search
    if load is None:
        return lambda problem: search(problem, limits)
    pairs = read_lengths(Path(load.lengths))
    return lambda problem: _search_online(problem, limits, load, pairs)


def search(problem: PlanRequest, limits: SearchLimits) -> Strategy:
    """Searches for the best plan of a batch, with a progress bar on stderr.

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


def _search_online(
    problem: PlanRequest,
    limits: SearchLimits,
    load: OnlineLoad,
    pairs: Sequence[tuple[int, int]],
) -> Strategy:
    """Searches for the best plan of a load, and notes each one that is simulated."""
    with progress_bar("planning", None, unit="plans") as advance:
        show = note_callback(advance)

        def on_plan(found: SimulatedPlan) -> None:
            advance(1)
            show(_plan_note(found))

        return plan_online(
            problem,
            load,
            pairs,
            plan=lambda request, time_limit_s: plan(
                request,
                time_limit_s=time_limit_s,
                relative_gap=limits.gap,
                # Ctrl-C is noticed within a search too.
                progress=lambda _: advance(0),
            ),
            time_limit_s=limits.time_limit_s,
            on_plan=on_plan,
        )


def _plan_note(found: SimulatedPlan) -> str:
    strategy, figures = found.strategy, found.figures
    verdict = "" if found.excess <= 1 else ": over a limit"
    return (
        f"{counted(strategy.workload.batch, 'slot')} in groups of "
        f"{strategy.micro_batch.decode}: first token {format_seconds(figures.ttft_s)}, "
        f"then {format_seconds(figures.tpot_s)} a token, "
        f"{format_seconds(figures.request_s)} a request{verdict}"
    )
