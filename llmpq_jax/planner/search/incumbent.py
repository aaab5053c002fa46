"""The best plan so far, shared by all subproblems of a search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from llmpq_jax.planner.instance.candidate import Candidate, evaluate, with_min_omega
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.search_result import Incumbent
from llmpq_jax.planner.search.stage_costs import TypedStage
from llmpq_jax.planner.search.stage_table import StageTable

SearchGoal = Literal["objective", "omega"]


class IncumbentStore:
    """Keeps the best of the plans it is given, and knows when the search is over.

    Attributes:
        goal: Value that is minimised.
        relative_gap: Gap between incumbent and bound at which the search ends.
        deadline: End of the search on the monotonic clock.
        incumbent: The best plan so far; None if there is none yet.
    """

    def __init__(
        self, *, goal: SearchGoal, relative_gap: float, deadline: float
    ) -> None:
        self.goal: SearchGoal = goal
        self.relative_gap, self.deadline = relative_gap, deadline
        self.incumbent: Incumbent | None = None

    @property
    def cutoff(self) -> float:
        """Value from which on a bound cannot lead to a plan that is better by the gap."""
        if self.incumbent is None:
            return float("inf")
        return self.incumbent.value * (1.0 - self.relative_gap)

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, negative after it."""
        return self.deadline - time.monotonic()

    def consider(self, instance: Instance, candidate: Candidate) -> None:
        """Takes a plan if it fits and is better than the best so far."""
        best = with_min_omega(instance, candidate)
        cost = evaluate(instance, best)
        if not cost.fits:
            return
        value = cost.objective if self.goal == "objective" else cost.omega
        if self.incumbent is None or value < self.incumbent.value:
            self.incumbent = Incumbent(instance=instance, candidate=best, value=value)

    def consider_path(self, table: StageTable, stages: Sequence[TypedStage]) -> None:
        """Considers a pipeline on the first devices of each type."""
        unused = [list(members) for members in table.types.members]
        candidate = Candidate(
            devices=tuple(unused[stage.type].pop(0) for stage in stages),
            bits_indices=tuple(table.counts.bits_indices(s.index) for s in stages),
            wire_indices=tuple(stage.wire_index for stage in stages[:-1]),
        )
        self.consider(table.instance, candidate)
