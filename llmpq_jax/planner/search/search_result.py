"""Settings, progress and result of a search."""

from __future__ import annotations

from dataclasses import dataclass

from llmpq_jax.planner.instance.candidate import Candidate
from llmpq_jax.planner.instance.instance import Instance


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
    """A plan with its value.

    Attributes:
        instance: Subproblem that it is a plan of.
        candidate: The plan itself.
        value: Objective, or Σω where that is minimised.
    """

    instance: Instance
    candidate: Candidate
    value: float


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class SearchResult:
    """What a search found and proved.

    Attributes:
        incumbent: The best plan; None if there is none, or none was found in time.
        bound: Lower bound on every plan of every subproblem; infinite if none exists.
        num_subproblems: Number of subproblems covered.
        is_complete: False if the time limit or Ctrl-C ended the search early.
        seconds: Seconds that the search took.
    """

    incumbent: Incumbent | None
    bound: float
    num_subproblems: int
    is_complete: bool
    seconds: float

    @property
    def gap(self) -> float:
        """(value − bound) / value; infinite while nothing is found."""
        if self.incumbent is None:
            return float("inf")
        value = self.incumbent.value
        return 0.0 if value <= 0 else max(0.0, (value - self.bound) / value)
