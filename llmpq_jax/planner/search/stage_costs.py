"""Costs of the cheapest stages under Lagrangian weights, for every role, type and layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.instance import Integers
from llmpq_jax.planner.instance.stage_bytes import Role
from llmpq_jax.planner.search.lagrangian import LagrangianWeights
from llmpq_jax.planner.search.stage_table import StageTable


@dataclass(frozen=True, kw_only=True, slots=True)
class TypedStage:
    """One stage of a pipeline, on any device of a type.

    Attributes:
        type: Type of its device.
        first: First of its layers.
        index: Index of its layer counts.
        role: Whether it holds the embedding, the head, both or neither.
        wire_index: Precision at which it sends, as an index of axis O; unread for the
            last stage.
    """

    type: int
    first: int
    index: int
    role: Role
    wire_index: int = 0


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class MiddleCounts:
    """Counts of one length that a middle stage of some type may have.

    Losses are by first layer, [counts, L − k + 1]; of one column if it makes no
    difference.
    """

    length: int
    indices: Integers
    losses: Floats


class StageCosts:
    """Cost of the cheapest counts for every role, type, first layer and length.

    Attributes:
        first: Cost of a first stage by the boundary it ends at, [T, L + 1].
        last: Cost of a last stage by its first layer, [T, L + 1].
        only: Cost of a stage that is the whole model, [T].
        middle: Cost of a middle stage by first layer and length, [L + 1, K] for each type.
    """

    def __init__(
        self,
        table: StageTable,
        allowed: dict[Role, list[Integers]],
        middle_counts: list[list[MiddleCounts]],
        weights: LagrangianWeights,
    ) -> None:
        self._table, self._weights, self._allowed = table, weights, allowed
        self._middle_counts = middle_counts
        num_layers = table.counts.num_layers
        num_types = table.types.num_types
        lengths = table.counts.lengths
        self._layers_cost = [
            (weights.stage[:, t, None] * table.layers_s[:, t]).sum(axis=0)
            for t in range(num_types)
        ]
        self.first = np.full((num_types, num_layers + 1), np.inf)
        self.last = np.full((num_types, num_layers + 1), np.inf)
        self.only = np.full(num_types, np.inf)
        self.middle: list[Floats] = []
        by_end: dict[Role, Floats] = {"first": self.first, "last": self.last}
        for t in range(num_types):
            for role, costs in by_end.items():
                k = lengths[allowed[role][t]]
                keep = k < num_layers
                boundary = (k if role == "first" else num_layers - k)[keep]
                np.minimum.at(costs[t], boundary, self.of_role(role, t)[keep])
            self.only[t] = self.of_role("only", t).min(initial=np.inf)
            longest = middle_counts[t][-1].length if middle_counts[t] else 0
            middle = np.full((num_layers + 1, longest), np.inf)
            for own, costs in zip(middle_counts[t], self.of_middle(t), strict=True):
                k = own.length
                middle[: num_layers - k + 1, k - 1] = costs.min(axis=0)
            self.middle.append(middle)

    def of_role(self, role: Role, t: int) -> Float[np.ndarray, " counts"]:
        """Costs of all allowed counts of a first, last or only stage."""
        indices = self._allowed[role][t]
        counts = self._table.counts
        loss = counts.loss_at_end if role == "last" else counts.loss_at_start
        if not len(indices):
            return np.zeros(0)
        cost = self._layers_cost[t][indices] + self._fixed_cost(role, t)
        return cost + _weighted(self._weights.omega, loss[indices])

    def of_middle(self, t: int) -> list[Float[np.ndarray, "counts layers"]]:
        """Costs of middle stages of each length, by first layer as in `MiddleCounts`."""
        omega_weight, costs = self._weights.omega, []
        runs = self._table.longest_runs[t]
        fixed = self._fixed_cost("middle", t)
        for own in self._middle_counts[t]:
            cost = self._layers_cost[t][own.indices][:, None] + fixed
            if omega_weight != 0 or not self._table.counts.is_finite:
                cost = cost + _weighted(omega_weight, own.losses)
            if self._table.is_pinned[t]:
                starts = runs[: len(runs) - own.length]
                cost = np.where(starts >= own.length, cost, np.inf)
            costs.append(cost)
        return costs

    def stage(self, role: Role, t: int, first: int, k: int) -> TypedStage:
        """Returns the cheapest stage of k layers in a role, from a first layer on."""
        if role == "middle":
            lengths = zip(self._middle_counts[t], self.of_middle(t), strict=True)
            own, costs = next(pair for pair in lengths if pair[0].length == k)
            column = costs[:, first if costs.shape[1] > 1 else 0]
            index = own.indices[int(column.argmin())]
        else:
            indices = self._allowed[role][t]
            of_length = self._table.counts.lengths[indices] == k
            index = indices[of_length][int(self.of_role(role, t)[of_length].argmin())]
        return TypedStage(type=t, first=first, index=int(index), role=role)

    def _fixed_cost(self, role: Role, t: int) -> float:
        """Cost of a stage's dispatch, embedding and head."""
        return float(
            (self._weights.stage[:, t] * self._table.fixed_s[role][:, t]).sum()
        )


def _weighted(omega_weight: float, losses: Floats) -> Floats:
    """Returns weight times loss; what is not allowed stays so at a weight of 0."""
    if omega_weight == 0:
        return np.where(np.isfinite(losses), 0.0, np.inf)
    return omega_weight * losses
