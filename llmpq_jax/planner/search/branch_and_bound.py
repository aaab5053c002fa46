"""Finds the best plan over all cases, orders, subsets, cuts and bits, with a bound.

A node is a case (a micro-batch pair and precisions of head and cache) and a box: limits on the
slowest stages A and D of both phases. Nodes are visited in the order of their bounds,
with one incumbent. In a node, prices (see `weights`) are improved by column generation:
the cheapest pipeline under them is a bound and a plan at once, and a small programme over
the pipelines so far gives the next prices. A node whose bound does not reach the
incumbent less the gap is left out. Of another one either so few stages are left that
HiGHS decides it (`formulation.order_free`), or its box is cut in two.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from llmpq_jax.planner.instance.candidate import Candidate
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.bounds import (
    objective_bound,
    omega_bound,
    slowest_bounds_s,
)
from llmpq_jax.planner.search.column_generation import (
    ROUNDING,
    bound_node,
    branch,
    is_within,
    tighten,
)
from llmpq_jax.planner.search.incumbent import IncumbentStore, SearchGoal
from llmpq_jax.planner.search.lagrangian import (
    BUDGET_SLACK,
    Multipliers,
    lagrangian_weights,
    omega_only,
)
from llmpq_jax.planner.search.large_clusters import has_too_many_states, search_subset
from llmpq_jax.planner.search.layer_counts import LayerCounts, layer_counts
from llmpq_jax.planner.search.node_mip.solve_node import solve_node
from llmpq_jax.planner.search.relaxation import relax
from llmpq_jax.planner.search.search_result import (
    Progress,
    SearchResult,
    SearchSettings,
)
from llmpq_jax.planner.search.shortest_path import NodeBounds, Path, ShortestPath
from llmpq_jax.planner.search.stage_table import (
    StageTable,
    max_stage_layers,
    stage_table,
)

# The share of what is missing to the cutoff by which a cut has to raise the bound.
_STALLED = 0.05
# Where only part of the devices is searched: what bounding all of them leaves of the time.
_SHARE_OF_TIME = 0.8


def search(
    instances: Sequence[Instance],
    *,
    time_limit_s: float,
    relative_gap: float,
    goal: SearchGoal = "objective",
    known: Sequence[tuple[Instance, Candidate]] = (),
    progress: Callable[[Progress], None] | None = None,
    settings: SearchSettings | None = None,
) -> SearchResult:
    """Finds the best plan over all cases, and bounds it.

    Ctrl-C ends the search and keeps the incumbent; with none, it is raised on.

    Args:
        instances: The cases; they share model and devices.
        time_limit_s: Then the incumbent is returned, with the gap that is proven.
        relative_gap: Between incumbent and bound at which the search ends.
        goal: What is minimised: latency plus θ·Σω, or Σω alone.
        known: Plans to start from.
        progress: Called after every node.
        settings: How work is divided.
    """
    deadline = time.monotonic() + time_limit_s

    def search_all(
        subproblems: Sequence[Instance],
        known: Sequence[tuple[Instance, Candidate]],
        deadline: float,
    ) -> SearchResult:
        store = IncumbentStore(goal=goal, relative_gap=relative_gap, deadline=deadline)
        searcher = _Search(subproblems, store, progress, settings or SearchSettings())
        return searcher.search(known)

    if goal == "objective" and has_too_many_states(instances[0]):
        # The rest of the time bounds what is left out.
        shorter = deadline - (1 - _SHARE_OF_TIME) * time_limit_s
        result = search_subset(instances, lambda few: search_all(few, (), shorter))
        store = IncumbentStore(goal=goal, relative_gap=relative_gap, deadline=deadline)
        for instance, candidate in known:
            store.consider(instance, candidate)
        own, best = result.found, store.found
        if best is not None and (own is None or best.value < own.value):
            return replace(result, found=best, bound=min(result.bound, best.value))
        if own is not None:
            return result
        # That part of the devices holds no plan says nothing of all of them.
    return search_all(instances, known, deadline)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Node:
    subproblem: int
    node_bounds: NodeBounds
    multipliers: Multipliers
    paths: tuple[Path, ...] = ()
    num_stalled: int = 0


class _Search:
    def __init__(
        self,
        instances: Sequence[Instance],
        store: IncumbentStore,
        progress: Callable[[Progress], None] | None,
        settings: SearchSettings,
    ) -> None:
        self._instances, self._store = instances, store
        self._progress, self._effort = progress, settings
        self._begin = time.monotonic()
        self._tables: dict[int, StageTable] = {}
        self._counts: LayerCounts | None = None
        # Bounds of nodes that were left out, and of those that wait.
        self._closed = float("inf")
        self._open: list[tuple[float, int, _Node]] = []
        self._number = count()
        bound_of = objective_bound if store.goal == "objective" else omega_bound
        self._unopened = np.array([bound_of(instance) for instance in instances])
        self._last_node_bound: float | None = None
        self._num_solved = 0
        self._is_complete = True

    @property
    def _bound(self) -> float:
        waiting = self._open[0][0] if self._open else float("inf")
        bound = min(self._closed, waiting, self._unopened.min(initial=float("inf")))
        if self._last_node_bound is not None:
            bound = min(bound, self._last_node_bound)
        return float(bound)

    def search(self, known: Sequence[tuple[Instance, Candidate]]) -> SearchResult:
        """Goes through all cases, until they are settled, the time is over, or Ctrl-C."""
        try:
            for instance, candidate in known:
                self._store.consider(instance, candidate)
            if self._store.goal == "omega":
                self._min_omega()
            else:
                self._open_cases()
                self._run()
        except KeyboardInterrupt:
            if self._store.found is None:
                raise
            self._is_complete = False
        return self._result()

    def _result(self) -> SearchResult:
        """What was found so far."""
        bound = self._bound
        return SearchResult(
            found=self._store.found,
            bound=min(bound, self._store.found.value) if self._store.found else bound,
            num_subproblems=len(self._instances),
            num_solved=self._num_solved,
            is_complete=self._is_complete,
            seconds=time.monotonic() - self._begin,
        )

    def _min_omega(self) -> None:
        """Minimises Σω: a sum over stages, so that one shortest path decides a case."""
        for subproblem in np.argsort(self._unopened, kind="stable"):
            if (
                self._unopened[subproblem] >= self._store.cutoff
                or self._store.left_s <= 0
            ):
                continue
            tables = self._tables_of(int(subproblem))
            path = ShortestPath(tables, NodeBounds()).cheapest(omega_only(tables))
            bound = (
                float("inf") if path is None else path.lagrangian_value * (1 - ROUNDING)
            )
            self._unopened[subproblem] = max(self._unopened[subproblem], bound)
            if path is not None:
                self._store.consider_path(tables, path.stages)
            self._tell()

    def _open_cases(self) -> None:
        """Relaxes every case, and finds a first plan in the most promising ones."""
        for subproblem in np.argsort(self._unopened, kind="stable"):
            if self._store.found is not None and self._store.left_s <= 0:
                return
            if self._unopened[subproblem] >= self._store.cutoff:
                continue
            tables = self._tables_of(int(subproblem))
            if not self._is_possible(tables):
                self._unopened[subproblem] = float("inf")
                continue
            bound, multipliers = relax(tables)
            if bound < self._store.cutoff:
                self._first_plan(tables, multipliers)
            prefill_s, decode_s = slowest_bounds_s(tables.instance)
            node_bounds = NodeBounds(min_prefill_s=prefill_s, min_decode_s=decode_s)
            self._push(
                bound,
                _Node(
                    subproblem=int(subproblem),
                    node_bounds=node_bounds,
                    multipliers=multipliers,
                ),
            )
            self._unopened[subproblem] = float("inf")

    def _run(self) -> None:
        """Visits nodes until none is left that may improve the incumbent enough."""
        while self._open:
            bound, _, node = self._open[0]
            if bound >= self._store.cutoff:
                break
            if self._store.left_s <= 0:
                self._is_complete = False
                break
            heapq.heappop(self._open)
            self._last_node_bound = bound
            self._visit(bound, node)
            self._last_node_bound = None
            self._tell()

    def _visit(self, bound: float, node: _Node) -> None:
        tables = self._tables_of(node.subproblem)
        node_bounds = tighten(self._store, tables, node.node_bounds)
        if node_bounds is None:
            return self._close(max(bound, self._store.cutoff))
        if node_bounds != node.node_bounds:
            # What was cut off is no better than this, and may be no worse either.
            self._close(self._store.cutoff)
        before = bound
        finder = ShortestPath(tables, node_bounds)
        paths = [p for p in node.paths if is_within(tables, p, node_bounds)]
        bound, priced, paths, multipliers = bound_node(
            self._store,
            self._effort,
            tables,
            finder,
            node_bounds,
            node.multipliers,
            paths,
            bound,
        )
        self._last_node_bound = bound
        if bound >= self._store.cutoff or not np.isfinite(bound):
            return self._close(bound)
        if self._store.left_s <= 0:
            self._push(bound, replace(node, multipliers=multipliers))
            return None
        children = branch(self._store, tables, node_bounds)
        # Cutting boxes does not help where machines or the budget make the gap; where it
        # has not, HiGHS takes over with more stages.
        rise, missing = bound - before, self._store.cutoff - before
        num_stalled = node.num_stalled + int(not rise > _STALLED * missing)
        most = self._effort.max_columns << num_stalled if children else None
        settled = solve_node(
            self._store, self._effort, tables, finder, priced, bound, most
        )
        if settled is not None:
            self._num_solved += settled.is_solved
            bound = settled.bound
            if settled.is_interrupted:
                self._close(bound)
                raise KeyboardInterrupt
            if settled.is_proven or not children or bound >= self._store.cutoff:
                return self._close(bound)
        for child in children:
            self._push(
                bound,
                _Node(
                    subproblem=node.subproblem,
                    node_bounds=child,
                    multipliers=multipliers,
                    paths=tuple(paths),
                    num_stalled=num_stalled,
                ),
            )
        return None

    def _is_possible(self, tables: StageTable) -> bool:
        """Whether some plan fits and keeps the budget: the one of the least Σω."""
        path = ShortestPath(tables, NodeBounds()).cheapest(omega_only(tables))
        if path is None:
            return False
        self._store.consider_path(tables, path.stages)
        budget = tables.instance.omega_budget
        return budget is None or path.lagrangian_value * (1 - ROUNDING) <= budget * (
            1 + BUDGET_SLACK
        )

    def _first_plan(self, tables: StageTable, multipliers: Multipliers) -> None:
        path = ShortestPath(tables, NodeBounds()).cheapest(
            lagrangian_weights(tables, multipliers)
        )
        if path is not None:
            self._store.consider_path(tables, path.stages)

    def _tables_of(self, subproblem: int) -> StageTable:
        if self._counts is None:
            longest = max(max_stage_layers(instance) for instance in self._instances)
            omega = self._instances[0].allowed_omega
            self._counts = layer_counts(omega, max_length=longest)
        if subproblem not in self._tables:
            self._tables[subproblem] = stage_table(
                self._instances[subproblem], self._counts
            )
        return self._tables[subproblem]

    def _push(self, bound: float, node: _Node) -> None:
        if bound >= self._store.cutoff:
            self._close(bound)
        else:
            heapq.heappush(self._open, (bound, next(self._number), node))

    def _close(self, bound: float) -> None:
        self._closed = min(self._closed, bound)

    def _tell(self) -> None:
        if self._progress is None:
            return
        open_cases = {
            node.subproblem
            for bound, _, node in self._open
            if bound < self._store.cutoff
        }
        open_cases |= set(np.flatnonzero(self._unopened < self._store.cutoff).tolist())
        self._progress(
            Progress(
                num_done=len(self._instances) - len(open_cases),
                num_subproblems=len(self._instances),
                best=self._store.found.value if self._store.found else float("inf"),
                bound=self._bound,
                seconds=time.monotonic() - self._begin,
            )
        )
