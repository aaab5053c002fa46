"""The dynamic program of `shortest_path`: its tables, and the path through them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.device_symmetry import DeviceTypes
from llmpq_jax.planner.instance.instance import Integers
from llmpq_jax.planner.instance.stage_bytes import Role
from llmpq_jax.planner.search.stage_costs import StageCosts, TypedStage
from llmpq_jax.planner.search.time_limit import CheckTime, unlimited


class States:
    """How many devices of each group are used, as one number in mixed radix.

    Attributes:
        num_states: Number of states N.
        digits: Used devices of each group, [N, G].
        steps: Number that one more stage on a type adds, [T].
        is_complete: Whether every group that must be used is, [N].
        depths: States by how many devices they use: `depths[s]` use s.
    """

    def __init__(self, types: DeviceTypes, max_stages: int) -> None:
        sizes = types.group_sizes
        self._types = types
        self.num_states = int(np.prod(sizes + 1))
        self.digits = np.stack(
            np.unravel_index(np.arange(self.num_states), sizes + 1)
        ).T
        radix = np.array([int(np.prod(sizes[q + 1 :] + 1)) for q in range(len(sizes))])
        self.steps = types.widths * radix[types.group_of]
        self.is_complete = ((self.digits == sizes) | ~types.must_use).all(axis=1)
        totals = self.digits.sum(axis=1)
        deepest = min(max_stages * int(types.widths.max()), int(sizes.sum()))
        self.depths = [np.flatnonzero(totals == s) for s in range(deepest + 1)]

    def ending_on(self, depth: int, t: int) -> Integers:
        """Returns the states at a depth whose last stage may be on type t."""
        states = self.depths[depth]
        return states[
            self.digits[states, self._types.group_of[t]] >= self._types.widths[t]
        ]


class PathProgram:
    """Least costs by used devices, type of the last stage and layers before it ends.

    Attributes:
        costs: Costs of the cheapest stages.
        stage: Least cost of a stage that starts at a boundary, and of all after it,
            [N, T, I].
        rest: Least cost of all stages after one that ends at a boundary, [N, T, I].
    """

    def __init__(
        self,
        types: DeviceTypes,
        states: States,
        costs: StageCosts,
        hops: Float[np.ndarray, "T T"],
        check_time: CheckTime = unlimited,
    ) -> None:
        self._check_time = check_time
        self._types, self._states, self.costs, self._hops = types, states, costs, hops
        self._num_layers = costs.first.shape[1] - 1
        self.stage, self.rest = self._backward()

    def cheapest(self) -> tuple[float, list[TypedStage]] | None:
        """Returns the cheapest pipeline and its cost, or None if there is none."""
        costs, steps = self.costs, self._states.steps
        best, start = np.inf, None
        for t in range(self._types.num_types):
            is_complete = self._states.is_complete[steps[t]]
            if is_complete and costs.only[t] < best:
                best, start = costs.only[t], (t, self._num_layers)
            ends = costs.first[t] + self.rest[steps[t], t]
            k = int(ends.argmin())
            if ends[k] < best:
                best, start = ends[k], (t, k)
        return None if start is None else (best, self._trace(*start))

    def before(self) -> Float[np.ndarray, "N T I"]:
        """Returns the least cost of reaching a boundary, given the next stage's type.

        The state counts the devices of the next stage.
        """
        states, costs = self._states, self.costs
        before, after = self._tables()
        for t in range(self._types.num_types):
            after[states.steps[t], t] = costs.first[t]
        for depth in range(2, len(states.depths)):
            for t in range(self._types.num_types):
                self._check_time()
                here = states.ending_on(depth, t)
                if not len(here):
                    continue
                earlier = after[here - states.steps[t]]
                arrive = (earlier + self._hops[:, t][None, :, None]).min(axis=1)
                before[here, t] = arrive
                middle = costs.middle[t]
                done = np.full_like(arrive, np.inf)
                for k in range(1, middle.shape[1] + 1):
                    value = arrive[:, :-k] + middle[:-k, k - 1]
                    np.minimum(done[:, k:], value, out=done[:, k:])
                # With meshes a state may be both a first stage's and a later one's.
                after[here, t] = np.minimum(after[here, t], done)
        return before

    def _tables(self) -> tuple[Floats, Floats]:
        shape = (self._states.num_states, self._types.num_types, self._num_layers + 1)
        return np.full(shape, np.inf), np.full(shape, np.inf)

    def _backward(self) -> tuple[Floats, Floats]:
        states, costs, types = self._states, self.costs, self._types
        stage, rest = self._tables()
        deepest = len(states.depths) - 1
        for depth in range(deepest, 0, -1):
            for t in range(types.num_types):
                if depth + types.widths[t] > deepest:
                    continue
                onward = states.ending_on(depth + types.widths[t], t)
                earlier = onward - states.steps[t]
                value = stage[onward, t][:, None, :] + self._hops[:, t][None, :, None]
                rest[earlier] = np.minimum(rest[earlier], value)
            for t in range(types.num_types):
                self._check_time()
                here = states.ending_on(depth, t)
                if not len(here):
                    continue
                best = np.where(
                    states.is_complete[here][:, None], costs.last[t][None], np.inf
                )
                middle = costs.middle[t]
                for k in range(1, middle.shape[1] + 1):
                    value = rest[here, t][:, k:] + middle[:-k, k - 1]
                    np.minimum(best[:, :-k], value, out=best[:, :-k])
                stage[here, t] = best
        return stage, rest

    def _trace(self, t: int, i: int) -> list[TypedStage]:
        """Follows the least costs from a first stage on type t that ends at boundary i."""
        types, states, costs = self._types, self._states, self.costs
        role: Role = "only" if i == self._num_layers else "first"
        stages = [costs.stage(role, t, 0, i)]
        state = states.steps[t]
        while i < self._num_layers:
            left = (types.group_sizes - states.digits[state])[types.group_of]
            has_room = types.widths <= left
            options = [
                self._hops[t, after] + self.stage[state + states.steps[after], after, i]
                if has_room[after]
                else np.inf
                for after in range(types.num_types)
            ]
            t = int(np.argmin(options))
            state = state + states.steps[t]
            max_k = costs.middle[t].shape[1]
            onward = self.rest[state, t, i + 1 : i + 1 + max_k]
            middle = costs.middle[t][i, : len(onward)] + onward
            ends = costs.last[t][i] if states.is_complete[state] else np.inf
            if len(middle) and middle.min() < ends:
                k, role = int(middle.argmin()) + 1, "middle"
            else:
                k, role = self._num_layers - i, "last"
            stages.append(costs.stage(role, t, i, k))
            i += k
        return stages
