"""Expressions that several constraints of the arc-flow model share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pyomo.environ as pyo
from jaxtyping import Float
from pyomo.core.expr.numvalue import is_potentially_variable

from llmpq_jax.planner.instance.device_numbers import PREFILL
from llmpq_jax.planner.instance.instance import Integers
from llmpq_jax.planner.search.bounds import Scaling, all_rounds
from llmpq_jax.planner.search.node_mip.candidate_stages import CandidateStages
from llmpq_jax.planner.search.node_mip.highs import TOLERANCE, Model
from llmpq_jax.planner.search.time_limit import CheckTime, unlimited
from llmpq_jax.schema.measurements import PHASES

# A body and what it is at least and at most; None is no limit.
Row: TypeAlias = tuple[float | None, Model, float | None]


def by_boundary(
    boundary: Integers, types: Integers
) -> dict[tuple[int, int], list[int]]:
    """Returns the stages at each boundary, by the type of their devices."""
    stages: dict[tuple[int, int], list[int]] = defaultdict(list)
    for s, key in enumerate(zip(boundary.tolist(), types.tolist(), strict=True)):
        stages[key].append(s)
    return stages


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class ArcFlow:
    """Candidate stages and the model that chooses among them.

    Attributes:
        candidates: Stages that may be chosen.
        scaling: Units of the model's numbers.
        model: Pyomo model; `stage[s]` says whether candidate stage s is in the plan.
        check_time: Function that is called before each row.
    """

    candidates: CandidateStages
    scaling: Scaling
    model: Model = field(default_factory=pyo.ConcreteModel)
    check_time: CheckTime = unlimited

    def add_row(self, name: str, row: Row) -> None:
        """Adds a constraint."""
        for kept in self._undecided(row):
            self.model.add_component(name, pyo.Constraint(expr=kept))

    def add_rows(self, name: str, rows: Iterable[Row]) -> None:
        """Adds a constraint of several rows."""
        held = [kept for row in rows for kept in self._undecided(row)]
        constraint = pyo.Constraint(range(len(held)), rule=lambda _, n: held[n])
        self.model.add_component(name, constraint)

    def _undecided(self, row: Row) -> Iterator[Row]:
        """Yields the row to add: none for one that always holds, as no choice is in it.

        Pyomo refuses a constraint without variables. One that never holds becomes a row
        that no plan keeps.
        """
        self.check_time()
        lower, body, upper = row
        if is_potentially_variable(body):
            yield row
        elif (lower is not None and body < lower - TOLERANCE) or (
            upper is not None and body > upper + TOLERANCE
        ):
            yield None, self.model.time[PHASES[PREFILL]], -1.0

    def stage_seconds(self, p: int) -> Float[np.ndarray, " S"]:
        """Returns the seconds of each stage in all rounds of a phase, in units."""
        c = self.candidates
        return all_rounds(c.seconds, c.instance, self.scaling.time_s)[p]

    def hop_seconds(self, p: int) -> Float[np.ndarray, "O T T"]:
        """Returns the seconds of each hop in all rounds of a phase, in units."""
        c = self.candidates
        return all_rounds(c.types.hop_s, c.instance, self.scaling.time_s)[p]

    def sum_of_stages(self, stages: Iterable[int]) -> Model:
        """Returns how many of some stages are in the plan."""
        return pyo.quicksum(self.model.stage[int(s)] for s in stages)

    def weighted_stages(
        self, weights: Float[np.ndarray, " S"], stages: Iterable[int]
    ) -> Model:
        """Returns the sum of weights over those of some stages that are in the plan."""
        stage = self.model.stage
        terms = [(float(weights[s]), stage[int(s)]) for s in stages if weights[s]]
        return pyo.quicksum((w * each for w, each in terms)) if terms else 0.0

    def weighted_hops(self, weights: Float[np.ndarray, "O T T"]) -> Model:
        """Returns the sum of weights over the hops of the plan."""
        return sum(
            float(weights[o, t, k]) * self.model.hop[i, t, k, o]
            for i, t, k, o in self.model.hop
            if weights[o, t, k] > 0
        )

    def one_passage(self, p: int) -> Model:
        """Returns the time of one micro-batch over all stages and hops, in all rounds."""
        seconds = self.stage_seconds(p)
        stages = self.weighted_stages(seconds, range(len(seconds)))
        return stages + self.weighted_hops(self.hop_seconds(p))

    def unshared_time(self, p: int) -> Model:
        """Returns the time of a phase if no machine is shared."""
        instance = self.candidates.instance
        rounds, m = instance.num_rounds[p], instance.num_micro_batches[p]
        once = (1.0 / rounds) * self.one_passage(p)
        first_round = once + (m - 1) / rounds * self.model.slowest[PHASES[p]]
        if p == PREFILL:
            return first_round
        return first_round + (rounds - 1) / rounds * self.model.round

    def total_omega(self, scale: float) -> Model:
        """Returns Σω of stages and hops, times a scale."""
        c, num_types = self.candidates, self.candidates.types.num_types
        loss = scale * c.instance.wire_omega
        by_hop = np.broadcast_to(loss[:, None, None], (len(loss), num_types, num_types))
        stages = self.weighted_stages(scale * c.omega, range(len(c.stages)))
        return stages + self.weighted_hops(by_hop)
