"""A small linear programme over the schedule, whose duals are good multipliers.

Columns are parts of a plan (layers of a type at some bits) or whole pipelines; each has
seconds per type, seconds of hops and ω. The rows are the schedule's:

    P_q ≤ N_q·A    ΣP + (m_p − 1)·A ≤ T_p
    (1 − s_h)(ΣP + (m_p − 1)·A) + s_h·m_p·Σ_h P ≤ T_p
    D_q ≤ N_q·D    m_d·D ≤ R    ΣD ≤ R    ΣD + (m_d − 1)·D + (n − 2)·R ≤ T_d    …
    Σω ≤ Ω

where P_q sums the stages on the N_q devices of a pool, each times the devices it takes. Decode seconds are those of all
n − 1 steps, and everything is divided by units, so that numbers are near 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.search.bounds import latency_bound_s
from llmpq_jax.planner.search.lagrangian import BUDGET_SLACK, Multipliers
from llmpq_jax.planner.search.shortest_path import NodeBounds
from llmpq_jax.planner.search.stage_costs import PathStage
from llmpq_jax.planner.search.stage_table import StageTable
from llmpq_jax.schema.measurements import Phase

# In units of the bound on the latency, for a unit of ω above the budget.
_OVER_BUDGET = 1e3


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Column:
    """What one unit of a column's variable adds.

    Attributes:
        prefill_s: [T].
        decode_s: [T], of one step.
        hop_prefill_s: Of all its hops.
        hop_decode_s: Likewise.
        omega: Of its layers and hops.
        entries: Row and coefficient in the rows that a user of the programme added.
        most: Upper bound of the variable.
    """

    prefill_s: Floats
    decode_s: Floats
    hop_prefill_s: float = 0.0
    hop_decode_s: float = 0.0
    omega: float = 0.0
    entries: tuple[tuple[int, float], ...] = ()
    most: float = float("inf")


def column_of(tables: StageTable, stages: Sequence[PathStage]) -> Column:
    """Sums up a pipeline."""
    prefill_s, decode_s = np.zeros((2, tables.types.num_types))
    for stage in stages:
        t = stage.type
        prefill_s[t] += tables.prefill_s[t, stage.index]
        prefill_s[t] += tables.end_prefill_s[stage.role][t]
        decode_s[t] += tables.decode_s[t, stage.index]
        decode_s[t] += tables.end_decode_s[stage.role][t]
    hops = [(a.wire, a.type, b.type) for a, b in pairwise(stages)]
    losses = [tables.instance.wire_omega[wire] for wire, _, _ in hops]
    return Column(
        prefill_s=prefill_s,
        decode_s=decode_s,
        hop_prefill_s=sum(float(tables.types.hop_prefill_s[hop]) for hop in hops),
        hop_decode_s=sum(float(tables.types.hop_decode_s[hop]) for hop in hops),
        omega=sum(tables.counts.loss(s.first, s.index) for s in stages)
        + float(sum(losses)),
    )


class RestrictedMaster:
    """The programme of one instance in one box; columns may be added at any time."""

    def __init__(self, tables: StageTable, node_bounds: NodeBounds) -> None:
        # HiGHS takes its time to import, which commands that do not solve should not pay.
        import highspy

        i = self._instance = tables.instance
        self._types = tables.types
        self._unit_s = latency_bound_s(i) or 1.0
        self._unit_omega = float(i.omega.max(axis=1).sum()) or 1.0
        self._steps = max(i.new_tokens - 1, 1)
        self._highs = highspy.Highs()
        self._highs.setOptionValue("output_flag", False)
        self._highs.setOptionValue("threads", 1)
        num_groups, num_hosts = self._types.num_groups, len(i.hosts)
        names = {
            "slowest_prefill": num_groups,
            "prefill": 1,
            "prefill_hosts": num_hosts,
            "slowest_decode": num_groups,
            "busy_round": 1,
            "empty_round": 1,
            "decode": 1,
            "decode_hosts": num_hosts,
            "budget": 1,
        }
        ends = np.cumsum([0, *names.values()])
        self._rows = {
            name: np.arange(start, end)
            for name, start, end in zip(names, ends[:-1], ends[1:], strict=True)
        }
        self._optimal = highspy.HighsModelStatus.kOptimal
        self._error = highspy.HighsStatus.kError
        inf = float("inf")
        budget = inf
        if i.omega_budget is not None:
            budget = i.omega_budget * (1 + BUDGET_SLACK) - i.fixed_omega
            budget = budget / self._unit_omega
        for row in range(int(ends[-1])):
            upper = budget if row == self._rows["budget"][0] else 0.0
            self._highs.addRow(-inf, upper, 0, [], [])
        self._add_schedule(node_bounds)

    def _add_schedule(self, node_bounds: NodeBounds) -> None:
        """Columns A, T_p, D, R, T_d, and ω above the budget."""
        i, rows, steps = self._instance, self._rows, self._steps
        sizes = -self._types.sizes.astype(float)
        unit = self._unit_s
        slowest = [*zip(rows["slowest_prefill"], sizes, strict=True)]
        self._add(
            0.0,
            [*slowest, *self._alone("prefill", i.num_prefill - 1.0)],
            least=node_bounds.min_prefill_s / unit,
        )
        times = [rows["prefill"][0], *rows["prefill_hosts"]]
        self._add(1.0, [(row, -1.0) for row in times])
        if i.new_tokens > 1:
            slowest = [*zip(rows["slowest_decode"], sizes, strict=True)]
            self._add(
                0.0,
                [
                    *slowest,
                    (rows["busy_round"][0], float(i.num_decode)),
                    *self._alone("decode", (i.num_decode - 1) / steps),
                ],
                least=node_bounds.min_decode_s * steps / unit,
            )
            rounds = [(rows[name][0], -1.0) for name in ("busy_round", "empty_round")]
            self._add(0.0, [*rounds, *self._alone("decode", (steps - 1) / steps)])
            times = [rows["decode"][0], *rows["decode_hosts"]]
            self._add(1.0, [(row, -1.0) for row in times])
        if i.omega_budget is not None:
            self._add(_OVER_BUDGET, [(rows["budget"][0], -1.0)])

    def add_row(self, least: float, most: float) -> int:
        """Adds a row for columns' own entries; returns its number."""
        self._highs.addRow(least, most, 0, [], [])
        return self._highs.getNumRow() - 1

    def add_column(self, column: Column) -> None:
        """Adds a variable from 0 up."""
        i, rows = self._instance, self._rows
        prefill = column.prefill_s / self._unit_s
        decode = column.decode_s * (self._steps / self._unit_s)
        once = prefill.sum() + column.hop_prefill_s / self._unit_s
        entries = [*column.entries]
        by_group = self._types.by_group(prefill)
        entries += zip(rows["slowest_prefill"], by_group, strict=True)
        entries += self._alone("prefill", once)
        entries += self._work("prefill", i.num_prefill * prefill)
        if i.new_tokens > 1:
            hop = column.hop_decode_s * (self._steps / self._unit_s)
            once = decode.sum() + hop
            by_group = self._types.by_group(decode)
            entries += zip(rows["slowest_decode"], by_group, strict=True)
            entries.append((rows["empty_round"][0], once))
            entries += self._alone("decode", once / self._steps)
            entries += self._work("decode", i.num_decode * decode)
        entries.append((rows["budget"][0], column.omega / self._unit_omega))
        cost = i.theta * column.omega / self._unit_s
        self._add(cost, entries, most=column.most)

    def _alone(self, phase: Phase, value: float) -> list[tuple[int, float]]:
        """Entries of what a phase takes of whole, and of shared machines in part."""
        hosts = zip(self._rows[f"{phase}_hosts"], self._instance.hosts, strict=True)
        shared = [
            (int(row), (1.0 - host.serial_fraction(phase)) * value)
            for row, host in hosts
        ]
        return [(int(self._rows[phase][0]), value), *shared]

    def _work(self, phase: Phase, seconds: Floats) -> list[tuple[int, float]]:
        """Entries of what goes one after the other on shared machines; [T] seconds."""
        hosts = zip(self._instance.hosts, self._types.hosts, strict=True)
        return [
            (int(row), host.serial_fraction(phase) * float(seconds[list(types)].sum()))
            for row, (host, types) in zip(
                self._rows[f"{phase}_hosts"], hosts, strict=True
            )
        ]

    def slowest_s(self) -> tuple[float, float]:
        """Returns A and D of the last solution, in seconds."""
        values = self._highs.getSolution().col_value
        decode = values[2] if self._instance.new_tokens > 1 else 0.0
        return values[0] * self._unit_s, decode * self._unit_s / self._steps

    def solve(self) -> tuple[float, Multipliers] | None:
        """Returns the optimum and its multipliers, or nothing where it is infeasible."""
        self._highs.run()
        if self._highs.getModelStatus() != self._optimal:
            return None
        duals = -np.array(self._highs.getSolution().row_dual)
        of = {name: duals[rows] for name, rows in self._rows.items()}
        rounds = of["busy_round"][0] + of["empty_round"][0]
        multipliers = Multipliers(
            slowest_prefill=of["slowest_prefill"],
            slowest_decode=of["slowest_decode"] * self._steps,
            prefill_hosts=of["prefill_hosts"],
            decode_hosts=of["decode_hosts"],
            empty_round=of["empty_round"][0] / rounds if rounds > 0 else 0.5,
            omega=of["budget"][0] * self._unit_s / self._unit_omega,
        )
        i = self._instance
        value = self._highs.getInfo().objective_function_value * self._unit_s
        return value + i.theta * i.fixed_omega, multipliers

    def _add(
        self,
        cost: float,
        entries: Sequence[tuple[int, float]],
        *,
        least: float = 0.0,
        most: float = float("inf"),
    ) -> None:
        # HiGHS takes no column that names a row twice.
        sums: dict[int, float] = defaultdict(float)
        for row, value in entries:
            sums[int(row)] += float(value)
        kept = {row: value for row, value in sums.items() if value}
        status = self._highs.addCol(
            cost,
            least,
            most,
            len(kept),
            np.array(list(kept), dtype=np.int32),
            np.array(list(kept.values())),
        )
        assert status != self._error, "a column left out would raise the bound"
