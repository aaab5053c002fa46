"""The best plan so far, shared by all cases of a search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from llmpq_jax.planner.instance.candidate import Candidate, evaluate, with_min_omega
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.search_result import Incumbent
from llmpq_jax.planner.search.stage_costs import PathStage
from llmpq_jax.planner.search.stage_table import StageTable

SearchGoal = Literal["objective", "omega"]


class IncumbentStore:
    """Takes plans and keeps the best; knows when the search is over.

    Attributes:
        goal: What is minimised.
        relative_gap: Between plan and bound at which the search ends.
        deadline: On the monotonic clock.
        found: The plan.
    """

    def __init__(
        self, *, goal: SearchGoal, relative_gap: float, deadline: float
    ) -> None:
        self.goal: SearchGoal = goal
        self.relative_gap, self.deadline = relative_gap, deadline
        self.found: Incumbent | None = None

    @property
    def cutoff(self) -> float:
        """What does not bound below this need not be looked at."""
        if self.found is None:
            return float("inf")
        return self.found.value * (1.0 - self.relative_gap)

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, negative after it."""
        return self.deadline - time.monotonic()

    def consider(self, instance: Instance, candidate: Candidate) -> None:
        """Takes a plan if it fits and is better than the best so far."""
        dealt = with_min_omega(instance, candidate)
        evaluation = evaluate(instance, dealt)
        if not evaluation.fits:
            return
        is_latency = self.goal == "objective"
        value = evaluation.objective if is_latency else evaluation.omega
        if self.found is None or value < self.found.value:
            self.found = Incumbent(instance=instance, candidate=dealt, value=value)

    def consider_path(self, tables: StageTable, stages: Sequence[PathStage]) -> None:
        """Takes a pipeline; of a type's devices the first in the cluster file serve."""
        unused = [list(members) for members in tables.types.members]
        candidate = Candidate(
            devices=tuple(unused[stage.type].pop(0) for stage in stages),
            columns=tuple(
                tuple(
                    b
                    for b, num in enumerate(tables.counts.counts[stage.index])
                    for _ in range(num)
                )
                for stage in stages
            ),
            wires=tuple(stage.wire for stage in stages[:-1]),
        )
        self.consider(tables.instance, candidate)
