"""Open nodes of a branch and bound, best bound first, and the bound over all of them."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from llmpq_jax.planner.search.lagrangian import Multipliers
from llmpq_jax.planner.search.search_result import IncumbentStore
from llmpq_jax.planner.search.shortest_path import NodeBounds, Path


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Node:
    """A subproblem within bounds, with its parent's pipelines and multipliers to start from.

    `num_stalled` counts how many times in a row branching did not raise the bound enough.
    """

    subproblem: int
    node_bounds: NodeBounds
    multipliers: Multipliers
    paths: tuple[Path, ...] = ()
    num_stalled: int = 0


class NodeQueue:
    """Nodes that are open, and the bounds of those that are not.

    Attributes:
        unopened: Bound of each subproblem that is not relaxed yet, else infinite.
        current: Bound of the node being solved; infinite between nodes.
    """

    def __init__(self, store: IncumbentStore, unopened: Sequence[float]) -> None:
        self._store = store
        self.unopened = np.array(unopened)
        self.current = float("inf")
        # The lowest bound of all nodes that are closed.
        self._closed = float("inf")
        self._open: list[tuple[float, int, Node]] = []
        self._number = count()

    @property
    def bound(self) -> float:
        """Lower bound on every plan of every subproblem."""
        waiting = self._open[0][0] if self._open else float("inf")
        unopened = self.unopened.min(initial=float("inf"))
        return float(min(self._closed, waiting, unopened, self.current))

    @property
    def num_open_subproblems(self) -> int:
        """Number of subproblems that may still have a better plan."""
        cutoff = self._store.cutoff
        is_open = {node.subproblem for bound, _, node in self._open if bound < cutoff}
        return len(is_open | set(np.flatnonzero(self.unopened < cutoff).tolist()))

    def push(self, bound: float, node: Node) -> None:
        """Adds a node, unless its bound already rules out a better plan."""
        if bound >= self._store.cutoff:
            self.close(bound)
        else:
            heapq.heappush(self._open, (bound, next(self._number), node))

    def next_bound(self) -> float:
        """Returns the lowest bound of an open node; infinite if there is none."""
        return self._open[0][0] if self._open else float("inf")

    def pop(self) -> Node:
        """Removes the node of the lowest bound, which is then the current one."""
        self.current, _, node = heapq.heappop(self._open)
        return node

    def close(self, bound: float) -> None:
        """Closes a node for good; no plan of it is below the bound."""
        self._closed = min(self._closed, bound)
