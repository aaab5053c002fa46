"""A node of the search that HiGHS decides."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llmpq_jax.planner.search.incumbent import Incumbent
from llmpq_jax.planner.search.lagrangian import Prices
from llmpq_jax.planner.search.search_result import Effort
from llmpq_jax.planner.search.shortest_path import PathFinder
from llmpq_jax.planner.search.stage_table import TypeTables

# HiGHS may exceed the budget by its tolerance; then it is asked again for this much less.
_SHAVE = 1e-7


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
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


def settle(
    incumbent: Incumbent,
    effort: Effort,
    tables: TypeTables,
    finder: PathFinder,
    priced: list[Prices],
    bound: float,
    most: int | None,
) -> Settled | None:
    """Lets HiGHS decide a node; nothing where it has too many stages for that.

    Args:
        incumbent: Takes what is found.
        effort: How long HiGHS may take where `most` is given.
        tables: Of the node's case.
        finder: Of the node's box.
        priced: Prices that leave stages out.
        bound: Of the node so far.
        most: Stages that HiGHS may have; absent where it has to decide.
    """
    # Pyomo takes a second to import, which commands that do not solve should not pay.
    from llmpq_jax.planner.search.node_mip.arc_flow import chosen_stages, formulate_arcs
    from llmpq_jax.planner.search.node_mip.candidate_stages import arcs_below
    from llmpq_jax.planner.search.node_mip.highs import solve

    if most is not None and not np.isfinite(incumbent.cutoff):
        return None
    arcs = arcs_below(tables, finder, priced, incumbent.cutoff, most_stages=most)
    if arcs is None:
        return None
    if not arcs.may_be_whole:
        return Settled(bound=incumbent.cutoff, is_proven=True, is_solved=False)
    cutoff = incumbent.cutoff
    reached, is_proven = cutoff, True
    budget = tables.instance.omega_budget
    for _ in range(2):
        written = formulate_arcs(arcs)
        outcome = solve(
            written.model,
            time_limit_s=min(
                incumbent.left_s,
                float("inf") if most is None else effort.leaf_s,
            ),
            relative_gap=incumbent.relative_gap,
            cutoff=cutoff / written.unit if np.isfinite(cutoff) else None,
        )
        reached = min(reached, max(bound, outcome.bound * written.unit))
        is_proven = outcome.status != "stopped"
        is_new = not outcome.has_solution
        if outcome.has_solution:
            before = incumbent.found
            incumbent.consider_path(tables, chosen_stages(written.model, arcs))
            is_new = incumbent.found is not before
        if outcome.status == "interrupted":
            return Settled(bound=reached, is_proven=False, is_interrupted=True)
        if is_new or budget is None or not is_proven:
            break
        shaved = replace(arcs.instance, omega_budget=budget * (1 - _SHAVE))
        arcs = replace(arcs, instance=shaved)
    return Settled(bound=reached, is_proven=is_proven)
