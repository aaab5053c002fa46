"""The cheapest pipeline under Lagrangian weights, over all orders and subsets of devices.

A dynamic program over (devices used of each group, type of the last stage, layers placed).
With n the used devices, t the last stage's type and i the layers before it ends,

    rest[n, t, i]  = min over t' that n has room for of  hop[t, t'] + stage[n + e_t', t', i]
    stage[n, t, i] = min(last[t, i], min over k of  middle[t, i, k] + rest[n, t, i + k])

where middle, first, last and only are the costs of the cheapest counts a stage of that
role may have there, within its device's memory and the node's bounds, and e_t' the devices
that a stage on t' takes from its group: one, or as many as its mesh has. Axes as in
`stage_table`, N states of used devices, I layer boundaries 0 … L, K lengths.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Int

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.instance import Integers
from llmpq_jax.planner.instance.stage_bytes import ROLES, Role
from llmpq_jax.planner.search.lagrangian import LagrangianWeights
from llmpq_jax.planner.search.path_program import PathProgram, States
from llmpq_jax.planner.search.stage_costs import MiddleCounts, StageCosts, TypedStage
from llmpq_jax.planner.search.stage_table import StageTable
from llmpq_jax.planner.search.time_limit import CheckTime, unlimited


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeBounds:
    """Limits of a node on the slowest stage or hop of each phase, in seconds.

    Attributes:
        min_s: Seconds that the slowest takes at least, [P]; only used to raise bounds.
        max_s: Seconds that stages and hops may take, [P]; those that take more are left
            out.
    """

    min_s: tuple[float, ...] = (0.0, 0.0)
    max_s: tuple[float, ...] = (float("inf"), float("inf"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Path:
    """A pipeline, and its cost under the weights that it was found with."""

    lagrangian_value: float
    stages: tuple[TypedStage, ...]


class ShortestPath:
    """Finds cheapest pipelines of one instance within a node's bounds.

    `check_time` is called meanwhile.
    """

    def __init__(
        self,
        table: StageTable,
        node_bounds: NodeBounds,
        check_time: CheckTime = unlimited,
    ) -> None:
        self._check_time = check_time
        self._table, self.node_bounds = table, node_bounds
        self._num_layers = table.counts.num_layers
        self._num_types = table.types.num_types
        self._states = States(table.types, self._num_layers)
        max_s = np.array(node_bounds.max_s)
        self._hop_is_allowed = (table.types.hop_s <= max_s[:, None, None, None]).all(
            axis=0
        )
        self._allowed: dict[Role, list[Integers]] = {
            role: [self._within_bounds(role, t) for t in range(self._num_types)]
            for role in ROLES
        }

    def _within_bounds(self, role: Role, t: int) -> Integers:
        """Indices of the counts that a stage may have."""
        table, max_s = self._table, np.array(self.node_bounds.max_s)
        seconds = table.layers_s[:, t] + table.fixed_s[role][:, t, None]
        is_fast = (seconds <= max_s[:, None]).all(axis=0)
        return np.flatnonzero(table.fits[role][t] & is_fast)

    @cached_property
    def _middle_counts(self) -> list[list[MiddleCounts]]:
        counts = self._table.counts
        starts = counts.length_starts
        by_type = []
        for allowed in self._allowed["middle"]:
            edges = np.searchsorted(allowed, starts[1:])
            by_type.append(
                [
                    MiddleCounts(
                        length=k,
                        indices=(held := allowed[edges[k - 1] : edges[k]]),
                        losses=counts.losses[k][held - starts[k]][
                            :, : 1 if counts.is_uniform else None
                        ],
                    )
                    for k in range(1, min(counts.max_length, self._num_layers - 1) + 1)
                    if edges[k] > edges[k - 1]
                ]
            )
        return by_type

    def cheapest(self, weights: LagrangianWeights) -> Path | None:
        """Returns the cheapest pipeline, or None if none is within the bounds."""
        program, wires = self._program(weights)
        found = program.cheapest()
        if found is None:
            return None
        cost, stages = found
        sent = [
            replace(stage, wire_index=int(wires[stage.type, after.type]))
            for stage, after in zip(stages, [*stages[1:], stages[-1]], strict=True)
        ]
        value = float(cost + self._constant(weights))
        return Path(lagrangian_value=value, stages=tuple(sent))

    def columns_below(
        self, weights: LagrangianWeights, limit: float
    ) -> dict[Role, list[Floats]]:
        """Returns the allowed stages that some pipeline of at most a value has.

        Each entry, by role and type, is [stages, 3] of first layer, index of counts, and
        the value of the cheapest pipeline with this stage.
        """
        program, _ = self._program(weights)
        rest, before = program.rest, program.before()
        constant = self._constant(weights)
        cost_limit = limit - constant
        lengths, is_complete = self._table.counts.lengths, self._states.is_complete
        found: dict[Role, list[Floats]] = {role: [] for role in ROLES}
        for t in range(self._num_types):
            one = self._states.steps[t]
            found["middle"].append(
                self._middle_columns(t, program, before, cost_limit, constant)
            )
            for role in ("first", "last", "only"):
                indices = self._allowed[role][t]
                k = lengths[indices]
                first = 0 * k if role != "last" else self._num_layers - k
                cost = program.costs.of_role(role, t)
                if role == "first":
                    cost = cost + rest[one, t][k]
                elif role == "last":
                    arrive = before[is_complete, t].min(axis=0, initial=np.inf)
                    cost = cost + arrive[first]
                elif not is_complete[one]:
                    cost = cost + np.inf
                keep = (cost <= cost_limit) & np.isfinite(cost)
                found[role].append(
                    _columns(first[keep], indices[keep], cost[keep] + constant)
                )
        return found

    def _middle_columns(
        self,
        t: int,
        program: PathProgram,
        before: Floats,
        cost_limit: float,
        constant: float,
    ) -> Floats:
        costs, rest = program.costs, program.rest
        kept = [np.zeros((0, 3))]
        for own, values in zip(self._middle_counts[t], costs.of_middle(t), strict=True):
            k = own.length
            base = (before[:, t, :-k] + rest[:, t, k:]).min(axis=0)
            (where,) = np.nonzero(
                base + costs.middle[t][:, k - 1][: len(base)] <= cost_limit
            )
            if not len(where):
                continue
            if values.shape[1] == 1:
                values = np.broadcast_to(values, (len(values), len(base)))
            cost = values[:, where] + base[where]
            rows, firsts = np.nonzero((cost <= cost_limit) & np.isfinite(cost))
            total = cost[rows, firsts] + constant
            kept.append(_columns(where[firsts], own.indices[rows], total))
        return np.concatenate(kept)

    def _program(
        self, weights: LagrangianWeights
    ) -> tuple[PathProgram, Int[np.ndarray, "T T"]]:
        """Returns the dynamic program, and the cheapest precision of each hop."""
        table = self._table
        costs = StageCosts(table, self._allowed, self._middle_counts, weights)
        hop = (weights.hop[:, None, None, None] * table.types.hop_s).sum(axis=0)
        loss = table.instance.wire_omega[:, None, None]
        hop = np.where(self._hop_is_allowed, hop + weights.omega * loss, np.inf)
        program = PathProgram(
            table.types, self._states, costs, hop.min(axis=0), self._check_time
        )
        return program, hop.argmin(axis=0)

    def _constant(self, weights: LagrangianWeights) -> float:
        """Returns the part of a pipeline's value that no stage has."""
        constant = weights.constant
        for weight, min_s in zip(
            weights.min_slowest, self.node_bounds.min_s, strict=True
        ):
            constant += weight * min_s
        return constant


def _columns(first: Integers, index: Integers, value: Floats) -> Floats:
    return np.stack([first.astype(float), index.astype(float), value], axis=1)
