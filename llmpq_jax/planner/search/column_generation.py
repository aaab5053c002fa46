"""The bound of one box by column generation, and the plans met on the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmpq_jax.planner.search.bounds import omega_bound, phase_bounds_s
from llmpq_jax.planner.search.incumbent import IncumbentStore
from llmpq_jax.planner.search.lagrangian import (
    LagrangianWeights,
    Multipliers,
    lagrangian_weights,
)
from llmpq_jax.planner.search.restricted_master import RestrictedMaster, column_of
from llmpq_jax.planner.search.search_result import SearchSettings
from llmpq_jax.planner.search.shortest_path import NodeBounds, Path, ShortestPath
from llmpq_jax.planner.search.stage_table import StageTable

# A bound is the same sum taken in another order, and may round up.
ROUNDING = 1e-11
# How far above the programme's slowest stages plans are looked for.
_DIVES = (1.02, 1.05, 1.1, 1.2, 1.4)


def bound_node(
    store: IncumbentStore,
    settings: SearchSettings,
    tables: StageTable,
    finder: ShortestPath,
    node_bounds: NodeBounds,
    multipliers: Multipliers,
    paths: list[Path],
    bound: float,
) -> tuple[float, list[LagrangianWeights], list[Path], Multipliers]:
    """Improves a node's bound by column generation.

    Returns the bound, the best prices first, the pipelines and the best multipliers.
    """
    master = RestrictedMaster(tables, node_bounds)
    one = master.add_row(1.0, 1.0)

    def add(path: Path) -> None:
        column = column_of(tables, path.stages)
        master.add_column(replace(column, entries=((one, 1.0),)))

    for path in paths:
        add(path)
    priced: list[tuple[float, LagrangianWeights, Multipliers]] = []
    solved = None
    for _ in range(settings.rounds):
        weights = lagrangian_weights(tables, multipliers)
        path = finder.cheapest(weights)
        if path is None:
            return float("inf"), [weights], [], multipliers
        value = path.lagrangian_value - abs(path.lagrangian_value) * ROUNDING
        priced.append((value, weights, multipliers))
        bound = max(bound, value)
        store.consider_path(tables, path.stages)
        if bound >= store.cutoff or store.left_s <= 0:
            break
        add(path)
        paths.append(path)
        solved = master.solve()
        if solved is None:
            break
        reachable, multipliers = solved
        # Better prices than these cannot prove enough, or nothing more.
        missing = store.cutoff - bound
        if reachable - bound <= max(0.02 * missing, 1e-9 * abs(bound)):
            break
    if bound < store.cutoff and solved is not None:
        _dive(store, tables, node_bounds, priced[-1][2], master.slowest_s())
    priced.sort(key=lambda entry: -entry[0])
    return bound, [entry[1] for entry in priced[:3]], paths, priced[0][2]


def _dive(
    store: IncumbentStore,
    tables: StageTable,
    node_bounds: NodeBounds,
    multipliers: Multipliers,
    slowest_s: tuple[float, float],
) -> None:
    """Looks for plans whose slowest stages are little above the programme's.

    Its prices pay for slow stages, but a mixture of pipelines; a limit instead of a
    price makes one pipeline balanced.
    """
    prefill_s, decode_s = slowest_s
    free = replace(
        multipliers,
        slowest_prefill=0 * multipliers.slowest_prefill,
        slowest_decode=0 * multipliers.slowest_decode,
    )
    weights = lagrangian_weights(tables, free)
    for more in _DIVES:
        limits = replace(
            node_bounds,
            max_prefill_s=min(node_bounds.max_prefill_s, prefill_s * more),
            max_decode_s=min(node_bounds.max_decode_s, decode_s * more),
        )
        path = ShortestPath(tables, limits).cheapest(weights)
        if path is not None:
            store.consider_path(tables, path.stages)


def tighten(
    store: IncumbentStore, tables: StageTable, node_bounds: NodeBounds
) -> NodeBounds | None:
    """Lowers a box's upper limits to what a better plan can have."""
    i = tables.instance
    if not np.isfinite(store.cutoff):
        return node_bounds
    prefill_s, decode_s = phase_bounds_s(i)
    seconds = store.cutoff - i.theta * omega_bound(i)
    # m_p·A is at most the prefill, (n − 1)·m_d·D at most the decode.
    max_prefill_s = (seconds - decode_s) / i.num_prefill * (1 + ROUNDING)
    max_decode_s = node_bounds.max_decode_s
    if i.new_tokens > 1:
        steps = (i.new_tokens - 1) * i.num_decode
        most = (seconds - prefill_s) / steps * (1 + ROUNDING)
        max_decode_s = min(max_decode_s, most)
    node_bounds = replace(
        node_bounds,
        max_prefill_s=min(node_bounds.max_prefill_s, max_prefill_s),
        max_decode_s=max_decode_s,
    )
    is_empty = (
        node_bounds.max_prefill_s < node_bounds.min_prefill_s
        or node_bounds.max_decode_s < node_bounds.min_decode_s
    )
    return None if is_empty else node_bounds


def branch(
    store: IncumbentStore, tables: StageTable, node_bounds: NodeBounds
) -> list[NodeBounds]:
    """Cuts a box where that raises the bound most; nothing where it is a point."""
    i = tables.instance
    if not np.isfinite(node_bounds.max_prefill_s + node_bounds.max_decode_s):
        return []
    weigh_prefill = i.num_prefill - 1
    weigh_decode = (i.num_decode - 1) + (i.new_tokens - 2) * i.num_decode
    slack_prefill = weigh_prefill * (
        node_bounds.max_prefill_s - node_bounds.min_prefill_s
    )
    slack_decode = max(weigh_decode, 0) * (
        node_bounds.max_decode_s - node_bounds.min_decode_s
    )
    if max(slack_prefill, slack_decode) <= 1e-7 * abs(store.cutoff):
        return []
    if slack_prefill >= slack_decode:
        middle = (node_bounds.min_prefill_s + node_bounds.max_prefill_s) / 2
        return [
            replace(node_bounds, max_prefill_s=middle),
            replace(node_bounds, min_prefill_s=middle),
        ]
    middle = (node_bounds.min_decode_s + node_bounds.max_decode_s) / 2
    return [
        replace(node_bounds, max_decode_s=middle),
        replace(node_bounds, min_decode_s=middle),
    ]


def is_within(tables: StageTable, path: Path, node_bounds: NodeBounds) -> bool:
    """Whether no stage of a pipeline takes longer than a box allows."""
    return all(
        tables.prefill_s[s.type, s.index] + tables.end_prefill_s[s.role][s.type]
        <= node_bounds.max_prefill_s
        and tables.decode_s[s.type, s.index] + tables.end_decode_s[s.role][s.type]
        <= node_bounds.max_decode_s
        for s in path.stages
    )
