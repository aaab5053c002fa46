"""A branch-and-bound node that HiGHS solves exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llmpq_jax.planner.search.column_generation import NodeBound
from llmpq_jax.planner.search.search_result import IncumbentStore, SearchSettings
from llmpq_jax.planner.search.shortest_path import ShortestPath
from llmpq_jax.planner.search.stage_table import StageTable

# HiGHS may exceed the budget by its tolerance; then it solves again with this much less.
_SHAVE = 1e-7


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeSolution:
    """A bound on a node's plans that are better than the incumbent.

    It is not proven if HiGHS hit its time limit, or Ctrl-C interrupted it.
    """

    bound: float
    is_proven: bool
    is_interrupted: bool = False


def solve_node(
    store: IncumbentStore,
    settings: SearchSettings,
    table: StageTable,
    finder: ShortestPath,
    known: NodeBound,
    *,
    max_columns: int | None,
) -> NodeSolution | None:
    """Solves a node exactly with HiGHS, ruling stages out by the weights that are `known`.

    Returns None if more than `max_columns` candidate stages remain. A node that cannot be
    branched has no such limit, and no time limit but the search's.

    Raises:
        OutOfTimeError: If the time ends before HiGHS has its model.
    """
    # Pyomo takes a second to import, which commands that do not solve should not pay.
    from llmpq_jax.planner.search.node_mip.arc_flow import chosen_stages, formulate
    from llmpq_jax.planner.search.node_mip.candidate_stages import candidates_below
    from llmpq_jax.planner.search.node_mip.highs import solve

    cutoff = store.cutoff
    if max_columns is not None and not np.isfinite(cutoff):
        return None
    candidates = candidates_below(
        table,
        finder,
        known.weights,
        cutoff,
        max_stages=max_columns,
        check_time=store.check_time,
    )
    if candidates is None:
        return None
    if not candidates.may_be_whole:
        return NodeSolution(bound=cutoff, is_proven=True)
    reached, is_proven = cutoff, True
    budget = table.instance.omega_budget
    for _ in range(2):
        written = formulate(candidates, check_time=store.check_time)
        store.check_time()
        outcome = solve(
            written.model,
            time_limit_s=min(
                store.left_s,
                float("inf") if max_columns is None else settings.node_mip_s,
            ),
            relative_gap=store.relative_gap,
            cutoff=cutoff / written.scaling.time_s if np.isfinite(cutoff) else None,
        )
        reached = min(reached, max(known.value, outcome.bound * written.scaling.time_s))
        is_proven = outcome.status != "stopped"
        is_taken = not outcome.has_solution
        if outcome.has_solution:
            before = store.incumbent
            store.consider_path(table, chosen_stages(written))
            is_taken = store.incumbent is not before
        if outcome.status == "interrupted":
            return NodeSolution(bound=reached, is_proven=False, is_interrupted=True)
        if is_taken or budget is None or not is_proven:
            break
        shaved = replace(candidates.instance, omega_budget=budget * (1 - _SHAVE))
        candidates = replace(candidates, instance=shaved)
    return NodeSolution(bound=reached, is_proven=is_proven)
