"""What the cheapest stage costs under prices, for every role, type and place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.instance import Integers
from llmpq_jax.planner.search.lagrangian import LagrangianWeights
from llmpq_jax.planner.search.stage_table import Role, StageTable


@dataclass(frozen=True, kw_only=True, slots=True)
class PathStage:
    """One stage of a pipeline.

    Attributes:
        type: Of its device.
        first: Its first layer.
        index: Of its counts.
        role: Which ends it holds.
        wire: How it hands on, as an index of axis O; unread where it does not.
    """

    type: int
    first: int
    index: int
    role: Role
    wire: int = 0


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Level:
    """Counts of one length that a middle stage may have."""

    length: int
    indices: Integers
    losses: Floats


class StageCosts:
    """Prices of the cheapest counts for every role, type, first layer and length."""

    def __init__(
        self,
        tables: StageTable,
        allowed: dict[Role, list[Integers]],
        levels: list[list[Level]],
        weights: LagrangianWeights,
    ) -> None:
        self._tables, self._prices, self._allowed = tables, weights, allowed
        self._levels = levels
        num_layers = tables.counts.num_layers
        num_types = tables.types.num_types
        lengths = tables.counts.lengths
        self._layers_price = [
            weights.prefill[t] * tables.prefill_s[t]
            + weights.decode[t] * tables.decode_s[t]
            for t in range(num_types)
        ]
        self.first = np.full((num_types, num_layers + 1), np.inf)
        self.last = np.full((num_types, num_layers + 1), np.inf)
        self.only = np.full(num_types, np.inf)
        self.middle: list[Floats] = []
        for t in range(num_types):
            k = lengths[allowed["first"][t]]
            keep = k < num_layers
            np.minimum.at(self.first[t], k[keep], self.of_role("first", t)[keep])
            k = lengths[allowed["last"][t]]
            keep = k < num_layers
            np.minimum.at(
                self.last[t], num_layers - k[keep], self.of_role("last", t)[keep]
            )
            self.only[t] = self.of_role("only", t).min(initial=np.inf)
            longest = levels[t][-1].length if levels[t] else 0
            middle = np.full((num_layers + 1, longest), np.inf)
            for level, values in zip(levels[t], self.middle_values(t), strict=True):
                k = level.length
                middle[: num_layers - k + 1, k - 1] = values.min(axis=0)
            self.middle.append(middle)

    def of_role(self, role: Role, t: int) -> Floats:
        """Prices of all allowed counts of an end stage."""
        indices = self._allowed[role][t]
        counts = self._tables.counts
        loss = counts.loss_at_end if role == "last" else counts.loss_at_start
        if not len(indices):
            return np.zeros(0)
        value = self._layers_price[t][indices] + self._beside_layers(role, t)
        return value + _weighed(self._prices.omega, loss[indices])

    def middle_values(self, t: int) -> list[Floats]:
        """For each level [counts, first layers], or one column where all are alike."""
        omega_weight, values = self._prices.omega, []
        runs = self._tables.longest_runs[t]
        call = self._beside_layers("middle", t)
        for level in self._levels[t]:
            value = self._layers_price[t][level.indices][:, None] + call
            if omega_weight != 0 or not self._tables.counts.is_finite:
                value = value + _weighed(omega_weight, level.losses)
            if self._tables.is_pinned[t]:
                starts = runs[: len(runs) - level.length]
                value = np.where(starts >= level.length, value, np.inf)
            values.append(value)
        return values

    def stage(self, role: Role, t: int, first: int, k: int) -> PathStage:
        """The cheapest stage of a role at a place."""
        if role == "middle":
            levels = zip(self._levels[t], self.middle_values(t), strict=True)
            level, values = next(pair for pair in levels if pair[0].length == k)
            column = values[:, first if values.shape[1] > 1 else 0]
            index = level.indices[int(column.argmin())]
        else:
            indices = self._allowed[role][t]
            own = self._tables.counts.lengths[indices] == k
            index = indices[own][int(self.of_role(role, t)[own].argmin())]
        return PathStage(type=t, first=first, index=int(index), role=role)

    def _beside_layers(self, role: Role, t: int) -> float:
        """The price of a stage's call and of its ends."""
        ends = self._prices.prefill[t] * self._tables.end_prefill_s[role][t]
        return float(ends + self._prices.decode[t] * self._tables.end_decode_s[role][t])


def _weighed(omega_weight: float, losses: Floats) -> Floats:
    """Returns price times loss; what is not allowed stays so at a price of 0."""
    if omega_weight == 0:
        return np.where(np.isfinite(losses), 0.0, np.inf)
    return omega_weight * losses
