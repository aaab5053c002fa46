"""What a search is told, tells while it runs, and returns."""

from __future__ import annotations

from dataclasses import dataclass

from llmpq_jax.planner.instance.candidate import Candidate
from llmpq_jax.planner.instance.instance import Instance


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """How a search divides its work.

    Attributes:
        rounds: Of column generation in a node, at most.
        max_columns: Stages that HiGHS may choose from; with more, the box is cut. Where
            cutting does not help, twice as many each time.
        node_mip_s: Seconds that HiGHS has for a node before its box is cut after all.
    """

    rounds: int = 12
    max_columns: int = 3000
    node_mip_s: float = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a search is.

    Attributes:
        num_done: Cases settled.
        num_subproblems: Of so many.
        best: The incumbent's objective; infinite while there is none.
        bound: Of all cases.
        seconds: Since the search began.
    """

    num_done: int
    num_subproblems: int
    best: float
    bound: float
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Incumbent:
    """The incumbent.

    Attributes:
        instance: Its case.
        candidate: Its plan there.
        value: What was minimised.
    """

    instance: Instance
    candidate: Candidate
    value: float


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class SearchResult:
    """What a search found and proved.

    Attributes:
        found: The best plan; absent where there is none, or none was found in time.
        bound: No plan of any case is below it; infinite where none exists.
        num_subproblems: Cases covered.
        num_solved: Nodes given to HiGHS; bounds settled the others.
        is_complete: Whether neither time nor a person ended the search early.
        seconds: It took.
    """

    found: Incumbent | None
    bound: float
    num_subproblems: int
    num_solved: int
    is_complete: bool
    seconds: float

    @property
    def gap(self) -> float:
        """(value − bound) / value; infinite while nothing is found."""
        if self.found is None:
            return float("inf")
        if self.found.value <= 0:
            return 0.0
        return max(0.0, (self.found.value - self.bound) / self.found.value)
