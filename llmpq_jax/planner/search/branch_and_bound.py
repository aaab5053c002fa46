"""Finds the best plan over all subproblems, orders, subsets, cuts and bits, with a bound.

A node is a subproblem (a micro-batch pair and precisions of head and cache) and bounds on
the slowest stages A and D of both phases. Nodes are solved in the order of their lower
bounds, with one incumbent: column generation closes a node, or so few candidate stages are
left that HiGHS solves it exactly (`node_mip`), or it is branched: its bounds are halved.
docs/formulation.md has the whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from llmpq_jax.interrupts import check_interrupt, interrupt_handled
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search import large_clusters
from llmpq_jax.planner.search.bounds import (
    objective_bound,
    omega_bound,
    slowest_bounds_s,
)
from llmpq_jax.planner.search.column_generation import (
    ROUNDING,
    NodeBound,
    bound_node,
    branch,
    is_within,
    tighten,
)
from llmpq_jax.planner.search.lagrangian import (
    BUDGET_SLACK,
    LagrangianWeights,
    lagrangian_weights,
    omega_only,
)
from llmpq_jax.planner.search.large_clusters import num_states, search_growing
from llmpq_jax.planner.search.layer_counts import LayerCounts, layer_counts
from llmpq_jax.planner.search.nearly_equal import (
    has_nearly_equal_devices,
    search_merged,
)
from llmpq_jax.planner.search.node_mip.solve_node import solve_node
from llmpq_jax.planner.search.node_queue import Node, NodeQueue
from llmpq_jax.planner.search.relaxation import relax
from llmpq_jax.planner.search.search_result import (
    IncumbentStore,
    Known,
    Progress,
    SearchGoal,
    SearchResult,
    SearchSettings,
)
from llmpq_jax.planner.search.shortest_path import NodeBounds, ShortestPath
from llmpq_jax.planner.search.stage_table import (
    StageTable,
    max_stage_layers,
    stage_table,
)
from llmpq_jax.planner.search.time_limit import CheckTime, OutOfTimeError, unlimited

# Share of the distance to the cutoff by which branching has to raise the bound.
_STALLED = 0.05
# The least Σω becomes a budget, so its gap is smaller than that of a latency.
_OMEGA_GAP = 1e-6


def search(
    instances: Sequence[Instance],
    *,
    time_limit_s: float,
    relative_gap: float,
    goal: SearchGoal = "objective",
    known: Known = (),
    progress: Callable[[Progress], None] | None = None,
    settings: SearchSettings | None = None,
) -> SearchResult:
    """Finds the best plan over all subproblems, and bounds it.

    Ctrl-C ends the search and keeps the incumbent; with none, it is raised on. `goal` is
    what is minimised: latency plus θ·Σω, or Σω alone. `known` are plans to start from.
    """

    def new_store(deadline: float) -> IncumbentStore:
        return IncumbentStore(goal=goal, relative_gap=relative_gap, deadline=deadline)

    def branch_until(
        subproblems: Sequence[Instance], known: Known, deadline: float
    ) -> SearchResult:
        store = new_store(deadline)
        own = _Search(subproblems, store, progress, settings or SearchSettings())
        return own.search(known)

    def search_until(
        subproblems: Sequence[Instance], known: Known, deadline: float
    ) -> SearchResult:
        if num_states(subproblems) <= large_clusters.MAX_STATES:
            return branch_until(subproblems, known, deadline)
        return search_growing(subproblems, branch_until, known, new_store(deadline))

    deadline = time.monotonic() + time_limit_s
    if any(map(has_nearly_equal_devices, instances)):
        return search_merged(instances, search_until, known, new_store(deadline))
    return search_until(instances, known, deadline)


def min_omega(instances: Sequence[Instance], *, time_limit_s: float) -> SearchResult:
    """Finds the plan of the least Σω that fits, whatever the subproblems' budget."""
    free = [replace(instance, omega_budget=None) for instance in instances]
    return search(
        free, time_limit_s=time_limit_s, relative_gap=_OMEGA_GAP, goal="omega"
    )


