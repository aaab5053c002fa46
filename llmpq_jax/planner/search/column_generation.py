"""Column generation: the bound of one node, and the plans found while it is improved."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from llmpq_jax.planner.search.bounds import omega_bound, phase_bounds_s
from llmpq_jax.planner.search.lagrangian import (
    LagrangianWeights,
    Multipliers,
    lagrangian_weights,
)
from llmpq_jax.planner.search.restricted_master import RestrictedMaster, column_of
from llmpq_jax.planner.search.search_result import IncumbentStore, SearchSettings
from llmpq_jax.planner.search.shortest_path import NodeBounds, Path, ShortestPath
from llmpq_jax.planner.search.stage_table import StageTable
from llmpq_jax.planner.search.time_limit import OutOfTimeError

# A bound is the same sum taken in another order, and may round up.
ROUNDING = 1e-11
# How far above the slowest stages of the restricted master LP plans are looked for.
_DIVES = (1.02, 1.05, 1.1, 1.2, 1.4)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class NodeBound:
    """What column generation found of a node: a bound on every plan of it, and why.

    `weights` give the best bounds, at most three, the best first; `multipliers` are those
    of the best. `paths` are columns of the restricted master LP.
    """

    value: float
    weights: tuple[LagrangianWeights, ...]
    multipliers: Multipliers
    paths: tuple[Path, ...]


def bound_node(
    store: IncumbentStore,
    settings: SearchSettings,
    table: StageTable,
    finder: ShortestPath,
    known: NodeBound,
) -> NodeBound:
    """Improves a node's bound by column generation; the store considers every pipeline.

    `finder` is within the node's bounds; `known` is what the rounds start from.

    Raises:
        OutOfTimeError: If the time ends before there is any bound.
    """
    master = RestrictedMaster(table, finder.node_bounds)
    one = master.add_row(1.0, 1.0)

    def add(path: Path) -> None:
        column = column_of(table, path.stages)
        master.add_column(replace(column, entries=((one, 1.0),)))

    paths, bound, multipliers = [*known.paths], known.value, known.multipliers
    for path in paths:
        add(path)
    tried: list[tuple[float, LagrangianWeights, Multipliers]] = []
    solved = None
    for _ in range(settings.rounds):
        weights = lagrangian_weights(table, multipliers)
        try:
            path = finder.cheapest(weights)
        except OutOfTimeError:
            if not tried:
                raise
            break
        if path is None:
            return replace(known, value=float("inf"), weights=(weights,), paths=())
        value = path.lagrangian_value - abs(path.lagrangian_value) * ROUNDING
        tried.append((value, weights, multipliers))
        bound = max(bound, value)
        store.consider_path(table, path.stages)
        if bound >= store.cutoff or store.left_s <= 0:
            break
        add(path)
        paths.append(path)
        solved = master.solve()
        if solved is None:
            break
        reachable, multipliers = solved
        # Better multipliers than these cannot prove enough, or nothing more.
        missing = store.cutoff - bound
        if reachable - bound <= max(0.02 * missing, 1e-9 * abs(bound)):
            break
    if bound < store.cutoff and solved is not None:
        with suppress(OutOfTimeError):
            _dive(store, table, finder.node_bounds, tried[-1][2], master.slowest_s())
    tried.sort(key=lambda entry: -entry[0])
    return NodeBound(
        value=bound,
        weights=tuple(entry[1] for entry in tried[:3]),
        multipliers=tried[0][2],
        paths=tuple(paths),
    )


def _dive(
    store: IncumbentStore,
    table: StageTable,
    node_bounds: NodeBounds,
    multipliers: Multipliers,
    slowest_s: tuple[float, ...],
) -> None:
    """Looks for plans whose slowest stages are little above those of the master LP.

    Its multipliers charge slow stages, but its solution is a mixture of pipelines; a
    limit instead of a multiplier makes one pipeline balanced.
    """
    free = replace(multipliers, slowest=0 * multipliers.slowest)
    weights = lagrangian_weights(table, free)
    for factor in _DIVES:
        max_s = tuple(
            min(bound_s, own_s * factor)
            for bound_s, own_s in zip(node_bounds.max_s, slowest_s, strict=True)
        )
        limits = replace(node_bounds, max_s=max_s)
        path = ShortestPath(table, limits, store.check_time).cheapest(weights)
        if path is not None:
            store.consider_path(table, path.stages)


def tighten(
    store: IncumbentStore, table: StageTable, node_bounds: NodeBounds
) -> NodeBounds | None:
    """Lowers a node's upper bounds to what a better plan can have.

    Returns None if no plan is within them.
    """
    i = table.instance
    if not np.isfinite(store.cutoff):
        return node_bounds
    bounds_s = phase_bounds_s(i)
    seconds = store.cutoff - i.theta * omega_bound(i)
    max_s = [*node_bounds.max_s]
    for p in i.phases:
        # m_p·A is at most the prefill, (n − 1)·m_d·D at most the decode.
        others_s = sum(bound_s for other, bound_s in enumerate(bounds_s) if other != p)
        work = i.num_rounds[p] * i.num_micro_batches[p]
        max_s[p] = min(max_s[p], (seconds - others_s) / work * (1 + ROUNDING))
    if np.less(max_s, node_bounds.min_s).any():
        return None
    return replace(node_bounds, max_s=tuple(max_s))


def branch(
    store: IncumbentStore, table: StageTable, node_bounds: NodeBounds
) -> list[NodeBounds]:
    """Halves a node's bounds where that raises the bound most; nothing if it is a point."""
    i = table.instance
    if not np.isfinite(sum(node_bounds.max_s)):
        return []
    min_s, max_s = node_bounds.min_s, node_bounds.max_s
    slack = []
    for p, m in enumerate(i.num_micro_batches):
        weight = (m - 1) + (i.num_rounds[p] - 1) * m
        slack.append(max(weight, 0) * (max_s[p] - min_s[p]))
    if max(slack) <= 1e-7 * abs(store.cutoff):
        return []
    p = int(np.argmax(slack))
    middle = (min_s[p] + max_s[p]) / 2
    return [
        replace(node_bounds, max_s=(*max_s[:p], middle, *max_s[p + 1 :])),
        replace(node_bounds, min_s=(*min_s[:p], middle, *min_s[p + 1 :])),
    ]


def is_within(table: StageTable, path: Path, node_bounds: NodeBounds) -> bool:
    """Whether no stage of a pipeline takes longer than a node's bounds allow."""
    return all(
        table.layers_s[p, s.type, s.index] + table.fixed_s[s.role][p, s.type] <= limit
        for s in path.stages
        for p, limit in enumerate(node_bounds.max_s)
    )
