"""The restricted master LP over the schedule, whose duals are good multipliers.

Columns are parts of a plan (layers of a type at some bits) or whole pipelines; each has
seconds per type, seconds of hops and ω. The rows are the schedule's:

    P_q ≤ N_q·A    ΣP + (m_p − 1)·A ≤ T_p
    (1 − s_h)(ΣP + (m_p − 1)·A) + s_h·m_p·Σ_h P ≤ T_p
    D_q ≤ N_q·D    m_d·D ≤ R    ΣD ≤ R    ΣD + (m_d − 1)·D + (n − 2)·R ≤ T_d    …
    Σω ≤ Ω

where P_q sums the stages on the N_q devices of a group, each times the devices it takes.
Decode seconds are those of all n − 1 steps, and everything is divided by units, so that
numbers are near 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from llmpq_jax.planner.instance.device_numbers import DECODE
from llmpq_jax.planner.search.bounds import all_rounds, latency_bound_s
from llmpq_jax.planner.search.lagrangian import BUDGET_SLACK, Multipliers
from llmpq_jax.planner.search.shortest_path import NodeBounds
from llmpq_jax.planner.search.stage_costs import TypedStage
from llmpq_jax.planner.search.stage_table import StageTable
from llmpq_jax.schema.measurements import PHASES

# In units of the bound on the latency.
_MAX_SECONDS = 1e12
# Cost of a unit of ω above the budget, in units of the bound on the latency.
_OVER_BUDGET = 1e3
_BUSY, _EMPTY, _BUDGET = "busy round", "empty round", "budget"


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Column:
    """What one unit of a column's variable adds, in one round.

    Seconds are on each type, hops all together. `entries` are row and coefficient in each
    of the rows that the caller added.
    """

    seconds: Float[np.ndarray, "P T"]
    hops_s: tuple[float, ...] = (0.0, 0.0)
    omega: float = 0.0
    entries: tuple[tuple[int, float], ...] = ()


def column_of(table: StageTable, stages: Sequence[TypedStage]) -> Column:
    """Adds up a pipeline."""
    seconds = np.zeros((len(PHASES), table.types.num_types))
    for stage in stages:
        seconds[:, stage.type] += table.layers_s[:, stage.type, stage.index]
        seconds[:, stage.type] += table.fixed_s[stage.role][:, stage.type]
    hops = [(a.wire_index, a.type, b.type) for a, b in pairwise(stages)]
    losses = [table.instance.wire_omega[wire] for wire, _, _ in hops]
    return Column(
        seconds=seconds,
        hops_s=tuple(
            sum(float(hop_s[hop]) for hop in hops) for hop_s in table.types.hop_s
        ),
        omega=sum(table.counts.loss(s.first, s.index) for s in stages)
        + float(sum(losses)),
    )


class RestrictedMaster:
    """The restricted master LP of one node; columns may be added at any time."""

    def __init__(self, table: StageTable, node_bounds: NodeBounds) -> None:
        # HiGHS takes its time to import, which commands that do not solve should not pay.
        import highspy

        i = self._instance = table.instance
        self._types = table.types
        self._unit_s = latency_bound_s(i) or 1.0
        self._unit_omega = float(i.omega.max(axis=1).sum()) or 1.0
        self._rounds = tuple(max(rounds, 1) for rounds in i.num_rounds)
        self._highs = highspy.Highs()
        self._highs.setOptionValue("output_flag", False)
        self._highs.setOptionValue("threads", 1)
        self._optimal = highspy.HighsModelStatus.kOptimal
        self._error = highspy.HighsStatus.kError
        self._rows: dict[tuple[str, int] | str, list[int]] = {}
        for p in range(len(PHASES)):
            self._add_rows(("slowest", p), self._types.num_groups)
            if p == DECODE:
                self._add_rows(_BUSY, 1)
                self._add_rows(_EMPTY, 1)
            self._add_rows(("time", p), 1)
            self._add_rows(("hosts", p), len(i.hosts))
        budget = float("inf")
        if i.omega_budget is not None:
            budget = i.omega_budget * (1 + BUDGET_SLACK) - i.fixed_omega
            budget = budget / self._unit_omega
        self._add_rows(_BUDGET, 1, upper=budget)
        self._slowest_columns = [self._add_schedule(p, node_bounds) for p in i.phases]
        if i.omega_budget is not None:
            self._add_variable(_OVER_BUDGET, [(self._rows[_BUDGET][0], -1.0)])

    def _add_rows(
        self, name: tuple[str, int] | str, number: int, *, upper: float = 0.0
    ) -> None:
        self._rows[name] = [self.add_row(-float("inf"), upper) for _ in range(number)]

    def _add_schedule(self, p: int, node_bounds: NodeBounds) -> int:
        """Adds a phase's slowest stage, round and time; returns the first's column."""
        rows, rounds = self._rows, self._rounds[p]
        m = self._instance.num_micro_batches[p]
        sizes = -self._types.group_sizes.astype(float)
        slowest = [*zip(rows["slowest", p], sizes, strict=True)]
        if p == DECODE:
            slowest.append((rows[_BUSY][0], float(m)))
        slowest += self._alone(p, (m - 1.0) / rounds)
        lower = node_bounds.min_s[p] * rounds / self._unit_s
        column = self._add_variable(0.0, slowest, lower=lower)
        if p == DECODE:
            ends = [(rows[name][0], -1.0) for name in (_BUSY, _EMPTY)]
            self._add_variable(0.0, [*ends, *self._alone(p, (rounds - 1) / rounds)])
        times = [*rows["time", p], *rows["hosts", p]]
        self._add_variable(1.0, [(row, -1.0) for row in times])
        return column

    def add_row(self, lower: float, upper: float) -> int:
        """Adds a row for columns' own entries; returns its number."""
        self._highs.addRow(lower, upper, 0, [], [])
        return self._highs.getNumRow() - 1

    def add_column(self, column: Column) -> None:
        """Adds a variable from 0 up."""
        i, rows = self._instance, self._rows
        # HiGHS takes no larger numbers; fewer seconds only lower the bound.
        seconds, hops = (
            np.minimum(all_rounds(own, i, self._unit_s), _MAX_SECONDS)
            for own in (column.seconds, np.array(column.hops_s))
        )
        entries = [*column.entries]
        for p in i.phases:
            once = seconds[p].sum() + hops[p]
            by_group = self._types.by_group(seconds[p])
            entries += zip(rows["slowest", p], by_group, strict=True)
            if p == DECODE:
                entries.append((rows[_EMPTY][0], once))
            entries += self._alone(p, once / self._rounds[p])
            entries += self._shared(p, i.num_micro_batches[p] * seconds[p])
        entries.append((rows[_BUDGET][0], column.omega / self._unit_omega))
        self._add_variable(i.theta * column.omega / self._unit_s, entries)

    def _alone(self, p: int, value: float) -> list[tuple[int, float]]:
        """Entries of a phase's time if nothing is shared, and of that of each host."""
        hosts = zip(self._rows["hosts", p], self._instance.hosts, strict=True)
        serial = [(row, host.serial_fraction(PHASES[p])) for row, host in hosts]
        shared = [(row, (1.0 - fraction) * value) for row, fraction in serial]
        return [(self._rows["time", p][0], value), *shared]

    def _shared(
        self, p: int, seconds: Float[np.ndarray, " T"]
    ) -> list[tuple[int, float]]:
        """Entries of the work that is serial on shared machines."""
        rows, hosts = self._rows["hosts", p], self._instance.hosts
        return [
            (row, host.serial_fraction(PHASES[p]) * float(seconds[list(types)].sum()))
            for row, host, types in zip(rows, hosts, self._types.hosts, strict=True)
        ]

    def slowest_s(self) -> tuple[float, ...]:
        """Returns A and D of the last solution in seconds, [P]."""
        values = self._highs.getSolution().col_value
        slowest_s = [
            values[column] * self._unit_s / rounds
            for column, rounds in zip(self._slowest_columns, self._rounds, strict=False)
        ]
        return *slowest_s, *[0.0] * (len(PHASES) - len(slowest_s))

    def solve(self) -> tuple[float, Multipliers] | None:
        """Returns the optimum and its multipliers, or None if it is infeasible."""
        self._highs.run()
        if self._highs.getModelStatus() != self._optimal:
            return None
        duals = -np.array(self._highs.getSolution().row_dual)
        of = {name: duals[rows] for name, rows in self._rows.items()}
        rounds = of[_BUSY][0] + of[_EMPTY][0]
        multipliers = Multipliers(
            slowest=np.stack(
                [of["slowest", p] * steps for p, steps in enumerate(self._rounds)]
            ),
            hosts=np.stack([of["hosts", p] for p in range(len(PHASES))]),
            empty_round=of[_EMPTY][0] / rounds if rounds > 0 else 0.5,
            omega=of[_BUDGET][0] * self._unit_s / self._unit_omega,
        )
        i = self._instance
        value = self._highs.getInfo().objective_function_value * self._unit_s
        return value + i.theta * i.fixed_omega, multipliers

    def _add_variable(
        self, cost: float, entries: Sequence[tuple[int, float]], lower: float = 0.0
    ) -> int:
        """Adds a column and returns its number."""
        # HiGHS takes no column that names a row twice.
        sums: dict[int, float] = defaultdict(float)
        for row, value in entries:
            sums[row] += float(value)
        kept = {row: value for row, value in sums.items() if value}
        status = self._highs.addCol(
            cost,
            lower,
            float("inf"),
            len(kept),
            np.array(list(kept), dtype=np.int32),
            np.array(list(kept.values())),
        )
        assert status != self._error, "without the column the bound would be too high"
        return self._highs.getNumCol() - 1
