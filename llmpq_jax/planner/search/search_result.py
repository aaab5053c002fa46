"""Settings, progress, incumbent and result of a search."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from llmpq_jax.planner.instance.candidate import (
    Candidate,
    CandidateCost,
    evaluate,
    with_min_omega,
)
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.stage_bytes import stage_bytes
from llmpq_jax.planner.search.stage_costs import TypedStage
from llmpq_jax.planner.search.stage_table import StageTable
from llmpq_jax.planner.search.time_limit import OutOfTimeError
from llmpq_jax.schema.strategy import relative_gap

# Plans that are known before a search.
Known = Sequence[tuple[Instance, Candidate]]
SearchGoal = Literal["objective", "omega"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """How a search divides its work.

    Attributes:
        rounds: Largest number of rounds of column generation in a node.
        max_columns: Largest number of candidate stages that HiGHS is given; with more,
            the node is branched. Where branching does not raise the bound, twice as many
            each time.
        node_mip_s: Seconds that HiGHS has for a node before it is branched after all.
    """

    rounds: int = 12
    max_columns: int = 3000
    node_mip_s: float = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a search is.

    Attributes:
        num_done: Subproblems that need no more work.
        num_subproblems: Number of subproblems in all.
        best: Value of the incumbent; infinite while there is none.
        bound: Lower bound over all subproblems.
        seconds: Seconds since the search began.
    """

    num_done: int
    num_subproblems: int
    best: float
    bound: float
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Incumbent:
    """A plan of a subproblem, with its objective, or its Σω where that is minimised."""

    instance: Instance
    candidate: Candidate
    value: float

    @property
    def cost(self) -> CandidateCost:
        """What the plan costs."""
        return evaluate(self.instance, self.candidate)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class SearchResult:
    """What a search found and proved.

    Attributes:
        incumbent: The best plan; None if there is none, or none was found in time.
        bound: Lower bound on every plan of every subproblem; infinite if none exists.
        num_subproblems: Number of subproblems covered.
        is_complete: False if the time limit or Ctrl-C ended the search early.
        was_interrupted: Whether Ctrl-C ended it.
        seconds: Seconds that the search took.
    """

    incumbent: Incumbent | None
    bound: float
    num_subproblems: int
    is_complete: bool
    was_interrupted: bool = False
    seconds: float

    @property
    def is_infeasible(self) -> bool:
        """Whether it is proven that there is no plan, and not only that none was found."""
        return self.incumbent is None and self.is_complete

    @property
    def ran_out_of_time(self) -> bool:
        """Whether the search ended before a plan was found or ruled out."""
        return self.incumbent is None and not self.is_complete

    @property
    def gap(self) -> float:
        """(value − bound) / value; infinite while nothing is found."""
        if self.incumbent is None:
            return float("inf")
        return relative_gap(self.incumbent.value, self.bound)


@dataclass(kw_only=True, eq=False, slots=True)
class IncumbentStore:
    """Keeps the best of the plans it is given, and knows when the search is over.

    Attributes:
        goal: Value that is minimised.
        relative_gap: Gap between incumbent and bound at which the search ends.
        deadline: End of the search on the monotonic clock.
        incumbent: The best plan so far; None if there is none yet.
    """

    goal: SearchGoal
    relative_gap: float
    deadline: float
    incumbent: Incumbent | None = None

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

    @property
    def plans(self) -> Known:
        """The best plan so far, for a search to start from; none if there is none."""
        best = self.incumbent
        return () if best is None else ((best.instance, best.candidate),)

    def check_time(self) -> None:
        """Raises OutOfTimeError if no time is left."""
        if self.left_s <= 0:
            raise OutOfTimeError

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
        """Considers a pipeline, with its largest stages where there is most memory."""
        unused = [list(members) for members in table.types.members]
        devices = {}
        for number in sorted(range(len(stages)), key=_bytes_of(table, stages)):
            devices[number] = unused[stages[number].type].pop(0)
        candidate = Candidate(
            devices=tuple(devices[number] for number in range(len(stages))),
            bits_indices=tuple(table.counts.bits_indices(s.index) for s in stages),
            wire_indices=tuple(stage.wire_index for stage in stages[:-1]),
        )
        self.consider(table.instance, candidate)


def _bytes_of(table: StageTable, stages: Sequence[TypedStage]) -> Callable[[int], int]:
    """Returns what orders stages by the bytes they need, the largest first.

    Where all devices of a type have the same memory, the order is that of the pipeline.
    """
    instance, types = table.instance, table.types
    allowed = instance.devices.allowed_bytes

    def order(number: int) -> int:
        stage = stages[number]
        own = list(types.members[stage.type])
        if allowed[own].min() == allowed[own].max():
            return 0
        is_first, is_last = (
            stage.role in ("first", "only"),
            stage.role in ("last", "only"),
        )
        counts = table.counts.counts[stage.index][None]
        need = stage_bytes(
            instance, own[:1], counts, is_first=is_first, is_last=is_last
        )
        return -int(need.total[0, 0])

    return order
