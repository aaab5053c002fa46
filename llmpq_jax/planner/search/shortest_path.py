"""The cheapest pipeline under given prices, over all orders and subsets of devices.

A dynamic programme over (devices used of each pool, type of the last stage, layers
placed). With n the used devices, t the last stage's type and i the layers before it ends,

    rest[n, t, i]  = min over t' that n has room for of  hop[t, t'] + stage[n + e_t', t', i]
    stage[n, t, i] = min(last[t, i], min over k of  middle[t, i, k] + rest[n, t, i + k])

where middle, first, last and only are the prices of the cheapest counts a stage of that
role may have there, within its device's memory and the box's limits, and e_t' the devices
that a stage on t' takes from its pool: one, or as many as its mesh has. Axes as in
`stage_table`, N states of used devices, I layer boundaries 0 … L, K lengths.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.instance import Integers
from llmpq_jax.planner.search.dp_states import States
from llmpq_jax.planner.search.lagrangian import LagrangianWeights
from llmpq_jax.planner.search.stage_costs import Level, PathStage, StageCosts
from llmpq_jax.planner.search.stage_table import ROLES, Role, StageTable


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeBounds:
    """Limits on the slowest stage or hop of both phases, in seconds.

    Attributes:
        min_prefill_s: The slowest takes no less; a promise that only tightens bounds.
        max_prefill_s: Stages and hops that take more are left out.
        min_decode_s: Likewise of a decode step.
        max_decode_s: Likewise.
    """

    min_prefill_s: float = 0.0
    max_prefill_s: float = float("inf")
    min_decode_s: float = 0.0
    max_decode_s: float = float("inf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Path:
    """A pipeline and what it costs under the prices it was found with."""

    lagrangian_value: float
    stages: tuple[PathStage, ...]


class ShortestPath:
    """Finds cheapest pipelines of one instance within one box."""

    def __init__(self, tables: StageTable, node_bounds: NodeBounds) -> None:
        self._tables, self.node_bounds = tables, node_bounds
        self._num_layers = tables.counts.num_layers
        self._num_types = tables.types.num_types
        self._states = States(tables.types, self._num_layers)
        self._hop_is_allowed = (
            tables.types.hop_prefill_s <= node_bounds.max_prefill_s
        ) & (tables.types.hop_decode_s <= node_bounds.max_decode_s)
        self._allowed: dict[Role, list[Integers]] = {
            role: self._within_box(role) for role in ROLES
        }

    @cached_property
    def _levels(self) -> list[list[Level]]:
        counts = self._tables.counts
        starts = counts.level_starts
        levels = []
        for t in range(self._num_types):
            allowed = self._allowed["middle"][t]
            edges = np.searchsorted(allowed, starts[1:])
            levels.append(
                [
                    Level(
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
        return levels

    def cheapest(self, weights: LagrangianWeights) -> Path | None:
        """Returns the cheapest pipeline; nothing where none is within the box."""
        costs = StageCosts(self._tables, self._allowed, self._levels, weights)
        hops, wires = self._hops(weights)
        stage, rest = self._backward(costs, hops)
        steps = self._states.steps
        best, start = np.inf, None
        for t in range(self._num_types):
            done = self._states.is_complete[steps[t]]
            if done and costs.only[t] < best:
                best, start = costs.only[t], (t, self._num_layers)
            ends = costs.first[t] + rest[steps[t], t]
            k = int(ends.argmin())
            if ends[k] < best:
                best, start = ends[k], (t, k)
        if start is None:
            return None
        stages = self._trace(start, costs, hops, stage, rest)
        stages = [
            replace(stage, wire=int(wires[stage.type, after.type]))
            for stage, after in zip(stages, [*stages[1:], stages[-1]], strict=True)
        ]
        constant = weights.constant
        constant += weights.min_prefill_s * self.node_bounds.min_prefill_s
        constant += weights.min_decode_s * self.node_bounds.min_decode_s
        return Path(lagrangian_value=float(best + constant), stages=tuple(stages))

    def columns_below(
        self, weights: LagrangianWeights, most: float
    ) -> dict[Role, list[Floats]]:
        """Returns, by role and type, allowed stages and the least price through each.

        Each entry is [stages, 3] of first layer, index of counts, and the price of the
        cheapest pipeline that has this stage, where that is at most `most`.
        """
        costs = StageCosts(self._tables, self._allowed, self._levels, weights)
        hops, _ = self._hops(weights)
        _, rest = self._backward(costs, hops)
        before = self._forward(costs, hops)
        constant = weights.constant
        constant += weights.min_prefill_s * self.node_bounds.min_prefill_s
        constant += weights.min_decode_s * self.node_bounds.min_decode_s
        limit = most - constant
        found: dict[Role, list[Floats]] = {role: [] for role in ROLES}
        for t in range(self._num_types):
            one = self._states.steps[t]
            done = self._states.is_complete
            found["middle"].append(
                self._middle_columns(t, costs, before, rest, limit, constant)
            )
            lengths = self._tables.counts.lengths
            for role in ("first", "last", "only"):
                indices = self._allowed[role][t]
                k = lengths[indices]
                at = 0 * k if role != "last" else self._num_layers - k
                through = costs.of_role(role, t)
                if role == "first":
                    through = through + rest[one, t][k]
                elif role == "last":
                    arrive = before[done, t].min(axis=0, initial=np.inf)
                    through = through + arrive[at]
                elif not done[one]:
                    through = through + np.inf
                keep = (through <= limit) & np.isfinite(through)
                found[role].append(
                    _as_rows(at[keep], indices[keep], through[keep] + constant)
                )
        return found

    def _middle_columns(
        self,
        t: int,
        costs: StageCosts,
        before: Floats,
        rest: Floats,
        limit: float,
        constant: float,
    ) -> Floats:
        kept = [np.zeros((0, 3))]
        for level, values in zip(self._levels[t], costs.middle_values(t), strict=True):
            k = level.length
            base = (before[:, t, :-k] + rest[:, t, k:]).min(axis=0)
            (where,) = np.nonzero(
                base + costs.middle[t][:, k - 1][: len(base)] <= limit
            )
            if not len(where):
                continue
            if values.shape[1] == 1:
                values = np.broadcast_to(values, (len(values), len(base)))
            through = values[:, where] + base[where]
            rows, places = np.nonzero((through <= limit) & np.isfinite(through))
            weights = through[rows, places] + constant
            kept.append(_as_rows(where[places], level.indices[rows], weights))
        return np.concatenate(kept)

    def _within_box(self, role: Role) -> list[Integers]:
        tables, node_bounds = self._tables, self.node_bounds
        allowed = []
        for t in range(self._num_types):
            prefill = tables.prefill_s[t] + tables.end_prefill_s[role][t]
            decode = tables.decode_s[t] + tables.end_decode_s[role][t]
            fits = tables.fits[role][t] & (prefill <= node_bounds.max_prefill_s)
            allowed.append(np.flatnonzero(fits & (decode <= node_bounds.max_decode_s)))
        return allowed

    def _hops(self, weights: LagrangianWeights) -> tuple[Floats, Integers]:
        """[T, T] twice: the price of the cheapest way to send a hop, and which it is."""
        types = self._tables.types
        cost = weights.hop_prefill * types.hop_prefill_s
        cost = cost + weights.hop_decode * types.hop_decode_s
        loss = self._tables.instance.wire_omega[:, None, None]
        cost = np.where(self._hop_is_allowed, cost + weights.omega * loss, np.inf)
        return cost.min(axis=0), cost.argmin(axis=0)

    def _backward(self, costs: StageCosts, hops: Floats) -> tuple[Floats, Floats]:
        states, num_types = self._states, self._num_types
        shape = (states.num_states, num_types, self._num_layers + 1)
        stage, rest = np.full(shape, np.inf), np.full(shape, np.inf)
        deepest = len(states.depths) - 1
        widths = self._tables.types.widths
        for depth in range(deepest, 0, -1):
            for t in range(num_types):
                if depth + widths[t] > deepest:
                    continue
                onward = states.ending_on(depth + widths[t], t)
                earlier = onward - states.steps[t]
                value = stage[onward, t][:, None, :] + hops[:, t][None, :, None]
                rest[earlier] = np.minimum(rest[earlier], value)
            for t in range(num_types):
                here = states.ending_on(depth, t)
                if not len(here):
                    continue
                ends = np.where(
                    states.is_complete[here][:, None], costs.last[t][None], np.inf
                )
                stage[here, t] = _least(ends, rest[here, t], costs.middle[t])
        return stage, rest

    def _forward(self, costs: StageCosts, hops: Floats) -> Floats:
        """[N, T, I]: least price of arriving at a boundary, the next stage's type known.

        The state counts the device that comes next.
        """
        states, num_types = self._states, self._num_types
        shape = (states.num_states, num_types, self._num_layers + 1)
        before, after = np.full(shape, np.inf), np.full(shape, np.inf)
        for t in range(num_types):
            after[states.steps[t], t] = costs.first[t]
        for depth in range(2, len(states.depths)):
            for t in range(num_types):
                here = states.ending_on(depth, t)
                if not len(here):
                    continue
                earlier = after[here - states.steps[t]]
                arrive = (earlier + hops[:, t][None, :, None]).min(axis=1)
                before[here, t] = arrive
                middle = costs.middle[t]
                done = np.full_like(arrive, np.inf)
                for k in range(1, middle.shape[1] + 1):
                    value = arrive[:, :-k] + middle[:-k, k - 1]
                    np.minimum(done[:, k:], value, out=done[:, k:])
                # With meshes a state may be both a first stage's and a later one's.
                after[here, t] = np.minimum(after[here, t], done)
        return before

    def _trace(
        self,
        start: tuple[int, int],
        costs: StageCosts,
        hops: Floats,
        stage: Floats,
        rest: Floats,
    ) -> list[PathStage]:
        t, i = start
        role: Role = "only" if i == self._num_layers else "first"
        stages = [costs.stage(role, t, 0, i)]
        state = self._states.steps[t]
        while i < self._num_layers:
            types = self._tables.types
            left = (types.sizes - self._states.digits[state])[types.device_group]
            room = types.widths <= left
            options = [
                hops[t, after] + stage[state + self._states.steps[after], after, i]
                if room[after]
                else np.inf
                for after in range(self._num_types)
            ]
            t = int(np.argmin(options))
            state = state + self._states.steps[t]
            max_k = costs.middle[t].shape[1]
            onward = rest[state, t, i + 1 : i + 1 + max_k]
            middle = costs.middle[t][i, : len(onward)] + onward
            ends = costs.last[t][i] if self._states.is_complete[state] else np.inf
            if len(middle) and middle.min() < ends:
                k, role = int(middle.argmin()) + 1, "middle"
            else:
                k, role = self._num_layers - i, "last"
            stages.append(costs.stage(role, t, i, k))
            i += k
        return stages


def _as_rows(first: Any, index: Any, lagrangian_value: Floats) -> Floats:
    return np.stack(
        [np.asarray(x, dtype=float) for x in (first, index, lagrangian_value)], axis=1
    )


def _least(ends: Floats, rest: Floats, middle: Floats) -> Floats:
    """Returns min(ends, min over k of middle[i, k] + rest[., i + k])."""
    least = ends.copy()
    for k in range(1, middle.shape[1] + 1):
        value = rest[:, k:] + middle[:-k, k - 1]
        np.minimum(least[:, :-k], value, out=least[:, :-k])
    return least