class _Search:
    def __init__(
        self,
        instances: Sequence[Instance],
        store: IncumbentStore,
        progress: Callable[[Progress], None] | None,
        settings: SearchSettings,
    ) -> None:
        self._instances, self._store = instances, store
        self._progress, self._settings = progress, settings
        self._begin = time.monotonic()
        self._tables: dict[int, StageTable] = {}
        self._counts: LayerCounts | None = None
        bound_of = objective_bound if store.goal == "objective" else omega_bound
        self._queue = NodeQueue(store, [bound_of(instance) for instance in instances])
        self._is_complete = True
        self._was_interrupted = False
        # The first subproblem is looked at whatever the time, so that there may be a plan.
        self._check_time: CheckTime = unlimited

    def search(self, known: Known) -> SearchResult:
        """Goes through all subproblems, until they are done, the time is over, or Ctrl-C."""
        try:
            for instance, candidate in known:
                self._store.consider(instance, candidate)
            if self._store.goal == "omega":
                self._minimise_omega()
            else:
                self._relax_subproblems()
                self._solve_nodes()
        except OutOfTimeError:
            # Bounds of what was being solved stay as they were.
            self._is_complete = False
        except KeyboardInterrupt:
            if self._store.incumbent is None:
                raise
            interrupt_handled()
            self._is_complete, self._was_interrupted = False, True
        best, bound = self._store.incumbent, self._queue.bound
        return SearchResult(
            incumbent=best,
            bound=min(bound, best.value) if best else bound,
            num_subproblems=len(self._instances),
            is_complete=self._is_complete,
            was_interrupted=self._was_interrupted,
            seconds=time.monotonic() - self._begin,
        )

    def _minimise_omega(self) -> None:
        """Minimises Σω: a sum over stages, so that one shortest path solves a subproblem."""
        bounds = self._queue.unopened
        for subproblem in self._promising():
            table = self._table(subproblem)
            bound = self._cheapest(table, omega_only(table))
            bounds[subproblem] = max(bounds[subproblem], bound)
            self._report()

    def _relax_subproblems(self) -> None:
        """Relaxes every subproblem, and finds a first plan in the most promising ones."""
        bounds = self._queue.unopened
        for subproblem in self._promising():
            table = self._table(subproblem)
            budget = table.instance.omega_budget
            limit = np.inf if budget is None else budget * (1 + BUDGET_SLACK)
            omega = self._cheapest(table, omega_only(table))
            if np.isfinite(omega) and omega <= limit:
                bound, multipliers = relax(table)
                if bound < self._store.cutoff:
                    self._cheapest(table, lagrangian_weights(table, multipliers))
                node = Node(
                    subproblem=subproblem,
                    node_bounds=NodeBounds(min_s=slowest_bounds_s(table.instance)),
                    multipliers=multipliers,
                )
                self._queue.push(bound, node)
            bounds[subproblem] = float("inf")

    def _promising(self) -> Iterator[int]:
        """Yields subproblems that may have a better plan, the first whatever the time."""
        bounds = self._queue.unopened
        for number, subproblem in enumerate(np.argsort(bounds, kind="stable").tolist()):
            check_interrupt()
            if bounds[subproblem] >= self._store.cutoff:
                continue
            if number or self._store.incumbent is not None:
                self._check_time = self._store.check_time
                self._check_time()
            yield subproblem
        self._check_time = self._store.check_time

    def _solve_nodes(self) -> None:
        """Solves nodes until none is left that may improve the incumbent enough."""
        while self._queue.next_bound() < self._store.cutoff:
            check_interrupt()
            self._check_time()
            node = self._queue.pop()
            self._solve(self._queue.current, node)
            self._queue.current = float("inf")
            self._report()

    def _solve(self, before: float, node: Node) -> None:
        """Bounds a node, then closes it, solves it exactly or branches it."""
        store, queue, table = self._store, self._queue, self._table(node.subproblem)
        node_bounds = tighten(store, table, node.node_bounds)
        if node_bounds is None:
            return queue.close(max(before, store.cutoff))
        if node_bounds != node.node_bounds:
            # What was cut off is no better than this, and may be no worse either.
            queue.close(store.cutoff)
        finder = ShortestPath(table, node_bounds, self._check_time)
        known = NodeBound(
            value=before,
            weights=(),
            multipliers=node.multipliers,
            paths=tuple(p for p in node.paths if is_within(table, p, node_bounds)),
        )
        found = bound_node(store, self._settings, table, finder, known)
        queue.current = bound = found.value
        if bound >= store.cutoff or not np.isfinite(bound):
            return queue.close(bound)
        if store.left_s <= 0:
            return queue.push(bound, replace(node, multipliers=found.multipliers))
        children = branch(store, table, node_bounds)
        # Branching does not help where machines or the budget make the gap; where it has
        # not, HiGHS takes over with more candidate stages.
        rise, missing = bound - before, store.cutoff - before
        num_stalled = node.num_stalled + int(not rise > _STALLED * missing)
        max_columns = self._settings.max_columns << num_stalled if children else None
        solution = solve_node(
            store, self._settings, table, finder, found, max_columns=max_columns
        )
        if solution is not None:
            bound = solution.bound
            if solution.is_interrupted:
                queue.close(bound)
                raise KeyboardInterrupt
            if solution.is_proven or bound >= store.cutoff:
                return queue.close(bound)
            if not children:
                # Nothing but the time limit ends HiGHS before it has proven a node.
                self._is_complete = False
                return queue.close(bound)
        node = replace(node, multipliers=found.multipliers, paths=found.paths)
        for child in children:
            half = replace(node, node_bounds=child, num_stalled=num_stalled)
            queue.push(bound, half)
        return None

    def _cheapest(self, table: StageTable, weights: LagrangianWeights) -> float:
        """Considers the cheapest pipeline under weights; returns a bound on its value."""
        finder = ShortestPath(table, NodeBounds(), self._check_time)
        path = finder.cheapest(weights)
        if path is None:
            return float("inf")
        self._store.consider_path(table, path.stages)
        return path.lagrangian_value * (1 - ROUNDING)

    def _table(self, subproblem: int) -> StageTable:
        if self._counts is None:
            longest = max(max_stage_layers(instance) for instance in self._instances)
            omega = self._instances[0].allowed_omega
            self._counts = layer_counts(omega, max_length=longest)
        if subproblem not in self._tables:
            instance = self._instances[subproblem]
            self._tables[subproblem] = stage_table(instance, self._counts)
        return self._tables[subproblem]

    def _report(self) -> None:
        if self._progress is None:
            return
        best, number = self._store.incumbent, len(self._instances)
        self._progress(
            Progress(
                num_done=number - self._queue.num_open_subproblems,
                num_subproblems=number,
                best=best.value if best else float("inf"),
                bound=self._queue.bound,
                seconds=time.monotonic() - self._begin,
            )
        )
