"""A node of the search that HiGHS decides."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llmpq_jax.planner.search.incumbent import IncumbentStore
from llmpq_jax.planner.search.lagrangian import LagrangianWeights
from llmpq_jax.planner.search.search_result import SearchSettings
from llmpq_jax.planner.search.shortest_path import ShortestPath
from llmpq_jax.planner.search.stage_table import StageTable

# HiGHS may exceed the budget by its tolerance; then it is asked again for this much less.
_SHAVE = 1e-7


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeSolution:
    """What HiGHS made of a node.

    Attributes:
        bound: No better plan of the node is below it.
        is_proven: Whether that is all there is to know; otherwise its time ended.
        is_interrupted: Whether a person ended it.
        is_solved: Whether HiGHS was asked at all.
    """

    bound: float
    is_proven: bool
    is_interrupted: bool = False
    is_solved: bool = True


def solve_node(
    store: IncumbentStore,
    settings: SearchSettings,
    tables: StageTable,
    finder: ShortestPath,
    priced: list[LagrangianWeights],
    bound: float,
    most: int | None,
) -> NodeSolution | None:
    """Lets HiGHS decide a node; nothing where it has too many stages for that.

    Args:
        store: Takes what is found.
        settings: How long HiGHS may take where `most` is given.
        tables: Of the node's case.
        finder: Of the node's box.
        priced: Prices that leave stages out.
        bound: Of the node so far.
        most: Stages that HiGHS may have; absent where it has to decide.
    """
    # Pyomo takes a second to import, which commands that do not solve should not pay.
    from llmpq_jax.planner.search.node_mip.arc_flow import chosen_stages, formulate
    from llmpq_jax.planner.search.node_mip.candidate_stages import candidates_below
    from llmpq_jax.planner.search.node_mip.highs import solve

    if most is not None and not np.isfinite(store.cutoff):
        return None
    candidates = candidates_below(tables, finder, priced, store.cutoff, max_stages=most)
    if candidates is None:
        return None
    if not candidates.may_be_whole:
        return NodeSolution(bound=store.cutoff, is_proven=True, is_solved=False)
    cutoff = store.cutoff
    reached, is_proven = cutoff, True
    budget = tables.instance.omega_budget
    for _ in range(2):
        written = formulate(candidates)
        outcome = solve(
            written.model,
            time_limit_s=min(
                store.left_s,
                float("inf") if most is None else settings.node_mip_s,
            ),
            relative_gap=store.relative_gap,
            cutoff=cutoff / written.unit if np.isfinite(cutoff) else None,
        )
        reached = min(reached, max(bound, outcome.bound * written.unit))
        is_proven = outcome.status != "stopped"
        is_new = not outcome.has_solution
        if outcome.has_solution:
            before = store.found
            store.consider_path(tables, chosen_stages(written.model, candidates))
            is_new = store.found is not before
        if outcome.status == "interrupted":
            return NodeSolution(bound=reached, is_proven=False, is_interrupted=True)
        if is_new or budget is None or not is_proven:
            break
        shaved = replace(candidates.instance, omega_budget=budget * (1 - _SHAVE))
        candidates = replace(candidates, instance=shaved)
    return NodeSolution(bound=reached, is_proven=is_proven)
