"""The bound of one box by column generation, and the plans met on the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmpq_jax.planner.search.bounds import omega_bound, phase_bounds_s
from llmpq_jax.planner.search.incumbent import Incumbent
from llmpq_jax.planner.search.lagrangian import Multipliers, Prices, prices_of
from llmpq_jax.planner.search.restricted_master import Programme, column_of
from llmpq_jax.planner.search.search_result import Effort
from llmpq_jax.planner.search.shortest_path import Box, Path, PathFinder
from llmpq_jax.planner.search.stage_table import TypeTables

# A bound is the same sum taken in another order, and may round up.
ROUNDING = 1e-11
# How far above the programme's slowest stages plans are looked for.
_DIVES = (1.02, 1.05, 1.1, 1.2, 1.4)


def price_box(
    incumbent: Incumbent,
    effort: Effort,
    tables: TypeTables,
    finder: PathFinder,
    box: Box,
    multipliers: Multipliers,
    paths: list[Path],
    bound: float,
) -> tuple[float, list[Prices], list[Path], Multipliers]:
    """Improves a node's bound by column generation.

    Returns the bound, the best prices first, the pipelines and the best multipliers.
    """
    programme = Programme(tables, box)
    one = programme.add_row(1.0, 1.0)

    def add(path: Path) -> None:
        column = column_of(tables, path.stages)
        programme.add_column(replace(column, entries=((one, 1.0),)))

    for path in paths:
        add(path)
    priced: list[tuple[float, Prices, Multipliers]] = []
    solved = None
    for _ in range(effort.rounds):
        prices = prices_of(tables, multipliers)
        path = finder.cheapest(prices)
        if path is None:
            return float("inf"), [prices], [], multipliers
        value = path.price - abs(path.price) * ROUNDING
        priced.append((value, prices, multipliers))
        bound = max(bound, value)
        incumbent.consider_path(tables, path.stages)
        if bound >= incumbent.cutoff or incumbent.left_s <= 0:
            break
        add(path)
        paths.append(path)
        solved = programme.solve()
        if solved is None:
            break
        reachable, multipliers = solved
        # Better prices than these cannot prove enough, or nothing more.
        missing = incumbent.cutoff - bound
        if reachable - bound <= max(0.02 * missing, 1e-9 * abs(bound)):
            break
    if bound < incumbent.cutoff and solved is not None:
        _dive(incumbent, tables, box, priced[-1][2], programme.slowest_s())
    priced.sort(key=lambda entry: -entry[0])
    return bound, [entry[1] for entry in priced[:3]], paths, priced[0][2]


def _dive(
    incumbent: Incumbent,
    tables: TypeTables,
    box: Box,
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
    prices = prices_of(tables, free)
    for more in _DIVES:
        limits = replace(
            box,
            most_prefill=min(box.most_prefill, prefill_s * more),
            most_decode=min(box.most_decode, decode_s * more),
        )
        path = PathFinder(tables, limits).cheapest(prices)
        if path is not None:
            incumbent.consider_path(tables, path.stages)


def narrowed(incumbent: Incumbent, tables: TypeTables, box: Box) -> Box | None:
    """Lowers a box's upper limits to what a better plan can have."""
    i = tables.instance
    if not np.isfinite(incumbent.cutoff):
        return box
    prefill_s, decode_s = phase_bounds_s(i)
    seconds = incumbent.cutoff - i.theta * omega_bound(i)
    # m_p·A is at most the prefill, (n − 1)·m_d·D at most the decode.
    most_prefill = (seconds - decode_s) / i.num_prefill * (1 + ROUNDING)
    most_decode = box.most_decode
    if i.new_tokens > 1:
        steps = (i.new_tokens - 1) * i.num_decode
        most = (seconds - prefill_s) / steps * (1 + ROUNDING)
        most_decode = min(most_decode, most)
    box = replace(
        box,
        most_prefill=min(box.most_prefill, most_prefill),
        most_decode=most_decode,
    )
    is_empty = (
        box.most_prefill < box.least_prefill or box.most_decode < box.least_decode
    )
    return None if is_empty else box


def halves(incumbent: Incumbent, tables: TypeTables, box: Box) -> list[Box]:
    """Cuts a box where that raises the bound most; nothing where it is a point."""
    i = tables.instance
    if not np.isfinite(box.most_prefill + box.most_decode):
        return []
    weigh_prefill = i.num_prefill - 1
    weigh_decode = (i.num_decode - 1) + (i.new_tokens - 2) * i.num_decode
    slack_prefill = weigh_prefill * (box.most_prefill - box.least_prefill)
    slack_decode = max(weigh_decode, 0) * (box.most_decode - box.least_decode)
    if max(slack_prefill, slack_decode) <= 1e-7 * abs(incumbent.cutoff):
        return []
    if slack_prefill >= slack_decode:
        middle = (box.least_prefill + box.most_prefill) / 2
        return [
            replace(box, most_prefill=middle),
            replace(box, least_prefill=middle),
        ]
    middle = (box.least_decode + box.most_decode) / 2
    return [replace(box, most_decode=middle), replace(box, least_decode=middle)]


def is_within(tables: TypeTables, path: Path, box: Box) -> bool:
    """Whether no stage of a pipeline takes longer than a box allows."""
    return all(
        tables.prefill_s[s.type, s.index] + tables.end_prefill_s[s.role][s.type]
        <= box.most_prefill
        and tables.decode_s[s.type, s.index] + tables.end_decode_s[s.role][s.type]
        <= box.most_decode
        for s in path.stages
    )
